"""Settings that follow the table, and what they stand on: ensembles in one network, rows held out in turn."""

from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.defaults import follow_table
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.layers import EnsembleLinear
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.losses import make_loss
from embedline.pipelines.tabular.model import predict
from embedline.pipelines.tabular.network import EmbeddingNetwork, build_network, network_config
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.target_means import fit_target_means
from embedline.training.early_stopping import hold_out
from embedline.training.options import HeldOutStopping


def _table(n_rows: int = 240, n_shops: int = 4, seed: int = 0) -> nw.DataFrame[Any]:
    random = np.random.default_rng(seed)
    shop, heat = random.integers(0, n_shops, n_rows), random.normal(size=n_rows)
    grade = np.where(heat + 0.3 * (shop % 3) + 0.3 * random.normal(size=n_rows) > 0.5, "good", "poor")
    values = {"shop": [f"s{k}" for k in shop], "heat": heat, "price": 3.0 * heat + shop, "grade": grade}
    return nw.from_native(pl.DataFrame({**values, "split": np.where(np.arange(n_rows) % 4 == 0, "test", "train")}))


def _encoder(table: nw.DataFrame[Any], *target: str, **options: Any) -> Encoder:
    columns = Columns(categorical=("shop",), continuous=("heat",), target=target)
    return fit_encoder(table.filter(nw.col("split") == "train"), columns, EncodingOptions(**options))


def _network(**changes: Any) -> tuple[EmbeddingNetwork, torch.Tensor, torch.Tensor]:
    encoder = _encoder(_table(), "grade", "price")
    options = NetworkOptions.model_validate({"layers": [8], "members": 3, **changes})
    network = build_network(network_config(encoder, options, np.zeros((5, 1), np.float32)), seed=1)
    return network, torch.randint(0, 4, (6, 1)), torch.randn(6, 1)


def test_a_layer_of_several_members_is_that_of_each_alone() -> None:
    layer = EnsembleLinear(4, 2, 3, first=True)
    torch.nn.init.normal_(layer.after)
    torch.nn.init.normal_(layer.bias)
    values = torch.randn(5, 3, 4)
    before, after, bias = (each.view(3, -1) for each in (layer.before, layer.after, layer.bias))
    for member, found in enumerate(layer(values).unbind(dim=1)):
        weight = after[member][:, None] * layer.weight * before[member]
        torch.testing.assert_close(found, values[:, member] @ weight.T + bias[member])


def test_evaluation_averages_numbers_and_probabilities() -> None:
    network, codes, values = _network()
    members = network.train()(codes, values).unflatten(0, (6, 3))
    assert members.std(dim=1).min() > 0
    found = network.eval()(codes, values)
    torch.testing.assert_close(found[:, 2], members[..., 2].mean(dim=1))
    torch.testing.assert_close(found[:, :2].softmax(dim=-1), members[..., :2].softmax(dim=-1).mean(dim=1))


def test_the_loss_of_members_is_the_mean_of_their_losses() -> None:
    network, codes, values = _network()
    encoder = _encoder(_table(), "grade", "price")
    loss = make_loss(encoder.targets, TableTraining(epochs=1, batch_size=1, lr=0.1))
    target = torch.stack([torch.tensor([0.0, 1, 1, 0, 1, 0]), torch.randn(6)], dim=1)
    outputs = network.train()(codes, values)
    alone = [loss(outputs.unflatten(0, (6, 3))[:, member], target) for member in range(3)]
    torch.testing.assert_close(loss(outputs, target), torch.stack(alone).mean())


def test_members_hold_out_other_rows_in_turn() -> None:
    options = HeldOutStopping(fraction=0.25, rotate=True)
    held_out = [hold_out(20, options, member)[1].tolist() for member in range(4)]
    assert sorted(row for rows in held_out for row in rows) == list(range(20))
    plain = HeldOutStopping(fraction=0.25)
    assert hold_out(20, plain, 3)[1].tolist() == hold_out(20, plain)[1].tolist() == held_out[0]


@pytest.mark.parametrize(("between", "within"), [(1.0, 1.0), (0.5, 2.0)])
def test_automatic_smoothing_is_the_ratio_of_variances(between: float, within: float) -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 500, 20_000)
    target = between * random.normal(size=500)[groups] + within * random.normal(size=20_000)
    fitted = fit_target_means({"shop": groups}, {"shop": 500}, ["shop"], target, "auto")
    plain = fit_target_means({"shop": groups}, {"shop": 500}, ["shop"], target, within**2 / between**2)
    assert fitted.levels[0].means == pytest.approx(plain.levels[0].means, abs=0.02)


def test_groups_that_differ_by_chance_have_one_mean() -> None:
    random = np.random.default_rng(1)
    groups, target = random.integers(0, 500, 5_000), random.normal(size=5_000)
    target -= np.array([target[groups == k].mean() for k in range(500)])[groups]  # less than by chance
    fitted = fit_target_means({"shop": groups}, {"shop": 500}, ["shop"], target, "auto")
    assert np.ptp(fitted.levels[0].means) < 1e-6


def test_rare_levels_of_a_variable_of_many_share_one_code() -> None:
    table = _table(n_rows=2_000, n_shops=300)
    encoder = _encoder(table, "price", many_levels=50, min_count=5)
    counts = table.filter(nw.col("split") == "train")["shop"].value_counts().rows()
    assert set(encoder.categorical["shop"].levels) == {shop for shop, rows in counts if rows >= 5}
    encoded = encode(table, encoder)
    rare = ~table["shop"].is_in(list(encoder.categorical["shop"].levels))
    assert 0 < rare.sum() < len(table)
    assert set(encoded.filter(rare.to_list())["code:shop"]) == {0}
    every = _encoder(table, "price", many_levels=None).categorical["shop"].levels
    assert set(every) == {shop for shop, _ in counts}


@pytest.mark.parametrize("n_rows", [100, 5_000, 500_000])
def test_settings_that_are_not_given_follow_the_rows(n_rows: int) -> None:
    encoder = _encoder(_table(), "grade")
    sizes = encoder.code_columns, encoder.cardinalities
    network, training = follow_table(NetworkOptions(), TableTraining(lr=0.5), *sizes, n_rows)
    assert network.layers and network.members > 1 and network.linear
    assert training.lr == 0.5 and training.epochs >= 1
    steps = training.epochs * n_rows / training.batch_size
    assert 300 <= steps < 60_000
    TableTraining.model_validate(training.model_dump(exclude_none=True))  # as YAML could say them
    lesson = (NetworkOptions(layers=(4,)), TableTraining(epochs=2, batch_size=8, lr=0.1))
    assert follow_table(*lesson, *sizes, n_rows) == lesson


def test_a_network_at_its_defaults_learns_a_small_table() -> None:
    table = _table()
    encoder = _encoder(table, "grade")
    encoded = encode(table, encoder)
    training = TableTraining(device="cpu", precision="fp32", seeds=2)  # type: ignore[arg-type]
    bundle, history = train_network(encoded, encoder, NetworkOptions(), training)
    assert {record["member"] for record in history} == {0, 1}
    test = encoded.filter(nw.col("split") == "test")
    probabilities = predict(test, bundle)
    assert (probabilities.argmax(axis=1) == test["class:grade"].to_numpy()).mean() > 0.75


def test_settings_of_a_training_cannot_be_zero() -> None:
    with pytest.raises(ValidationError, match="epochs"):
        TableTraining(epochs=0)
    with pytest.raises(ValidationError, match="batch_norm"):
        NetworkOptions(layers=(4,), members=2, batch_norm=True)
