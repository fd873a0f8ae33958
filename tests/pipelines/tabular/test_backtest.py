"""Back-tests: windows that end before the held-out one, models that know nothing later, and metrics by hand."""

import functools
import math
from datetime import date, timedelta
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedline.errors import DataError
from embedline.pipelines.tabular import backtest_nodes
from embedline.pipelines.tabular.backtest import plan_windows, summarise
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import (
    MOST_WINDOWS,
    BacktestOptions,
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)
from embedline.pipelines.tabular.pipeline import create_backtest_pipeline
from embedline.pipelines.tabular.targets import NumericTarget

FIRST, N_DAYS = date(2020, 1, 1), 200
COLUMNS = Columns(categorical=("shop", "weekday"), target="sales", id=("shop",), time="day")
SPLIT = Split(kind="window", column="day", start=FIRST + timedelta(days=170), end=FIRST + timedelta(days=190))
SALES = NumericTarget(column="sales", transform="log", mean=0.0, std=1.0, maximum=9.0)
TREES = {"n_estimators": 30, "learning_rate": 0.2, "early_stopping": None, "target_encoding": None}
SETTINGS: dict[str, Any] = {
    "columns": COLUMNS,
    "split": SPLIT,
    "encoding": EncodingOptions(target_transform="log", target_means=(("shop",),)),
    "network": NetworkOptions(layers=(16,)),
    "training": TableTraining.model_validate(
        {
            "epochs": 3,
            "batch_size": 64,
            "lr": 0.02,
            "device": "cpu",
            "precision": "fp32",
            "seeds": [0, 1],
            "weights": [1, 2],
        }
        | {"blend": {"share": 0.5, "lightgbm": TREES}}
    ),
    "baselines": BaselineOptions(group_by=("shop",), linear=None, lightgbm=None),
    "report": ReportOptions(error_by=("weekday",)),
    "backtest": BacktestOptions(windows=2, length=21, seeds=(7,)),
}


def _table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    day, shop = np.repeat(np.arange(N_DAYS), 4), np.tile(np.arange(4), N_DAYS)
    logarithm = 3.0 + 0.5 * shop + 0.3 * (day % 7 == 5) + 0.1 * random.normal(size=len(day))
    return pl.DataFrame(
        {
            "shop": [f"s{k}" for k in shop],
            "weekday": day % 7 + 1,
            "day": [FIRST + timedelta(days=int(k)) for k in day],
            "sales": np.exp(logarithm),
        }
    )


def _run(table: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    settings = {f"params:shop.{name}": value for name, value in (SETTINGS | changes).items()}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in settings.items()})
    catalog["shop.table"] = MemoryDataset(table)
    pipeline = create_backtest_pipeline("shop")
    kept = {name: MemoryDataset(copy_mode="assign") for name in pipeline.all_outputs()}
    for name, dataset in kept.items():
        dataset._release = lambda: None  # type: ignore[method-assign]
        catalog[name] = dataset
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix("shop."): catalog.load(name) for name in kept}


@functools.cache
def _outputs() -> dict[str, Any]:
    return _run(_table())


def test_windows_end_before_the_held_out_one() -> None:
    rows = nw.from_native(_table(), eager_only=True)
    windows = plan_windows(rows, COLUMNS, SPLIT, BacktestOptions(windows=3, length=14, step=10))
    ends = [SPLIT.start - timedelta(days=1 + 10 * k) for k in range(3)]  # type: ignore[operator]
    assert [window.end for window in windows] == ends
    assert [window.start for window in windows] == [end - timedelta(days=13) for end in ends]
    assert all((window.kind, window.train, window.column) == ("window", "before", "day") for window in windows)
    assert plan_windows(rows, COLUMNS, SPLIT, BacktestOptions(windows=2, length=7))[1].end == ends[0] - timedelta(
        days=7
    )


def test_without_a_held_out_window_the_last_day_ends_the_newest() -> None:
    rows = nw.from_native(_table(), eager_only=True)
    windows = plan_windows(rows, COLUMNS, Split(kind="random"), BacktestOptions(windows=1, length=10))
    assert windows[0].end == FIRST + timedelta(days=N_DAYS - 1)
    with pytest.raises(DataError, match=r"columns\.time"):
        plan_windows(rows, COLUMNS.model_copy(update={"time": None}), Split(kind="random"), BacktestOptions())


def test_windows_beyond_the_rows_are_refused() -> None:
    rows = nw.from_native(_table(), eager_only=True)
    with pytest.raises(DataError, match=r"'day'.*2020-01-01"):
        plan_windows(rows, COLUMNS, SPLIT, BacktestOptions(windows=5, length=42))
    with pytest.raises(ValueError, match="windows"):
        BacktestOptions(windows=MOST_WINDOWS + 1)


def test_each_window_is_a_forecast_of_its_own_rows() -> None:
    outputs = _outputs()
    for number in (1, 2):
        frame, window = outputs[f"backtest_predictions_{number}"], outputs[f"backtest_window_{number}"]["split"]
        days = frame["day"].cast(pl.String)
        assert (days.min(), days.max(), len(frame)) == (window["start"], window["end"], 4 * 21)
        assert np.corrcoef(np.log(frame["actual"]), np.log(frame["predicted"]))[0, 1] > 0.8
    assert outputs["backtest_window_3"] == {}
    assert len(outputs["backtest_predictions_3"]) == 0
    assert outputs["backtest_window_1"]["seeds"] == [7]


def test_no_window_knows_its_own_sales_or_later_ones() -> None:
    """Other sales from the older window on leave its predictions, intervals and baselines as they are."""
    begin = date.fromisoformat(_outputs()["backtest_window_2"]["split"]["start"])
    random = np.random.default_rng(1)
    later = pl.col("sales") * pl.Series(np.exp(random.normal(size=4 * N_DAYS)))
    spoiled = _run(_table().with_columns(sales=pl.when(pl.col("day") >= begin).then(later).otherwise("sales")))
    before, after = (each["backtest_predictions_2"].drop("actual") for each in (_outputs(), spoiled))
    assert before.equals(after)
    assert not _outputs()["backtest_predictions_1"].equals(spoiled["backtest_predictions_1"])


def test_metrics_are_means_and_spreads_of_the_windows() -> None:
    metrics, outputs = _outputs()["backtest_metrics"], _outputs()
    frames = [outputs[f"backtest_predictions_{number}"] for number in (1, 2)]
    for name, column in {"model": "predicted", "networks": "networks", "group_mean": "group_mean"}.items():
        losses = [math.sqrt(((frame[column] / frame["actual"] - 1.0) ** 2).mean()) for frame in frames]  # type: ignore
        found = metrics["losses"][name]
        assert found["mean"] == pytest.approx(np.mean(losses))
        assert found["spread"] == pytest.approx(np.std(losses, ddof=1))
        assert list(found["by_window"].values()) == pytest.approx(losses)
        assert list(found["by_week"]) == ["1", "2", "3"]
    share = metrics["shares"]
    assert share["0"] == pytest.approx(metrics["losses"]["networks"]["mean"])
    assert share["1"] == pytest.approx(metrics["losses"]["trees"]["mean"])
    assert share["0.5"] == pytest.approx(metrics["losses"]["model"]["mean"])
    assert metrics["best_share"] == float(min(share, key=share.get))


def test_intervals_are_those_of_the_residuals_of_older_windows() -> None:
    metrics, outputs = _outputs()["backtest_metrics"], _outputs()
    newer, older = (outputs[f"backtest_predictions_{number}"] for number in (1, 2))
    residuals = np.sort(
        np.log(older["actual"] / older["predicted"]).to_numpy()
    )  # 84: the 8th from each end leaves out 16 in 85
    errors = np.log(newer["actual"] / newer["predicted"]).to_numpy()
    inside = (residuals[7] <= errors) & (errors <= residuals[-8])
    windows = list(metrics["windows"].values())
    assert windows[0]["intervals"]["80"]["coverage"] == pytest.approx(inside.mean())
    assert metrics["coverage"]["80"] == windows[0]["intervals"]["80"]["coverage"]
    assert "intervals" not in windows[1]  # there is none before it


def test_the_plot_shows_every_model_by_window_and_by_week() -> None:
    metrics = _outputs()["backtest_metrics"]
    lines = backtest_nodes.plot_backtest(metrics).data
    assert {line.name for line in lines} == set(metrics["losses"])
    by_window = next(line for line in lines if line.name == "networks")
    assert list(by_window.y) == [metrics["losses"]["networks"]["by_window"][day] for day in by_window.x]
    assert list(by_window.x) == sorted(by_window.x)


def test_one_row_that_decides_is_named() -> None:
    rows = {"day": [FIRST] * 4, "shop": list("abcd"), "actual": [1.0, 1.0, 1.0, 1.0], "predicted": [1.1, 1.1, 1.1, 4.0]}
    frame = nw.from_native(pl.DataFrame(rows | {"group_mean": [1.3] * 4}), eager_only=True)
    found = summarise({"w": frame}, {"group_mean": {}}, (SALES,), COLUMNS, ())
    difference = found["windows"]["w"]["baselines"]["group_mean"]["differences"]["exp_rmspe"]
    assert "shop d" in difference["decided_by"]
    assert found["windows"]["w"]["median_relative_error"] == pytest.approx(0.1)


def test_a_table_with_own_windows_is_made_by_its_source() -> None:
    calls: list[Any] = []

    def make(table: Any, window: dict[str, Any]) -> Any:
        calls.append(window)
        return table

    pipeline = create_backtest_pipeline("shop", make_table=(make, ["table"]))
    assert {node.short_name for node in pipeline.nodes} >= {f"make_window_{k + 1}" for k in range(MOST_WINDOWS)}
    assert pipeline.inputs() >= {"shop.table"}
    assert not calls


def test_plans_list_a_place_for_each_node() -> None:
    planned = backtest_nodes.plan_backtest(_table(), COLUMNS, SPLIT, BacktestOptions(windows=1, length=21))
    assert len(planned) == MOST_WINDOWS and "seeds" not in planned[0] and planned[1:] == [{}] * (MOST_WINDOWS - 1)
