"""Metrics of classifiers against numbers worked out by hand and against other formulas, and the plots of them."""

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as reference

from embedline.errors import DataError
from embedline.training import plots
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
    assert (metrics["rows"], metrics["accuracy"]) == (4, 0.5)
    # neg: 1 right of 2, 2 predicted, so 2/(2+1+1); pos: 1 right of 2, 2 predicted.
    assert metrics["f1"] == metrics["f1_macro"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.3, 0.5, 0.8))) / 4)
    # Of the pairs (positive, negative): 0.5 beats 0.1 and not 0.7, 0.8 beats both.
    assert metrics["roc_auc"] == 0.75
    assert metrics["confusion"] == {"classes": CLASSES, "counts": [[1, 1], [1, 1]]}
    # Bin (0, 0.5] holds the tie, wrong; bin (0.5, 1] has confidences 0.9, 0.7, 0.8 and 2 of 3 right.
    bins = [[row[name] for row in metrics["calibration"]] for name in ("count", "confidence", "accuracy")]
    assert bins == [[1, 3], pytest.approx([0.5, 0.8]), pytest.approx([0.0, 2 / 3])]
    assert metrics["calibration_error"] == pytest.approx(0.25 * 0.5 + 0.75 * (0.8 - 2 / 3))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics  # plain JSON


def _auc(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Share of the pairs of a positive and a negative row in which the positive one is higher; ties count one half."""
    more = score[positive][:, None] - score[~positive][None, :]
    return float(np.mean((more > 0) + 0.5 * (more == 0)))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _reference(actual: NDArray[np.int64], probabilities: NDArray[np.float64], classes: list[str]) -> dict[str, Any]:
    """Every metric by its formula, slowly; the limits of the accuracy by SciPy."""
    n, rows = len(classes), len(actual)
    predicted = probabilities.argmax(axis=1)
    counts = np.array([[((actual == i) & (predicted == j)).sum() for j in range(n)] for i in range(n)])
    right, had, given = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = [_ratio(2 * right[k], had[k] + given[k]) for k in range(n)]
    limits = stats.binomtest(int(right.sum()), rows).proportion_ci(method="wilson")
    clipped = [max(probabilities[row, actual[row]], np.finfo(float).eps) for row in range(rows)]
    found: dict[str, Any] = {
        **{"rows": rows, "accuracy": right.sum() / rows, "accuracy_low": limits.low, "accuracy_high": limits.high},
        "f1_macro": np.mean([one for one in f1 if one is not None]),
        "log_loss": -sum(map(math.log, clipped)) / rows,
        "confusion": counts.tolist(),
        "by_class": [[had[k], _ratio(right[k], given[k]), _ratio(right[k], had[k]), f1[k]] for k in range(n)],
    }
    if n == 2 and 0 < (positive := actual == 1).sum() < rows:
        score = probabilities[:, 1]
        found["roc_auc"] = _auc(positive, score)
        found["average_precision"] = np.mean([positive[score >= one].mean() for one in score[positive]])
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


@pytest.mark.parametrize("only", [0, 1])
def test_what_one_class_leaves_undefined_is_left_out(only: int) -> None:
    metrics = classification_metrics(np.array([only, only]), PROBABILITIES[2:], CLASSES)
    assert not {"roc_auc", "average_precision"} & metrics.keys()
    assert metrics["f1"] == pytest.approx([0.0, 2 / 3][only])
    never = classification_metrics(np.array([0, 0]), np.array([[0.9, 0.1]] * 2), CLASSES)  # nor is it predicted
    assert never["positive"] == "pos" and not {"f1", "roc_auc"} & never.keys()


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


def test_confusion_has_actual_classes_in_rows_and_a_probability_of_zero_a_finite_loss() -> None:
    counts = confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert counts.dtype == np.int64
    metrics = classification_metrics(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]), CLASSES)
    assert metrics["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)
    single = np.array([[1 / 3, 1 / 3, 1 / 3 + 3e-6]], dtype=np.float32)  # sums near enough to one
    checked = check_probabilities(np.array([0]), single, ["a", "b", "c"])
    assert checked.dtype == np.float64
    assert checked.tolist() == single.astype(np.float64).tolist()


@pytest.mark.parametrize(
    ("row", "probabilities", "actual", "named"),
    [
        (2, [np.nan, 0.5], 1, "not a number"),
        (1, [0.3, np.inf], 0, "not a number"),
        (3, [0.25, 0.8], 1, "sum to 1"),
        (1, [-0.25, 1.25], 0, "negative"),
        (2, [0.5, 0.5], 2, "0 … 1"),
        (0, [0.9, 0.1], -1, "0 … 1"),
    ],
)
def test_bad_rows_are_named(row: int, probabilities: list[float], actual: int, named: str) -> None:
    all_actual, all_probabilities = ACTUAL.copy(), PROBABILITIES.copy()
    all_actual[row], all_probabilities[row] = actual, probabilities
    with pytest.raises(DataError, match=f"row {row} .*{named}"):
        classification_metrics(all_actual, all_probabilities, CLASSES)


@pytest.mark.parametrize(
    ("n_actual", "n_rows", "classes", "named"),
    [(4, 4, ["a", "b"], ["(4, 2)", "(4, 1)"]), (3, 4, CLASSES, ["(3, 2)", "(4, 2)"]), (0, 0, CLASSES, ["(0, 2)"])],
)
def test_shapes_must_match(n_actual: int, n_rows: int, classes: list[str], named: list[str]) -> None:
    columns = 2 if classes is CLASSES else 1
    with pytest.raises(DataError) as caught:
        classification_metrics(ACTUAL[:n_actual], PROBABILITIES[:n_rows, :columns], classes)
    assert [shape for shape in named if shape not in str(caught.value)] == []
    with pytest.raises(DataError, match=r"two classes.*\['all'\]"):
        classification_metrics(ACTUAL, PROBABILITIES[:, :1], ["all"])


def test_calibration_bins_are_open_below_and_leave_out_empty_ones() -> None:
    # Five bins: 0.6 belongs to (0.4, 0.6], 1.0 to the last one, nothing to the first two nor to (0.6, 0.8].
    probabilities = np.array([[0.6, 0.4], [0.0, 1.0], [0.9, 0.1], [0.5, 0.5]])
    bins = calibration_bins(np.array([1, 1, 0, 0]), probabilities, 5)
    found = [[round(row[name], 9) for name in ("lower", "upper", "count", "confidence", "accuracy")] for row in bins]
    assert found == [[0.4, 0.6, 2, 0.55, 0.5], [0.8, 1.0, 2, 0.95, 1.0]]
    assert expected_calibration_error(bins) == pytest.approx(0.05)
    above = calibration_bins(np.array([0]), np.array([[1 + 1e-9, 0.0]]), 15)  # falls into the last bin
    assert [(row["upper"], row["count"]) for row in above] == [(1.0, 1)]


# Newcombe 1998, table I, method 3 (score interval): the published limits.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    right = np.array([[0.9, 0.1]] * n)
    for correct, limits in ((successes, (low, high)), (n - successes, (1 - high, 1 - low))):
        metrics = classification_metrics((np.arange(n) >= correct).astype(np.int64), right, CLASSES)
        assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx(limits, abs=5e-5)


NAMES = ["neg", "pos"]
TRUE = np.array([0, 0, 0, 1])
OURS = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
THEIRS = np.array([[0.6, 0.4]] * 4)


def test_confusion_is_shaded_by_row_and_bears_counts() -> None:
    figure = plots.plot_confusion(TRUE, OURS.argmax(axis=1), NAMES, "Confusion")
    (heat,) = figure.data
    assert figure.layout.title.text == "Confusion"
    assert (list(heat.x), list(heat.y)) == (NAMES, NAMES)
    np.testing.assert_allclose(np.array(heat.z), [[2 / 3, 1 / 3], [0.0, 1.0]])
    assert [list(row) for row in heat.text] == [["2<br>66.7%", "1<br>33.3%"], ["0<br>0.0%", "1<br>100.0%"]]
    assert figure.layout.yaxis.autorange == "reversed"  # read downwards, in the order of the matrix
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("predicted", "actual")
    assert figure.layout.height == plots.confusion_height(NAMES) == 240 + 2 * 64


@pytest.mark.parametrize(("n_classes", "numbers"), [(12, "%{text}"), (13, None)])
def test_numbers_are_drawn_while_a_cell_has_room_and_long_names_are_slanted(n_classes, numbers) -> None:
    names = [f"c{k}" for k in range(n_classes)]
    (heat,) = plots.plot_confusion(np.arange(n_classes), np.arange(n_classes), names, "Confusion").data
    assert heat.texttemplate == numbers
    np.testing.assert_allclose(np.array(heat.z), np.eye(n_classes))
    assert plots.confusion_height(names) == plots.confusion_height(names[:12])
    figure = plots.plot_confusion(np.arange(3), np.arange(3), ["short", "a name of some length", "mid"], "Confusion")
    assert figure.layout.xaxis.tickangle == -30


def test_calibration_shows_every_model_in_its_colour() -> None:
    figure = plots.plot_calibration({"ours": (TRUE, OURS), "theirs": (TRUE, THEIRS)}, "Calibration", n_bins=5)
    perfect, ours, our_counts, theirs, their_counts = figure.data
    assert (list(perfect.x), list(perfect.y)) == ([0.5, 1.0], [0.5, 1.0])
    # Bins (0.4, 0.6]: 0.6, right; (0.6, 0.8]: 0.8 right and 0.7 wrong; (0.8, 1]: 0.9, right.
    np.testing.assert_allclose(ours.x, [0.6, 0.75, 0.9])
    assert list(ours.y) == [1.0, 0.5, 1.0]
    assert ours.name == "ours (ECE 0.250)"  # (0.4 + 2 x 0.25 + 0.1) / 4
    np.testing.assert_allclose(our_counts.x, [0.5, 0.7, 0.9])
    assert list(our_counts.y) == [1, 2, 1]
    assert theirs.name == "theirs (ECE 0.150)"
    assert list(their_counts.y) == [4]
    assert (ours.line.color, theirs.line.color) == tuple(plots.COLOURS[:2])
    assert figure.layout.yaxis2.title.text == "rows"


def _distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None, :], axis=-1)


def test_components_reproduce_the_distances_of_flat_data() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(9, 2)) * [3.0, 1.0]
    axes, _ = np.linalg.qr(random.normal(size=(6, 2)))
    lifted = flat @ axes.T + random.normal(size=6)
    points = plots.principal_components(lifted)
    assert points.shape == (9, 2)
    assert _distances(points) == pytest.approx(_distances(flat))
    assert points.mean(axis=0) == pytest.approx([0.0, 0.0])
    assert points[:, 0].var() > points[:, 1].var()
    assert (points[:, 0] * points[:, 1]).sum() == pytest.approx(0.0, abs=1e-9)


def test_the_sign_of_an_axis_is_that_of_its_largest_loading() -> None:
    steps = np.arange(5.0)[:, None]
    assert plots.principal_components(steps * [1.0, -3.0])[:, 0] == pytest.approx((2 - np.arange(5.0)) * 10**0.5)
    assert plots.principal_components(steps * [-1.0, 3.0])[:, 0] == pytest.approx((np.arange(5.0) - 2) * 10**0.5)
