"""Layer groups: which parameters are trained, at which rate, and which stay as they are to the last bit."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from fits import fit, plain_options
from torch import Tensor, nn

from embedline.training import train as loop
from embedline.training.optimizer import LayerGroup, discriminative, make_optimizer, optimizer_groups, set_rates
from embedline.training.options import FitOptions, TrainingOptions


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Net(nn.Module):
    """Three layers, the last of which shares the matrix of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.last(self.middle(self.first(values).relu()).relu())).sum(1)


def train(network: Net, groups: list[LayerGroup] | None, **changes: Any) -> None:
    options = plain_options(**{"epochs": 2, "batch_size": 5, "weight_decay": 0.1, **changes})
    fit(network, (torch.randn(20, 4), torch.randn(20)), options, seed=1, groups=groups)


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def test_each_group_learns_slower_than_the_next_by_the_same_factor() -> None:
    rates = [group.rate for group in discriminative([[nn.Linear(1, 1)] for _ in range(5)], 2.6)]
    assert rates[-1] == 1.0
    assert [after / before for before, after in pairwise(rates)] == pytest.approx([2.6] * 4)
    assert rates[0] == pytest.approx(1 / 45.6976)  # 2.6^4, as fastai v2's slice(lr / 2.6**4, lr)
    assert [group.rate for group in discriminative([[], []], 1.0)] == [1.0, 1.0]


def test_the_optimiser_has_every_parameter_once_and_a_shared_one_in_its_first_group() -> None:
    network = Net()
    groups = discriminative([[network.first], [network.middle], [network.last, network.norm]], 2.0)
    settings = optimizer_groups(groups, 0.1)
    found = [id(p) for setting in settings for p in setting["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    shown = [(s["rate"], s["weight_decay"], [tuple(p.shape) for p in s["params"]]) for s in settings]
    assert shown == [
        *((0.25, 0.1, [(4, 4)]), (0.25, 0.0, [(4,)]), (0.5, 0.1, [(4, 4)]), (0.5, 0.0, [(4,)])),
        (1.0, 0.0, [(4,), (4,), (4,)]),  # the matrix of the last layer belongs to the first group
    ]
    assert settings[0]["params"][0] is network.first.weight
    twice = nn.Sequential(nn.Linear(2, 2))  # a module named twice within a group counts once
    assert [len(group["params"]) for group in optimizer_groups([LayerGroup([twice, twice[0]])], 0.0)] == [1, 1]


def test_a_step_goes_as_far_as_the_groups_rate() -> None:
    # Adam's first step is the rate itself, whatever the gradient: the ratio of the steps is that of the rates.
    network = Net()
    groups = discriminative([[network.first], [network.middle], [network.last, network.norm]], 2.6)
    before = copy.deepcopy(network.state_dict())
    train(network, groups, epochs=1, batch_size=20, schedule="constant", weight_decay=0.0, eps=1e-12)
    steps = {name: (tensor - before[name]).abs().max().item() for name, tensor in network.state_dict().items()}
    assert steps["norm.bias"] == pytest.approx(0.01, rel=1e-3)
    assert steps["middle.weight"] == pytest.approx(0.01 / 2.6, rel=1e-3)
    assert steps["first.weight"] == steps["last.weight"] == pytest.approx(0.01 / 2.6**2, rel=1e-3)


def test_set_rates_multiplies_by_each_groups_own_factor() -> None:
    network = Net()
    options = TrainingOptions(epochs=1, batch_size=1, lr=1.0, betas=(0.9, 0.98))
    groups = [LayerGroup([network.first], 0.5), LayerGroup([network.middle], 0.2)]
    optimizer = make_optimizer(network, options, groups)
    for lr in (0.1, 0.3):  # of the training's rate, not of the one before
        loop.set_rates(optimizer, lr, 0.7)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([lr * f for f in (0.5, 0.5, 0.2, 0.2)])
    assert {group["betas"] for group in optimizer.param_groups} == {(0.7, 0.98)}


def test_what_is_frozen_or_in_no_group_keeps_its_bits() -> None:
    network, whole = Net(), Net()
    network.middle.requires_grad_(False)
    before, all_before = copy.deepcopy(network.state_dict()), copy.deepcopy(whole.state_dict())
    train(network, discriminative([[network.middle], [network.last]], 2.0))
    kept = {"first.bias", "middle.weight", "middle.bias", "norm.weight", "norm.bias"}
    assert changed(network, before) == set(before) - kept  # batch-norm's statistics follow the data
    assert {"first.weight", "last.weight", "last.bias", "norm.running_mean"} <= changed(network, before)
    train(whole, None)  # without groups all is trained
    assert changed(whole, all_before) == set(all_before)


class TestSGD:
    """With decoupled decay a step takes away a share of the weight; with l2 the penalty is part of the gradient."""

    def step(self, decay: str) -> float:
        network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, 2.0)
        options = FitOptions(
            epochs=1,
            lr=0.1,
            batch_size=1,
            optimizer="sgd",
            weight_decay=0.5,
            decay=decay,
            betas=(0.9, 0.99),
            momentum=None,
        )
        optimizer = make_optimizer(network, options)
        set_rates(optimizer, 0.1, 0.9)
        assert optimizer.param_groups[0]["momentum"] == 0.9
        network.weight.grad = torch.full((1, 1), 1.0)
        optimizer.step()
        return float(network.weight.item())

    def test_by_hand(self) -> None:
        # The first step of Nesterov's momentum: the gradient times 1 + 0.9.
        assert self.step("decoupled") == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1 * 1.9)
        assert self.step("l2") == pytest.approx(2.0 - 0.1 * (1.0 + 0.5 * 2.0) * 1.9)
