"""Quantiles as the prediction of a number: the loss by hand, coverage on a known law, columns, metrics and answers."""

from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from law import grade_table
from pydantic import ValidationError
from sklearn.metrics import mean_pinball_loss

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import pack_table
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, Columns, Split
from embedline.pipelines.tabular.losses import make_loss
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    ImportanceOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)
from embedline.pipelines.tabular.targets import NumericTarget, point_prediction
from embedline.serving.service import Service
from embedline.training.metrics import quantile_metrics

SPLIT = Split(kind="column", column="held_out", value=True)
COLUMNS = Columns(categorical=("shop",), continuous=("heat",), target="sales", id=("row",))
SIZE = NumericTarget(column="size", transform="none", mean=0.0, std=10.0, maximum=9.0, quantiles=(0.1, 0.5, 0.9))


def _training(**changes: Any) -> TableTraining:
    given = {"epochs": 12, "batch_size": 128, "lr": 0.01, "loss": "quantile", "device": "cpu", "precision": "fp32"}
    return TableTraining.model_validate({**given, **changes})


def _law(n_rows: int = 4000) -> pl.DataFrame:
    """``sales`` is normal around ``2 + heat``, with the deviation ``exp(heat / 2)``, and twice as much in shop b."""
    random = np.random.default_rng(1)
    heat, shop = random.normal(size=n_rows), random.integers(0, 2, n_rows)
    deviation = np.exp(heat / 2) * (1 + shop)
    return pl.DataFrame(
        {
            "row": np.arange(n_rows),
            "shop": np.array(["a", "b"])[shop],
            "heat": heat,
            "deviation": deviation,
            "held_out": np.arange(n_rows) % 4 == 0,
            "sales": 2 + heat + deviation * random.normal(size=n_rows),
        }
    )


class _Run:
    """A run of the learner without Kedro."""

    def __init__(self, table: Any, columns: Columns, network: dict[str, Any], encoding: Any = None, **changes: Any):
        encoding = encoding or EncodingOptions()
        self.table, self.encoder = table, nodes.fit_encoder(table, columns, SPLIT, encoding)
        self.encoded = nodes.encode(table, self.encoder, columns, SPLIT)
        options = NetworkOptions.model_validate({"layers": [32, 16], **network})
        self.model, self.history = nodes.train(self.encoded, self.encoder, options, _training(**changes))
        baselines = BaselineOptions(lightgbm=None)
        predicted, costs = nodes.fit_baselines(table, self.encoded, self.encoder, columns, SPLIT, baselines)
        nothing, report = pl.DataFrame(), ReportOptions(importance=ImportanceOptions(rows=100, repeats=2))
        self.predictions = nodes.predict(table, self.encoded, self.model, predicted, nothing, columns, SPLIT, report)
        self.metrics = nodes.evaluate(self.predictions, self.model, costs, {})
        self.importance = nodes.measure_importance(self.encoded, self.model, report)


@cache
def _run(engine: str) -> _Run:
    table = _law() if engine == "polars" else _law().to_pandas()
    return _Run(table, COLUMNS, {"members": 2}, seeds=(1, 2))


def test_the_pinball_loss_by_hand() -> None:
    output = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    value = make_loss([SIZE], _training())(output, torch.tensor([2.5, -10.0]))
    errors = [0.1 * 1.5, 0.5 * 0.5, 0.1 * 0.5, 0.9 * 10, 0.5 * 10, 0.1 * 10]
    assert value.item() == pytest.approx(sum(errors) / 6 / 10, rel=1e-6)  # in standard deviations


@pytest.mark.parametrize("engine", ["polars", "pandas"])
def test_quantiles_cover_what_they_should_where_the_noise_differs(engine: str) -> None:
    run = _run(engine)
    frame = pl.DataFrame(run.predictions)
    assert frame.columns == ["row", "actual", "predicted", "q10", "q50", "q90", "constant", "linear"]
    assert frame["predicted"].to_list() == frame["q50"].to_list()
    quantiles, actual = frame.select("q10", "q50", "q90").to_numpy(), frame["actual"].to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    metrics = run.metrics
    assert 0.74 < metrics["coverage_80"] < 0.86
    losses = [mean_pinball_loss(actual, quantiles[:, k], alpha=q) for k, q in enumerate((0.1, 0.5, 0.9))]
    assert metrics["pinball_loss"] == pytest.approx(np.mean(losses))
    assert metrics["width_80"] == pytest.approx((frame["q90"] - frame["q10"]).mean())
    test = _law().filter("held_out")
    true = 2 * 1.2816 * test["deviation"].to_numpy()  # distance of the true quantiles
    for chosen in (test["shop"].to_numpy() == "a", test["shop"].to_numpy() == "b", test["heat"].to_numpy() > 1):
        width = (quantiles[:, 2] - quantiles[:, 0])[chosen].mean()
        assert width == pytest.approx(true[chosen].mean(), rel=0.2)
    assert metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean((actual - quantiles[:, 1]) ** 2))))
    assert set(metrics["baselines"]["linear"]) >= {"rmse", "differences"}
    assert "pinball_loss" not in metrics["baselines"]["linear"]
    assert set(run.importance["variable"]) == {"heat", "shop"} and run.importance["loss"][0] == "rmse"
    assert {"rmse"} <= set(run.history.columns)


def test_quantiles_are_averaged_level_by_level_and_sorted() -> None:
    outputs = [np.array([[1.0, 5.0, 3.0]]), np.array([[2.0, 4.0, 9.0]])]
    found = models.combine(outputs, [3.0, 1.0], [SIZE])["size"]
    assert found.tolist() == [[1.25, 4.5, 4.75]]
    crossing = models.combine([np.array([[3.0, 1.0, 2.0]])], [1.0], [SIZE])["size"]
    assert crossing.tolist() == [[1.0, 2.0, 3.0]] and point_prediction(SIZE, crossing).tolist() == [2.0]
    bundle, encoded = _run("polars").model, nw.from_native(_run("polars").encoded, eager_only=True)
    model, rows = models.load_model(bundle), subset(encoded, TEST)
    with torch.no_grad():
        own = [network(*to_arrays(rows, model.encoder).inputs).numpy() for network in model.networks]
    expected = np.sort(np.mean(own, axis=0, dtype=np.float64), axis=1)
    np.testing.assert_allclose(models.predict(rows, bundle), expected, rtol=1e-6)


def test_a_logarithm_a_range_and_other_targets_go_along() -> None:
    columns = Columns(categorical=("shop",), continuous=("heat",), target=("price", "grade"))
    run = _Run(
        *(grade_table(800), columns, {"y_range": "auto"}, EncodingOptions(target_transform={"price": "log"})),
        **{"epochs": 3, "quantiles": (0.025, 0.25, 0.5, 0.75, 0.975), "class_weights": "balanced"},
    )
    names = ["price.q2.5", "price.q25", "price.q50", "price.q75", "price.q97.5"]
    assert set(names) <= set(run.predictions.columns)
    quantiles = run.predictions.select(names).to_numpy()
    assert (quantiles > 0).all() and (np.diff(quantiles, axis=1) >= 0).all()
    assert quantiles.max() <= run.table["price"].max() ** 1.21
    metrics = run.metrics["targets"]["price"]
    assert {"coverage_95", "coverage_50", "width_95", "exp_rmspe"} <= set(metrics)
    assert metrics["coverage_95"] >= metrics["coverage_50"]


def test_a_service_answers_with_quantiles() -> None:
    run = _run("polars")
    service = Service.from_bytes(pack_table(run.model, run.table).to_bytes())
    rows = run.table.filter("held_out").select("row", "shop", "heat")
    answers = service.open().predict(rows.to_pandas())
    assert list(answers.columns) == ["row", "predicted", "q10", "q50", "q90"]
    expected = pl.DataFrame(run.predictions)
    for name in ("row", "predicted", "q10", "q90"):
        assert answers[name].tolist() == expected[name].to_list()
    score = service.open().measure(answers, run.table.filter("held_out")["sales"].to_pandas())
    assert (score.name, score.value) == ("rmse", pytest.approx(run.metrics["rmse"]))


def test_one_quantile_is_the_median_alone() -> None:
    table = _law(400).to_pandas()
    table.index = pd.Index(range(400, 0, -1))
    run = _Run(table, COLUMNS, {}, epochs=2, quantiles=[0.5])
    assert list(run.predictions.columns) == ["row", "actual", "predicted", "q50", "constant", "linear"]
    assert "pinball_loss" in run.metrics and not any(name.startswith("coverage") for name in run.metrics)


def test_folds_have_quantiles_of_rows_that_weigh_differently() -> None:
    table = _law(300).with_columns(w=pl.col("heat").abs())
    columns, split = COLUMNS.model_copy(update={"weight": "w", "id": ()}), Split(kind="folds", n=3, repeats=2)
    training, network, baselines = _training(epochs=2), NetworkOptions(layers=(8,)), BaselineOptions(lightgbm=None)
    fitted: Any = (columns, split, EncodingOptions())
    folds, costs = nodes.cross_validate(table, *fitted, network, training, baselines)
    encoder = nodes.fit_encoder(table, *fitted)
    encoded = nodes.encode(table, encoder, columns, split)
    model, _ = nodes.train(encoded, encoder, network, training)
    found = nodes.predict(table, encoded, model, pl.DataFrame(), folds, columns, split, ReportOptions())
    assert {"q10", "q50", "q90", "predicted", "fold", "repeat"} <= set(found.columns) and len(found) == 600
    metrics = nodes.evaluate(found, model, {}, costs)
    pinball = [mean_pinball_loss(found["actual"], found[f"q{q:.0f}"], alpha=q / 100) for q in (10, 50, 90)]
    assert metrics["pinball_loss"] == pytest.approx(np.mean(pinball)) and metrics["test_rows"] == 300


def test_metrics_of_known_quantiles() -> None:
    actual = np.array([0.0, 1.0, 2.0, 3.0])
    quantiles = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [1.0, 2.0, 2.0], [0.0, 1.0, 2.0]])
    found = quantile_metrics(actual, quantiles, (0.1, 0.5, 0.9))
    losses = [mean_pinball_loss(actual, quantiles[:, k], alpha=q) for k, q in enumerate((0.1, 0.5, 0.9))]
    assert found == {"pinball_loss": pytest.approx(np.mean(losses)), "coverage_80": 0.5, "width_80": 1.75}
    assert set(quantile_metrics(actual, quantiles, (0.2, 0.5, 0.9))) == {"pinball_loss"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quantiles": [0.5, 0.1]}, "must rise"),
        ({"quantiles": [0.1, 0.9]}, "the median, 0.5"),
        ({"quantiles": [0.0, 0.5]}, "greater than 0"),
        ({"quantiles": [0.5, 0.5]}, "must rise"),
        ({"quantiles": [0.1, 0.5], "loss": "mse"}, "loss: quantile"),
    ],
)
def test_quantiles_that_cannot_be_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        _training(**changes)


def test_classes_have_no_quantiles() -> None:
    table, columns = grade_table(100), Columns(continuous=("heat",), target="grade")
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    with pytest.raises(DataError, match=r"training\.loss 'quantile' is for numbers"):
        nodes.train(encoded, encoder, NetworkOptions(layers=(4,)), _training())
