"""Means by hand, and a linear model and LightGBM on the columns of the network."""

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from law import NOISE, sales_table

from embedline.errors import DataError
from embedline.pipelines.tabular.baselines import (
    constant_predictions,
    fit_linear,
    fit_trees,
    group_mean_predictions,
    read_rows,
    timed_predictions,
)
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions, LinearOptions, TreeOptions
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import NumericTarget
from embedline.training.metrics import rmspe

SALES = NumericTarget(column="sales", transform="none", mean=0.0, std=1.0, maximum=1.0)
ROWS: dict[str, list[Any]] = {
    "shop": [1, 1, 1, 2, None, 1, 1, 2, 9, None],
    "day": ["a", "a", "b", "a", "a", "a", "c", "b", "a", "a"],
    "sales": [2.0, 4.0, 9.0, 5.0, 20.0, 77.0, 77.0, 77.0, 77.0, 77.0],
    "split": ["train"] * 5 + ["test"] * 5,
}


def _rows(make: Any) -> Any:
    frame = make(ROWS)
    if make is pd.DataFrame:
        frame.index = pd.Index(range(20, 10, -1))
    return nw.from_native(frame, eager_only=True)


def test_group_means_of_many_rows_are_the_same_at_every_call() -> None:
    rng = np.random.default_rng(0)
    kinds, splits = rng.choice(["a", "b", "c"], 200_000), rng.choice([TRAIN, TEST], 200_000)
    rows = nw.from_native(pl.DataFrame({"kind": kinds, "sales": rng.normal(3, 1, 200_000), "split": splits}))
    found = {group_mean_predictions(rows, SALES, ("kind",)).tobytes() for _ in range(15)}
    assert len(found) == 1


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        # shop 1 on a: (2 + 4) / 2; shop 1 never on c: (2 + 4 + 9) / 3; shop 2 never on b: 5; no shop 9: all, 40 / 5;
        # a missing key is no group of its own.
        (("shop", "day"), [3.0, 5.0, 5.0, 8.0, 8.0]),
        (("shop",), [5.0, 5.0, 5.0, 8.0, 8.0]),
        (("day",), [7.75, 8.0, 9.0, 7.75, 7.75]),
        ((), [8.0] * 5),
    ],
)
def test_an_unseen_group_falls_back_level_by_level(make: Any, group_by: tuple[str, ...], expected: list[float]) -> None:
    predicted = group_mean_predictions(_rows(make), SALES, group_by)
    assert predicted.dtype == np.float64
    assert predicted.tolist() == pytest.approx(expected)


def test_the_evaluated_rows_own_target_is_not_used() -> None:
    rows = _rows(pl.DataFrame)
    changed = rows.with_columns(nw.when(nw.col("split") == TRAIN).then(nw.col("sales")).otherwise(0.0).alias("sales"))
    first, second = (group_mean_predictions(frame, SALES, ("shop", "day")) for frame in (rows, changed))
    assert first.tolist() == second.tolist()


def test_a_group_column_that_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"the table has no column 'weekday', which baselines\.group_by names"):
        group_mean_predictions(_rows(pl.DataFrame), SALES, ("shop", "weekday"))


def _encoded(transform: Any = "none", **roles: Any) -> tuple[Any, Any, Any]:
    """Rows with their splits, the encoded rows, and the encoder."""
    columns = Columns(**{"categorical": ("shop", "weekday"), "continuous": ("heat",), "target": "sales", **roles})
    table = nw.from_native(sales_table(), eager_only=True)
    splits = assign_splits(table, columns, Split(kind="column", column="held_out", value=True))
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), columns, EncodingOptions(target_transform=transform))
    return splits, encode(splits, encoder), encoder


TREES = TreeOptions(n_estimators=150, learning_rate=0.1, num_leaves=15, min_child_samples=10, early_stopping=None)


@pytest.mark.parametrize(
    ("fit", "times"),
    [(fit_trees(TREES), 4), (fit_trees(TreeOptions(target_encoding=3)), 6), (fit_linear(LinearOptions()), 7)],
    ids=["trees", "trees on target means", "linear"],
)
@pytest.mark.parametrize("transform", ["log", "none"])
def test_a_baseline_beats_the_mean_by_far_and_keeps_the_order_of_rows(transform: Any, fit: Any, times: float) -> None:
    splits, encoded, encoder = _encoded(transform)
    rows = read_rows(encoded, encoder)
    found, costs = timed_predictions(rows, encoder, fit)
    actual = splits.filter(nw.col("split") == TEST).get_column("sales").to_numpy()
    mean = constant_predictions(rows, encoder)["sales"]
    train = splits.filter(nw.col("split") == TRAIN).get_column("sales")
    assert mean.tolist() == pytest.approx([train.mean()] * len(actual))
    error = rmspe(actual, found["sales"])
    if transform == "log" or times < 7:  # shops multiply the sales: a sum of effects holds for the logarithm alone
        assert NOISE < error < times * NOISE
    assert error < 0.5 * rmspe(actual, mean)
    assert costs["train_rows"] == 2400
    assert costs["seconds"] > 0
    again, _ = timed_predictions(rows, encoder, fit)
    assert np.array_equal(again["sales"], found["sales"])


def test_early_stopping_takes_no_more_trees_than_help() -> None:
    """On a target without any signal, hundreds of trees would do worse than the mean."""
    random = np.random.default_rng(5)
    table = pl.DataFrame(
        {
            "shop": [f"s{k}" for k in random.integers(0, 300, 900)],
            "heat": random.normal(size=900),
            "sales": random.normal(size=900),
            "held_out": np.arange(900) < 300,
        }
    )
    columns = Columns(categorical=("shop",), continuous=("heat",), target="sales")
    splits = assign_splits(nw.from_native(table), columns, Split(kind="column", column="held_out", value=True))
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), columns, EncodingOptions())
    rows = read_rows(encode(splits, encoder), encoder)
    actual = table["sales"].to_numpy()[:300]
    errors = {
        name: float(np.mean((timed_predictions(rows, encoder, fit_trees(options))[0]["sales"] - actual) ** 2))
        for name, options in (("chosen", TreeOptions()), ("all", TreeOptions(n_estimators=300, early_stopping=None)))
    }
    mean = float(np.mean((constant_predictions(rows, encoder)["sales"] - actual) ** 2))
    assert errors["chosen"] < 1.05 * mean < errors["all"]


def test_baselines_need_a_target() -> None:
    columns = Columns(categorical=("shop",), target="sales")
    splits = nw.from_native(sales_table(20).with_columns(split=pl.lit("train")), eager_only=True)
    encoder = fit_encoder(splits, columns, EncodingOptions())
    with pytest.raises(DataError, match="the training rows have no target 'sales'"):
        read_rows(encode(splits.drop("sales"), encoder), encoder)
