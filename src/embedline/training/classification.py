"""Figures of merit for classification, from the actual classes and the probabilities given to each class.

Rows are numbered from 0 in messages. ``actual`` is always int [N], the number of each row's class, and
``probabilities`` is float [N, C]; the predicted class is the most probable one, the first of them where several are
equally so.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedline.errors import DataError

TOLERANCE = 1e-4  # how far a row's probabilities may be from 1 in sum: single precision is exact to about 1e-6
NORMAL_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def classification_metrics(
    actual: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    n_bins: int = 15,
    positive: str | None = None,
) -> dict[str, Any]:
    """All figures of a classifier as plain JSON values.

    Args:
        actual: int [N], index of each row's class in ``classes``.
        probabilities: float [N, C], each row summing to 1.
        classes: names of the C classes, in the order of the columns.
        n_bins: bins of the calibration table.
        positive: of two classes the positive one; the last unless given.

    Returns:
        ``rows``, ``accuracy`` with its 95 % interval (``accuracy_low``, ``accuracy_high``; Wilson 1927), ``f1_macro``
        over the classes that occur among the actual or predicted ones, ``log_loss`` in nats, for two classes
        ``positive``, its ``f1`` and, where both of them occur, ``roc_auc`` and ``average_precision``, the area under
        the curve of precision over recall: where the class is rare, it tells models apart whose ROC-AUC is alike;
        ``calibration_error``; and the tables
        ``confusion`` ({classes, counts: rows actual, columns predicted}), ``by_class`` and ``calibration``, a list of
        rows each.

    Raises:
        DataError: if a row has probabilities that are not ones, or a class that there is not; see
            :func:`check_probabilities`.
    """
    checked = check_probabilities(actual, probabilities, classes)
    predicted = checked.argmax(axis=1)
    counts = confusion_matrix(actual, predicted, len(classes))
    by_class = class_figures(counts, classes)
    correct, rows = int(np.trace(counts)), len(actual)
    low, high = wilson_interval(correct, rows)
    figures: dict[str, Any] = {
        "rows": rows,
        "accuracy": correct / rows,
        "accuracy_low": low,
        "accuracy_high": high,
        "f1_macro": float(np.mean([one["f1"] for one in by_class if one["f1"] is not None])),
        "log_loss": log_loss(actual, checked),
    }
    if len(classes) == 2:
        from sklearn.metrics import average_precision_score  # here: it takes a second, and a service has no use for it

        side = list(classes).index(positive) if positive is not None else 1
        figures["positive"] = classes[side]
        if by_class[side]["f1"] is not None:
            figures["f1"] = by_class[side]["f1"]
        if 0 < np.count_nonzero(actual == side) < rows:
            figures["roc_auc"] = roc_auc(actual == side, checked[:, side])
            figures["average_precision"] = float(average_precision_score(actual == side, checked[:, side]))
    bins = calibration_bins(actual, checked, n_bins)
    figures["calibration_error"] = expected_calibration_error(bins)
    figures["confusion"] = {"classes": list(classes), "counts": counts.tolist()}
    figures["by_class"] = by_class
    figures["calibration"] = bins
    return figures


def check_probabilities(
    actual: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> NDArray[np.float64]:
    """``probabilities`` in double precision, once every row of them is found to be a distribution over ``classes``.

    Raises:
        DataError: if there is no row or fewer than two classes, the shapes do not match, or, naming the first such
            row, a probability is missing, infinite or negative, a row does not sum to 1 or its actual class is none.
    """
    if len(classes) < 2:
        raise DataError(f"a classifier needs two classes at least, got {list(classes)}")
    expected = (len(actual), len(classes))
    if actual.ndim != 1 or probabilities.shape != expected or not len(actual):
        raise DataError(f"need probabilities of shape {expected} with rows, got shape {probabilities.shape}")
    checked: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    sums = checked.sum(axis=1)
    faults = (
        (~np.isfinite(checked).all(axis=1), "has a probability that is not a number"),
        ((checked < 0).any(axis=1), "has a negative probability"),
        (np.abs(sums - 1) > TOLERANCE, "has probabilities that do not sum to 1"),
        ((actual < 0) | (actual >= len(classes)), f"has a class outside of 0 … {len(classes) - 1}"),
    )
    for faulty, what in faults:
        if faulty.any():
            row = int(faulty.argmax())
            raise DataError(f"row {row} {what}: class {actual[row]}, probabilities {checked[row].tolist()}")
    return checked


def confusion_matrix(actual: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Counts, int64 [C, C]: rows are the actual classes, columns the predicted ones."""
    pairs = actual.astype(np.int64) * n_classes + predicted
    return np.bincount(pairs, minlength=n_classes**2).astype(np.int64).reshape(n_classes, n_classes)


def class_figures(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each class its actual ``rows``, ``precision``, ``recall`` and ``f1``; None where one divides by zero.

    F1 is ``2 TP / (2 TP + FP + FN)``: 0 for a class that is never predicted where it should be, undefined only for a
    class that occurs neither among the actual nor among the predicted ones.
    """
    right, rows, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "class": name,
            "rows": int(rows[k]),
            "precision": _ratio(right[k], predicted[k]),
            "recall": _ratio(right[k], rows[k]),
            "f1": _ratio(2 * right[k], rows[k] + predicted[k]),
        }
        for k, name in enumerate(classes)
    ]


def log_loss(actual: NDArray[np.integer], probabilities: NDArray[np.float64]) -> float:
    """Mean of ``-log p`` of the actual class, in nats; a probability of 0 counts as 2.2e-16, as in scikit-learn."""
    given = probabilities[np.arange(len(actual)), actual]
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())


def roc_auc(positive: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
    """Area under the ROC curve: how probably a positive row scores above a negative one, ties counting one half.

    This is the Mann-Whitney statistic, from the ranks of the scores (tied scores share their mean rank).

    Raises:
        ValueError: if all rows are of one class, where it is undefined.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise ValueError("the ROC curve is undefined where only one of the two classes occurs")
    _, place, tied = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(tied) - (tied - 1) / 2  # ranks from 1
    rank_sum = mean_rank[place][positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def wilson_interval(successes: int, n: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Score interval of a share, 95 % by default (Wilson 1927): sound near 0 and 1, where the normal one is not."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    share, shrink = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def calibration_bins(
    actual: NDArray[np.integer], probabilities: NDArray[np.floating], n_bins: int = 15
) -> list[dict[str, Any]]:
    """Confidence against accuracy in bins of equal width, (lower, upper]; bins without a row are left out.

    Each bin has ``lower``, ``upper``, ``count``, the mean ``confidence`` (probability of the predicted class) and the
    ``accuracy`` of its rows. Guo et al. 2017, "On Calibration of Modern Neural Networks", take 15 bins.
    """
    if n_bins < 1:
        raise ValueError(f"need one bin at least, got {n_bins}")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == actual
    # A sum of probabilities may exceed 1 by a rounding, and so may the greatest of them.
    numbers = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    counts = np.bincount(numbers, minlength=n_bins)
    confidences = np.bincount(numbers, weights=confidence, minlength=n_bins)
    hits = np.bincount(numbers, weights=correct, minlength=n_bins)
    return [
        {
            "lower": float(edges[k]),
            "upper": float(edges[k + 1]),
            "count": int(counts[k]),
            "confidence": float(confidences[k] / counts[k]),
            "accuracy": float(hits[k] / counts[k]),
        }
        for k in np.flatnonzero(counts)
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """ECE: mean of ``|accuracy - confidence|`` over the bins of :func:`calibration_bins`, weighted by their counts."""
    total = sum(one["count"] for one in bins)
    return float(sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / total)


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
