"""The learner's pipelines, run by Kedro on a tiny table of either engine, and the metrics that they report."""

import logging
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.pipeline import create_final_pipeline, create_pipeline, nodes, plot_nodes
from embedline.training.metrics import rmspe
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
N_ROWS, N_UNLABELLED = 600, 30
INTERVALS = ("lower_80", "upper_80", "lower_95", "upper_95")
COLUMNS = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", id=("shop",), time="day")
SETTINGS: dict[str, Any] = {
    "columns": COLUMNS,
    "split": Split(kind="random", fraction=0.25, seed=3),
    "encoding": EncodingOptions(target_transform="log"),
    "network": NetworkOptions(layers=(16,)),
    "training": TableTraining(epochs=2, batch_size=32, lr=0.01, device="cpu", precision="fp32", seeds=(1, 2)),
    "finder": FinderOptions(low=1e-4, high=1.0, steps=12),
    "baselines": BaselineOptions(
        group_by=("shop", "weekday"), lightgbm=TreeOptions(n_estimators=20, min_child_samples=5)
    ),
    "report": ReportOptions(series_by="shop", n_series=2, error_by=("weekday",), embeddings=("shop",)),
}


class Kept(MemoryDataset):
    """Keeps what a runner releases after its last use, so that a test may look at it."""

    def _release(self) -> None:
        pass


def _table(engine: str) -> Any:
    random = np.random.default_rng(0)
    shop, weekday, heat = random.integers(0, 5, N_ROWS), random.integers(1, 8, N_ROWS), random.normal(size=N_ROWS)
    table = pl.DataFrame(
        {
            "shop": [f"s{k}" for k in shop],
            "weekday": weekday,
            "heat": pl.Series(heat).scatter([0, 50], None),
            "day": pl.date_range(pl.date(2020, 1, 1), pl.date(2030, 1, 1), "1d", eager=True)[:N_ROWS],
            "sales": np.exp(5 + 0.4 * shop + 0.1 * weekday + 0.5 * np.abs(heat)),
            "ignored": ["x"] * N_ROWS,
        }
    ).with_columns(sales=pl.when(pl.int_range(pl.len()) < N_ROWS - N_UNLABELLED).then("sales"))
    if engine == "polars":
        return table
    frame = table.to_pandas()
    frame.index = pd.Index(range(N_ROWS, 0, -1))
    return frame


@cache
def _run(engine: str) -> dict[str, Any]:
    settings = {f"params:shop.{name}": value for name, value in SETTINGS.items()}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in settings.items()})
    catalog["sales.table"] = MemoryDataset(_table(engine))
    pipeline = create_pipeline("shop", table="sales.table")
    wanted = pipeline.all_outputs()
    for name in wanted:
        catalog[name] = Kept(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix("shop."): catalog.load(name) for name in wanted}


@cache
def _run_final() -> tuple[Any, Any]:
    settings = {name: SETTINGS[name] for name in ("columns", "encoding", "network", "training")}
    settings["split"] = Split(kind="none")
    catalog = DataCatalog({f"params:all.{name}": MemoryDataset(value) for name, value in settings.items()})
    catalog["sales.table"] = MemoryDataset(_table("polars"))
    for name in ("all.forecast", "all.model"):
        catalog[name] = Kept(copy_mode="assign")
    SequentialRunner().run(create_final_pipeline("all", table="sales.table"), catalog)
    return catalog.load("all.forecast"), catalog.load("all.model")


@ENGINES
def test_metrics_hold_what_the_report_needs(engine: str) -> None:
    outputs = _run(engine)
    metrics, predictions = outputs["metrics"], pl.DataFrame(outputs["predictions"])
    assert {"exp_rmspe", "rmse", "mae", "r2", "baselines", "beaten_by", "seconds", "rows_per_second"} <= set(metrics)
    assert metrics["train_rows"] + metrics["test_rows"] == N_ROWS - N_UNLABELLED
    assert metrics["test_rows"] == len(predictions)
    assert 100 < metrics["test_rows"] < 180
    actual = predictions["actual"].to_numpy()
    assert metrics["exp_rmspe"] == rmspe(actual, predictions["predicted"].to_numpy())
    for name in ("group_mean", "lightgbm"):
        assert metrics["baselines"][name]["exp_rmspe"] == rmspe(actual, predictions[name].to_numpy())
    assert metrics["baselines"]["group_mean"]["group_by"] == ["shop", "weekday"]
    assert metrics["baselines"]["lightgbm"]["train_rows"] == metrics["train_rows"]
    assert (metrics["members"], metrics["epochs"], metrics["device"]) == (2, 2, "cpu")


def test_both_engines_come_to_the_same_numbers() -> None:
    ours, theirs = (_run(engine) for engine in ("polars", "pandas"))
    assert ours["encoder"]["categorical"] == theirs["encoder"]["categorical"]
    assert ours["encoder"]["continuous"]["heat"] == pytest.approx(theirs["encoder"]["continuous"]["heat"])
    assert ours["metrics"]["exp_rmspe"] == pytest.approx(theirs["metrics"]["exp_rmspe"], rel=1e-5)
    for name in ("group_mean", "lightgbm", "predicted", "actual"):
        assert ours["predictions"][name].to_list() == pytest.approx(theirs["predictions"][name].to_list(), rel=1e-4)


@ENGINES
def test_frames_leave_in_the_engine_in_which_they_came(engine: str) -> None:
    outputs = _run(engine)
    expected = pl.DataFrame if engine == "polars" else pd.DataFrame
    assert {type(outputs[name]) for name in ("encoded", "baseline_predictions", "predictions")} == {expected}


@ENGINES
def test_predictions_stand_beside_their_own_rows(engine: str) -> None:
    predictions = _run(engine)["predictions"]
    assert list(predictions.columns) == [
        *("shop", "day", "weekday", "actual", "predicted", *INTERVALS),
        *("constant", "group_mean", "linear", "lightgbm"),
    ]
    rows = pl.DataFrame({name: list(predictions[name]) for name in predictions.columns})
    table = _table("polars").select("shop", "weekday", pl.col("day"), "sales")
    found = rows.with_columns(pl.col("day").cast(pl.Date)).join(table, on="day", how="left", maintain_order="left")
    assert found["shop"].to_list() == found["shop_right"].to_list()
    assert found["actual"].to_list() == found["sales"].to_list()
    correlation = np.corrcoef(np.log(rows["actual"]), np.log(rows["predicted"]))[0, 1]
    assert correlation > 0.5  # rows in another order would have none


@ENGINES
def test_the_encoded_frame_has_every_row_of_the_split(engine: str) -> None:
    encoded = pl.DataFrame(_run(engine)["encoded"])
    assert dict(encoded.group_by("split").len().rows())["predict"] == N_UNLABELLED
    assert len(encoded) == N_ROWS
    assert encoded["code:heat_na"].to_list()[:2] == [2, 1]
    assert encoded["code:shop"].max() == 5


def test_history_and_range_test_are_frames_of_the_training() -> None:
    outputs = _run("polars")
    history, rates = outputs["history"], outputs["learning_rates"]
    assert history["member"].unique().to_list() == [0, 1]
    assert history["epoch"].max() == 2.0
    assert history["exp_rmspe"].drop_nulls().len() == 4
    assert rates["rate"][0] == pytest.approx(1e-4)
    assert rates["suggestion"].n_unique() == 1
    assert rates["suggestion"][0] in rates["rate"].to_list()


def test_plots_show_the_stored_artifacts() -> None:
    outputs = _run("polars")
    history, rates = outputs["history"], outputs["learning_rates"]
    assert list(outputs["training_plot"].data[0].y) == history.filter(member=0)["train_loss"].to_list()
    assert list(outputs["learning_rate_plot"].data[0].x) == rates["rate"].to_list()
    first = outputs["predictions"].filter(shop="s0").sort("day")
    lines = {line.name: list(line.y) for line in reversed(outputs["forecast_plot"].data)}
    assert lines["actual"] == first["actual"].to_list()
    assert lines["80 % interval"] == first["lower_80"].to_list()
    assert list(outputs["error_plot"].data[0].x) == [str(day) for day in range(1, 8)]
    assert list(outputs["embedding_plot"].data[0].text) == ["s0", "s1", "s2", "s3", "s4"]


def test_embeddings_are_those_of_the_model() -> None:
    outputs = _run("polars")
    shops = outputs["embeddings"].filter(variable="shop")
    assert shops["value"].to_list()[1:] == ["s0", "s1", "s2", "s3", "s4"]
    weight = outputs["model"].weights["0.embeddings.weight"]
    assert shops["embedding"].to_list() == weight[:6, :3].tolist()


def test_the_final_model_learns_from_all_labelled_rows_and_forecasts_the_others() -> None:
    forecast, model = _run_final()
    assert model.metrics["rows"] == N_ROWS - N_UNLABELLED
    unlabelled = _table("polars").tail(N_UNLABELLED)
    assert forecast.columns == ["shop", "day", "predicted", *INTERVALS]
    assert forecast["day"].to_list() == unlabelled["day"].to_list()
    by_shop = dict(forecast.group_by("shop").agg(pl.col("predicted").mean()).rows())
    assert by_shop["s4"] > by_shop["s0"] > 0


def _evaluate(errors: dict[str, float], transform: str = "log") -> dict[str, Any]:
    """Metrics of predictions that are off by a share of 10 each."""
    frame = pl.DataFrame({"actual": [10.0, 10.0]}).with_columns(
        **{name: pl.lit(10.0 * (1 + share)) for name, share in errors.items()}
    )
    costs: dict[str, Any] = {name: {} for name in errors if name != "predicted"}
    target = {"column": "y", "transform": transform, "mean": 0.0, "std": 1.0, "maximum": 1.0}
    spent = {"rows": 7, "seconds": 2.0, "rows_per_second": 3.5}
    return nodes.evaluate(frame, ModelBundle("tabular", {}, {"targets": [target]}, {}, spent), costs, {})


def test_baselines_that_win_or_draw_are_named_and_winners_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = _evaluate({"predicted": 0.2, "mean": 0.3, "tree": -0.1, "draw": 0.2})
    assert (metrics["beaten_by"], metrics["no_difference"]) == (["tree"], ["draw"])
    assert metrics["exp_rmspe"] == pytest.approx(0.2)
    assert metrics["baselines"]["tree"]["exp_rmspe"] == pytest.approx(0.1)
    assert metrics["baselines"]["tree"]["differences"]["exp_rmspe"] == {
        **dict.fromkeys(("difference", "low", "high"), pytest.approx(0.1)),
        "verdict": "worse",
    }
    assert (metrics["train_rows"], metrics["test_rows"]) == (7, 2)
    assert "tree" in caplog.text
    assert "mean" not in caplog.text and "draw" not in caplog.text


def test_a_network_that_wins_is_beaten_by_none() -> None:
    assert _evaluate({"predicted": 0.1, "mean": 0.3})["beaten_by"] == []


def test_a_column_of_ones_own_may_be_called_as_those_of_folds() -> None:
    frame = pl.DataFrame({"repeat": [7, 7], "actual": [10.0, 10.0], "predicted": [12.0, 12.0], "tree": [11.0, 11.0]})
    target = {"column": "y", "transform": "none", "mean": 0.0, "std": 1.0, "maximum": 1.0}
    model = ModelBundle("tabular", {}, {"targets": [target]}, {}, {"rows": 7})
    assert nodes.evaluate(frame, model, {"tree": {}}, {})["beaten_by"] == ["tree"]


def test_without_a_logarithm_the_rmse_decides() -> None:
    metrics = _evaluate({"predicted": 0.2, "tree": 0.1}, transform="none")
    assert "exp_rmspe" not in metrics
    assert metrics["rmse"] == pytest.approx(2.0)
    assert metrics["beaten_by"] == ["tree"]


def test_baselines_may_be_left_out() -> None:
    table, outputs = _table("polars"), _run("polars")
    predicted, costs = nodes.fit_baselines(
        *(table, outputs["encoded"], outputs["encoder"], COLUMNS, SETTINGS["split"]),
        BaselineOptions(lightgbm=None, linear=None),
    )
    assert predicted.columns == list(costs) == ["constant"]
    overall = outputs["encoded"].filter(split="train")["sales"].mean()
    assert predicted["constant"].to_list() == pytest.approx([overall] * len(outputs["predictions"]))


def test_a_report_of_a_column_that_is_not_there_is_refused() -> None:
    outputs = _run("polars")
    report = ReportOptions(error_by=("weekdya",))
    with pytest.raises(DataError, match=r"'weekdya', which report\.error_by names: did you mean 'weekday'"):
        nodes.predict(
            _table("polars"),
            outputs["encoded"],
            outputs["model"],
            outputs["baseline_predictions"],
            outputs["fold_predictions"],
            COLUMNS,
            SETTINGS["split"],
            report,
        )


def test_a_table_without_time_shows_predicted_against_actual() -> None:
    columns = Columns(categorical=("shop",), target="sales")
    predictions = pl.DataFrame({"actual": [3.0, 1.0, 2.0], "predicted": [2.0, 1.0, 3.0]})
    target = {"column": "sales", "transform": "none", "mean": 0.0, "std": 1.0, "maximum": 1.0}
    figure = plot_nodes.plot_forecast(predictions, {"targets": [target]}, columns, ReportOptions())
    assert sorted(zip(figure.data[1].x, figure.data[1].y, strict=True)) == [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)]


def test_nodes_leave_their_inputs_as_they_are() -> None:
    for engine in ("polars", "pandas"):
        table, untouched = _table(engine), _table(engine)
        encoder = nodes.fit_encoder(table, COLUMNS, SETTINGS["split"], SETTINGS["encoding"])
        encoded = nodes.encode(table, encoder, COLUMNS, SETTINGS["split"])
        nodes.fit_baselines(table, encoded, encoder, COLUMNS, SETTINGS["split"], BaselineOptions(lightgbm=None))
        assert table.equals(untouched)
