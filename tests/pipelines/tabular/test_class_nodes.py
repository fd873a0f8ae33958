"""The learner's pipelines on classes, and on several targets at once, on tables of either engine."""

import logging
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn.metrics as sk
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    ImportanceOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.pipeline import create_final_pipeline, create_pipeline, nodes, plot_nodes
from embedline.training.metrics import classification_metrics, rmspe
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
N_ROWS, N_UNLABELLED = 800, 20
GRADES = ["fair", "good", "poor"]
BASELINES = ("constant", "group_mean", "linear", "lightgbm")
SETTINGS: dict[str, Any] = {
    "split": Split(kind="random", fraction=0.25, seed=3),
    "network": NetworkOptions.model_validate({"layers": 16, "numeric_embedding": {"kind": "piecewise_linear"}}),
    "training": TableTraining(
        epochs=4, batch_size=32, lr=0.01, device="cpu", precision="fp32", seeds=(1, 2), label_smoothing=0.05
    ),
    "finder": FinderOptions(low=1e-4, high=1.0, steps=12),
    "baselines": BaselineOptions(group_by=("shop",), lightgbm=TreeOptions(n_estimators=20, min_child_samples=5)),
    "report": ReportOptions(
        error_by=("shop",), embeddings=("shop",), importance=ImportanceOptions(rows=100, repeats=2)
    ),
}


class Kept(MemoryDataset):
    """Keeps what a runner releases after its last use, so that a test may look at it."""

    def _release(self) -> None:
        pass


def _table(engine: str) -> Any:
    random = np.random.default_rng(0)
    shop, heat = random.integers(0, 5, N_ROWS), random.normal(size=N_ROWS)
    grade = np.where(heat > 0.5, "good", np.where(shop > 2, "fair", "poor"))
    table = pl.DataFrame(
        {
            "Id": np.arange(N_ROWS),
            "shop": [f"s{k}" for k in shop],
            "heat": pl.Series(heat).scatter([0, 50], None),
            "stars": 1 + (heat > 0).astype(int) + (shop > 2),
            "price": np.exp(5 + 0.4 * shop + 0.1 * heat),
            "grade": grade,
        }
    ).with_columns(grade=pl.when(pl.int_range(pl.len()) < N_ROWS - N_UNLABELLED).then("grade"))
    if engine == "polars":
        return table
    frame = table.to_pandas()
    frame.index = pd.Index(range(N_ROWS, 0, -1))
    return frame


def _columns(several: bool) -> Columns:
    target = {"target": ["grade", "price", "stars"], "classes": ["stars"]} if several else {"target": "grade"}
    return Columns.model_validate({"categorical": ["shop"], "continuous": ["heat"], "id": ["Id"], **target})


def _settings(several: bool) -> dict[str, Any]:
    transform: Any = {"price": "log"} if several else "none"
    encoding = EncodingOptions(target_transform=transform, scaling="quantile", target_means=(("shop",),))
    return {**SETTINGS, "columns": _columns(several), "encoding": encoding}


@cache
def _run(engine: str, several: bool = False) -> dict[str, Any]:
    settings = {f"params:shop.{name}": value for name, value in _settings(several).items()}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in settings.items()})
    catalog["shop.table"] = MemoryDataset(_table(engine))
    pipeline = create_pipeline("shop")
    wanted = pipeline.all_outputs()
    for name in wanted:
        catalog[name] = Kept(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix("shop."): catalog.load(name) for name in wanted}


def _metrics(frame: pl.DataFrame, prefix: str, classes: list[str], baseline: str = "") -> dict[str, Any]:
    actual = np.array([classes.index(name) for name in frame[f"{prefix}actual"]])
    names = [f"{prefix}{baseline}p_{name}" for name in classes]
    return classification_metrics(actual, frame.select(names).to_numpy(), classes)


@ENGINES
def test_predictions_name_classes_and_have_all_probabilities(engine: str) -> None:
    outputs = _run(engine)
    frame = pl.DataFrame(outputs["predictions"])
    probabilities = [f"p_{name}" for name in GRADES]
    assert frame.columns == [
        *("Id", "shop", "actual", "predicted"),
        *probabilities,
        *(f"{name}.{column}" for name in BASELINES for column in probabilities),
    ]
    table = dict(pl.DataFrame(_table("polars")).select("Id", "grade").rows())
    assert frame["actual"].to_list() == [table[row] for row in frame["Id"]]
    most = frame.select(probabilities).to_numpy().argmax(axis=1)
    assert frame["predicted"].to_list() == [GRADES[k] for k in most]


@ENGINES
def test_metrics_of_classes_hold_those_of_each_baseline(engine: str) -> None:
    outputs = _run(engine)
    metrics, frame = outputs["metrics"], pl.DataFrame(outputs["predictions"])
    expected = _metrics(frame, "", GRADES)
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["accuracy"] > 0.85
    for name in BASELINES:
        theirs = _metrics(frame, "", GRADES, f"{name}.")
        assert {key: metrics["baselines"][name][key] for key in theirs} == theirs
    assert metrics["baselines"]["lightgbm"]["train_rows"] == metrics["train_rows"]
    assert "group_mean" not in metrics["beaten_by"]
    assert (metrics["members"], metrics["test_rows"]) == (2, len(frame))


@ENGINES
def test_several_targets_have_columns_and_metrics_by_their_names(engine: str) -> None:
    outputs = _run(engine, several=True)
    metrics, frame = outputs["metrics"], pl.DataFrame(outputs["predictions"])
    assert set(metrics["targets"]) == {"grade", "price", "stars"}
    grade, price, stars = (metrics["targets"][name] for name in ("grade", "price", "stars"))
    assert grade["accuracy"] == _metrics(frame, "grade.", GRADES)["accuracy"] > 0.8
    assert stars["confusion"]["classes"] == ["1", "2", "3"]
    assert stars["log_loss"] == _metrics(frame, "stars.", ["1", "2", "3"])["log_loss"]
    actual = frame["price.actual"].to_numpy()
    assert price["exp_rmspe"] == rmspe(actual, frame["price.predicted"].to_numpy())
    assert price["baselines"]["lightgbm"]["exp_rmspe"] == rmspe(actual, frame["price.lightgbm"].to_numpy())
    assert grade["baselines"]["group_mean"]["accuracy"] < grade["accuracy"]
    assert metrics["train_rows"] + metrics["test_rows"] == N_ROWS - N_UNLABELLED


def test_both_engines_come_to_the_same_numbers() -> None:
    ours, theirs = (_run(engine, several=True) for engine in ("polars", "pandas"))
    assert ours["encoder"]["targets"][0] == theirs["encoder"]["targets"][0]
    frames = [pl.DataFrame(outputs["predictions"]) for outputs in (ours, theirs)]
    assert frames[0].columns == frames[1].columns
    for name in frames[0].columns:
        one, other = (frame[name].to_list() for frame in frames)
        assert one == (pytest.approx(other, rel=1e-3, abs=1e-4) if isinstance(one[0], float) else other)


@ENGINES
def test_several_booleans_are_labels_of_a_row(engine: str) -> None:
    heat, names = pl.col("heat").fill_null(0.0), ["warm", "far", "rare"]
    table = _table("polars").with_columns(warm=heat > 0.5, far=pl.col("shop") > "s2", rare=heat > 1.8)
    columns = Columns(categorical=("shop",), continuous=("heat",), target=tuple(names), positive={"far": False})
    table = table if engine == "polars" else table.to_pandas()
    split, nothing = Split(kind="random", fraction=0.25, seed=3), pl.DataFrame()
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, split)
    model, _ = nodes.train(encoded, encoder, SETTINGS["network"], SETTINGS["training"])
    baselines = BaselineOptions(lightgbm=None)
    found, costs = nodes.fit_baselines(table, encoded, encoder, columns, split, baselines)
    frame = nodes.predict(table, encoded, model, found, nothing, columns, split, ReportOptions())
    metrics, frame = nodes.evaluate(frame, model, costs, {}), pl.DataFrame(frame)
    actual, predicted = (
        np.stack([(frame[f"{name}.{what}"] == str(name != "far")).to_numpy() for name in names], axis=1)
        for what in ("actual", "predicted")
    )
    assert metrics["labels"] == {
        "f1_micro": pytest.approx(sk.f1_score(actual, predicted, average="micro")),
        "f1_macro": pytest.approx(sk.f1_score(actual, predicted, average="macro", zero_division=0)),
        "exact_match": pytest.approx((actual == predicted).all(axis=1).mean()),
        "hamming_loss": pytest.approx((actual != predicted).mean()),
    }
    assert metrics["labels"]["exact_match"] > 0.8 and set(metrics["targets"]) == set(names)
    assert "labels" not in _run("polars", several=True)["metrics"]  # a number and three classes are among them


def test_importance_and_plots_are_those_of_the_artifacts() -> None:
    outputs = _run("polars")
    importance = outputs["importance"]
    assert importance["variable"].to_list()[0] in ("heat", "shop")
    assert set(importance["variable"]) == {"heat", "shop"}
    assert list(outputs["importance_plot"].data[0].y) == importance["variable"].to_list()[::-1]
    assert [trace.name.split(" ")[0] for trace in outputs["forecast_plot"].data if trace.name][:3] == [
        "perfect",
        "network",
        "constant",
    ]
    assert list(outputs["error_plot"].data[0].x) == GRADES
    assert [trace.name for trace in outputs["training_plot"].data][1] == "held-out accuracy"
    assert list(outputs["embedding_plot"].data[0].text) == ["s0", "s1", "s2", "s3", "s4"]


def test_of_several_targets_the_first_is_drawn_and_named() -> None:
    outputs = _run("polars", several=True)
    for name in ("forecast_plot", "error_plot", "importance_plot"):
        assert outputs[name].layout.title.text.endswith("(grade, the first target)")
    encoder = {**outputs["encoder"], "targets": outputs["encoder"]["targets"][1:]}  # price first, a number
    frame = outputs["predictions"]
    agreement = plot_nodes.plot_forecast(frame, encoder, _columns(several=True), SETTINGS["report"])
    assert agreement.layout.title.text == "Held-out rows: actual and predicted (price, the first target)"
    assert sorted(agreement.data[1].x) == sorted(frame["price.actual"])
    errors = plot_nodes.plot_errors(frame, encoder, SETTINGS["report"])
    assert list(errors.data[0].x) == ["s0", "s1", "s2", "s3", "s4"]


@ENGINES
def test_the_final_model_forecasts_classes_and_probabilities(engine: str) -> None:
    settings = {name: value for name, value in _settings(several=False).items() if name not in ("finder", "baselines")}
    settings["split"] = Split(kind="none")
    catalog = DataCatalog({f"params:all.{name}": MemoryDataset(value) for name, value in settings.items()})
    catalog["shop.table"] = MemoryDataset(_table(engine))
    catalog["all.forecast"] = Kept(copy_mode="assign")
    SequentialRunner().run(create_final_pipeline("all", table="shop.table"), catalog)
    forecast = pl.DataFrame(catalog.load("all.forecast"))
    assert forecast.columns == ["Id", "predicted", "p_fair", "p_good", "p_poor"]
    assert forecast["Id"].to_list() == list(range(N_ROWS - N_UNLABELLED, N_ROWS))
    np.testing.assert_allclose(forecast.select(pl.sum_horizontal("p_fair", "p_good", "p_poor")).to_series(), 1.0)
    table = pl.DataFrame(_table("polars")).tail(N_UNLABELLED)
    expected = np.where(table["heat"] > 0.5, "good", np.where(table["shop"] > "s2", "fair", "poor"))
    assert (forecast["predicted"].to_numpy() == expected).mean() > 0.8


def test_a_baseline_with_the_lower_log_loss_is_named(caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"actual": ["a", "b"] * 20, "predicted": ["b", "b"] * 20})
    for name, p in (("", [0.4, 0.2]), ("tree.", [0.9, 0.2]), ("mean.", [0.4, 0.6])):
        frame = frame.with_columns(
            pl.Series(f"{name}p_a", p * 20), pl.Series(f"{name}p_b", [1 - value for value in p * 20])
        )
    levels = {"kind": "string", "levels": ["a", "b"]}
    encoder = {"targets": [{"column": "y", "levels": levels, "counts": [1, 1]}]}
    model = ModelBundle("tabular", {}, encoder, {}, {"rows": 7})
    with caplog.at_level(logging.WARNING):
        metrics = nodes.evaluate(frame, model, {"tree": {}, "mean": {}}, {})
    assert (metrics["accuracy"], metrics["beaten_by"]) == (0.5, ["tree"])
    assert metrics["no_difference"] == []
    assert "tree" in caplog.text and "0.5697" in caplog.text and "0.1643" in caplog.text


def test_a_ceiling_stands_beside_the_metrics_of_its_target(caplog: pytest.LogCaptureFixture) -> None:
    for several in (False, True):
        outputs = _run("polars", several=several)
        given = [outputs[name] for name in ("predictions", "model", "baseline_costs", "fold_costs")]
        ceiling = {"grade": {"accuracy": 0.99, "exp_rmspe": 0.1}, "size": {"accuracy": 0.5}}
        with caplog.at_level(logging.INFO):
            metrics = nodes.evaluate(*given, ceiling=ceiling)
        by_target = metrics["targets"] if several else {"grade": metrics}
        assert by_target["grade"]["ceiling"] == {"accuracy": 0.99}  # of what was measured alone
        assert not any("ceiling" in found for name, found in by_target.items() if name != "grade")
        name = "grade.accuracy" if several else "accuracy"
        said = f"{name} {by_target['grade']['accuracy']:.4f}, and no model can expect more than 0.9900"
        assert f"{said} (by the law of the generated data)" in caplog.messages
        assert "ceiling" not in str(outputs["metrics"])  # a source of one's own, whose law nobody knows


def test_the_pipeline_reads_a_ceiling_where_it_is_given_one() -> None:
    own, known = create_pipeline("shop"), create_pipeline("shop", ceiling="law.ceiling")
    assert known.inputs() - own.inputs() == {"law.ceiling"} and own.inputs() < known.inputs()
    assert [node.name for node in known.nodes if "law.ceiling" in node.inputs] == ["shop.evaluate"]


def test_a_report_column_of_the_name_of_a_prediction_is_refused() -> None:
    outputs = _run("polars")
    table = _table("polars").with_columns(predicted=pl.col("shop"))
    arguments = (table, outputs["encoded"], outputs["model"], outputs["baseline_predictions"])
    with pytest.raises(DataError, match=r"report\.error_by names 'predicted', a column that the predictions have"):
        nodes.predict(
            *arguments,
            outputs["fold_predictions"],
            _columns(False),
            SETTINGS["split"],
            ReportOptions(error_by=("predicted",)),
        )
