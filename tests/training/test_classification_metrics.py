"""Metrics of classifiers against numbers worked out by hand, and against formulas that share nothing with them."""

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from embedline.errors import DataError
from embedline.training.metrics import (
    calibration_bins,
    check_probabilities,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
)

CLASSES = ["neg", "pos"]
EXACT = 1e-12
# Rows 0 and 3 are right, row 1 is wrong, row 2 is a tie: the first class wins it, wrongly.
ACTUAL = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5], [0.2, 0.8]])


def _random(n_classes: int, rows: int = 400) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(n_classes)
    actual = generator.integers(0, n_classes, rows)
    scores = generator.normal(size=(rows, n_classes)).round(1)  # rounded: there are ties
    scores[np.arange(rows), actual] += 1.0
    odds = np.exp(scores)
    return actual, odds / odds.sum(axis=1, keepdims=True)


def test_two_classes_by_hand() -> None:
    metrics = classification_metrics(ACTUAL, PROBABILITIES, CLASSES, n_bins=2)
    assert metrics["rows"] == 4
    assert metrics["accuracy"] == 0.5
    # neg: 1 right of 2, 2 predicted, so 2/(2+1+1); pos: 1 right of 2, 2 predicted.
    assert metrics["f1"] == 0.5
    assert metrics["f1_macro"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.3, 0.5, 0.8))) / 4)
    # Of the pairs (positive, negative): 0.5 beats 0.1 and not 0.7, 0.8 beats both.
    assert metrics["roc_auc"] == 0.75
    assert metrics["confusion"] == {"classes": CLASSES, "counts": [[1, 1], [1, 1]]}
    # Bin (0, 0.5] holds the tie, wrong; bin (0.5, 1] has confidences 0.9, 0.7, 0.8 and 2 of 3 right.
    assert [row["count"] for row in metrics["calibration"]] == [1, 3]
    assert [row["confidence"] for row in metrics["calibration"]] == pytest.approx([0.5, 0.8])
    assert [row["accuracy"] for row in metrics["calibration"]] == pytest.approx([0.0, 2 / 3])
    assert metrics["calibration_error"] == pytest.approx(0.25 * 0.5 + 0.75 * (0.8 - 2 / 3))


def test_figures_are_plain_json() -> None:
    metrics = classification_metrics(ACTUAL, PROBABILITIES, CLASSES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def _wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    share, shrink = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def _mann_whitney(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """ROC-AUC from the ranks of the scores; tied ones share their mean rank."""
    n_positive = int(positive.sum())
    _, place, tied = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(tied) - (tied - 1) / 2
    rank_sum = mean_rank[place][positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (len(positive) - n_positive)))


def _average_precision(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Mean over the positive rows of the precision where all rows of at least their score are taken."""
    return float(np.mean([positive[score >= one].mean() for one in score[positive]]))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _reference(actual: NDArray[np.int64], probabilities: NDArray[np.float64], classes: list[str]) -> dict[str, Any]:
    """Every metric by its formula, slowly."""
    n, rows = len(classes), len(actual)
    predicted = probabilities.argmax(axis=1)
    counts = [[int(((actual == i) & (predicted == j)).sum()) for j in range(n)] for i in range(n)]
    right = [counts[k][k] for k in range(n)]
    had = [sum(counts[k]) for k in range(n)]
    given = [sum(counts[i][k] for i in range(n)) for k in range(n)]
    f1 = [_ratio(2 * right[k], had[k] + given[k]) for k in range(n)]
    low, high = _wilson(sum(right), rows)
    clipped = [max(probabilities[row, actual[row]], np.finfo(float).eps) for row in range(rows)]
    found: dict[str, Any] = {
        "rows": rows,
        "accuracy": sum(right) / rows,
        "accuracy_low": low,
        "accuracy_high": high,
        "f1_macro": np.mean([one for one in f1 if one is not None]),
        "log_loss": -sum(map(math.log, clipped)) / rows,
        "confusion": counts,
        "by_class": [[had[k], _ratio(right[k], given[k]), _ratio(right[k], had[k]), f1[k]] for k in range(n)],
    }
    if n == 2 and 0 < (positive := actual == 1).sum() < rows:
        found["roc_auc"] = _mann_whitney(positive, probabilities[:, 1])
        found["average_precision"] = _average_precision(positive, probabilities[:, 1])
    return found


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize(("n_classes", "rows"), [(2, 400), (2, 3), (2, 1), (3, 400), (7, 400), (7, 5)])
def test_metrics_are_those_of_their_formulas(n_classes: int, rows: int, precision: type) -> None:
    actual, probabilities = _random(n_classes, rows)
    probabilities = probabilities.astype(precision)
    classes = [f"class {k}" for k in range(n_classes)]
    expected = _reference(actual, probabilities.astype(np.float64), classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = classification_metrics(actual, probabilities, classes)
    assert metrics["confusion"] == {"classes": classes, "counts": expected.pop("confusion")}
    for row, name, expected_row in zip(metrics["by_class"], classes, expected.pop("by_class"), strict=True):
        assert row.pop("class") == name
        assert list(row) == ["rows", "precision", "recall", "f1"]
        assert [value is None for value in row.values()] == [value is None for value in expected_row]
        found = [0.0 if value is None else value for value in row.values()]
        assert found == pytest.approx([value or 0.0 for value in expected_row], rel=EXACT, abs=EXACT)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=EXACT, abs=EXACT)
    assert ("f1" in metrics) == ("positive" in metrics) == (n_classes == 2)
    for name in ("roc_auc", "average_precision"):
        assert (name in metrics) == (name in expected)


def test_roc_auc_counts_ties_one_half() -> None:
    actual, score = np.array([1, 1, 0, 0, 0]), np.array([0.5, 0.9, 0.5, 0.1, 0.9])
    metrics = classification_metrics(actual, np.stack([1 - score, score], axis=1), CLASSES)
    # 0.5 ties with 0.5, beats 0.1, loses to 0.9; 0.9 beats two and ties with 0.9.
    assert metrics["roc_auc"] == pytest.approx((0.5 + 1 + 0 + 1 + 1 + 0.5) / 6)
    assert classification_metrics(actual, np.full((5, 2), 0.5), CLASSES)["roc_auc"] == 0.5


@pytest.mark.parametrize("only", [0, 1])
def test_roc_auc_of_one_class_is_undefined_and_left_out(only: int) -> None:
    metrics = classification_metrics(np.array([only, only]), PROBABILITIES[2:], CLASSES)
    assert not {"roc_auc", "average_precision"} & metrics.keys()
    assert metrics["f1"] == pytest.approx([0.0, 2 / 3][only])


def test_f1_of_a_class_that_never_occurs_is_left_out() -> None:
    metrics = classification_metrics(np.array([0, 0]), np.array([[0.9, 0.1]] * 2), CLASSES)
    assert metrics["positive"] == "pos" and not {"f1", "roc_auc"} & metrics.keys()


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    actual, classes = np.array([0, 0, 1, 1]), ["a", "b", "never", "only predicted"]
    probabilities = np.full((4, 4), 0.1)
    probabilities[np.arange(4), [0, 0, 1, 3]] = 0.7
    metrics = classification_metrics(actual, probabilities, classes)
    assert [row["f1"] for row in metrics["by_class"]] == pytest.approx([1.0, 2 / 3, None, 0.0])
    assert metrics["by_class"][2] == {"class": "never", "rows": 0, "precision": None, "recall": None, "f1": None}
    assert metrics["by_class"][3]["recall"] is None
    assert metrics["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics["f1_macro"] == pytest.approx(reference.f1_score(actual, [0, 0, 1, 3], average="macro"))


def test_confusion_has_actual_classes_in_rows() -> None:
    counts = confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert counts.dtype == np.int64


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    metrics = classification_metrics(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]), CLASSES)
    assert metrics["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, a: p.__setitem__((2, 0), np.nan), "row 2 has a probability that is not a number"),
        (lambda p, a: p.__setitem__((1, 1), np.inf), "row 1 has a probability that is not a number"),
        (lambda p, a: p.__setitem__((3, 0), 0.25), "row 3 has probabilities that do not sum to 1"),
        (lambda p, a: p.__setitem__(1, (-0.25, 1.25)), "row 1 has a negative probability"),
        (lambda p, a: a.__setitem__(2, 2), "row 2 has a class outside of 0 … 1"),
        (lambda p, a: a.__setitem__(0, -1), "row 0 has a class outside of 0 … 1"),
    ],
)
def test_bad_rows_are_named(spoil: Callable[[NDArray[np.float64], NDArray[np.int64]], None], message: str) -> None:
    actual, probabilities = ACTUAL.copy(), PROBABILITIES.copy()
    spoil(probabilities, actual)
    with pytest.raises(DataError, match=message):
        classification_metrics(actual, probabilities, CLASSES)


@pytest.mark.parametrize(
    ("actual", "probabilities", "classes", "message"),
    [
        (ACTUAL, PROBABILITIES[:, :1], CLASSES, r"shape \(4, 2\) with rows, got shape \(4, 1\)"),
        (ACTUAL[:3], PROBABILITIES, CLASSES, r"shape \(3, 2\) with rows, got shape \(4, 2\)"),
        (ACTUAL[:0], PROBABILITIES[:0], CLASSES, r"shape \(0, 2\) with rows"),
        (ACTUAL, PROBABILITIES[:, :1], ["all"], r"two classes at least, got \['all'\]"),
    ],
)
def test_shapes_must_match(
    actual: NDArray[np.int64], probabilities: NDArray[np.float64], classes: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classification_metrics(actual, probabilities, classes)


def test_single_precision_sums_near_enough_to_one() -> None:
    single = np.array([[1 / 3, 1 / 3, 1 / 3 + 3e-6]], dtype=np.float32)
    checked = check_probabilities(np.array([0]), single, ["a", "b", "c"])
    assert checked.dtype == np.float64
    assert checked.tolist() == single.astype(np.float64).tolist()


def test_calibration_bins_are_open_below_and_leave_out_empty_ones() -> None:
    # Five bins: 0.6 belongs to (0.4, 0.6], 1.0 to the last one, nothing to the first two nor to (0.6, 0.8].
    probabilities = np.array([[0.6, 0.4], [0.0, 1.0], [0.9, 0.1], [0.5, 0.5]])
    bins = calibration_bins(np.array([1, 1, 0, 0]), probabilities, 5)
    assert [(round(row["lower"], 9), round(row["upper"], 9), row["count"]) for row in bins] == [
        (0.4, 0.6, 2),
        (0.8, 1.0, 2),
    ]
    assert [row["confidence"] for row in bins] == pytest.approx([0.55, 0.95])
    assert [row["accuracy"] for row in bins] == [0.5, 1.0]
    assert expected_calibration_error(bins) == pytest.approx(0.05)


def test_a_probability_just_above_one_falls_into_the_last_bin() -> None:
    bins = calibration_bins(np.array([0]), np.array([[1 + 1e-9, 0.0]]), 15)
    assert [(row["upper"], row["count"]) for row in bins] == [(1.0, 1)]


def test_expected_calibration_error_of_honest_confidences_is_small() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 40_000)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    honest = (generator.uniform(size=40_000) > confidence).astype(np.int64)
    assert expected_calibration_error(calibration_bins(honest, probabilities)) < 0.012
    always_right = np.zeros(40_000, dtype=np.int64)
    # Too modest by 1 - mean confidence = 0.25 in the mean.
    assert expected_calibration_error(calibration_bins(always_right, probabilities)) == pytest.approx(0.25, abs=0.002)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (score interval): the published limits.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    right = np.array([[0.9, 0.1]] * n)
    for correct, limits in ((successes, (low, high)), (n - successes, (1 - high, 1 - low))):
        metrics = classification_metrics((np.arange(n) >= correct).astype(np.int64), right, CLASSES)
        assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx(limits, abs=5e-5)
