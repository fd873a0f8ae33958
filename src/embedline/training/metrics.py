"""Figures of merit for regression, on NumPy arrays in the target's own units."""

import numpy as np
from numpy.typing import NDArray


def rmspe(actual: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Root mean square percentage error, ``sqrt(mean(((y - p) / y)^2))``, Kaggle's measure for Rossmann.

    The lessons call it ``exp_rmspe`` because their arrays hold logarithms; here both arrays, float [N], hold sales.

    Raises:
        ValueError: if an actual value is zero, where the error is undefined, or if no row is given.
    """
    actual, predicted = _pair(actual, predicted)
    if not np.all(actual):
        raise ValueError("rmspe is undefined where the actual value is 0: drop these rows first")
    return float(np.sqrt(np.mean(((actual - predicted) / actual) ** 2)))


def regression_metrics(
    actual: NDArray[np.floating], predicted: NDArray[np.floating], *, logarithmic: bool
) -> dict[str, float]:
    """RMSE, MAE and R² (and ``exp_rmspe`` for a target learned as a logarithm) of float arrays [N]."""
    actual, predicted = _pair(actual, predicted)
    error = actual - predicted
    spread = np.sum((actual - actual.mean()) ** 2)
    figures = {"exp_rmspe": rmspe(actual, predicted)} if logarithmic else {}
    figures["rmse"] = float(np.sqrt(np.mean(error**2)))
    figures["mae"] = float(np.mean(np.abs(error)))
    if spread > 0:
        figures["r2"] = float(1.0 - np.sum(error**2) / spread)
    return figures


def _pair(
    actual: NDArray[np.floating], predicted: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if actual.shape != predicted.shape or actual.size == 0:
        raise ValueError(f"need two arrays of one shape with rows, got {actual.shape} and {predicted.shape}")
    return actual.astype(np.float64), predicted.astype(np.float64)
