"""The learning-rate range test."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.training.device import make_accelerator
from embedline.training.lr_finder import RangeTest, find_learning_rate, suggest_rate
from embedline.training.options import FinderOptions, TrainingOptions

TRAINING = TrainingOptions(epochs=1, batch_size=16, lr=0.01, device="cpu", precision="fp32")


class Line(nn.Module):
    """A linear law without a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values).squeeze(-1)


def _search(network: nn.Module, **range_: Any) -> RangeTest:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(256, 4, generator=generator)
    tensors = (values, values @ torch.tensor([1.0, -2.0, 0.5, 3.0]))
    finder, accelerator = FinderOptions(**range_), make_accelerator(TRAINING)
    return find_learning_rate(network, tensors, F.mse_loss, TRAINING, finder, accelerator=accelerator, seed=2)


def test_the_network_is_untouched_and_the_rates_grow_geometrically() -> None:
    torch.manual_seed(0)
    network = Line()
    before = copy.deepcopy(network.state_dict())
    test = _search(network, low=1e-4, high=1e-2, steps=21)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.layer.weight.grad is None
    assert test.rates[0] == pytest.approx(1e-4)
    assert test.rates[10] == pytest.approx(1e-3)
    assert test.rates[-1] == pytest.approx(1e-2)
    assert len(test.losses) == 21


def test_the_suggestion_is_one_of_the_rates_and_lies_where_the_loss_falls() -> None:
    torch.manual_seed(0)
    test = _search(Line(), low=1e-5, high=10.0, steps=80)
    assert test.suggestion in test.rates
    position = test.rates.index(test.suggestion)
    assert test.losses[position] < test.losses[position - 1]
    assert 1e-3 < test.suggestion < 5.0


def test_it_stops_when_the_loss_diverges() -> None:
    torch.manual_seed(0)
    test = _search(Line(), low=1e-3, high=1e6, steps=100)
    assert 10 < len(test.rates) < 100
    assert test.losses[-1] <= 4.0 * min(test.losses)
    assert test.losses[-1] > min(test.losses)


def test_the_same_seed_gives_the_same_curve() -> None:
    torch.manual_seed(0)
    network = Line()
    assert _search(network, steps=15) == _search(network, steps=15)


def test_a_loss_that_is_never_a_number_suggests_the_lowest_rate() -> None:
    network = Line()
    with torch.no_grad():
        network.layer.weight.fill_(float("nan"))
    assert _search(network, low=1e-5) == RangeTest([], [], 1e-5)


@pytest.mark.parametrize(
    ("losses", "position"),
    [
        ([3.0, 2.0, 1.0, 5.0, 6.0, 7.0, 8.0], 1),  # a fall of three: two thirds in, rounded down
        ([5.0, 4.0, 6.0, 5.0, 4.0, 3.0, 9.0], 4),  # the longer fall counts, not the first
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 4),  # all the way down
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 0),  # never falls
        ([4.0, 3.0, 3.0, 2.0, 1.0, 0.5, 9.0], 4),  # a flat step breaks a fall
    ],
)
def test_suggested_rates_of_curves_drawn_by_hand(losses: list[float], position: int) -> None:
    rates = [10.0**power for power in range(-7, 0)]
    assert suggest_rate(rates, losses) == rates[position]
