"""Models trained inside one node, on a split of their own: what they take, and the folds of a cross-validation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from embedline.errors import DataError, about_frame
from embedline.pipelines.ratings.contract import (
    TEST,
    TRAIN,
    RatingColumns,
    RatingSplit,
    assign_splits,
    read_ratings,
    require_columns,
    subset,
)
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import Biases, fit_biases
from embedline.pipelines.ratings.learner import RatingModel, load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    CrossValidationOptions,
    FeatureOptions,
    RatingNetwork,
    RatingsTraining,
    Span,
)
from embedline.training.distributed import processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSettings:
    """What a training takes beside the ratings: blocks of the parameters, and the frames of items and users."""

    columns: RatingColumns
    network: RatingNetwork
    training: RatingsTraining
    baselines: BaselineOptions
    rating_range: Span = "auto"
    features: FeatureOptions | None = None
    items: Any = None
    users: Any = None

    def train(self, ratings: pl.DataFrame, split: RatingSplit, name: str) -> tuple[pl.DataFrame, RatingModel, Biases]:
        """Train all seeds on the rows that ``split`` leaves; ``name`` is that of :func:`.learner.train_ratings`.

        Returns the encoded ratings, the model, and the damped biases of the same rows.
        """
        rows = subset(assign_splits(ratings, self.columns, split), TRAIN)
        encoder = fit_encoder(rows, self.columns, self.rating_range, self.features, self.items, self.users)
        encoded = encode(ratings, encoder, self.columns, split)
        bundle, _ = train_ratings(encoded, encoder, self.network, self.training, name=name, evaluated=False)
        return encoded, load_model(bundle), fit_biases(encoded, encoder, self.baselines)


def cross_validate(ratings: Any, folds: CrossValidationOptions, settings: ModelSettings) -> dict[str, Any]:
    """Train a model of its own, all seeds of it, for each value of ``folds.column``, on the rows of the other values.

    The held-out rows are predicted once, after the training. Rows without a value train in every fold.

    Returns:
        ``folds``, a dictionary for each value with ``value``, ``train_rows``, ``rows``, the metrics of
        :func:`.learner.rating_metrics` and, as ``baselines.damped_bias``, those of damped biases; and
        ``mean_mse``, ``mean_rmse``, ``mean_mae`` over the folds and the same of ``baselines``.

    Raises:
        DataError: if the column is missing, or has fewer than two values.
    """
    with about_frame("ratings"):
        frame = read_ratings(ratings, settings.columns, [folds.column], warn=True)
        require_columns(frame, [folds.column], what="the ratings frame", key="cross_validation.column")
    values = folds.values or tuple(frame.get_column(folds.column).drop_nulls().unique().sort().to_list())
    if len(values) < 2:
        raise DataError(f"cross_validation.column {folds.column!r} has {len(values)} value(s): it needs two or more")
    results = []
    with processes(settings.training):  # once for all folds
        for value in values:
            split = RatingSplit(kind="column", column=folds.column, value=value)
            result = {"value": value, **_measure(*settings.train(frame, split, f"{folds.column}{value}"))}
            logger.info("%s %s: rmse %.4f", folds.column, value, result["rmse"])
            results.append(result)
    return {
        "folds": results,
        **_means(results),
        "baselines": {"damped_bias": _means([result["baselines"]["damped_bias"] for result in results])},
    }


def _measure(encoded: pl.DataFrame, model: RatingModel, biases: Biases) -> dict[str, Any]:
    """Metrics of a model, and of damped biases, on the held-out rows."""
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, TEST)))
    damped = np.clip(biases.predict(users, items), *model.encoder.rating_range)
    return {
        "train_rows": len(subset(encoded, TRAIN)),
        "rows": len(actual),
        **rating_metrics(actual, model.predict(users, items)),
        "baselines": {"damped_bias": rating_metrics(actual, damped)},
    }


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {f"mean_{name}": float(np.mean([result[name] for result in results])) for name in ("mse", "rmse", "mae")}
