"""The loss that is descended, and the one that is reported."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from simulated_ratings import items_table, ratings_table, users_table

from embedline.pipelines.ratings.contract import RatingColumns
from embedline.pipelines.ratings.encoder import RatingsEncoder, fit_encoder
from embedline.pipelines.ratings.learner import RandomRatings, RatingBatches, _Squares, penalty_weights
from embedline.pipelines.ratings.network import FactorModel, build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import FeatureOptions, Penalty, RatingNetwork

CPU = torch.device("cpu")
USERS, ITEMS = torch.tensor([1, 2, 2, 9], dtype=torch.int32), torch.tensor([3, 3, 4, 40], dtype=torch.int32)
RATINGS = torch.tensor([1.0, 2.0, 3.0, 4.0])


def model_of(*, features: bool, bias: bool = True) -> FactorModel:
    options = FeatureOptions(items=("genres",), users=("taste",)) if features else FeatureOptions()
    encoder: RatingsEncoder = fit_encoder(
        ratings_table(), RatingColumns(), "auto", options, items_table(), users_table()
    )
    network = RatingNetwork(factors=3, init_std=0.5, bias=bias)
    return build_network(network_config(encoder, network), feature_codes(encoder), seed=0)


def task_of(weights: torch.Tensor | None) -> RatingBatches:
    return RatingBatches([USERS, ITEMS, RATINGS], F.mse_loss, weights, batch_size=4, device=CPU)


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_penalty_is_the_mean_of_the_weighted_squares_of_the_batch(features: bool, bias: bool) -> None:
    model = model_of(features=features, bias=bias)
    weights = penalty_weights(Penalty(factors=0.5, biases=0.25), 3, bias)
    rows = torch.tensor([0, 1, 3])
    found = task_of(weights).loss_of(model, rows, nullcontext)
    expected = 0.0
    for user, item in zip(USERS[rows], ITEMS[rows], strict=True):
        for part in (*model.users(user[None]), *model.items(item[None])):
            expected += 0.5 * part[0, :3].square().sum().item() + (0.25 * part[0, 3].item() ** 2 if bias else 0.0)
    plain = F.mse_loss(model(USERS[rows], ITEMS[rows]), RATINGS[rows]).item()
    assert found.data_term.item() == pytest.approx(plain)
    assert found.total.item() == pytest.approx(plain + expected / 3)


def test_without_a_penalty_both_losses_are_the_same() -> None:
    assert penalty_weights(Penalty(), 3, True) is None
    found = task_of(None).loss_of(model_of(features=True), torch.tensor([0, 1]), nullcontext)
    assert found.total is found.data_term


def test_the_gradient_of_the_squares_is_their_derivative() -> None:
    weights = torch.rand(4, dtype=torch.float64)
    parts = tuple(torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *given: _Squares.apply(weights, *given), parts)
    expected = sum((part.detach() ** 2 @ weights).sum().item() for part in parts)
    assert _Squares.apply(weights, *parts).item() == pytest.approx(expected)


def test_a_row_that_the_batch_does_not_have_is_not_pulled() -> None:
    model = model_of(features=False)
    weights = penalty_weights(Penalty(factors=0.5), 3, True)
    task_of(weights).loss_of(model, torch.tensor([0, 1]), nullcontext).total.backward()
    assert set(model.users.own.grad.any(dim=1).nonzero().flatten().tolist()) == {1, 2}
    assert set(model.items.own.grad.any(dim=1).nonzero().flatten().tolist()) == {3}


def test_random_ratings_have_the_penalty_too_and_follow_their_numbers() -> None:
    model, weights = model_of(features=True), penalty_weights(Penalty(factors=0.5), 3, True)
    tasks = [RandomRatings([USERS, ITEMS, RATINGS], F.mse_loss, weights, batch_size=2, device=CPU) for _ in range(2)]
    losses = []
    for task in tasks:
        task.begin_epoch(torch.Generator().manual_seed(5))
        losses.append([float(value) for index in range(2) for value in task.loss(model, index, nullcontext)])
    assert losses[0] == losses[1]
    assert losses[0][0] > losses[0][1]  # the descended one has the penalty
