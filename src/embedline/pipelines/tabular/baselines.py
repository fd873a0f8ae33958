"""What the network has to beat: group means and gradient-boosted trees on the same columns."""

import time
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN, require_columns
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.options import TreeOptions
from embedline.pipelines.tabular.targets import ClassTarget, Target, class_codes, invert_target

VALUE = "_mean"


def group_mean_predictions(parts: nw.DataFrame[Any], target: Target, group_by: tuple[str, ...]) -> NDArray[np.float64]:
    """Predict each evaluated row by the training mean of its group, or by the shares of the classes in it.

    A group that training never saw falls back on its parent: the same columns without the last one, down to the
    overall mean (no columns at all).

    Returns:
        Float64 [rows of ``evaluate``], or [rows of ``evaluate``, C] of a target with C classes.
    """
    require_columns(parts, group_by, what="the table", key="baselines.group_by")
    train = parts.filter(nw.col("split") == TRAIN)
    rows = parts.filter(nw.col("split") == TEST)
    if isinstance(target, ClassTarget):
        codes = class_codes(train, target)
        values = [(codes == k).astype(np.float64) for k in range(target.width)]
    else:
        values = [train.get_column(target.column).cast(nw.Float64).to_numpy()]
    overall = np.array([column.mean() for column in values])
    names = [f"{VALUE}{k}" for k in range(len(values))]
    series = [
        nw.new_series(name, column, nw.Float64, backend=train.implementation)
        for name, column in zip(names, values, strict=True)
    ]
    predicted = np.full((len(rows), len(values)), np.nan)
    for depth in range(len(group_by), 0, -1):
        by = list(group_by[:depth])
        # Not by group_by: Polars sums its groups in parallel, and the last bits differ from call to call.
        means = train.select(*by, *series).with_columns(nw.col(*names).mean().over(*by)).unique(by, keep="any")
        joined = rows.select(by).join(means, on=by, how="left").select(nw.col(*names).cast(nw.Float64))
        predicted = np.where(np.isnan(predicted), joined.to_numpy(), predicted)
    predicted = np.where(np.isnan(predicted), overall, predicted)
    return predicted if isinstance(target, ClassTarget) else predicted[:, 0]


def tree_predictions(
    encoded: nw.DataFrame[Any], encoder: Encoder, options: TreeOptions
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Fit LightGBM on the encoded training rows, a booster for each target, and predict the evaluated ones.

    It sees the same columns as the network: codes as categories, values as numbers, the transformed target.

    Returns:
        The prediction of each target by its column, float64 [rows of ``evaluate``] in the target's units or
        probabilities [rows of ``evaluate``, C], and ``seconds`` and ``train_rows`` of the fits.
    """
    train = to_arrays(subset(encoded, TRAIN), encoder)
    rows = to_arrays(subset(encoded, TEST), encoder)
    *_, labels = train.labelled(encoder)
    known, asked = (
        np.hstack([arrays.codes.numpy().astype(np.float32), arrays.continuous.numpy()]) for arrays in (train, rows)
    )
    several = labels.reshape(len(labels), -1).numpy()
    started = time.perf_counter()
    predicted = {
        target.column: _boosted(known, several[:, k], asked, target, options, n_codes=train.codes.shape[1])
        for k, target in enumerate(encoder.targets)
    }
    return predicted, {"seconds": time.perf_counter() - started, "train_rows": len(labels)}


def _boosted(
    known: NDArray[np.float32],
    labels: NDArray[Any],
    asked: NDArray[np.float32],
    target: Target,
    options: TreeOptions,
    *,
    n_codes: int,
) -> NDArray[np.float64]:
    """Fit one booster on ``known`` rows, whose first ``n_codes`` columns are categories, and predict ``asked``."""
    import lightgbm

    classes = target.width if isinstance(target, ClassTarget) else 0
    objective: dict[str, Any] = {"objective": "binary" if classes == 2 else "multiclass" if classes else "regression"}
    if classes > 2:
        objective["num_class"] = classes
    booster = lightgbm.train(
        {**objective, "verbosity": -1, "deterministic": True, **options.model_dump(exclude={"n_estimators"})},
        lightgbm.Dataset(known, labels, categorical_feature=list(range(n_codes)), free_raw_data=True),
        num_boost_round=options.n_estimators,
    )
    outputs = np.asarray(booster.predict(asked), dtype=np.float64)
    if not isinstance(target, ClassTarget):
        return invert_target(outputs, target)
    return np.stack([1.0 - outputs, outputs], axis=1) if classes == 2 else outputs
