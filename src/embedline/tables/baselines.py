"""What the network has to beat: group means and gradient-boosted trees on the same columns."""

import time
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.tables.arrays import invert_target, part_of, to_arrays
from embedline.tables.columns import EVALUATE, TRAIN, Columns, require_columns
from embedline.tables.encoder import Encoder
from embedline.tables.options import TreeOptions

VALUE = "_mean"


def group_mean_predictions(
    parts: nw.DataFrame[Any], columns: Columns, group_by: tuple[str, ...]
) -> NDArray[np.float64]:
    """Predict each evaluated row by the training mean of its group, float64 [rows of ``evaluate``].

    A group that training never saw falls back on its parent: the same columns without the last one, down to the
    overall mean (no columns at all).
    """
    require_columns(parts, group_by, what="the table")
    train = parts.filter(nw.col("part") == TRAIN)
    rows = parts.filter(nw.col("part") == EVALUATE)
    overall = float(train.get_column(columns.target).mean())
    predicted = np.full(len(rows), np.nan)
    for depth in range(len(group_by), 0, -1):
        by = list(group_by[:depth])
        means = train.group_by(by).agg(nw.col(columns.target).mean().alias(VALUE))
        found = rows.select(by).join(means, on=by, how="left").get_column(VALUE).cast(nw.Float64).to_numpy()
        predicted = np.where(np.isnan(predicted), found, predicted)
    return np.where(np.isnan(predicted), overall, predicted)


def tree_predictions(
    encoded: nw.DataFrame[Any], encoder: Encoder, options: TreeOptions
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Fit LightGBM on the encoded training rows and predict the evaluated ones, float64 [rows of ``evaluate``].

    It sees the same columns as the network: codes as categories, values as numbers, the transformed target.

    Returns:
        The predictions in the target's units, and ``seconds`` and ``rows`` of the fit.
    """
    import lightgbm

    train = to_arrays(part_of(encoded, TRAIN), encoder)
    rows = to_arrays(part_of(encoded, EVALUATE), encoder)
    if train.target is None:
        raise DataError(f"the training rows have no target {encoder.target.column!r}")
    n_codes = train.codes.shape[1]
    started = time.perf_counter()
    booster = lightgbm.train(
        {
            "objective": "regression",
            "verbosity": -1,
            "deterministic": True,
            **options.model_dump(exclude={"n_estimators"}),
        },
        lightgbm.Dataset(
            np.hstack([train.codes.numpy().astype(np.float32), train.continuous.numpy()]),
            train.target.numpy(),
            categorical_feature=list(range(n_codes)),
            free_raw_data=True,
        ),
        num_boost_round=options.n_estimators,
    )
    figures = {"seconds": time.perf_counter() - started, "rows": len(train.target)}
    outputs = booster.predict(np.hstack([rows.codes.numpy().astype(np.float32), rows.continuous.numpy()]))
    return invert_target(np.asarray(outputs), encoder.target), figures
