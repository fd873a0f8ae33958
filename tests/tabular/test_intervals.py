"""Intervals hold what they say: quantiles of residuals by hand, and the coverage on a table with a known law."""

import logging
from datetime import date, timedelta
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from law import NOISE, grade_table, sales_table

from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.calibration import calibrate_intervals
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.intervals import (
    fold_intervals,
    horizon_weeks,
    interval_columns,
    interval_metrics,
    residual_bounds,
)
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, ReportOptions, TableTraining
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import NumericTarget

COLUMNS = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", time="day")
NETWORK = NetworkOptions.model_validate({"layers": [32], "numeric_embedding": {"kind": "piecewise_linear"}})
LOG = EncodingOptions(target_transform="log")
SALES = NumericTarget(column="sales", transform="log", mean=0.0, std=1.0, maximum=9.0)


def _training(**changes: Any) -> TableTraining:
    small = {"epochs": 15, "batch_size": 64, "lr": 0.01, "device": "cpu", "precision": "fp32", "seeds": [0]}
    return TableTraining.model_validate({**small, **changes})


def test_bounds_are_the_residuals_at_the_places_for_so_many_rows() -> None:
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 1 … 99
    assert residual_bounds(residuals, (0.8, 0.9)) == {"80": [10.0, 90.0], "90": [5.0, 95.0]}


def test_a_level_that_too_few_rows_are_there_for_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert residual_bounds(np.arange(9.0), (0.8, 0.95)) == {"80": [0.0, 8.0]}
    assert "95" in caplog.text and "9 rows" in caplog.text


def test_columns_multiply_a_logarithmic_prediction_and_shift_another() -> None:
    bounds = {"sales": {"80": [np.log(0.5), np.log(4.0)]}, "size": {"80": [-1.0, 2.0]}}
    found = interval_columns(SALES, np.array([10.0, 100.0]), bounds, "sales.")
    assert {name: list(values) for name, values in found.items()} == {
        "sales.lower_80": pytest.approx([5.0, 50.0]),
        "sales.upper_80": pytest.approx([40.0, 400.0]),
    }
    size = NumericTarget(column="size", transform="none", mean=0.0, std=1.0, maximum=9.0)
    assert list(interval_columns(size, np.array([1.0]), bounds, "")["upper_80"]) == [3.0]


def test_metrics_are_the_share_inside_by_group() -> None:
    rows = {"lower_80": [0.0, 0.0, 0.0, 5.0], "upper_80": [1.0, 1.0, 2.0, 6.0]}
    frame, actual = nw.from_native(pl.DataFrame(rows), eager_only=True), np.array([0.5, 2.0, 2.0, 7.0])
    found = interval_metrics(frame, "", actual, {"week": [1, 1, 2, 2], "kind": ["a", "a", "a", "b"]})
    assert found["80"] == {
        **{"coverage": 0.5, "width": 1.25, "by_week": {"1": 0.5, "2": 0.5}},
        "by_kind": {"a": pytest.approx(2 / 3), "b": 0.0},
    }


def test_weeks_are_counted_from_the_first_day() -> None:
    days = pl.Series("day", [date(2020, 1, 8), date(2020, 1, 1), date(2020, 1, 14), date(2020, 1, 15)])
    assert horizon_weeks(nw.from_native(days.to_frame(), eager_only=True), "day") == [2, 1, 2, 3]


@pytest.mark.parametrize("kind", ["random", "window", "folds"])
def test_intervals_hold_their_share_of_a_known_law(kind: str) -> None:
    table = sales_table(3000 if kind != "folds" else 900)
    start = date(2020, 1, 1) + timedelta(days=2500)
    split = {
        "random": Split(kind="random", fraction=0.3),
        "window": Split(kind="window", column="day", start=start, end=start + timedelta(days=499)),
        "folds": Split(kind="folds", n=3),
    }[kind]
    rows = assign_splits(nw.from_native(table, eager_only=True), COLUMNS, split)
    bounds = calibrate_intervals(rows, COLUMNS, split, LOG, NETWORK, _training())
    assert set(bounds) == {"sales"} and set(bounds["sales"]) == {"80", "95"}
    low, high = bounds["sales"]["80"]
    # A normal noise of this size has 80 % within 1.28 standard deviations; the network adds to it.
    assert 2 * 1.28 * NOISE < high - low < 2 * 2.6 * NOISE
    if kind == "folds":
        return
    encoder = nodes.fit_encoder(table, COLUMNS, split, LOG)
    encoded = nodes.encode(table, encoder, COLUMNS, split)
    bundle, _ = nodes.train(encoded, encoder, NETWORK, _training())
    nothing, report = pl.DataFrame(), ReportOptions()
    frame = nodes.predict(table, encoded, bundle, nothing, nothing, COLUMNS, split, report, bounds)
    metrics = nodes.evaluate(frame, bundle, {}, {}, COLUMNS, report)
    assert metrics["intervals"]["80"]["coverage"] == pytest.approx(0.8, abs=0.06)
    assert metrics["intervals"]["95"]["coverage"] == pytest.approx(0.95, abs=0.03)
    weeks = metrics["intervals"]["80"].get("by_week", {})
    assert kind == "random" or not weeks  # of 72 weeks there are too many to list


def test_the_held_out_rows_decide_nothing() -> None:
    table, split = sales_table(900), Split(kind="column", column="held_out", value=True)
    spoiled = table.with_columns(sales=pl.when("held_out").then(1e6).otherwise("sales"))
    found = [
        calibrate_intervals(
            assign_splits(nw.from_native(each, eager_only=True), COLUMNS, split),
            *(COLUMNS, split, LOG, NETWORK, _training(epochs=1)),
        )
        for each in (table, spoiled)
    ]
    assert found[0] == found[1]


def test_the_weights_of_an_ensemble_are_none_of_its_first_network() -> None:
    split = Split(kind="column", column="held_out", value=True)
    rows = assign_splits(nw.from_native(sales_table(900), eager_only=True), COLUMNS, split)
    several = _training(epochs=1, seeds=[0, 1], weights=[1.0, 3.0])
    expected = calibrate_intervals(rows, COLUMNS, split, LOG, NETWORK, _training(epochs=1))
    assert calibrate_intervals(rows, COLUMNS, split, LOG, NETWORK, several) == expected


def test_a_fold_is_measured_by_the_residuals_of_the_others() -> None:
    fold = np.repeat([0, 1], 99)
    actual = np.exp(np.concatenate([np.arange(1.0, 100.0) / 100.0, np.arange(1.0, 100.0) / 10.0]))
    found = {"actual": actual, "predicted": np.ones(198), "fold": fold}
    columns = fold_intervals(SALES, found, {"sales": {"80": [0.0, 0.0]}}, "")
    assert np.log(columns["upper_80"][[0, 197]]) == pytest.approx([9.0, 0.9])


def test_classes_quantiles_and_a_switched_off_setting_have_none() -> None:
    split = Split(kind="column", column="held_out", value=True)
    grades = Columns(categorical=("shop",), continuous=("heat",), target="grade")
    rows = assign_splits(nw.from_native(grade_table(400), eager_only=True), grades, split)
    assert calibrate_intervals(rows, grades, split, EncodingOptions(), NETWORK, _training()) == {}
    rows = assign_splits(nw.from_native(sales_table(400), eager_only=True), COLUMNS, split)
    for off in ({"intervals": None}, {"loss": "quantile"}):
        assert calibrate_intervals(rows, COLUMNS, split, LOG, NETWORK, _training(**off)) == {}


def test_a_window_that_takes_all_training_rows_leaves_no_intervals(caplog: pytest.LogCaptureFixture) -> None:
    split = Split(kind="window", column="day", start=date(2020, 3, 1), end=date(2021, 12, 31))
    rows = assign_splits(nw.from_native(sales_table(500), eager_only=True), COLUMNS, split)
    assert calibrate_intervals(rows, COLUMNS, split, LOG, NETWORK, _training()) == {}
    assert "training.intervals.days" in caplog.text


def test_levels_have_to_rise() -> None:
    with pytest.raises(ValueError, match="levels"):
        _training(intervals={"levels": [0.95, 0.8]})
