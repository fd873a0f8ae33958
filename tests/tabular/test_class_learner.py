"""The learner finds the probabilities of a known law, for one target and for several at once."""

from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
from law import NOISE, grade_table

from embedline.errors import DataError
from embedline.pipelines.tabular import learner
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.baselines import (
    constant_predictions,
    fit_linear,
    fit_trees,
    group_mean_predictions,
    read_rows,
    timed_predictions,
)
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.decisions import decide
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import (
    EncodingOptions,
    LinearOptions,
    NetworkOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import ClassTarget
from embedline.training.metrics import log_loss, rmspe
from embedline.training.model_file import ModelBundle

SPLIT = Split(kind="column", column="held_out", value=True)
INPUTS: dict[str, Any] = {"categorical": ("shop", "colour"), "continuous": ("heat", "noise")}
NETWORK = NetworkOptions(layers=(32,))
SEVERAL = ("price", "grade", "passed")


def _training(**changes: Any) -> TableTraining:
    values = {"epochs": 8, "batch_size": 64, "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return TableTraining.model_validate({**values, **changes})


@cache
def _splits(target: str | tuple[str, ...] = "grade") -> nw.DataFrame[Any]:
    columns = Columns(**INPUTS, target=target)
    return assign_splits(nw.from_native(grade_table(), eager_only=True), columns, SPLIT)


@cache
def _encoded(target: str | tuple[str, ...] = "grade") -> tuple[nw.DataFrame[Any], Encoder]:
    splits, columns = _splits(target), Columns(**INPUTS, target=target)
    options = EncodingOptions(target_transform="none" if target == "grade" else {"price": "log"})
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), columns, options)
    return encode(splits, encoder), encoder


@cache
def _trained(target: str | tuple[str, ...] = "grade") -> tuple[ModelBundle, list[dict[str, float]]]:
    return learner.train_network(*_encoded(target), NETWORK, _training(seeds=(1, 2), weights=(3.0, 1.0)))


def _held_out() -> pl.DataFrame:
    return _splits().filter(nw.col("split") == TEST).to_native()


def _law() -> np.ndarray:
    return _held_out().select("p_high", "p_low", "p_mid").to_numpy()


def _grades() -> np.ndarray:
    return _held_out()["grade"].replace_strict({"high": 0, "low": 1, "mid": 2}).to_numpy()


def test_it_learns_the_probabilities_of_the_law() -> None:
    predicted = models.predict(subset(_encoded()[0], TEST), _trained()[0])
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)
    assert np.abs(predicted - _law()).mean() < 0.05
    accuracy = (predicted.argmax(axis=1) == _grades()).mean()
    bayes = _law().max(axis=1).mean()
    deviation = np.sqrt(bayes * (1 - bayes) / len(_law()))
    assert abs(accuracy - bayes) < 3 * deviation
    # No classifier can have a lower log loss than the law in the mean; the network is within a few hundredths of it.
    assert log_loss(_grades(), predicted) == pytest.approx(log_loss(_grades(), _law()), abs=0.03)
    shares = np.full_like(_law(), 1 / 3)
    assert log_loss(_grades(), predicted) < 0.75 * log_loss(_grades(), shares)


def test_an_untrained_network_predicts_the_shares_of_the_training_rows() -> None:
    encoded, encoder = _encoded()
    (target,) = encoder.targets
    assert isinstance(target, ClassTarget)
    network = learner.build_network(learner.network_config(encoder, NETWORK), seed=0).eval()
    with torch.no_grad():
        probabilities = network(*to_arrays(encoded, encoder).inputs).softmax(dim=1)
    shares = np.array(target.counts) / sum(target.counts)
    np.testing.assert_allclose(probabilities.mean(dim=0).numpy(), shares, atol=0.03)


def test_members_are_averaged_by_their_weights_in_the_probabilities() -> None:
    bundle, _ = _trained()
    rows, encoder = subset(_encoded()[0], TEST), _encoded()[1]
    found = []
    for member in range(2):
        network = learner.build_network(bundle.config, seed=9)
        network.load_state_dict(bundle.member(member))
        with torch.no_grad():
            found.append(network.eval()(*to_arrays(rows, encoder).inputs).double().softmax(dim=1).numpy())
    assert np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_allclose(models.predict(rows, bundle), 0.75 * found[0] + 0.25 * found[1], rtol=1e-6)


@pytest.mark.parametrize("target", ["grade", SEVERAL])
def test_a_stored_and_reloaded_bundle_predicts_the_same(target: Any) -> None:
    bundle, _ = _trained(target)
    rows = subset(_encoded(target)[0], TEST)
    ours, again = (models.predict_all(rows, one) for one in (bundle, ModelBundle.from_bytes(bundle.to_bytes())))
    assert ours.keys() == again.keys() == set([target] if isinstance(target, str) else target)
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


def test_metrics_of_each_epoch_are_those_of_the_prediction() -> None:
    bundle, history = learner.train_network(*_encoded(), NETWORK, _training(epochs=2))
    measured = [record for record in history if "accuracy" in record]
    assert [record["epoch"] for record in measured] == [1.0, 2.0]
    predicted = models.predict(subset(_encoded()[0], TEST), bundle)
    assert measured[-1]["accuracy"] == (predicted.argmax(axis=1) == _grades()).mean()
    assert measured[-1]["log_loss"] == pytest.approx(log_loss(_grades(), predicted))


def test_several_targets_are_learned_side_by_side() -> None:
    bundle, history = _trained(SEVERAL)
    assert bundle.weights["0.output.weight"].shape == (1 + 3 + 2, 32)
    predicted = models.predict_all(subset(_encoded(SEVERAL)[0], TEST), bundle)
    held_out = _held_out()
    assert NOISE * 0.8 < rmspe(held_out["price"].to_numpy(), predicted["price"]) < 2 * NOISE
    assert np.abs(predicted["grade"] - _law()).mean() < 0.05
    assert np.abs(predicted["passed"][:, 1] - (1 - _law()[:, 1])).mean() < 0.04
    last = history[-1]
    assert {"price.exp_rmspe", "grade.accuracy", "grade.log_loss", "passed.accuracy"} <= last.keys()
    with pytest.raises(ValueError, match=r"the bundle predicts \['price', 'grade', 'passed'\]: name one"):
        models.predict(subset(_encoded(SEVERAL)[0], TEST), bundle)
    assert np.array_equal(models.predict(subset(_encoded(SEVERAL)[0], TEST), bundle, "grade"), predicted["grade"])


def test_a_heavy_class_is_predicted_more_often_at_the_same_probabilities() -> None:
    weighted, _ = learner.train_network(*_encoded(), NETWORK, _training(class_weights={"mid": 10.0}))
    rows = subset(_encoded()[0], TEST)
    probabilities, usual = models.predict(rows, weighted), models.predict(rows, _trained()[0])
    assert np.abs(probabilities - _law()).mean() < 0.05
    assert weighted.metrics["decisions"] == {"grade": [1.0, 1.0, 10.0]}
    assert "decisions" not in _trained()[0].metrics
    often = decide(probabilities, weighted.metrics["decisions"]["grade"]) == 2
    assert often.mean() > 2 * (usual.argmax(axis=1) == 2).mean()


@pytest.mark.parametrize(
    "numeric",
    [{"kind": "piecewise_linear", "bins": 24, "size": 8}, {"kind": "periodic", "frequencies": 16, "sigma": 0.5}],
    ids=lambda numeric: numeric["kind"],
)
def test_embedded_numbers_follow_a_law_that_bends_often(numeric: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-3, 3, 3000)
    table = pl.DataFrame({"x": x, "held_out": np.arange(3000) % 4 == 0, "up": np.sin(4 * x) > 0})
    columns = Columns(continuous=("x",), target="up")
    splits = assign_splits(nw.from_native(table, eager_only=True), columns, SPLIT)
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), columns, EncodingOptions())
    encoded, accuracies = encode(splits, encoder), []
    actual = subset(encoded, TEST).get_column("class:up").to_numpy()
    for settings in (None, numeric):
        network = NetworkOptions.model_validate({"layers": 16, "numeric_embedding": settings})
        bundle, _ = learner.train_network(encoded, encoder, network, _training(epochs=5))
        again = ModelBundle.from_bytes(bundle.to_bytes())
        predicted = models.predict(subset(encoded, TEST), again)
        accuracies.append((predicted.argmax(axis=1) == actual).mean())
    plain, embedded = accuracies
    assert embedded > 0.9
    assert embedded > plain + 0.1


def test_bins_are_of_the_training_rows_alone() -> None:
    encoded, encoder = _encoded()
    options = NetworkOptions.model_validate({"layers": 4, "numeric_embedding": {"kind": "piecewise_linear", "bins": 4}})
    bundle, _ = learner.train_network(encoded, encoder, options, _training(epochs=1))
    edges = bundle.config["numeric_embedding"]["edges"]
    train = subset(encoded, TRAIN)
    for column, name in enumerate(("heat", "noise")):
        values = train.get_column(f"value:{name}").to_numpy()
        expected = np.quantile(np.unique(values), [0, 0.25, 0.5, 0.75, 1], method="nearest")
        np.testing.assert_allclose(edges[column], expected, rtol=1e-6)


def test_early_stopping_keeps_the_epoch_that_it_found_best() -> None:
    training = _training(epochs=4, early_stopping={"patience": 4}, schedule="constant")
    bundle, history = learner.train_network(*_encoded(), NETWORK, training)
    (best,) = bundle.metrics["best_epochs"]
    at_best = next(record for record in history if record["epoch"] == best and "log_loss" in record)
    predicted = models.predict(subset(_encoded()[0], TEST), bundle)
    assert log_loss(_grades(), predicted) == pytest.approx(at_best["log_loss"], rel=1e-5)


def test_a_range_is_for_numbers() -> None:
    with pytest.raises(DataError, match=r"network\.y_range is for numeric targets, and all of columns\.target are"):
        learner.network_config(_encoded()[1], NetworkOptions(layers=(4,), y_range="auto"))
    several = learner.network_config(_encoded(SEVERAL)[1], NetworkOptions(layers=(4,), y_range=(0.0, 9.0)))
    assert several["y_ranges"] == [[0.0, 9.0], None, None, None, None, None]


def test_group_shares_are_those_of_the_training_rows() -> None:
    splits, (target,) = _splits(), _encoded()[1].targets
    predicted = group_mean_predictions(splits, target, ("shop",))
    train, rows = (splits.filter(nw.col("split") == name).to_native() for name in (TRAIN, TEST))
    shares = {
        (shop,): [(group["grade"] == name).mean() for name in ("high", "low", "mid")]
        for (shop,), group in train.group_by("shop")
    }
    np.testing.assert_allclose(predicted, [shares[(shop,)] for shop in rows["shop"]])
    overall = group_mean_predictions(splits, target, ())
    np.testing.assert_allclose(overall[0], [(train["grade"] == name).mean() for name in ("high", "low", "mid")])


def test_trees_predict_classes_and_numbers_of_one_table() -> None:
    encoded, encoder = _encoded(SEVERAL)
    options = TreeOptions(n_estimators=60, learning_rate=0.1, num_leaves=7, min_child_samples=20)
    rows = read_rows(encoded, encoder)
    predicted, metrics = timed_predictions(rows, encoder, fit_trees(options))
    held_out = _held_out()
    assert np.abs(predicted["grade"] - _law()).mean() < 0.08
    assert np.abs(predicted["passed"][:, 1] - (1 - _law()[:, 1])).mean() < 0.07
    np.testing.assert_allclose(predicted["passed"].sum(axis=1), 1.0)
    assert rmspe(held_out["price"].to_numpy(), predicted["price"]) < 3 * NOISE
    assert metrics["train_rows"] == 3000
    linear, _ = timed_predictions(rows, encoder, fit_linear(LinearOptions()))
    assert {name: values.shape for name, values in linear.items()} == {n: v.shape for n, v in predicted.items()}
    constant = constant_predictions(rows, encoder)
    actual = np.array([encoder.targets[1].names.index(name) for name in held_out["grade"]])
    assert log_loss(actual, linear["grade"]) < log_loss(actual, constant["grade"])
    np.testing.assert_allclose(constant["grade"].sum(axis=1), 1.0)
