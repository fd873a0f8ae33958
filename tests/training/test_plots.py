"""Plots of classifiers hold the counts and shares of their predictions; principal components keep distances."""

import numpy as np
import pytest

from embedline.training import plots

CLASSES = ["neg", "pos"]
ACTUAL = np.array([0, 0, 0, 1])
OURS = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
THEIRS = np.array([[0.6, 0.4]] * 4)


def test_confusion_is_shaded_by_row_and_bears_counts() -> None:
    figure = plots.plot_confusion(ACTUAL, OURS.argmax(axis=1), CLASSES, "Confusion")
    (heat,) = figure.data
    assert figure.layout.title.text == "Confusion"
    assert (list(heat.x), list(heat.y)) == (CLASSES, CLASSES)
    np.testing.assert_allclose(np.array(heat.z), [[2 / 3, 1 / 3], [0.0, 1.0]])
    assert [list(row) for row in heat.text] == [["2<br>66.7%", "1<br>33.3%"], ["0<br>0.0%", "1<br>100.0%"]]
    assert figure.layout.yaxis.autorange == "reversed"  # read downwards, in the order of the matrix
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("predicted", "actual")
    assert figure.layout.height == plots.confusion_height(CLASSES) == 240 + 2 * 64


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
    figure = plots.plot_calibration({"ours": (ACTUAL, OURS), "theirs": (ACTUAL, THEIRS)}, "Calibration", n_bins=5)
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
