"""Metrics of regression against numbers worked out by hand, and the best that a model can expect beside them."""

import logging
import math

import numpy as np
import pytest

from embedline.training.ceiling import beside
from embedline.training.metrics import paired_difference, regression_metrics, rmspe

ACTUAL = np.array([2.0, 4.0, 10.0])
PREDICTED = np.array([1.0, 5.0, 10.0])


def test_rmspe_is_the_root_of_the_mean_squared_relative_error() -> None:
    assert rmspe(ACTUAL, PREDICTED) == pytest.approx(math.sqrt((0.25 + 0.0625 + 0.0) / 3))
    logs, guesses = np.log(ACTUAL), np.log(PREDICTED)
    lesson = np.sqrt(np.mean(((np.exp(logs) - np.exp(guesses)) / np.exp(logs)) ** 2))
    assert rmspe(ACTUAL, PREDICTED) == pytest.approx(float(lesson))


@pytest.mark.parametrize(
    ("actual", "predicted", "message"),
    [([1.0, 0.0], [1.0, 1.0], "actual value is 0"), ([], [], "one shape"), ([1.0], [1.0, 2.0], "one shape")],
)
def test_rmspe_refuses_an_actual_zero_and_unequal_shapes(actual, predicted, message) -> None:
    with pytest.raises(ValueError, match=message):
        rmspe(np.array(actual), np.array(predicted))


def test_regression_metrics_by_hand() -> None:
    metrics = regression_metrics(ACTUAL, PREDICTED, logarithmic=False)
    # errors 1, -1, 0; the mean of the actual values is 16 / 3
    spread = sum((value - 16 / 3) ** 2 for value in (2.0, 4.0, 10.0))
    assert metrics == pytest.approx({"rmse": math.sqrt(2 / 3), "mae": 2 / 3, "r2": 1 - 2 / spread})
    relative = regression_metrics(ACTUAL, PREDICTED, logarithmic=True)
    assert next(iter(relative.items())) == ("exp_rmspe", rmspe(ACTUAL, PREDICTED))
    # r2 is left out where nothing varies
    assert set(regression_metrics(np.ones(3), np.zeros(3), logarithmic=False)) == {"rmse", "mae"}
    actual = np.full(3, 16_777_216.0, dtype=np.float32)  # single precision is summed in double
    assert regression_metrics(actual, actual + np.float32(2), logarithmic=False)["mae"] == 2.0


def test_a_paired_difference_covers_the_true_one_at_its_level() -> None:
    """Of 200 pairs of models with a true difference of 0.1, about 95 % of the intervals hold it."""
    random, held = np.random.default_rng(0), 0
    for seed in range(200):
        common = random.normal(size=300)  # what makes a row hard for both: pairing takes it out
        ours, theirs = (common + shift + 0.5 * random.normal(size=300) for shift in (1.1, 1.0))
        found = paired_difference(ours, theirs, seed=seed)
        held += found["low"] <= 0.1 <= found["high"]
        assert found["high"] - found["low"] < 0.25  # unpaired: 4 * sqrt(2 * 1.25 / 300) = 0.37
    assert 180 <= held <= 198


@pytest.mark.parametrize(("shift", "verdict"), [(-0.2, "better"), (0.0, "no difference"), (0.2, "worse")])
def test_the_verdict_says_whether_the_interval_holds_zero(shift: float, verdict: str) -> None:
    random = np.random.default_rng(1)
    theirs = random.chisquare(2, 20_000)  # more rows than groups that are drawn
    ours = theirs + shift + random.normal(size=20_000)
    found = paired_difference(ours, theirs)
    assert found["verdict"] == verdict
    assert found["difference"] == pytest.approx(ours.mean() - theirs.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 / np.sqrt(20_000), rel=0.1)


def test_the_difference_of_roots_is_in_units_of_the_target() -> None:
    found = paired_difference(np.full(50, 9.0), np.full(50, 4.0), root=True)
    assert (found["difference"], found["low"], found["high"]) == (1.0, 1.0, 1.0)


def test_it_stands_beside_the_metrics_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"accuracy": 0.8575, "log_loss": 0.36, "f1": 0.7}
    with caplog.at_level(logging.INFO):
        assert beside(metrics, {"accuracy": 0.89, "log_loss": 0.35712}, "income.") == {
            "ceiling": {"accuracy": 0.89, "log_loss": 0.35712}
        }
    assert caplog.messages == [
        "income.accuracy 0.8575, and no model can expect more than 0.8900; "
        "income.log_loss 0.3600, and no model can expect less than 0.3571 (by the law of the generated data)"
    ]


def test_of_what_was_not_measured_and_of_real_data_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert beside({"rmse": 650.0}, {"exp_rmspe": 0.08}) == {}  # sales that are learned without a logarithm
        assert beside({"rmse": 650.0}, {}) == beside({"rmse": 650.0}, None) == {}
    assert not caplog.messages
