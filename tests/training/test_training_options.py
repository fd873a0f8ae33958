"""Every check of the training's settings, with its message; learning rate and momentum where they can be worked out."""

import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from embedline.training.ensemble import member_weights
from embedline.training.optimizer import cosine_restarts, learning_rate, momentum
from embedline.training.options import Averaging, FinderOptions, FitOptions, HeldOutStopping, TrainingOptions

GOOD: dict[str, Any] = {"epochs": 1, "batch_size": 2, "lr": 0.1}


# Each names its key; a nested one with the keys around it.
BAD: list[dict[str, Any]] = [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -0.1}, {"eps": 0.0}]
BAD += [{"schedule": "linear"}, {"warmup": 1.0}, {"warmup": 0.0}, {"cycle_epochs": 0}, {"cycle_growth": 0}]
BAD += [{"loss": "rmse"}, {"clip_norm": 0.0}, {"averaging": {"decay": 1.0}}, {"averaging": {"power": 2, "decay": 0.9}}]
BAD += [{"accumulate": 0}, {"decay": "L2"}, {"seeds": []}, {"device": "tpu"}, {"precision": "fp16"}]
BAD += [{"learning_rate": 0.1}, {"early_stopping": {"patience": 0}}, {"early_stopping": {"min_delta": -0.1}}]
BAD += [{"early_stopping": {"min_delta": math.inf}}, {"early_stopping": {"fraction": 0.0}}]
BAD += [{"early_stopping": {"fraction": 1.0}}, {"early_stopping": {"monitor": "loss"}}]
TOLD = [
    ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \[0.9, 1.0\]"),
    ({"momentum": (-0.1, 0.5)}, r"momentum must lie in \[0, 1\), got \[-0.1, 0.5\]"),
    ({"weights": []}, r"weights needs 1 values, one for each of seeds \[42\], got \[\]"),
    ({"seeds": [1, 2], "weights": [1.0]}, r"weights needs 2 values, one for each of seeds \[1, 2\], got \[1.0\]"),
    ({"seeds": [1, 2], "weights": [1.0, 0.0]}, "^weights.1\n.*greater than 0"),
    ({"seeds": [1, 2], "weights": [math.inf, 1.0]}, "^weights.0\n.*finite"),
    ({"seeds": [1, 2, 1]}, r"seeds must differ, got \[1, 2, 1\]"),
]


def path_of(changes: dict[str, Any]) -> str:
    """The first key, with those below it."""
    name, value = next(iter(changes.items()))
    return f"{name}.{path_of(value)}" if isinstance(value, dict) else name


@pytest.mark.parametrize(("changes", "named"), [*((bad, f"^{path_of(bad)}\n") for bad in BAD), *TOLD])
def test_a_bad_value_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingOptions.model_validate(GOOD | changes)
    assert re.search(named, str(caught.value), re.MULTILINE) and caught.value.error_count() == 1


def test_good_values_are_kept_and_members_weigh_alike_or_as_they_are_told() -> None:
    options = TrainingOptions.model_validate(GOOD | {"seeds": [3, 1], "averaging": {"decay": 0.9}})
    assert (options.seeds, options.averaging) == ((3, 1), Averaging(decay=0.9))
    assert (options.betas, options.eps, options.momentum) == ((0.9, 0.99), 1e-5, (0.95, 0.85))
    assert member_weights(TrainingOptions.model_validate(GOOD | {"seeds": [3, 1, 2, 9]})) == [0.25, 0.25, 0.25, 0.25]
    told = TrainingOptions.model_validate(GOOD | {"seeds": [3, 1], "weights": [3, 1]})
    assert (told.weights, member_weights(told)) == ((3.0, 1.0), [0.75, 0.25])
    assert member_weights(TrainingOptions.model_validate(GOOD)) == [1.0]


def test_early_stopping_of_rows_holds_a_tenth_out_unless_told_otherwise() -> None:
    options = TrainingOptions.model_validate(GOOD | {"early_stopping": {}})
    assert options.early_stopping == HeldOutStopping(patience=2, min_delta=0.0, fraction=0.1, seed=0)
    plain = TrainingOptions.model_validate(GOOD)
    assert (plain.early_stopping, options.accumulate, options.decay) == (None, 1, "decoupled")
    with pytest.raises(ValidationError, match=r"early_stopping.fraction\n.*Extra inputs"):
        FitOptions.model_validate(GOOD | {"early_stopping": {"fraction": 0.1}})  # nobody here would hold it out


def test_a_bad_range_test_is_refused() -> None:
    for changes, named in (
        ({"low": 1.0, "high": 0.1}, "low must be below high, got low=1.0, high=0.1"),
        ({"low": 0.1, "high": 0.1}, "low must be below high"),
        *((bad, f"{path_of(bad)}\n") for bad in ({"low": 0.0}, {"steps": 9}, {"step": 20})),
    ):
        with pytest.raises(ValidationError, match=named):
            FinderOptions.model_validate(changes)


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
