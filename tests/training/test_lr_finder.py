"""The learning-rate range test."""

import copy
import threading
from contextlib import nullcontext
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from fits import plain_options, same, seeded, spy_rates
from test_tasks import FACTORS, Counted
from torch import Tensor, nn

from embedline.training import lr_finder
from embedline.training.batches import Stopped
from embedline.training.device import make_accelerator
from embedline.training.lr_finder import RandomRows, RangeTest, range_test, suggest_rate
from embedline.training.optimizer import LayerGroup, discriminative
from embedline.training.options import FinderOptions, FitOptions, TrainingOptions
from embedline.training.plots import plot_range_test

TRAINING = plain_options(epochs=1, batch_size=16)


def line() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))


def _data() -> tuple[Tensor, Tensor]:
    values = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    return values, values @ torch.tensor([1.0, -2.0, 0.5, 3.0])


def _search(network: nn.Module | None = None, training: TrainingOptions = TRAINING, **range_: Any) -> RangeTest:
    finder, accelerator = FinderOptions(**range_), make_accelerator(training)
    batches = RandomRows(_data(), F.mse_loss, batch_size=training.batch_size, device=accelerator.device)
    return range_test(network or line(), batches, training, finder, accelerator=accelerator, seed=2)


def test_the_network_is_untouched_and_the_rates_grow_geometrically() -> None:
    network = line()
    test = _search(network, low=1e-4, high=1e-2, steps=21)
    assert same(network, line()) and network[0].weight.grad is None
    assert test.rates[::10] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert len(test.losses) == 21
    assert _search(network, low=1e-4, high=1e-2, steps=21) == test


def test_the_suggestion_is_one_of_the_rates_and_lies_where_the_loss_falls() -> None:
    test = _search(low=1e-5, high=10.0, steps=80)
    position = test.rates.index(test.suggestion)
    assert test.losses[position] < test.losses[position - 1]
    assert 1e-3 < test.suggestion < 5.0


def test_it_stops_when_the_loss_diverges() -> None:
    test = _search(low=1e-3, high=1e6, steps=100)
    assert 10 < len(test.rates) < 100
    assert min(test.losses) < test.losses[-1] <= 4.0 * min(test.losses)


def test_a_loss_that_is_never_a_number_suggests_the_lowest_rate() -> None:
    network = line()
    nn.init.constant_(network[0].weight, float("nan"))
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


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_equals_a_hand_written_test(accumulate: int) -> None:
    options = TRAINING.model_copy(update={"accumulate": accumulate, "weight_decay": 0.2, "clip_norm": 1.0})
    test = _search(training=options, low=1e-4, high=0.1, steps=12)
    network, (values, target) = line(), _data()
    weight, bias = network.parameters()
    groups = [{"params": [weight], "weight_decay": 0.2}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps)
    numbers, average, expected = torch.Generator().manual_seed(2), 0.0, []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * 1000.0 ** (step / 11)
        draws = [torch.randint(256, (16,), generator=numbers) for _ in range(accumulate)]
        loss = torch.stack([F.mse_loss(network(values[rows]), target[rows]) for rows in draws]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average = 0.9 * average + 0.1 * loss.item()
        expected.append(average / (1.0 - 0.9 ** (step + 1)))
    assert test.losses == pytest.approx(expected, rel=1e-5)


def _search_task(task: Counted, network: nn.Module, **more: Any) -> RangeTest:
    options = plain_options(FitOptions, epochs=1, batch_size=1, lr=0.1, accumulate=3)
    finder = FinderOptions(low=1e-4, high=1e-2, steps=10)
    return range_test(network, task, options, finder, accelerator=make_accelerator(options), seed=5, **more)


def test_a_tasks_epochs_follow_one_another_with_its_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    used, task = spy_rates(monkeypatch, lr_finder), Counted()
    test = _search_task(task, seeded(lambda: nn.Linear(3, 1)))
    assert task.calls == ["begin", "loss 0", "loss 1", "loss 2", "loss 3"] * 5  # a step of three, a step of one
    assert test.rates == pytest.approx([1e-4 * 100.0 ** (step / 9) for step in range(10)])
    factors = [sum(FACTORS[:3]) / 3, FACTORS[3]] * 5
    assert used == pytest.approx([rate * factor for rate, factor in zip(test.rates, factors, strict=True)])


def test_the_first_loss_is_that_of_the_untrained_network_without_penalties() -> None:
    network, task = seeded(lambda: nn.Linear(3, 1)), Counted()
    task.begin_epoch(torch.Generator().manual_seed(5))
    losses = [task.loss(network, index, nullcontext).data_term.item() for index in range(3)]
    assert _search_task(Counted(penalty=100.0), network).losses[0] == pytest.approx(sum(losses) / 3)


def test_the_groups_of_the_copy_learn_and_those_of_the_network_do_not() -> None:
    network = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
    before = copy.deepcopy(network)
    whole = _search_task(Counted(), network)
    frozen = _search_task(Counted(), network, groups=[LayerGroup([network[1]])])
    slow = _search_task(Counted(), network, groups=discriminative([[network[0]], [network[1]]], 1e9))
    assert same(network, before)
    assert whole.losses[0] == frozen.losses[0] == slow.losses[0]
    assert slow.losses == pytest.approx(frozen.losses, rel=1e-6)  # at a billionth of the rate nothing moves
    assert frozen.losses[-1] != pytest.approx(whole.losses[-1], rel=1e-5)


def test_it_ends_soon_when_it_is_told_to() -> None:
    stop, task = threading.Event(), Counted()
    stop.set()
    with pytest.raises(Stopped, match="at step 1 of 10 of a range test"):
        _search_task(task, nn.Linear(3, 1), stop=stop)
    assert task.calls == ["begin", "loss 0", "loss 1", "loss 2"]


def test_the_frame_has_a_row_a_rate_and_the_plot_marks_the_suggestion() -> None:
    frame, nothing = RangeTest([1e-4, 1e-3], [2.0, 1.0], 1e-3).frame(), RangeTest([], [], 1e-5).frame()
    assert frame.columns == ["rate", "loss", "suggestion"]
    assert frame.rows() == [(1e-4, 2.0, 1e-3), (1e-3, 1.0, 1e-3)]
    assert nothing.schema == frame.schema == dict.fromkeys(frame.columns, pl.Float64)
    figure = plot_range_test(frame, "A test", "loss (nats)")
    curve, mark = figure.data
    assert (list(curve.x), list(curve.y)) == ([1e-4, 1e-3], [2.0, 1.0])
    assert (list(mark.x), list(mark.y), mark.name) == ([1e-3, 1e-3], [1.0, 2.0], "suggested: 1.0e-03")
    assert (figure.layout.xaxis.type, figure.layout.yaxis.title.text) == ("log", "loss (nats)")
    assert len(plot_range_test(nothing, "Nothing").data) == 1
    rates = [10.0**k for k in range(-7, 0)]
    for losses in ([1.0, 0.99, 0.98, 1.0, 0.7, 0.71, 0.5], [1.0, 0.99, 0.98, 0.97, 0.96, 0.955, 1.0]):
        plateau = RangeTest(rates, losses, suggest_rate(rates, losses))  # a ripple is longest, or all the fall there is
        assert plateau.frame()["suggestion"].null_count() == 7 and len(plot_range_test(plateau.frame(), "").data) == 1
