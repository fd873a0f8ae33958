"""Learning rate and momentum at the points where they can be worked out by hand."""

import math

import pytest

from embedline.training.optimizer import cosine_restarts, learning_rate, momentum
from embedline.training.options import TrainingOptions


def _options(**changes: object) -> TrainingOptions:
    return TrainingOptions.model_validate({"epochs": 7, "batch_size": 8, "lr": 0.01, **changes})


def test_one_cycle_passes_through_its_three_corners_and_is_half_way_at_half_of_each_leg() -> None:
    low, high, end = 0.01 / 25, 0.01, 0.01 / 1e5
    rates = [learning_rate(_options(), progress) for progress in (0.0, 0.125, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([low, (low + high) / 2, high, (high + end) / 2, end])
    later = _options(warmup=0.6)  # the peak follows it
    assert learning_rate(later, 0.6) == pytest.approx(0.01)
    assert learning_rate(later, 0.25) < 0.006


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.95), (0.125, 0.90), (0.25, 0.85), (0.625, 0.90), (1.0, 0.95)]
)
def test_momentum_mirrors_the_one_cycle(progress: float, expected: float) -> None:
    assert momentum(_options(), progress) == pytest.approx(expected)


@pytest.mark.parametrize("changes", [{"schedule": "constant"}, {"schedule": "cosine_restarts"}, {"momentum": None}])
def test_momentum_stays_at_the_first_beta_elsewhere(changes: dict[str, object]) -> None:
    options = _options(betas=(0.8, 0.99), **changes)
    assert [momentum(options, progress) for progress in (0.0, 0.3, 1.0)] == [0.8, 0.8, 0.8]


def test_restarts_begin_cycles_of_one_two_and_four_epochs_at_the_peak() -> None:
    def at(epoch: float) -> float:
        return cosine_restarts(epoch, peak=2.0, cycle_epochs=1, cycle_growth=2)

    assert [at(epoch) for epoch in (0.0, 1.0, 3.0)] == [2.0, 2.0, 2.0]
    assert [at(epoch) for epoch in (0.5, 2.0, 5.0)] == pytest.approx([1.0, 1.0, 1.0])
    assert [at(border - 1e-6) for border in (1.0, 3.0, 7.0)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert at(0.25) == pytest.approx(1.0 + math.cos(math.pi / 4))
    equal = [cosine_restarts(epoch, peak=1.0, cycle_epochs=2, cycle_growth=1) for epoch in (0.5, 2.5, 40.5)]
    assert equal == pytest.approx([equal[0]] * 3)
    assert 0.8 < equal[0] < 0.9


def test_a_training_with_restarts_ends_at_zero_and_not_at_the_next_peak() -> None:
    options = _options(schedule="cosine_restarts")  # cycles of 1 + 2 + 4 epochs fill the seven
    assert learning_rate(options, 1.0) == pytest.approx(0.0, abs=1e-9)
    assert learning_rate(options, 3 / 7 + 1e-9) == pytest.approx(0.01)
    assert learning_rate(options, 2 / 7) == pytest.approx(0.005)
    constant = _options(schedule="constant")
    assert [learning_rate(constant, progress) for progress in (0.0, 0.5, 1.0)] == [0.01, 0.01, 0.01]
