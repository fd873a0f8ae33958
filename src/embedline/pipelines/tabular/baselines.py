"""Baselines of the network: group means, and gradient-boosted trees on the same columns."""

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


def group_mean_predictions(table: nw.DataFrame[Any], target: Target, group_by: tuple[str, ...]) -> NDArray[np.float64]:
    """Predict each test row by the training mean of its group, or by the shares of the classes in the group.

    A group without training rows takes the value of its parent: the group without the last column, down to the overall
    mean.

    Args:
        table: rows with the column ``split``.

    Returns:
        Float64 [test rows], or [test rows, C] for a target with C classes.
    """
    require_columns(table, group_by, what="the table", key="baselines.group_by")
    train = table.filter(nw.col("split") == TRAIN)
    rows = table.filter(nw.col("split") == TEST)
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
    """Fit LightGBM on the encoded training rows, a booster for each target, and predict the test rows.

    LightGBM reads the same columns as the network: codes as categories, values as numbers, the transformed target.

    Returns:
        The prediction of each target by its column, float64 [test rows] in the units of the target or probabilities
        [test rows, C], and ``seconds`` and ``train_rows`` of the fits.
    """
    train = to_arrays(subset(encoded, TRAIN), encoder)
    rows = to_arrays(subset(encoded, TEST), encoder)
    *_, labels = train.labelled(encoder)
    train_inputs, test_inputs = (
        np.hstack([arrays.codes.numpy().astype(np.float32), arrays.continuous.numpy()]) for arrays in (train, rows)
    )
    several = labels.reshape(len(labels), -1).numpy()
    started = time.perf_counter()
    predicted = {
        target.column: _boosted_trees(
            train_inputs, several[:, k], test_inputs, target, options, n_codes=train.codes.shape[1]
        )
        for k, target in enumerate(encoder.targets)
    }
    return predicted, {"seconds": time.perf_counter() - started, "train_rows": len(labels)}


def _boosted_trees(
    train_inputs: NDArray[np.float32],
    labels: NDArray[Any],
    test_inputs: NDArray[np.float32],
    target: Target,
    options: TreeOptions,
    *,
    n_codes: int,
) -> NDArray[np.float64]:
    """Fit one booster, whose first ``n_codes`` inputs are categories, and predict the rows ``test_inputs``."""
    import lightgbm

    classes = target.width if isinstance(target, ClassTarget) else 0
    objective: dict[str, Any] = {"objective": "binary" if classes == 2 else "multiclass" if classes else "regression"}
    if classes > 2:
        objective["num_class"] = classes
    booster = lightgbm.train(
        {**objective, "verbosity": -1, "deterministic": True, **options.model_dump(exclude={"n_estimators"})},
        lightgbm.Dataset(train_inputs, labels, categorical_feature=list(range(n_codes)), free_raw_data=True),
        num_boost_round=options.n_estimators,
    )
    outputs = np.asarray(booster.predict(test_inputs), dtype=np.float64)
    if not isinstance(target, ClassTarget):
        return invert_target(outputs, target)
    return np.stack([1.0 - outputs, outputs], axis=1) if classes == 2 else outputs
