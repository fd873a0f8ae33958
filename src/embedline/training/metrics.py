"""Metrics of regression and classification on NumPy arrays, by scikit-learn and SciPy, and live metrics of a training.

Both libraries are imported inside of the functions: they take a second, and services and the registry need neither.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedline.errors import DataError

Listener = Callable[[dict[str, float], int], None]

BOOTSTRAPS = 1_000  # draws of the rows for an interval
RANKING_BOOTSTRAPS = 300  # for that of a ranking, each of which goes through all rows
BOOTSTRAP_GROUPS = 5_000  # of rows that are drawn together where there are more rows
F1_AVERAGES = ("micro", "macro")
TOLERANCE = 1e-4  # how far a row's probabilities may be from 1 in sum: single precision is exact to about 1e-6


def rmspe(actual: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Root mean square percentage error, ``sqrt(mean(((y - p) / y)^2))``, Kaggle's metric for Rossmann, of float [N].

    The lessons call it ``exp_rmspe`` because their arrays hold logarithms; here both hold sales. An actual value of 0,
    where it is undefined, and no row are a ValueError, a value that is not finite is a DataError.
    """
    actual, predicted = _pair(actual, predicted)
    if not np.all(actual):
        raise ValueError("rmspe is undefined where the actual value is 0: drop these rows first")
    return float(np.sqrt(np.mean(((actual - predicted) / actual) ** 2)))


def regression_metrics(
    actual: NDArray[np.floating], predicted: NDArray[np.floating], *, logarithmic: bool
) -> dict[str, float]:
    """RMSE, MAE and, unless all values are the same, R² of float arrays [N]; of a logarithmic target ``exp_rmspe``.

    Errors are those of :func:`rmspe`.
    """
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    actual, predicted = _pair(actual, predicted)
    metrics = {"exp_rmspe": rmspe(actual, predicted)} if logarithmic else {}
    metrics["rmse"] = float(root_mean_squared_error(actual, predicted))
    metrics["mae"] = float(mean_absolute_error(actual, predicted))
    if np.ptp(actual) > 0:
        metrics["r2"] = float(r2_score(actual, predicted))
    return metrics


def quantile_metrics(
    actual: NDArray[np.floating], quantiles: NDArray[np.floating], levels: Sequence[float]
) -> dict[str, float]:
    """Metrics of predicted quantiles [N, Q] of rising ``levels``.

    Returns:
        ``pinball_loss``, the mean over rows and levels in the units of the target (Koenker & Bassett 1978), and for
        each two levels ``q`` and ``1 - q`` ``coverage_80``, the share of the rows within both, which should be 0.8 of
        0.1 and 0.9, and ``width_80``, the mean distance between them.
    """
    from sklearn.metrics import mean_pinball_loss

    losses = [mean_pinball_loss(actual, quantiles[:, k], alpha=level) for k, level in enumerate(levels)]
    metrics = {"pinball_loss": float(np.mean(losses))}
    for k, low in enumerate(levels):
        pairs = [j for j, high in enumerate(levels) if low < 0.5 and math.isclose(low + high, 1.0)]
        for j in pairs:
            name = f"{100.0 * (levels[j] - low):g}"
            within = (quantiles[:, k] <= actual) & (actual <= quantiles[:, j])
            metrics[f"coverage_{name}"] = float(within.mean())
            metrics[f"width_{name}"] = float((quantiles[:, j] - quantiles[:, k]).mean())
    return metrics


def label_metrics(actual: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics of several labels of each row, bool [N, L], as scikit-learn defines them for multi-label targets.

    Returns:
        ``f1_micro`` over all labels of all rows, ``f1_macro``, the mean of each label's F1 (0 of a label that is
        neither there nor predicted), ``exact_match``, the share of the rows with all labels right, and
        ``hamming_loss``, the share of wrong labels.
    """
    from sklearn import metrics as sk

    f1 = {f"f1_{average}": sk.f1_score(actual, predicted, average=average, zero_division=0) for average in F1_AVERAGES}
    exact, hamming = sk.accuracy_score(actual, predicted), sk.hamming_loss(actual, predicted)
    return {name: float(value) for name, value in {**f1, "exact_match": exact, "hamming_loss": hamming}.items()}


def _pair(
    actual: NDArray[np.floating], predicted: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in double precision, once all values are found to be finite."""
    if actual.shape != predicted.shape or actual.size == 0:
        raise ValueError(f"need two arrays of one shape with rows, got {actual.shape} and {predicted.shape}")
    for name, values in (("actual value", actual), ("prediction", predicted)):
        if not (finite := np.isfinite(values)).all():
            row = int(finite.argmin())
            raise DataError(f"the {name} of evaluated row {row + 1} is {values[row]}, which cannot be measured")
    return actual.astype(np.float64), predicted.astype(np.float64)


def classification_metrics(
    actual: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    n_bins: int = 15,
    positive: str | None = None,
    repeats: int = 1,
    predicted: NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """All metrics of a classifier as plain JSON values.

    Args:
        actual: int [N], index of each row's class in ``classes``.
        probabilities: float [N, C], each row summing to 1.
        classes: names of the C classes, in the order of the columns.
        n_bins: bins of the calibration table.
        positive: of two classes the positive one; the last unless given.
        repeats: how often each row stands there, as in repeated cross-validation: the interval counts it once.
        predicted: int [N], the class that each row is taken for; the most probable, the first of equals, unless given.

    Returns:
        ``rows``, ``accuracy`` with its 95 % interval ``accuracy_low``, ``accuracy_high`` (Wilson 1927), ``f1_macro``
        over the classes that occur, ``log_loss`` in nats; for two classes ``positive``, its ``f1`` and, where both of
        them occur, ``roc_auc`` and ``average_precision``; ``calibration_error``; and the tables ``confusion``
        ({classes, counts: rows actual, columns predicted}), ``by_class`` (``rows``, ``precision``, ``recall``, ``f1``;
        None where one divides by zero) and ``calibration``, a list of rows each.

    Raises:
        DataError: see :func:`check_probabilities`.
    """
    from scipy.stats import binomtest
    from sklearn import metrics as sk

    checked = check_probabilities(actual, probabilities, classes)
    predicted, rows = checked.argmax(axis=1) if predicted is None else predicted, len(actual)
    by_class = sk.precision_recall_fscore_support(actual, predicted, labels=range(len(classes)), zero_division=np.nan)
    f1 = by_class[2]
    correct = int((predicted == actual).sum())
    interval = binomtest(round(correct / repeats), rows // repeats).proportion_ci(0.95, "wilson")
    metrics: dict[str, Any] = {
        "rows": rows,
        "accuracy": correct / rows,
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "f1_macro": float(np.nanmean(f1)),
        "log_loss": log_loss(actual, checked),
    }
    if len(classes) == 2:
        column = list(classes).index(positive) if positive is not None else 1
        metrics["positive"] = classes[column]
        if not np.isnan(f1[column]):
            metrics["f1"] = float(f1[column])
        if 0 < np.count_nonzero(actual == column) < rows:
            metrics["roc_auc"] = float(sk.roc_auc_score(actual == column, checked[:, column]))
            metrics["average_precision"] = float(sk.average_precision_score(actual == column, checked[:, column]))
    bins = calibration_bins(actual, checked, n_bins)
    metrics["calibration_error"] = expected_calibration_error(bins)
    counts = confusion_matrix(actual, predicted, len(classes))
    metrics["confusion"] = {"classes": list(classes), "counts": counts.tolist()}
    columns = ("precision", "recall", "f1")
    metrics["by_class"] = [
        {"class": name, "rows": int(support)}
        | {key: None if np.isnan(value) else float(value) for key, value in zip(columns, values, strict=True)}
        for name, *values, support in zip(classes, *by_class, strict=True)
    ]
    return {**metrics, "calibration": bins}


def check_probabilities(
    actual: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> NDArray[np.float64]:
    """``probabilities`` in double precision, once every row of them is found to be a distribution over ``classes``.

    Raises:
        DataError: there is no row or fewer than two classes, the shapes do not match; or the first row (from 0) with a
            probability that is missing, infinite or negative, a sum other than 1, or an actual class that does not
            exist.
    """
    if len(classes) < 2:
        raise DataError(f"a classifier needs two classes at least, got {list(classes)}")
    expected = (len(actual), len(classes))
    if actual.ndim != 1 or probabilities.shape != expected or not len(actual):
        raise DataError(f"need probabilities of shape {expected} with rows, got shape {probabilities.shape}")
    checked: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    faults = (
        (~np.isfinite(checked).all(axis=1), "has a probability that is not a number"),
        ((checked < 0).any(axis=1), "has a negative probability"),
        (np.abs(checked.sum(axis=1) - 1) > TOLERANCE, "has probabilities that do not sum to 1"),
        ((actual < 0) | (actual >= len(classes)), f"has a class outside of 0 … {len(classes) - 1}"),
    )
    for faulty, what in faults:
        if faulty.any():
            row = int(faulty.argmax())
            raise DataError(f"row {row} {what}: class {actual[row]}, probabilities {checked[row].tolist()}")
    return checked


def confusion_matrix(actual: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Counts of pairs of classes, int64 [C, C]: rows are the actual classes, columns the predicted ones."""
    from sklearn import metrics as sk

    return np.asarray(sk.confusion_matrix(actual, predicted, labels=range(n_classes)), dtype=np.int64)


def log_loss(actual: NDArray[np.integer], probabilities: NDArray[np.float64]) -> float:
    """Mean of ``-log p`` of the actual class, in nats; a probability of 0 counts as 2.2e-16, as in scikit-learn.

    scikit-learn's own warns of single precision, and refuses a probability that a rounding put above 1.
    """
    return float(row_log_losses(actual, probabilities).mean())


def row_log_losses(actual: NDArray[np.integer], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-log p`` of each row's actual class, float64 [N]."""
    given = probabilities[np.arange(len(actual)), actual]
    return np.asarray(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)))


def calibration_bins(
    actual: NDArray[np.integer], probabilities: NDArray[np.floating], n_bins: int = 15
) -> list[dict[str, Any]]:
    """Confidence against accuracy in bins of equal width, (lower, upper]; bins without a row are left out.

    Each bin has ``lower``, ``upper``, ``count``, the mean ``confidence`` (probability of the predicted class) and the
    ``accuracy`` of its rows (Guo et al. 2017, arXiv:1706.04599). scikit-learn's ``calibration_curve`` is for two
    classes, and gives no counts.
    """
    if n_bins < 1:
        raise ValueError(f"need one bin at least, got {n_bins}")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == actual
    # A sum of probabilities may exceed 1 by a rounding, and so may the greatest of them.
    numbers = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    sums = [np.bincount(numbers, weights, n_bins) for weights in (None, confidence, correct)]
    return [
        {
            "lower": float(edges[k]),
            "upper": float(edges[k + 1]),
            "count": int(count),
            "confidence": float(confidences / count),
            "accuracy": float(hits / count),
        }
        for k, (count, confidences, hits) in enumerate(zip(*sums, strict=True))
        if count
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """ECE: mean of ``|accuracy - confidence|`` over the bins of :func:`calibration_bins`, weighted by their counts."""
    errors = [abs(one["accuracy"] - one["confidence"]) for one in bins]
    return float(np.average(errors, weights=[one["count"] for one in bins]))


def paired_difference(
    ours: NDArray[Any], theirs: NDArray[Any], *, root: bool = False, higher_is_better: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Difference of the means of two models over the same rows, with its 95 % interval by the paired bootstrap.

    Rows are drawn anew with both of their values (Efron & Tibshirani 1993), :data:`BOOTSTRAPS` times; of many rows,
    random groups of them, which gives the same interval in bounded time.

    Args:
        ours, theirs: [N], the loss of each row, or whether it was correct.
        root: compare the roots of the means: for squared errors.

    Returns:
        ``difference`` (ours less theirs), ``low``, ``high``, and the ``verdict``: ``better`` or ``worse`` where the
        interval leaves 0 out, else ``no difference``.
    """
    losses = np.stack([np.asarray(ours, np.float64), np.asarray(theirs, np.float64)])  # (2, N)
    random = np.random.default_rng(seed)
    n_groups = min(losses.shape[1], BOOTSTRAP_GROUPS)
    group = random.permutation(losses.shape[1]) % n_groups
    sums = np.stack([np.bincount(group, row, n_groups) for row in losses])  # (2, G)
    sizes = np.bincount(group, minlength=n_groups)
    drawn = random.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=BOOTSTRAPS)  # (R, G)
    means = sums @ drawn.T / (drawn @ sizes)  # (2, R)
    whole = losses.mean(axis=1)
    if root:
        means, whole = np.sqrt(means), np.sqrt(whole)
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    higher, lower = ("better", "worse") if higher_is_better else ("worse", "better")
    verdict = lower if high < 0 else higher if low > 0 else "no difference"
    return {"difference": float(whole[0] - whole[1]), "low": float(low), "high": float(high), "verdict": verdict}


def precision_difference(
    actual: NDArray[np.bool_],
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    row: NDArray[np.integer],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Difference of the average precisions of two models, as :func:`paired_difference` gives that of means.

    Args:
        actual: bool [N], the rows of the positive class.
        ours, theirs: [N], its probability.
        row: int [N], number of the row, where rows stand there several times: they are drawn together.
    """
    random, n_rows = np.random.default_rng(seed), int(row.max()) + 1
    scores = [_precision_of_draws(actual, each) for each in (ours, theirs)]
    whole = [score(np.ones(len(row))) for score in scores]
    found = []
    for _ in range(RANKING_BOOTSTRAPS):
        counts = np.bincount(random.integers(0, n_rows, n_rows), minlength=n_rows)[row].astype(np.float64)
        if counts[actual].any():
            found.append(scores[0](counts) - scores[1](counts))
    low, high = np.quantile(found, [0.025, 0.975])
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference"
    return {"difference": whole[0] - whole[1], "low": float(low), "high": float(high), "verdict": verdict}


def _precision_of_draws(
    actual: NDArray[np.bool_], probability: NDArray[np.floating]
) -> Callable[[NDArray[np.float64]], float]:
    """Function of how often each row is drawn, float64 [N]: the average precision; the rows are sorted once."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # of rows that are equally probable

    def score(counts: NDArray[np.float64]) -> float:
        drawn = counts[order]
        hits, above = np.cumsum(drawn * actual[order])[ends], np.cumsum(drawn)[ends]
        precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])

    return score


def require_finite(values: Mapping[str, Any] | Sequence[Any], what: str) -> None:
    """Raise a DataError that names the first of the nested ``values`` of ``what`` that is not finite."""
    for path, value in _numbers(values):
        if not math.isfinite(value):
            raise DataError(
                f"{what}: {path} is {value}, which is no metric: the model has diverged, or the rows that it was "
                "measured on have a value that is not finite"
            )


def _numbers(values: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Floats in nested mappings and lists, each with its path."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _numbers(value, f"{path}.{name}" if path else str(name))
    elif isinstance(values, list | tuple):
        for position, value in enumerate(values):
            yield from _numbers(value, f"{path}[{position}]")
    elif isinstance(values, float):
        yield path, values


@functools.cache
def _listeners() -> list[Listener]:
    """The list of this process; a cache, as what a module holds counts as code of the nodes that use it."""
    return []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener(metrics, step)`` for every report made inside the ``with`` block."""
    _listeners().append(listener)
    try:
        yield
    finally:
        _listeners().remove(listener)


@contextmanager
def unreported() -> Iterator[None]:
    """Keep the reports made inside the ``with`` block from all listeners that are there now."""
    listeners = _listeners().copy()
    _listeners().clear()
    try:
        yield
    finally:
        _listeners()[:0] = listeners


def report(metrics: dict[str, float], step: int) -> None:
    """Send ``metrics``, measured after ``step`` optimiser steps, to all listeners."""
    for listener in _listeners():
        listener(metrics, step)
