"""LightGBM as a member of the prediction: stored in the bundle, blended in transformed units, measured on its own."""

import math
from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from law import grade_table, sales_table

from embedline.errors import DataError
from embedline.pipelines.tabular import learner, model, nodes
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, Columns, Split
from embedline.pipelines.tabular.cross_validation import cross_validate
from embedline.pipelines.tabular.learner import best_share
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import NumericTarget
from embedline.pipelines.tabular.trees import blended, fit_booster
from embedline.training.metrics import row_log_losses
from embedline.training.model_file import ModelBundle

SPLIT = Split(kind="column", column="held_out", value=True)
SALES = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", time="day")
GRADES = Columns(categorical=("shop", "colour"), continuous=("heat", "noise"), target="grade")
TREES = {"n_estimators": 60, "learning_rate": 0.1, "early_stopping": None, "target_encoding": None}
PRICE = NumericTarget(column="price", transform="log", mean=0.0, std=1.0, maximum=9.0)


def _training(**changes: Any) -> TableTraining:
    small = {"epochs": 2, "batch_size": 64, "lr": 0.01, "device": "cpu", "precision": "fp32", "seeds": [0]}
    return TableTraining.model_validate({**small, **changes})


@cache
def _fitted(kind: str, **blend: Any) -> tuple[pl.DataFrame, pl.DataFrame, ModelBundle]:
    table, columns, log = (sales_table(1500), SALES, "log") if kind == "sales" else (grade_table(1500), GRADES, "none")
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions.model_validate({"target_transform": log}))
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    training = _training(blend={"share": 0.25, "lightgbm": TREES, **blend})
    bundle, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(16,)), training)
    return table, encoded, bundle


def _members(kind: str) -> tuple[dict[str, Any], Any]:
    _, encoded, bundle = _fitted(kind)
    loaded = model.load_model(ModelBundle.from_bytes(bundle.to_bytes()))
    rows = to_arrays(subset(nw.from_native(encoded, eager_only=True), TEST), loaded.encoder)
    (target,) = loaded.encoder.targets
    return {name: by_target[target.column] for name, by_target in loaded.predict_members(rows).items()}, target


def test_a_blend_of_logarithms_is_a_geometric_mean() -> None:
    assert blended(PRICE, np.array([1.0]), np.array([16.0]), 0.25) == pytest.approx([2.0])
    found, _ = _members("sales")
    expected = np.exp(0.75 * np.log(found["networks"]) + 0.25 * np.log(found["trees"]))
    np.testing.assert_allclose(found["model"], expected, rtol=1e-9)


def test_a_blend_of_classes_is_a_mean_of_probabilities() -> None:
    found, target = _members("grades")
    np.testing.assert_allclose(found["model"], 0.75 * found["networks"] + 0.25 * found["trees"], rtol=1e-9)
    assert found["model"].shape[1] == target.width
    np.testing.assert_allclose(found["model"].sum(axis=1), 1.0, rtol=1e-6)


def test_the_trees_are_those_of_lightgbm_on_the_same_inputs() -> None:
    import lightgbm

    table, encoded, bundle = _fitted("sales")
    frame = nw.from_native(encoded, eager_only=True)
    encoder = model.load_model(bundle).encoder
    train, test = (to_arrays(frame.filter(nw.col("split") == name), encoder) for name in ("train", "test"))
    inputs = [np.hstack([rows.codes.numpy(), rows.continuous.numpy()]) for rows in (train, test)]
    assert train.target is not None
    settings = {"objective": "regression", "learning_rate": 0.1, "num_leaves": 15, "min_child_samples": 5, "seed": 42}
    data = lightgbm.Dataset(inputs[0], train.target.numpy(), categorical_feature=[0, 1])
    booster = lightgbm.train(settings | {"verbosity": -1, "deterministic": True}, data, 60)
    expected = np.exp(np.asarray(booster.predict(inputs[1])))
    np.testing.assert_allclose(_members("sales")[0]["trees"], expected, rtol=1e-6)
    assert bundle.metrics["blend"]["trees"] == 60
    assert len(table) == 1500


def test_a_tree_may_be_fitted_to_some_inputs_and_rows() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(500, 6)).astype(np.float32)
    labels = inputs @ np.arange(1.0, 7.0, dtype=np.float32)
    options = TreeOptions(n_estimators=20, early_stopping=None)
    fitted = {
        key: fit_booster(inputs, labels, PRICE, [], options.model_copy(update={key: 0.3}))
        for key in ("feature_fraction", "bagging_fraction")
    }
    whole = fit_booster(inputs, labels, PRICE, [], options)
    # A third of the inputs: trees have to do without the best one; a third of the rows: smaller leaves.
    gains = {key: booster.feature_importance("split")[:3].sum() for key, booster in fitted.items()}
    assert gains["feature_fraction"] > whole.feature_importance("split")[:3].sum()
    counts = [booster.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] for booster in fitted.values()]
    assert counts[0] == 500 and counts[1] == pytest.approx(150, abs=40)  # rows are drawn one by one


def test_metrics_have_both_members_beside_the_blend() -> None:
    table, encoded, bundle = _fitted("sales")
    nothing, report = pl.DataFrame(), ReportOptions()
    frame = nodes.predict(table, encoded, bundle, nothing, nothing, SALES, SPLIT, report)
    metrics = nodes.evaluate(frame, bundle, {}, {})
    assert set(metrics["baselines"]) == {"networks", "trees"}
    found, _ = _members("sales")
    for name, values in found.items():
        error = math.sqrt(np.mean((values / frame["actual"].to_numpy() - 1.0) ** 2))
        reported = metrics if name == "model" else metrics["baselines"][name]
        assert reported["exp_rmspe"] == pytest.approx(error)


def test_inputs_are_left_out_by_name() -> None:
    *_, bundle = _fitted("sales", without=("shop",))
    loaded = model.load_model(bundle)
    assert loaded.trees is not None
    assert [loaded.encoder.code_columns[place] for place in loaded.trees.codes] == ["weekday"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match=r"'shp'.*heat"):
        _fitted("sales", without=("shp",))
    with pytest.raises(DataError, match="without"):
        _fitted("sales", without=("shop", "weekday", "heat"))
    with pytest.raises(ValueError, match="quantile"):
        _training(loss="quantile", blend={"share": 0.5})


def _rules(n_rows: int = 3000, *, known: bool) -> pl.DataFrame:
    """Two classes, by a checkerboard of two numbers that trees learn fast, or by nothing."""
    random = np.random.default_rng(5)
    numbers = random.uniform(0.0, 6.0, size=(n_rows, 2))
    even = np.floor(numbers).sum(axis=1) % 2 == 0
    chance = np.where(even, 0.95, 0.05) if known else np.full(n_rows, 0.5)
    drawn = random.random(n_rows) < chance
    return pl.DataFrame({"a": numbers[:, 0], "b": numbers[:, 1], "held_out": np.arange(n_rows) % 4 == 0, "won": drawn})


@pytest.mark.parametrize("known", [True, False])
def test_rows_held_out_choose_the_share_of_the_trees(known: bool) -> None:
    table, columns = _rules(known=known), Columns(continuous=("a", "b"), target="won", classes=("won",))
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    stopping = {"patience": 2, "fraction": 0.2, "rotate": True}
    training = _training(blend={"lightgbm": {"n_estimators": 200}}, early_stopping=stopping, seeds=[0, 1])
    bundle, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(8,)), training)
    assert ("blend" in bundle.metrics) == known == any(name.startswith("lightgbm.") for name in bundle.weights)
    loaded = model.load_model(bundle)
    test = subset(nw.from_native(encoded, eager_only=True), TEST)
    found = {name: each["won"] for name, each in loaded.predict_members(to_arrays(test, loaded.encoder)).items()}
    if known:
        assert bundle.metrics["blend"]["options"]["share"] >= 0.5
        actual = table.filter(pl.col("held_out"))["won"].to_numpy().astype(int)
        losses = {name: row_log_losses(actual, each).mean() for name, each in found.items()}
        assert losses["model"] < losses["networks"] - 0.1
    else:
        assert set(found) == {"model"}


def test_a_gain_that_chance_may_give_changes_no_share() -> None:
    shares, noise = (0.0, 0.5), np.random.default_rng(0).normal(scale=0.1, size=20)
    sure = np.stack([np.ones(20), 0.9 + 0.1 * noise], axis=1)
    unsure = np.stack([np.ones(20), 0.99 + noise], axis=1)
    assert best_share(shares, sure, 0) == 0.5
    assert best_share(shares, unsure, 0) == 0.0


def test_without_rows_held_out_both_have_the_half() -> None:
    assert _fitted("grades", share="auto")[2].metrics["blend"]["options"]["share"] == 0.5


def test_members_that_some_folds_lack_are_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    table = nw.from_native(_rules(200, known=True).drop("held_out"), eager_only=True)
    columns, split = Columns(continuous=("a", "b"), target="won", classes=("won",)), Split(kind="folds", n=2)
    training = _training(blend={"lightgbm": {"n_estimators": 9}}, early_stopping={"patience": 2, "fraction": 0.2})
    given = EncodingOptions(), NetworkOptions(layers=(8,)), training, BaselineOptions(linear=None, lightgbm=None)
    for shares, members in (([0.5, 0.0], set()), ([0.5, 0.4], {"networks", "trees"})):
        rest = iter(shares)
        monkeypatch.setattr(learner, "blend_share", lambda *_, rest=rest: next(rest))
        found, costs = cross_validate(assign_splits(table, columns, split), columns, split, *given)
        assert set(costs) == {"constant"} | members
        assert {name.partition(".")[0] for name in found} >= members
        assert members or not {"networks", "trees"} & {name.partition(".")[0] for name in found}
        assert all(len(values) == 200 for values in found.values())
