"""The variables of a known law are important, noise is not; a shuffled variable takes what follows from it along."""

from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
from law import grade_table

from embedline.pipelines.tabular import learner
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.importance import InputVariable, input_variables, permutation_importance, shuffled
from embedline.pipelines.tabular.options import EncodingOptions, ImportanceOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.splits import assign_splits
from embedline.training.metrics import log_loss
from embedline.training.model_file import ModelBundle

COLUMNS = Columns(categorical=("shop", "colour"), continuous=("heat", "noise"), target=("grade", "price"))
OPTIONS = ImportanceOptions(rows=600, repeats=4, seed=5)


@cache
def _trained() -> tuple[nw.DataFrame[Any], Encoder, ModelBundle]:
    split = Split(kind="column", column="held_out", value=True)
    splits = assign_splits(nw.from_native(grade_table(), eager_only=True), COLUMNS, split)
    options = EncodingOptions(target_transform="log", target_means=(("shop",),))
    encoder = fit_encoder(splits.filter(nw.col("split") == TRAIN), COLUMNS, options)
    training = TableTraining(epochs=6, batch_size=64, lr=0.01, device="cpu", precision="fp32", seeds=(1, 2))
    encoded = encode(splits, encoder)
    return encoded, encoder, learner.train_network(encoded, encoder, NetworkOptions(layers=(32,)), training)[0]


def test_the_variables_of_the_law_are_found_and_noise_is_not() -> None:
    encoded, _, bundle = _trained()
    frame = permutation_importance(encoded, bundle, OPTIONS)
    assert frame.columns == ["target", "variable", "loss", "increase", "deviation"]
    grade, price = (frame.filter(target=name) for name in ("grade", "price"))
    assert frame["target"].to_list() == ["grade"] * 4 + ["price"] * 4
    assert (grade["loss"][0], price["loss"][0]) == ("log_loss", "exp_rmspe")
    # The means of shops follow the shop: they have no row of their own.
    assert grade["variable"].to_list()[:2] == ["heat", "shop"]
    assert price["variable"].to_list()[:2] == ["shop", "heat"]
    for rows in (grade, price):
        assert rows["increase"].to_list() == sorted(rows["increase"], reverse=True)
        assert (rows["increase"][:2] > 0.15).all()
        assert (rows["increase"][2:].abs() < 0.02).all()
        assert (rows["deviation"] > 0).all()


def test_the_increase_is_that_of_the_encoded_table_with_the_column_shuffled() -> None:
    encoded, encoder, bundle = _trained()
    split = Split(kind="column", column="held_out", value=True)
    splits = assign_splits(nw.from_native(grade_table(), eager_only=True), COLUMNS, split)
    rows = splits.filter(nw.col("split") == TEST).to_native()
    order = np.random.default_rng(3).permutation(len(rows))
    actual = subset(encoded, TEST).get_column("class:grade").to_numpy()
    arrays, model = to_arrays(subset(encoded, TEST), encoder), models.load_model(bundle)
    for variable in input_variables(encoder):
        table = rows.with_columns(rows[variable.name][order])
        expected = models.predict_all(encode(nw.from_native(table, eager_only=True), encoder), bundle)
        found = model.predict(shuffled(arrays, variable, torch.from_numpy(order), encoder))
        np.testing.assert_allclose(found["grade"], expected["grade"], rtol=1e-5)
        assert log_loss(actual, found["grade"]) == pytest.approx(log_loss(actual, expected["grade"]), rel=1e-6)


def test_the_same_seed_draws_the_same_and_the_bundle_is_enough() -> None:
    encoded, _, bundle = _trained()
    first = permutation_importance(encoded, bundle, OPTIONS)
    again = permutation_importance(encoded, ModelBundle.from_bytes(bundle.to_bytes()), OPTIONS)
    assert first.equals(again)
    other = permutation_importance(encoded, bundle, OPTIONS.model_copy(update={"seed": 6}))
    assert not first.equals(other)


def test_no_more_rows_are_predicted_than_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, _, bundle = _trained()
    counts = []
    whole = models.LoadedModel.predict
    monkeypatch.setattr(
        models.LoadedModel, "predict", lambda model, arrays: counts.append(len(arrays.codes)) or whole(model, arrays)
    )
    permutation_importance(encoded, bundle, ImportanceOptions(rows=50, repeats=2))
    assert counts == [50] * (1 + 4 * 2)


def _encoder() -> Encoder:
    table = pl.DataFrame(
        {
            "shop": ["a", "b", "a", "b"],
            "city": ["x", "x", "y", "y"],
            "gap": [1.0, None, 2.0, 4.0],
            "y": [1.0, 2.0, 3.0, 4.0],
        }
    )
    columns = Columns(categorical=("shop",), continuous=("gap",), target="y")
    options = EncodingOptions(target_means=(("shop",), ("shop", "city")))
    return fit_encoder(nw.from_native(table, eager_only=True), columns, options)


def test_flags_and_means_belong_to_their_variable_unless_they_cannot_follow_it() -> None:
    encoder = _encoder()
    assert encoder.code_columns == ("shop", "gap_na")
    assert encoder.value_columns == ("gap", "mean(shop)", "mean(shop, city)")
    assert input_variables(encoder) == [
        InputVariable("shop", codes=(0,), means=(0,)),
        InputVariable("gap", codes=(1,), values=(0,)),
        InputVariable("mean(shop, city)", values=(2,)),  # city is no input: its codes are not in the encoded frame
    ]


def test_a_flag_moves_with_its_value() -> None:
    encoder = _encoder()
    table = pl.DataFrame({"shop": ["a", "b", "a"], "city": ["x"] * 3, "gap": [1.0, None, 4.0], "y": [1.0] * 3})
    arrays = to_arrays(encode(nw.from_native(table, eager_only=True), encoder), encoder)
    gap = input_variables(encoder)[1]
    moved = shuffled(arrays, gap, torch.tensor([1, 2, 0]), encoder)
    assert moved.codes.tolist() == [[1, 2], [2, 1], [1, 1]]
    assert moved.continuous[:, 0].tolist() == arrays.continuous[[1, 2, 0], 0].tolist()
    assert moved.continuous[:, 1:].equal(arrays.continuous[:, 1:])
    assert arrays.codes.tolist() == [[1, 1], [2, 2], [1, 1]]  # the rows as they are stay so


def test_without_test_rows_it_is_measured_on_the_training_rows() -> None:
    encoded, _, bundle = _trained()
    learned = subset(encoded, TRAIN)
    as_test = learned.with_columns(split=nw.lit(TEST))
    found = [permutation_importance(rows, bundle, OPTIONS) for rows in (learned, as_test)]
    assert found[0].equals(found[1])
