"""Pairs of a user and an item in, predicted ratings and scores to rank by out: the ratings models as a service."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import TEST, TRAIN, RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import UNKNOWN, RatingsEncoder
from embedline.pipelines.ratings.learner import RatingModel, load_model, rating_metrics
from embedline.pipelines.ratings.options import Id
from embedline.pipelines.ratings.ranking import KIND, Recommender, load_ranker
from embedline.pipelines.ratings.ranking_metrics import BLOCK_SCORES
from embedline.serving.columns import InputColumn, Kind, require_columns, typed_values
from embedline.serving.service import Score, Service
from embedline.training.model_file import ModelBundle

PREDICTED, SCORE = "predicted", "score"
RANKER = "ranker."  # of the ranker's weights among those of the model; the others start with a member's number
RATED = "rated"  # table of the training ratings, which the ranker scores


class RatingsService:
    """The rating that each user would give to each item, and the score of the item for the user by the ranker.

    Items are to be recommended to a user by the score, the highest first, as in ``<source>.recommendations``: the
    rating says how much an item would be liked, not whether it would be chosen. A service without a ranker has none.

    A user or an item that only the frames of users and items describe is known by its features; an unknown one
    gets the mean and the bias of the known item or user. In both columns whole numbers may come as ``3`` or ``3.0``.
    """

    def __init__(self, service: Service) -> None:
        weights = {name: value for name, value in service.bundle.weights.items() if not name.startswith(RANKER)}
        self._model = load_model(replace(service.bundle, weights=weights))
        self._recommender = recommender_of(service, self._model) if "ranker" in service.settings else None
        encoder = self._model.encoder
        self._columns = service.columns
        # Looked up in a dictionary: the encoder would build its own table for each request.
        self._rows = {
            encoder.columns.user: {user: row for row, user in enumerate(encoder.users, start=1)},
            encoder.columns.item: {item: row for row, item in enumerate(encoder.items, start=1)},
        }

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns ``predicted``, a rating within the range of ratings, and ``score``.

        An unknown user is scored by popularity; an unknown item has the user's lowest score. A missing column or id,
        and an id of another type than those of the training, are a DataError.
        """
        require_columns(rows, self._columns)
        found = [_look_up(rows[name], known) for name, known in self._rows.items()]
        answers = {PREDICTED: self._model.predict(*found)}
        if self._recommender is not None:
            answers[SCORE] = pair_scores(self._recommender, *found)
        return pd.DataFrame(answers)

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """Mean squared error, the metric in ``<source>.metrics``; ``actual`` holds the ratings."""
        metrics = rating_metrics(actual.to_numpy(np.float64), answers[PREDICTED].to_numpy(np.float64))
        return Score(("mse",), metrics["mse"], "lower")


def pair_scores(
    recommender: Recommender, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Scores float64 [N] of pairs of rows; of an item row 0, or of an item that is not ranked, the user's lowest."""
    users, places = np.unique(user_rows, return_inverse=True)
    found = np.empty(len(user_rows), dtype=np.float64)
    size = max(1, BLOCK_SCORES // len(recommender.encoder.items))
    for start in range(0, len(users), size):
        scores = recommender.scores(users[start : start + size])
        least = np.where(np.isfinite(scores), scores, np.inf).min(axis=1)
        inside = np.flatnonzero((places >= start) & (places < start + size))
        own = places[inside] - start
        values = scores[own, np.maximum(item_rows[inside], 1) - 1]
        found[inside] = np.where((item_rows[inside] > UNKNOWN) & np.isfinite(values), values, least[own])
    return found


def pack_ratings(
    bundle: ModelBundle, ranker: ModelBundle | None = None, encoded: pl.DataFrame | None = None
) -> Service:
    """The service of a stored ratings model, and of the ``ranker`` of its recommendations, if given.

    ``encoded`` are the ratings that both were fitted on, needed with the ranker. That they know other users or items is
    a DataError.
    """
    encoder = RatingsEncoder.model_validate(bundle.encoder)
    names = encoder.columns
    columns = ((names.user, encoder.users), (names.item, encoder.items))
    settings: dict[str, Any] = {}
    tables: dict[str, pl.DataFrame] = {}
    if ranker is not None and encoded is not None:
        if ranker.encoder != bundle.encoder:
            raise DataError("the ranker and the model know other users or items: run both again")
        settings = {"ranker": {"config": ranker.config}}
        tables = {RATED: subset(encoded, TRAIN)}
        own = {f"{RANKER}{name}": value for name, value in ranker.weights.items()}
        bundle = replace(bundle, weights={**bundle.weights, **own})
    return Service(
        service="embedline.serving.ratings.RatingsService",
        bundle=bundle,
        tables=tables,
        settings=settings,
        columns=tuple(
            InputColumn(name=name, type="string" if isinstance(ids[0], str) else "long") for name, ids in columns
        ),
        example=[{name: ids[place] for name, ids in columns} for place in (0, -1)],
    )


def recommender_of(service: Service, model: RatingModel) -> Recommender:
    """The ranker that a service holds beside its model of ratings."""
    bundle = service.bundle
    weights = {name.removeprefix(RANKER): one for name, one in bundle.weights.items() if name.startswith(RANKER)}
    ranker = ModelBundle(KIND, service.settings["ranker"]["config"], bundle.encoder, weights)
    return load_ranker(ranker, service.tables[RATED], model)


def hold_out_ratings(ratings: Any, columns: RatingColumns, split: RatingSplit) -> pl.DataFrame:
    """The ratings that the split holds out as a request has them, and the rating of each as ``actual``."""
    rows = subset(assign_splits(ratings, columns, split), TEST)
    return rows.select(columns.user, columns.item, actual=pl.col(columns.value).cast(pl.Float64))


def _look_up(values: pd.Series, known: Mapping[Id, int]) -> NDArray[np.int32]:
    """Rows int32 [N] of the ids; 0 of an unknown one."""
    kind: Kind = "string" if isinstance(next(iter(known)), str) else "id"
    ids = typed_values(values, kind, optional=False)
    return np.fromiter((known.get(value, UNKNOWN) for value in ids), np.int32, len(ids))
