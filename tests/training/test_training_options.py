"""Every check of the training's settings, with the message that the user reads."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from embedline.training.ensemble import member_weights
from embedline.training.options import Averaging, FinderOptions, FitOptions, HeldOutStopping, TrainingOptions

GOOD: dict[str, Any] = {"epochs": 1, "batch_size": 2, "lr": 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs\n.*greater than or equal to 1"),
        ({"batch_size": 0}, "batch_size\n.*greater than or equal to 1"),
        ({"lr": 0.0}, "lr\n.*greater than 0"),
        ({"weight_decay": -0.1}, "weight_decay\n.*greater than or equal to 0"),
        ({"eps": 0.0}, "eps\n.*greater than 0"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \[0.9, 1.0\]"),
        ({"momentum": (-0.1, 0.5)}, r"momentum must lie in \[0, 1\), got \[-0.1, 0.5\]"),
        ({"schedule": "linear"}, "schedule\n.*'one_cycle', 'cosine_restarts' or 'constant'"),
        ({"warmup": 1.0}, "warmup\n.*less than 1"),
        ({"warmup": 0.0}, "warmup\n.*greater than 0"),
        ({"cycle_epochs": 0}, "cycle_epochs\n.*greater than or equal to 1"),
        ({"cycle_growth": 0}, "cycle_growth\n.*greater than or equal to 1"),
        ({"loss": "rmse"}, "loss\n.*'mse', 'l1', 'huber' or 'relative'"),
        ({"clip_norm": 0.0}, "clip_norm\n.*greater than 0"),
        ({"averaging": {"decay": 1.0}}, "averaging.decay\n.*less than 1"),
        ({"averaging": {"decay": 0.9, "power": 2}}, "averaging.power\n.*Extra inputs"),
        ({"accumulate": 0}, "accumulate\n.*greater than or equal to 1"),
        ({"decay": "L2"}, "decay\n.*'decoupled' or 'l2'"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience\n.*greater than or equal to 1"),
        ({"early_stopping": {"min_delta": -0.1}}, "early_stopping.min_delta\n.*greater than or equal to 0"),
        ({"early_stopping": {"min_delta": math.inf}}, "early_stopping.min_delta\n.*finite"),
        ({"early_stopping": {"fraction": 0.0}}, "early_stopping.fraction\n.*greater than 0"),
        ({"early_stopping": {"fraction": 1.0}}, "early_stopping.fraction\n.*less than 1"),
        ({"early_stopping": {"monitor": "loss"}}, "early_stopping.monitor\n.*Extra inputs"),
        ({"weights": []}, r"weights needs 1 values, one for each of seeds \[42\], got \[\]"),
        ({"seeds": [1, 2], "weights": [1.0]}, r"weights needs 2 values, one for each of seeds \[1, 2\], got \[1.0\]"),
        ({"seeds": [1, 2], "weights": [1.0, 0.0]}, "weights.1\n.*greater than 0"),
        ({"seeds": [1, 2], "weights": [math.inf, 1.0]}, "weights.0\n.*finite"),
        ({"seeds": []}, "seeds\n.*at least 1 item"),
        ({"seeds": [1, 2, 1]}, r"seeds must differ, got \[1, 2, 1\]: equal seeds train the same model twice"),
        ({"device": "tpu"}, "device\n.*'auto', 'cpu' or 'cuda'"),
        ({"precision": "fp16"}, "precision\n.*'auto', 'fp32' or 'bf16'"),
        ({"learning_rate": 0.1}, "learning_rate\n.*Extra inputs"),
    ],
)
def test_a_bad_value_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingOptions.model_validate(GOOD | changes)


def test_good_values_are_kept_and_the_rest_has_its_default() -> None:
    options = TrainingOptions.model_validate(GOOD | {"seeds": [3, 1], "averaging": {"decay": 0.9}})
    assert options.seeds == (3, 1)
    assert options.averaging == Averaging(decay=0.9)
    assert (options.betas, options.eps, options.momentum) == ((0.9, 0.99), 1e-5, (0.95, 0.85))


def test_members_weigh_alike_or_as_they_are_told_and_sum_to_one() -> None:
    alike = TrainingOptions.model_validate(GOOD | {"seeds": [3, 1, 2, 9]})
    assert member_weights(alike) == [0.25, 0.25, 0.25, 0.25]
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "low must be below high, got low=1.0, high=0.1"),
        ({"low": 0.1, "high": 0.1}, "low must be below high"),
        ({"low": 0.0}, "low\n.*greater than 0"),
        ({"steps": 9}, "steps\n.*greater than or equal to 10"),
        ({"step": 20}, "step\n.*Extra inputs"),
    ],
)
def test_a_bad_range_test_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinderOptions.model_validate(changes)
