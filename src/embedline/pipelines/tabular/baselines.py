"""Baselines of the network on the same columns: means, a linear model, and gradient-boosted trees."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN, require_columns
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.linear import choose_penalty, fit_linear_model
from embedline.pipelines.tabular.options import BaselineOptions, LinearOptions, TreeOptions
from embedline.pipelines.tabular.targets import (
    ClassTarget,
    NumericTarget,
    Target,
    class_codes,
    invert_target,
    softmax,
)
from embedline.pipelines.tabular.trees import booster_outputs, fit_booster

VALUE, WEIGHT = "_mean", "_weight"


def group_mean_predictions(
    table: nw.DataFrame[Any], target: Target, group_by: tuple[str, ...], weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Predict each test row by the training mean of its group, or by the shares of the classes in the group.

    A group without training rows takes the value of its parent: the group without the last column, down to the overall
    mean.

    Args:
        table: rows with the column ``split``.
        weights: [train rows], by which the rows count.

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
    overall = np.array([np.average(column, weights=weights) for column in values])
    names = [f"{VALUE}{k}" for k in range(len(values))]
    if weights is not None:
        exact = weights.astype(np.float64)
        values = [*(column * exact for column in values), exact]
    series = [
        nw.new_series(name, column, nw.Float64, backend=train.implementation)
        for name, column in zip([*names, WEIGHT][: len(values)], values, strict=True)
    ]
    predicted = np.full((len(rows), len(values)), np.nan)
    for depth in range(len(group_by), 0, -1):
        by = list(group_by[:depth])
        # Not by group_by: Polars sums its groups in parallel, and the last bits differ from call to call.
        if weights is None:
            means = train.select(*by, *series).with_columns(nw.col(*names).mean().over(*by)).unique(by, keep="any")
        else:  # without a weight in the group 0 / 0, which takes the value of the parent, too
            sums = train.select(*by, *series).with_columns(nw.col(*names, WEIGHT).sum().over(*by))
            means = sums.unique(by, keep="any").with_columns(nw.col(*names) / nw.col(WEIGHT))
        joined = rows.select(by).join(means, on=by, how="left").select(nw.col(*names).cast(nw.Float64))
        predicted = np.where(np.isnan(predicted), joined.to_numpy(), predicted)
    predicted = np.where(np.isnan(predicted), overall, predicted)
    return predicted if isinstance(target, ClassTarget) else predicted[:, 0]


def all_predictions(
    table: nw.DataFrame[Any], encoded: nw.DataFrame[Any], encoder: Encoder, options: BaselineOptions
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], dict[str, dict[str, Any]]]:
    """Fit each baseline on the training rows and predict the test rows.

    Args:
        table: rows with the column ``split``; ``encoded`` are the same, encoded.

    Returns:
        By the name of the baseline its predictions by target, and its costs.
    """
    rows = read_rows(encoded, encoder)
    predicted = {"constant": constant_predictions(rows, encoder)}
    costs: dict[str, dict[str, Any]] = {"constant": {}}
    if options.group_by:
        costs["group_mean"] = {"group_by": list(options.group_by)}
        predicted["group_mean"] = {
            target.column: group_mean_predictions(table, target, options.group_by, rows.weights)
            for target in encoder.targets
        }
    fits = {
        "linear": options.linear and fit_linear(options.linear),
        "lightgbm": options.lightgbm and fit_trees(options.lightgbm),
    }
    for name, fit in fits.items():
        if fit:
            predicted[name], costs[name] = timed_predictions(rows, encoder, fit)
    return predicted, costs


@dataclass(frozen=True)
class BaselineRows:
    """Training and test rows as a baseline reads them: the encoded columns, before any embedding.

    Attributes:
        codes, values: int32 [N, V] and float32 [N, C] of the training rows.
        labels: [N, T], the transformed numbers or the classes of each target.
        test_codes, test_values: of the test rows.
        cardinalities: numbers of codes, V of them.
        weights: float32 [N] of the training rows, with the mean 1; None where they have none.
    """

    codes: NDArray[np.int32]
    values: NDArray[np.float32]
    labels: NDArray[Any]
    test_codes: NDArray[np.int32]
    test_values: NDArray[np.float32]
    cardinalities: tuple[int, ...]
    weights: NDArray[np.float32] | None = None


Fit = Callable[[BaselineRows, NDArray[Any], Target], NDArray[np.float64]]
"""Function of the rows, the labels [N] of a target and the target: its prediction of the test rows, transformed."""


def read_rows(encoded: nw.DataFrame[Any], encoder: Encoder) -> BaselineRows:
    """Rows of an encoded table for baselines."""
    train, test = (to_arrays(subset(encoded, split), encoder) for split in (TRAIN, TEST))
    labels = train.labelled(encoder)[-1].numpy().reshape(len(train.codes), -1)
    weights = labels[:, -1] if encoder.weight is not None else None
    return BaselineRows(
        train.codes.numpy(),
        train.continuous.numpy(),
        labels[:, : len(encoder.targets)],
        test.codes.numpy(),
        test.continuous.numpy(),
        encoder.cardinalities,
        weights,
    )


def timed_predictions(
    rows: BaselineRows, encoder: Encoder, fit: Fit
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Fit a baseline for each target and predict the test rows.

    Returns:
        The prediction of each target by its column, float64 [test rows] in the units of the target or probabilities
        [test rows, C], and ``seconds`` and ``train_rows`` of the fits.
    """
    started, predicted = time.perf_counter(), {}
    for number, target in enumerate(encoder.targets):
        outputs = fit(rows, rows.labels[:, number], target)
        predicted[target.column] = invert_target(outputs, target) if isinstance(target, NumericTarget) else outputs
    return predicted, {"seconds": time.perf_counter() - started, "train_rows": len(rows.labels)}


def constant_predictions(rows: BaselineRows, encoder: Encoder) -> dict[str, NDArray[np.float64]]:
    """The mean of the training rows by their weights, or the shares of their classes, for every test row."""
    n_rows, found = len(rows.test_codes), {}
    for number, target in enumerate(encoder.targets):
        if isinstance(target, ClassTarget):
            counts = np.array(target.counts)
            if rows.weights is not None:
                counts = np.bincount(rows.labels[:, number].astype(np.int64), rows.weights, target.width)
            found[target.column] = np.tile(counts / counts.sum(), (n_rows, 1))
        else:
            # In the target's own units: of a logarithm, the mean is too low.
            values = invert_target(rows.labels[:, number].astype(np.float64), target)
            mean = values.mean() if rows.weights is None else np.average(values, weights=rows.weights)
            found[target.column] = np.full(n_rows, mean)
    return found


def fit_linear(options: LinearOptions) -> Fit:
    """Ridge or logistic regression on one-hot categories and standardised numbers, its penalty chosen on inner rows.

    Weights of rows weigh their losses; scikit-learn's search for the penalty of the ridge scores inner rows without.
    """

    def fit(rows: BaselineRows, labels: NDArray[Any], target: Target) -> NDArray[np.float64]:
        given = rows.codes, rows.values, labels, target, rows.cardinalities, rows.weights
        model = fit_linear_model(*given, choose_penalty(*given, options))
        outputs = model.outputs(rows.test_codes, rows.test_values)
        return softmax(outputs) if isinstance(target, ClassTarget) else target.mean + target.std * outputs[:, 0]

    return fit


def fit_trees(options: TreeOptions) -> Fit:
    """LightGBM on codes as categories, or their target means (without weights), and on numbers."""

    def fit(rows: BaselineRows, labels: NDArray[Any], target: Target) -> NDArray[np.float64]:
        inputs, test_inputs, categories = _tree_inputs(rows, labels, target, options)
        booster = fit_booster(inputs, labels, target, categories, options, rows.weights)
        return booster_outputs(booster, test_inputs, target)

    return fit


def _tree_inputs(
    rows: BaselineRows, labels: NDArray[Any], target: Target, options: TreeOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Inputs of trees for the training and the test rows, and the places of those that are categories."""
    n_levels = [int(column.max(initial=0)) for column in rows.codes.T]
    many = [place for place, n in enumerate(n_levels) if options.target_encoding and n > options.target_encoding]
    few = [place for place in range(len(n_levels)) if place not in many]
    inputs = [rows.codes[:, few].astype(np.float32), rows.values]
    test_inputs = [rows.test_codes[:, few].astype(np.float32), rows.test_values]
    if many:
        from sklearn.model_selection import KFold
        from sklearn.preprocessing import TargetEncoder

        kind = "continuous" if isinstance(target, NumericTarget) else "binary" if target.width == 2 else "multiclass"
        means = TargetEncoder(target_type=kind, cv=KFold(5, shuffle=True, random_state=options.seed))
        inputs.append(means.fit_transform(rows.codes[:, many], labels).astype(np.float32))
        test_inputs.append(means.transform(rows.test_codes[:, many]).astype(np.float32))
    return np.hstack(inputs), np.hstack(test_inputs), list(range(len(few)))
