"""Cross-validation over the values of a column, such as the five canonical folds of ml-100k."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.ratings.baselines import fit_biases
from embedline.pipelines.ratings.contract import read_ratings, require_columns, to_polars
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.learner import load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import (
    TEST,
    TRAIN,
    BaselineOptions,
    CrossValidationOptions,
    FeatureOptions,
    RatingColumns,
    RatingNetwork,
    RatingSplit,
    RatingsTraining,
    Span,
)
from embedline.pipelines.ratings.splits import assign_splits, subset
from embedline.training.distributed import processes
from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)


def cross_validate(
    ratings: Any,
    columns: RatingColumns,
    folds: CrossValidationOptions,
    *,
    network: RatingNetwork,
    training: RatingsTraining,
    baselines: BaselineOptions,
    rating_range: Span = "auto",
    features: FeatureOptions | None = None,
    items: Any = None,
    users: Any = None,
) -> dict[str, Any]:
    """Train a model of its own, all seeds of it, for each value of ``folds.column``, on the rows of the other values.

    The held-out rows are predicted once, after the training. Rows without a value train in every fold.

    Returns:
        ``folds``, a dictionary for each value with ``value``, ``train_rows``, ``rows``, the metrics of
        :func:`.learner.rating_metrics` and, as ``baselines.damped_bias``, those of damped biases; and
        ``mean_mse``, ``mean_rmse``, ``mean_mae`` over the folds and the same of ``baselines``.

    Raises:
        DataError: if the column is missing, or has fewer than two values.
    """
    frame = read_ratings(ratings, columns, [folds.column])
    require_columns(frame, [folds.column], what="the ratings frame", key="cross_validation.column")
    values = folds.values or tuple(frame.get_column(folds.column).drop_nulls().unique().sort().to_list())
    if len(values) < 2:
        raise DataError(f"cross_validation.column {folds.column!r} has {len(values)} value(s): it needs two or more")
    results = []
    with processes(training):  # once for all folds
        for value in values:
            split = RatingSplit(kind="column", column=folds.column, value=value)
            rows = to_polars(assign_splits(frame, columns, split))
            encoder = fit_encoder(subset(rows, TRAIN), columns, rating_range, features, items, users)
            encoded = encode(frame, encoder, columns, split)
            name = f"{folds.column}{value}"
            bundle, _ = train_ratings(encoded, encoder, network, training, name=name, evaluated=False)
            result = {"value": value, **_measure(encoded, bundle, baselines)}
            logger.info("%s %s: rmse %.4f", folds.column, value, result["rmse"])
            results.append(result)
    return {
        "folds": results,
        **_means(results),
        "baselines": {"damped_bias": _means([result["baselines"]["damped_bias"] for result in results])},
    }


def _measure(encoded: pl.DataFrame, bundle: ModelBundle, options: BaselineOptions) -> dict[str, Any]:
    """Metrics of a model, and of damped biases, on the held-out rows."""
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, TEST)))
    model = load_model(bundle)
    damped = np.clip(fit_biases(encoded, model.encoder, options).predict(users, items), *model.encoder.rating_range)
    return {
        "train_rows": len(subset(encoded, TRAIN)),
        "rows": len(actual),
        **rating_metrics(actual, model.predict(users, items)),
        "baselines": {"damped_bias": rating_metrics(actual, damped)},
    }


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {f"mean_{name}": float(np.mean([result[name] for result in results])) for name in ("mse", "rmse", "mae")}
