"""Pairs of a user and an item in, the predicted ratings out: the factor models as a service."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.contract import TEST, RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import UNKNOWN, RatingsEncoder
from embedline.pipelines.ratings.learner import load_model, rating_metrics
from embedline.pipelines.ratings.options import Id
from embedline.serving.columns import InputColumn, Kind, require_columns, typed_values
from embedline.serving.service import Score, Service
from embedline.training.model_file import ModelBundle

PREDICTED = "predicted"


class RatingsService:
    """The rating that each user would give to each item, as the batch prediction has it.

    A user or an item that only the frames of users and items describe is known by its features; an unknown one
    gets the mean and the bias of the known item or user. In both columns whole numbers may come as ``3`` or ``3.0``.
    """

    def __init__(self, service: Service) -> None:
        self._model = load_model(service.bundle)
        encoder = self._model.encoder
        self._columns = service.columns
        # Looked up in a dictionary: the encoder would build its own table for each request.
        self._rows = {
            encoder.columns.user: {user: row for row, user in enumerate(encoder.users, start=1)},
            encoder.columns.item: {item: row for row, item in enumerate(encoder.items, start=1)},
        }

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Column ``predicted``: a rating within the range of ratings.

        Raises:
            DataError: if a column is missing, or an id is missing or of another type than those of the training.
        """
        require_columns(rows, self._columns)
        found = [_look_up(rows[name], known) for name, known in self._rows.items()]
        return pd.DataFrame({PREDICTED: self._model.predict(*found)})

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """Mean squared error, the metric in ``<source>.metrics``; ``actual`` holds the ratings."""
        metrics = rating_metrics(actual.to_numpy(np.float64), answers[PREDICTED].to_numpy(np.float64))
        return Score(("mse",), metrics["mse"], "lower")


def pack_ratings(bundle: ModelBundle) -> Service:
    """The service of a stored ratings model."""
    encoder = RatingsEncoder.model_validate(bundle.encoder)
    names = encoder.columns
    columns = ((names.user, encoder.users), (names.item, encoder.items))
    return Service(
        service="embedline.serving.ratings.RatingsService",
        bundle=bundle,
        tables={},
        settings={},
        columns=tuple(
            InputColumn(name=name, type="string" if isinstance(ids[0], str) else "long") for name, ids in columns
        ),
        example=[{name: ids[place] for name, ids in columns} for place in (0, -1)],
    )


def hold_out_ratings(ratings: Any, columns: RatingColumns, split: RatingSplit) -> pl.DataFrame:
    """The ratings that the split holds out as a request has them, and the rating of each as ``actual``."""
    rows = subset(assign_splits(ratings, columns, split), TEST)
    return rows.select(columns.user, columns.item, actual=pl.col(columns.value).cast(pl.Float64))


def _look_up(values: pd.Series, known: Mapping[Id, int]) -> NDArray[np.int32]:
    """Rows int32 [N] of the ids; 0 of an unknown one."""
    kind: Kind = "string" if isinstance(next(iter(known)), str) else "id"
    ids = typed_values(values, kind, optional=False)
    return np.fromiter((known.get(value, UNKNOWN) for value in ids), np.int32, len(ids))
