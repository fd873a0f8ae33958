"""Figures of merit for regression, on NumPy arrays in the target's own units."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedline.errors import DataError


def rmspe(actual: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Root mean square percentage error, ``sqrt(mean(((y - p) / y)^2))``, Kaggle's measure for Rossmann.

    The lessons call it ``exp_rmspe`` because their arrays hold logarithms; here both arrays, float [N], hold sales.

    Raises:
        ValueError: if an actual value is zero, where the error is undefined, or if no row is given.
        DataError: if a value is not finite.
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
    for name, values in (("actual value", actual), ("prediction", predicted)):
        if not (finite := np.isfinite(values)).all():
            row = int(finite.argmin())
            raise DataError(f"the {name} of evaluated row {row + 1} is {values[row]}, which cannot be measured")
    return actual.astype(np.float64), predicted.astype(np.float64)


def require_finite(values: Mapping[str, Any] | Sequence[Any], what: str) -> None:
    """Raise a DataError that names the first of nested ``values`` that is not finite, such as ``baselines.rmse``.

    Args:
        what: they belong to, such as the name of a dataset.
    """
    for path, value in _numbers(values):
        if not math.isfinite(value):
            raise DataError(
                f"{what}: {path} is {value}, which is no metric: the model has diverged, or the rows that it was "
                "measured on have a value that is not finite"
            )


def _numbers(values: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Numbers in nested mappings and lists with their path."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _numbers(value, f"{path}.{name}" if path else str(name))
    elif isinstance(values, list | tuple):
        for place, value in enumerate(values):
            yield from _numbers(value, f"{path}[{place}]")
    elif isinstance(values, float):
        yield path, values
