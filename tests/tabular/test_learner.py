"""The learner finds a known law, and its bundle predicts what the network predicted."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
from law import NOISE, sales_table

from embedline.errors import DataError
from embedline.pipelines.tabular import learner
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.losses import number_loss
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import NumericTarget
from embedline.training import ensemble
from embedline.training.ensemble import available_cores, count_workers, in_threads
from embedline.training.metrics import rmspe
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

COLUMNS = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", id=("shop",), time="day")
SPLIT = Split(kind="column", column="held_out", value=True)
NETWORK = NetworkOptions(layers=(32, 16), embedding_dropout=0.02)


def _training(**changes: Any) -> TableTraining:
    values = {"epochs": 3, "batch_size": 64, "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return TableTraining.model_validate({**values, **changes})


@cache
def _encoded() -> tuple[nw.DataFrame[Any], Encoder]:
    splits = assign_splits(nw.from_native(sales_table(), eager_only=True), COLUMNS, SPLIT)
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), COLUMNS, EncodingOptions(target_transform="log"))
    return encode(splits, encoder), encoder


@cache
def _trained() -> tuple[ModelBundle, list[dict[str, float]]]:
    return learner.train_network(*_encoded(), NETWORK, _training(seeds=(1, 2)))


def _error(predicted: Any) -> float:
    return rmspe(subset(_encoded()[0], TEST).get_column("sales").to_numpy(), predicted)


def test_it_learns_a_law_to_near_the_noise() -> None:
    bundle, history = learner.train_network(*_encoded(), NETWORK, _training(epochs=30))
    error = _error(models.predict(subset(_encoded()[0], TEST), bundle))
    assert NOISE * 0.8 < error < NOISE * 1.5
    assert history[-1]["exp_rmspe"] == pytest.approx(error, rel=1e-5)


def test_predictions_of_a_stored_and_reloaded_bundle_are_identical() -> None:
    bundle, _ = _trained()
    again = ModelBundle.from_bytes(bundle.to_bytes())
    rows = subset(_encoded()[0], TEST)
    assert np.array_equal(models.predict(rows, again), models.predict(rows, bundle))


def test_an_ensemble_averages_its_members_in_the_logarithm() -> None:
    bundle, _ = _trained()
    rows, encoder = subset(_encoded()[0], TEST), _encoded()[1]
    outputs = []
    for member in range(2):
        network = learner.build_network(bundle.config, seed=9)
        network.load_state_dict(bundle.member(member))
        with torch.no_grad():
            outputs.append(network.eval()(*to_arrays(rows, encoder).inputs).numpy().astype(np.float64))
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    predicted = models.predict(rows, bundle)
    assert predicted == pytest.approx(np.exp((outputs[0] + outputs[1]) / 2), rel=1e-5)
    assert predicted.dtype == np.float64


def test_a_member_is_the_network_of_its_seed_alone() -> None:
    alone, _ = learner.train_network(*_encoded(), NETWORK, _training(seeds=(2,)))
    second = _trained()[0].member(1)
    assert all(torch.equal(tensor, second[name]) for name, tensor in alone.member(0).items())


def test_members_side_by_side_are_those_trained_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NetworkOptions(layers=(16,), dropout=0.2, embedding_dropout=0.05)
    bundles = []
    for workers in (1, 2):
        monkeypatch.setattr(ensemble, "count_workers", lambda *_, workers=workers: workers)
        bundles.append(learner.train_network(*_encoded(), network, _training(epochs=1, seeds=(1, 2)))[0])
    assert [bundle.metrics["workers"] for bundle in bundles] == [1, 2]
    assert all(torch.equal(tensor, bundles[1].weights[name]) for name, tensor in bundles[0].weights.items())
    assert not torch.equal(bundles[0].member(0)["output.weight"], bundles[0].member(1)["output.weight"])


def test_as_many_members_at_a_time_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    cpu = torch.device("cpu")
    found = [count_workers(members, threads, cpu) for members, threads in ((3, 1), (9, 1), (3, 2), (3, 8))]
    assert found == [3, 4, 2, 1]
    assert count_workers(3, 1, torch.device("cuda")) == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_threads_of_a_training_are_put_back() -> None:
    before = torch.get_num_threads()
    assert in_threads(3, torch.get_num_threads) == 3
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before  # new threads have it from the process


def test_predictions_follow_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = _trained()
    rows = subset(_encoded()[0], TEST)
    predicted = models.predict(rows, bundle)
    backwards = nw.from_native(rows.to_native().reverse(), eager_only=True)
    assert models.predict(backwards, bundle)[::-1] == pytest.approx(predicted, rel=1e-6)
    monkeypatch.setattr(models, "PREDICT_ROWS", 7)  # in many small passes
    assert models.predict(rows, bundle) == pytest.approx(predicted, rel=1e-5)


def test_no_rows_give_no_predictions() -> None:
    assert models.predict(_encoded()[0].head(0), _trained()[0]).shape == (0,)


def test_an_unseen_shop_is_predicted_too() -> None:
    encoder = _encoded()[1]
    table = sales_table(4).drop("sales").with_columns(shop=pl.lit("new"))
    rows = nw.from_native(table, eager_only=True)
    predicted = models.predict(encode(rows, encoder), _trained()[0])
    assert ((10 < predicted) & (predicted < 1000)).all()


def test_history_and_metrics_of_the_training() -> None:
    bundle, history = _trained()
    n_train = len(subset(_encoded()[0], TRAIN))
    assert n_train == 2400
    assert {record["member"] for record in history} == {0, 1}
    last = [record for record in history if record["member"] == 1][-1]
    assert last["step"] == 3 * -(-n_train // 64)
    assert [record["epoch"] for record in history if "exp_rmspe" in record] == [1.0, 2.0, 3.0] * 2
    metrics = bundle.metrics
    assert (metrics["rows"], metrics["epochs"], metrics["members"]) == (n_train, 3, 2)
    assert (metrics["device"], metrics["precision"]) == ("cpu", "fp32")
    assert metrics["rows_per_second"] > 0
    assert metrics["seconds"] > 0
    versions = ModelBundle.from_bytes(bundle.to_bytes()).versions
    assert torch.__version__.startswith(versions["torch"]) and "accelerate" not in versions


def test_the_bundle_alone_rebuilds_network_and_encoder() -> None:
    bundle, _ = _trained()
    assert Encoder.model_validate(bundle.encoder) == _encoded()[1]
    assert bundle.config["cardinalities"] == [13, 8]
    assert bundle.config["sizes"] == [7, 4]
    assert bundle.config["layers"] == [32, 16]
    assert bundle.config["output_means"] == [_scale(_encoded()[1]).mean]


def test_building_leaves_the_global_random_state_alone() -> None:
    config = _trained()[0].config
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first, again, other = (learner.build_network(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.output.weight, again.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)


def test_training_leaves_the_global_random_state_alone_and_does_not_depend_on_it() -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    bundle, _ = learner.train_network(*_encoded(), NETWORK, _training(seeds=(1, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, _trained()[0].weights[name]) for name, tensor in bundle.weights.items())


def _scale(encoder: Encoder) -> NumericTarget:
    (target,) = encoder.targets
    assert isinstance(target, NumericTarget)
    return target


def _target(**changes: Any) -> Encoder:
    scale = {"column": "y", "transform": "log", "mean": 1.0, "std": 1.0, "maximum": 10.0, **changes}
    encoder = _encoded()[1]
    return encoder.model_copy(update={"targets": (NumericTarget.model_validate(scale),)})


def test_an_automatic_range_ends_above_the_largest_training_target() -> None:
    options = NetworkOptions(layers=(4,), y_range="auto")
    assert learner.network_config(_target(), options)["y_ranges"] == [pytest.approx([0.0, 12.0])]
    given = NetworkOptions(layers=(4,), y_range=(1.0, 2.0))
    assert learner.network_config(_target(), given)["y_ranges"] == [[1.0, 2.0]]
    assert learner.network_config(_target(), NetworkOptions(layers=(4,)))["y_ranges"] == [None]


def test_one_dropout_rate_stands_for_all_layers_and_a_list_for_each() -> None:
    for dropout, rates in ((0.5, [0.5, 0.5]), ([0.1, 0], [0.1, 0.0])):
        options = NetworkOptions.model_validate({"layers": [4, 2], "dropout": dropout})
        assert learner.network_config(_target(), options)["dropouts"] == rates


def test_an_automatic_range_of_targets_below_one_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"network\.y_range 'auto' ends at 1\.2 times the largest training target, which"
    ):
        learner.network_config(_target(maximum=-0.5), NetworkOptions(layers=(4,), y_range="auto"))


@pytest.mark.parametrize(("name", "expected"), [("mse", 4.0), ("l1", 2.0), ("huber", 1.5)])
def test_the_loss_is_on_the_standardised_target(name: str, expected: float) -> None:
    loss = number_loss(name, _scale(_target(std=0.5)))
    assert loss(torch.tensor([2.0]), torch.tensor([1.0])).item() == expected


def test_the_relative_loss_is_the_squared_relative_error_while_it_is_small() -> None:
    loss = number_loss("relative", _scale(_target(std=0.5)))
    actual, predicted = torch.tensor([100.0, 200.0]), torch.tensor([110.0, 140.0])
    value = loss(predicted.log(), actual.log()).item()
    assert value == pytest.approx((0.1**2 + 0.3**2) / 2 / 0.5**2, rel=1e-5)


def test_a_large_relative_error_counts_linearly() -> None:
    loss = number_loss("relative", _scale(_target(std=1.0)))
    zero = torch.zeros(1)
    values = [loss(zero + math.log(1 + error), zero).item() for error in (0.8, 1.0, 1.2)]
    assert values == pytest.approx([2 * 0.5 * (error - 0.25) for error in (0.8, 1.0, 1.2)], rel=1e-5)


def test_a_prediction_that_is_far_too_high_still_has_a_gradient() -> None:
    output = torch.tensor([3.0], requires_grad=True)
    number_loss("relative", _scale(_target(std=1.0)))(output, torch.zeros(1)).backward()
    assert output.grad is not None
    assert output.grad.item() == pytest.approx(math.e, rel=1e-5)  # 2 · clip · slope of the tangent


def test_the_relative_loss_needs_a_logarithm() -> None:
    with pytest.raises(DataError, match=r"training\.loss 'relative' needs encoding\.target_transform: log"):
        number_loss("relative", _scale(_target(transform="none")))


def test_another_kind_of_bundle_is_refused() -> None:
    bundle = ModelBundle("text", {}, {}, {})
    with pytest.raises(DataError, match="the model bundle is of the kind 'text', not 'tabular'"):
        models.predict(_encoded()[0], bundle)


def test_training_rows_without_a_target_are_refused() -> None:
    encoded, encoder = _encoded()
    with pytest.raises(DataError, match="the training rows have no target 'sales'"):
        learner.train_network(encoded.drop("sales"), encoder, NETWORK, _training())


def test_nothing_held_out_means_no_metrics_by_epoch() -> None:
    encoded, encoder = _encoded()
    _, history = learner.train_network(subset(encoded, TRAIN), encoder, NETWORK, _training(epochs=1))
    assert all("exp_rmspe" not in record for record in history)


def test_the_range_test_uses_the_training_rows_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    finder = FinderOptions(low=1e-5, high=1.0, steps=40)
    test = learner.range_test(*_encoded(), NETWORK, _training(), finder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert test.suggestion in test.rates
    # An untrained network predicts the mean of a standardised target, whose mean square is 1.
    assert test.losses[0] == pytest.approx(1.0, abs=0.35)
    held_out_lost, encoder = subset(_encoded()[0], TRAIN), _encoded()[1]
    assert learner.range_test(held_out_lost, encoder, NETWORK, _training(), finder) == test
