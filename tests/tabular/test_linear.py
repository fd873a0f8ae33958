"""Linear models are scikit-learn's on one-hot inputs; a network is mixed with them, by held-out rows."""

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.defaults import follow_table
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.learner import TableNetworkSpec, train_network
from embedline.pipelines.tabular.linear import RARE, OneHot, choose_penalty, fit_linear_model, some_rows
from embedline.pipelines.tabular.model import predict
from embedline.pipelines.tabular.network import network_config
from embedline.pipelines.tabular.options import (
    EncodingOptions,
    LinearOptions,
    NetworkOptions,
    TableTraining,
)
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import CategoryMap, ClassTarget, NumericTarget, softmax
from embedline.training.early_stopping import hold_out

PRICE = NumericTarget(column="price", transform="none", mean=3.0, std=2.0, maximum=9.0)


def _grade(counts: tuple[int, ...]) -> ClassTarget:
    levels = tuple("abc"[: len(counts)])
    return ClassTarget(column="grade", levels=CategoryMap(kind="string", levels=levels), counts=counts)


def _rows(n_rows: int = 400) -> tuple[Any, Any, Any]:
    """Codes of two variables, the second with a few rare levels and without code 0; two numbers; and a score."""
    random = np.random.default_rng(0)
    second = np.where(random.random(n_rows) < 0.03, random.integers(5, 12, n_rows), random.integers(1, 5, n_rows))
    codes = np.stack([random.integers(0, 4, n_rows), second], axis=1).astype(np.int32)
    values = random.normal(size=(n_rows, 2)).astype(np.float32)
    score = values @ [1.0, -0.5] + random.normal(size=4)[codes[:, 0]] + random.normal(size=12)[codes[:, 1]]
    return codes, values, score + random.normal(size=n_rows)


def _sklearn_matrix(codes: Any, values: Any, others: Any) -> Any:
    """The same design by scikit-learn, of ``others`` = (codes, values)."""
    encoder = OneHotEncoder(min_frequency=RARE, handle_unknown="infrequent_if_exist", sparse_output=False).fit(codes)
    return [np.hstack([numbers, encoder.transform(levels)]) for levels, numbers in ((codes, values), others)]


@pytest.mark.parametrize("kind", ["number", "two classes", "three classes"])
def test_a_linear_model_is_that_of_scikit_learn(kind: str) -> None:
    codes, values, score = _rows()
    tested = np.array([[0, 1], [3, 0], [2, 13], [1, 7]], np.int32), np.array([[0, 0], [1, 2], [3, -1], [0, 1]], float)
    matrix, test_matrix = _sklearn_matrix(codes, values, tested)
    if kind == "number":
        model = fit_linear_model(codes, values, score, PRICE, (4, 14), None, penalty=0.05)
        expected = Ridge(alpha=0.05 * 400).fit(matrix, (score - 3.0) / 2.0).predict(test_matrix)[:, None]
        np.testing.assert_allclose(model.outputs(*tested), expected, atol=1e-4)
        return
    classes = np.digitize(score, [0.0] if kind == "two classes" else [-1.0, 1.0])
    target = _grade(tuple(np.bincount(classes).tolist()))
    model = fit_linear_model(codes, values, classes, target, (4, 14), None, penalty=0.01)
    expected = LogisticRegression(C=1 / (0.01 * 400), max_iter=2000, tol=1e-9).fit(matrix, classes)
    np.testing.assert_allclose(softmax(model.outputs(*tested)), expected.predict_proba(test_matrix), atol=1e-4)


def test_rare_and_unseen_levels_share_a_column_and_without_rare_ones_unseen_levels_have_none() -> None:
    codes, _, _ = _rows()
    first, second = OneHot.fit(codes, (6, 14), 2).columns
    assert first[:4].tolist() == [2, 3, 4, 5]
    assert first[4:].tolist() == [-1, -1]
    counts = np.bincount(codes[:, 1], minlength=14)
    assert len(set(second[counts < RARE].tolist())) == 1
    assert len(set(second.tolist())) == (counts >= RARE).sum() + 1
    matrix = OneHot.fit(codes, (6, 14), 2).matrix(np.array([[5, 0]], np.int32), np.array([[7.0, 8.0]]))
    assert matrix.toarray()[0].nonzero()[0].tolist() == [0, 1, second[0]]


def test_a_class_that_the_rows_lack_is_improbable() -> None:
    codes, values, score = _rows()
    classes = (score > 0).astype(int) * 2  # no row of class 1
    model = fit_linear_model(codes, values, classes, _grade((200, 0, 200)), (4, 14), None, penalty=0.01)
    probabilities = softmax(model.outputs(codes, values))
    assert 0 < probabilities[:, 1].max() < 0.02
    assert (probabilities.argmax(axis=1) == classes).mean() > 0.75


@pytest.mark.parametrize("numeric", [True, False])
def test_the_penalty_follows_the_noise(numeric: bool) -> None:
    random = np.random.default_rng(1)
    codes, values = np.zeros((300, 0), np.int32), random.normal(size=(300, 30)).astype(np.float32)
    chosen = []
    for signal in (values.sum(axis=1), np.zeros(300)):
        labels = signal + 0.1 * random.normal(size=300)
        target: Any = PRICE if numeric else _grade((150, 150))
        chosen.append(
            choose_penalty(codes, values, labels if numeric else labels > 0, target, (), None, LinearOptions())
        )
    assert chosen[0] < 0.01
    assert chosen[1] >= 0.1
    assert choose_penalty(codes, values, labels, PRICE, (), None, LinearOptions(penalties=(0.7,))) == 0.7


def test_a_rare_class_is_learned() -> None:
    """scikit-learn's default tolerance ends the fit where it starts: the gradients of so few rows are small."""
    random = np.random.default_rng(2)
    codes = random.integers(0, 200, (20_000, 6)).astype(np.int32)
    score = random.normal(size=(6, 200))[np.arange(6), codes].sum(axis=1)
    fraud = random.random(20_000) < 1 / (1 + np.exp(7 - score))
    assert 0.003 < fraud.mean() < 0.03
    target = _grade((int((~fraud).sum()), int(fraud.sum())))
    given = codes[:15_000], np.empty((15_000, 0)), fraud[:15_000], target, (200,) * 6, None
    model = fit_linear_model(*given, choose_penalty(*given, LinearOptions()))
    outputs = model.outputs(codes[15_000:], np.empty((5_000, 0)))
    assert roc_auc_score(fraud[15_000:], outputs[:, 1]) > 0.75


def test_only_some_of_very_many_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedline.pipelines.tabular.linear.MOST_ROWS", 10)
    rows = np.arange(5, 105)
    chosen = some_rows(rows)
    assert len(set(chosen)) == 10
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) <= set(rows)
    assert some_rows(rows[:10]).tolist() == rows[:10].tolist()


def _encoded(*target: str) -> tuple[nw.DataFrame[Any], Any]:
    random = np.random.default_rng(3)
    shop, heat = random.integers(0, 6, 600), random.normal(size=600)
    price = 10.0 + 2.0 * np.abs(heat) + random.normal(size=6)[shop] + 0.3 * random.normal(size=600)
    grade = np.where(price + random.normal(size=600) > 11.5, "good", "poor")
    table = pl.DataFrame({"shop": [f"s{k}" for k in shop], "heat": heat, "price": price, "grade": grade})
    frame = nw.from_native(table.with_columns(test=pl.int_range(600) % 4 == 0), eager_only=True)
    columns = Columns(categorical=("shop",), continuous=("heat",), target=target)
    rows = assign_splits(frame, columns, Split(kind="column", column="test", value=True))
    encoder = fit_encoder(rows.filter(nw.col("split") == TRAIN), columns, EncodingOptions())
    return encode(rows, encoder), encoder


def _training(**changes: Any) -> TableTraining:
    stopping = {"fraction": 0.25, "rotate": True, "patience": 20}
    values = {"epochs": 3, "batch_size": 64, "lr": 0.003, "device": "cpu", "precision": "fp32", "seeds": 2}
    return TableTraining.model_validate({**values, "early_stopping": stopping, **changes})


def _network(members: int) -> tuple[TableNetworkSpec, Any, Any]:
    """A specification, and the network of its second seed with the linear models of the rows that it learns from."""
    encoded, encoder = _encoded("price", "grade")
    arrays = to_arrays(subset(encoded, TRAIN), encoder)
    _, values, _ = arrays.labelled(encoder)
    config = network_config(encoder, NetworkOptions(layers=(8,), members=members, linear=True), values.numpy())
    spec = TableNetworkSpec(arrays, arrays, [], encoder, _training(), config, penalties=(0.01, 0.02))
    return spec, spec.build(seed=1).eval(), arrays


@pytest.mark.parametrize("members", [1, 3])
def test_the_linear_part_is_fitted_to_the_rows_that_the_network_learns_from(members: int) -> None:
    spec, network, arrays = _network(members)
    encoder = spec.encoder
    codes, values, labels = (array.numpy() for array in arrays.labelled(encoder))
    assert spec.training.early_stopping is not None
    learned = hold_out(len(codes), spec.training.early_stopping, 1)[0].numpy()
    given = codes[learned], values[learned]
    price, grade = (
        fit_linear_model(*given, labels[learned, k], target, encoder.cardinalities, None, penalty)
        for k, (target, penalty) in enumerate(zip(encoder.targets, spec.penalties, strict=True))
    )
    with torch.no_grad():
        network.share.fill_(0.0)
        outputs = network(*arrays.inputs).double().numpy()
        network.share.fill_(0.25)
        mixed = network(*arrays.inputs).double().numpy()
        network.share.fill_(1.0)
        own = network(*arrays.inputs).double().numpy()
    target = encoder.targets[0]
    np.testing.assert_allclose(outputs[:, 0], target.mean + target.std * price.outputs(codes, values)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(softmax(outputs[:, 1:]), softmax(grade.outputs(codes, values)), rtol=1e-4)
    np.testing.assert_allclose(mixed[:, 0], 0.25 * own[:, 0] + 0.75 * outputs[:, 0], rtol=1e-5)


def test_training_leaves_the_linear_part_as_it_is_and_takes_it_alone_if_the_network_is_worse() -> None:
    encoded, encoder = _encoded("price")
    test, options = subset(encoded, TEST), NetworkOptions(layers=(8,), linear=True)
    bundle, _ = train_network(encoded, encoder, options, _training(epochs=30, lr=0.02))
    ruined, _ = train_network(encoded, encoder, options, _training(lr=50.0, clip_norm=None))
    for name in ("linear.slopes", "linear.bias", "linear.effects.weight"):
        assert torch.equal(bundle.member(1)[name], ruined.member(1)[name])
        assert bundle.member(1)[name].any()
    assert ruined.metrics["linear_share"] == 1.0
    assert bundle.metrics["linear_share"] < 1.0
    for member in range(2):
        assert ruined.member(member)["share"] == 0.0
    actual = test["price"].to_numpy()
    spread = np.abs(actual - actual.mean()).mean()
    assert np.abs(predict(test, ruined) - actual).mean() < spread
    hidden = replace(ruined, weights={k: torch.ones(()) if "share" in k else v for k, v in ruined.weights.items()})
    assert np.abs(predict(test, hidden) - actual).mean() > spread


def test_a_linear_part_needs_rows_to_choose_its_share_by_and_no_range() -> None:
    encoded, encoder = _encoded("price")
    with pytest.raises(DataError, match=r"network\.linear .* training\.early_stopping"):
        train_network(encoded, encoder, NetworkOptions(layers=(8,), linear=True), _training(early_stopping=None))
    with pytest.raises(ValidationError, match="y_range"):
        NetworkOptions(layers=(8,), linear=True, y_range=(0.0, 1.0))
    defaults = follow_table(NetworkOptions(), _training(early_stopping=None), ("shop",), (6,), 450)
    assert not defaults[0].linear
    assert follow_table(NetworkOptions(), _training(), ("shop",), (6,), 450)[0].linear
