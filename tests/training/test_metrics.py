"""Metrics of regression against numbers worked out by hand."""

import math

import numpy as np
import pytest

from embedline.training.metrics import regression_metrics, rmspe

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


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_regression_metrics_are_those_of_their_formulas(rows: int, precision: type) -> None:
    random = np.random.default_rng(rows)
    actual = (random.normal(size=rows) * 1e4 + 3e5).astype(precision)
    predicted = (actual + random.normal(size=rows) * 1e3).astype(precision)
    error = actual.astype(np.float64) - predicted
    spread = np.sum((actual.astype(np.float64) - actual.mean(dtype=np.float64)) ** 2)
    expected = {
        "exp_rmspe": math.sqrt(np.mean((error / actual) ** 2)),
        "rmse": math.sqrt(np.mean(error**2)),
        "mae": np.mean(np.abs(error)),
        **({"r2": 1.0 - np.sum(error**2) / spread} if rows > 1 else {}),
    }
    assert regression_metrics(actual, predicted, logarithmic=True) == pytest.approx(expected, rel=1e-12, abs=1e-12)
