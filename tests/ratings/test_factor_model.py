"""The model against its formula, term by term, in every variant."""

from typing import Any

import numpy as np
import pytest
import torch
from hand_made import network_of
from simulated_ratings import items_table, ratings_table, users_table
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.ratings import network as network_module
from embedline.pipelines.ratings.contract import RatingColumns
from embedline.pipelines.ratings.encoder import RatingsEncoder, fit_encoder
from embedline.pipelines.ratings.network import FactorModel, _Product, build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork

OPTIONS = FeatureOptions(items=("genres", "year"), users=("age", "taste"))
VARIANTS = {
    "dot": {},
    "no bias": {"bias": False},
    "range": {"y_range": (0.0, 6.0)},
    "mlp": {"kind": "mlp", "layers": (7, 5)},
    "mlp without bias, range": {"kind": "mlp", "layers": (7,), "bias": False, "y_range": "auto"},
}


@pytest.fixture(scope="module")
def encoder() -> RatingsEncoder:
    return fit_encoder(ratings_table(), RatingColumns(), "auto", OPTIONS, items_table(), users_table())


def make(encoder: RatingsEncoder, **options: Any) -> FactorModel:
    """A model whose every number, but those of the rows 0, is drawn at random."""
    return network_of(encoder, 0, 0.5, **options)


def by_hand(model: FactorModel, encoder: RatingsEncoder, user: int, item: int) -> float:
    """The score of one pair, one feature after another."""
    vectors = []
    for side, row, codes, features in (
        (model.users, user, encoder.user_feature_codes, encoder.user_features),
        (model.items, item, encoder.item_feature_codes, encoder.item_features),
    ):
        vector = side.own[row].detach().double().numpy().copy()
        present = [code for code in codes[row] if code]
        for code in present:
            same = sum(features.column_of[other] == features.column_of[code] for other in present)
            vector += side.feature[code].detach().double().numpy() / np.sqrt(same)
        vectors.append(vector)
    (p, q), k = vectors, model.factors
    if model.hidden is None:
        raw = float(p[:k] @ q[:k])
    else:
        raw = float(model.hidden(torch.tensor(np.concatenate([p[:k], q[:k]]), dtype=torch.float32)[None]))
    raw += float(p[k] + q[k]) if model.bias else 0.0
    if model.y_range is None:
        return encoder.rating_mean + raw
    low, high = model.y_range
    logit = np.log((encoder.rating_mean - low) / (high - encoder.rating_mean))
    return float(low + (high - low) / (1.0 + np.exp(-raw - logit)))


def pairs(*rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    users, items = zip(*rows, strict=True)
    return torch.tensor(users, dtype=torch.int32), torch.tensor(items, dtype=torch.int32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_score_is_what_the_formula_says(encoder: RatingsEncoder, variant: str) -> None:
    model, rows = make(encoder, **VARIANTS[variant]), [(1, 1), (60, 40), (5, 0), (0, 7), (0, 0)]
    expected = [by_hand(model, encoder, *row) for row in rows]
    with torch.no_grad():
        np.testing.assert_allclose(model(*pairs(*rows)), expected, rtol=1e-5)
        for row, value in zip(rows, expected, strict=True):  # a batch of one keeps its dimension
            np.testing.assert_allclose(model(*pairs(row)), [value], rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_taken_apart_give_the_same_scores(
    encoder: RatingsEncoder, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "HIDDEN_PAIRS", 90)  # two users at a time
    model = make(encoder, **VARIANTS[variant])
    users, items = torch.arange(0, 5), torch.arange(1, 41)
    with torch.no_grad():
        p, b_u = model.user_vectors(users)
        q, b_i = model.item_vectors(items)
        assert (p.shape, b_u.shape, q.shape, b_i.shape) == ((5, 4), (5,), (40, 4), (40,))
        whole = model.cross(p, b_u, q, b_i)
        for place in range(5):
            alone = model(users[place].repeat(40), items)
            np.testing.assert_allclose(whole[place], alone, rtol=1e-5)
            apart = model.from_vectors(p[place].repeat(40, 1), b_u[place].repeat(40), q, b_i)
            np.testing.assert_allclose(apart, alone, rtol=1e-5)


@pytest.mark.parametrize(("kind", "row"), [("item", 7), ("user", 3)])
def test_a_new_item_or_user_is_its_features_alone(encoder: RatingsEncoder, kind: str, row: int) -> None:
    model = make(encoder)
    codes, features = getattr(encoder, f"{kind}_feature_codes")[[row]], getattr(encoder, f"{kind}_features")
    embedding = getattr(model, f"{kind}s")
    with torch.no_grad():
        vector = embedding.sum_features(torch.tensor(codes), torch.tensor(features.weights(codes)))[0]
        factors, bias = getattr(model, f"{kind}_vectors")(torch.tensor([row]))
        known = torch.cat([factors[0], bias]) - embedding.own[row]
    np.testing.assert_allclose(vector, known, atol=1e-6)


def test_rows_and_features_of_nothing_start_at_zero_and_get_no_gradient(encoder: RatingsEncoder) -> None:
    config = network_config(encoder, RatingNetwork(factors=4)) | {"trained_items": 38}
    model = build_network(config, feature_codes(encoder), seed=0)
    for table in (model.users.own, model.items.own, model.users.feature, model.items.feature):
        assert not table[0].any()
        assert table[1:38, :4].all()
        assert not table[:, 4].any()  # biases
    assert not model.items.own[39:].any()  # items that no training row has
    model(*pairs((0, 0), (0, 3), (4, 0))).sum().backward()
    assert not model.users.own.grad[0].any()
    assert not model.items.own.grad[0].any()
    assert not model.items.feature.grad[0].any()
    assert model.items.own.grad[3].any()


def test_gathered_features_are_those_of_the_dense_matrix(
    encoder: RatingsEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = make(encoder)
    monkeypatch.setattr(network_module, "DENSE_CELLS", 0)
    gathered = make(encoder)
    assert dense.items.matrix is not None
    assert gathered.items.matrix is None
    rows = pairs(*((user, user % 41) for user in range(61)))
    np.testing.assert_allclose(gathered(*rows).detach(), dense(*rows).detach(), rtol=1e-5)
    for model in (dense, gathered):
        model(*rows).square().sum().backward()
    for name in ("users", "items"):
        one, other = getattr(dense, name), getattr(gathered, name)
        torch.testing.assert_close(other.own.grad, one.own.grad)
        torch.testing.assert_close(other.feature.grad, one.feature.grad)


def test_the_gradient_of_the_product_is_its_derivative() -> None:
    user, item = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(_Product.apply, (user, item))


def test_a_range_is_half_a_unit_beyond_the_ratings_or_holds_their_mean(encoder: RatingsEncoder) -> None:
    low, high = encoder.rating_range
    assert network_config(encoder, RatingNetwork(y_range="auto"))["y_range"] == [low - 0.5, high + 0.5]
    with pytest.raises(DataError, match=r"network\.y_range \[0, 1\] .* mean"):
        network_config(encoder, RatingNetwork(y_range=(0.0, 1.0)))
