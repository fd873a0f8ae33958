"""Figures of classifiers against numbers worked out by hand and against scikit-learn."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from embedline.errors import DataError
from embedline.training.classification import (
    calibration_bins,
    check_probabilities,
    class_figures,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    roc_auc,
    wilson_interval,
)

CLASSES = ["neg", "pos"]
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
    figures = classification_metrics(ACTUAL, PROBABILITIES, CLASSES, n_bins=2)
    assert figures["rows"] == 4
    assert figures["accuracy"] == 0.5
    # neg: 1 right of 2, 2 predicted, so 2/(2+1+1); pos: 1 right of 2, 2 predicted.
    assert figures["f1"] == 0.5
    assert figures["f1_macro"] == 0.5
    assert figures["log_loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.3, 0.5, 0.8))) / 4)
    # Of the pairs (positive, negative): 0.5 beats 0.1 and not 0.7, 0.8 beats both.
    assert figures["roc_auc"] == 0.75
    assert figures["confusion"] == {"classes": CLASSES, "counts": [[1, 1], [1, 1]]}
    # Bin (0, 0.5] holds the tie, wrong; bin (0.5, 1] has confidences 0.9, 0.7, 0.8 and 2 of 3 right.
    assert [row["count"] for row in figures["calibration"]] == [1, 3]
    assert [row["confidence"] for row in figures["calibration"]] == pytest.approx([0.5, 0.8])
    assert [row["accuracy"] for row in figures["calibration"]] == pytest.approx([0.0, 2 / 3])
    assert figures["calibration_error"] == pytest.approx(0.25 * 0.5 + 0.75 * (0.8 - 2 / 3))


def test_figures_are_plain_json() -> None:
    figures = classification_metrics(ACTUAL, PROBABILITIES, CLASSES)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_figures_are_those_of_scikit_learn(n_classes: int) -> None:
    actual, probabilities = _random(n_classes)
    classes = [f"class {k}" for k in range(n_classes)]
    figures = classification_metrics(actual, probabilities, classes)
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(actual, predicted)
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(actual, predicted))
    assert figures["f1_macro"] == pytest.approx(reference.f1_score(actual, predicted, average="macro"))
    assert figures["log_loss"] == pytest.approx(reference.log_loss(actual, probabilities))
    assert figures["confusion"]["counts"] == reference.confusion_matrix(actual, predicted).tolist()
    for name, expected in {"precision": precision, "recall": recall, "f1": f1, "rows": support}.items():
        assert [row[name] for row in figures["by_class"]] == pytest.approx(expected.tolist()), name
    if n_classes == 2:
        assert figures["f1"] == pytest.approx(reference.f1_score(actual, predicted))
        assert figures["roc_auc"] == pytest.approx(reference.roc_auc_score(actual, probabilities[:, 1]))
    else:
        assert not {"f1", "roc_auc"} & figures.keys()


def test_roc_auc_counts_ties_one_half() -> None:
    positive, score = np.array([True, True, False, False, False]), np.array([0.5, 0.9, 0.5, 0.1, 0.9])
    # 0.5 ties with 0.5, beats 0.1, loses to 0.9; 0.9 beats two and ties with 0.9.
    assert roc_auc(positive, score) == pytest.approx((0.5 + 1 + 0 + 1 + 1 + 0.5) / 6)
    assert roc_auc(positive, score) == pytest.approx(reference.roc_auc_score(positive, score))
    assert roc_auc(positive, np.ones(5)) == 0.5


def test_roc_auc_of_one_class_is_undefined_and_left_out() -> None:
    with pytest.raises(ValueError, match="only one of the two classes"):
        roc_auc(np.array([True, True]), np.array([0.1, 0.2]))
    figures = classification_metrics(np.array([1, 1]), PROBABILITIES[2:], CLASSES)
    assert "roc_auc" not in figures
    assert figures["f1"] == pytest.approx(2 / 3)


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    actual, classes = np.array([0, 0, 1, 1]), ["a", "b", "never", "only predicted"]
    probabilities = np.full((4, 4), 0.1)
    probabilities[np.arange(4), [0, 0, 1, 3]] = 0.7
    figures = classification_metrics(actual, probabilities, classes)
    assert [row["f1"] for row in figures["by_class"]] == pytest.approx([1.0, 2 / 3, None, 0.0])
    assert figures["by_class"][2] == {"class": "never", "rows": 0, "precision": None, "recall": None, "f1": None}
    assert figures["by_class"][3]["recall"] is None
    assert figures["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert figures["f1_macro"] == pytest.approx(reference.f1_score(actual, [0, 0, 1, 3], average="macro"))


def test_confusion_has_actual_classes_in_rows() -> None:
    counts = confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert [row["rows"] for row in class_figures(counts, ["a", "b", "c"])] == [3, 0, 1]


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    figures = classification_metrics(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]), CLASSES)
    assert figures["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)


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
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_interval_stands_in_the_figures() -> None:
    figures = classification_metrics(ACTUAL, PROBABILITIES, CLASSES)
    assert (figures["accuracy_low"], figures["accuracy_high"]) == wilson_interval(2, 4)
    assert 0 <= figures["accuracy_low"] < 0.5 < figures["accuracy_high"] <= 1


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_interval_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_interval(successes, n)
