"""The traces of the plots hold the values of the frames that they are drawn from."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.text.evaluation import ReportOptions, prediction_arrays, prediction_frame
from embedline.pipelines.text.nodes import plot_calibration, plot_confusion
from embedline.pipelines.text.options import Classes
from embedline.pipelines.text.plots import plot_training
from embedline.training import plots

CLASSES = ["neg", "pos"]
BOTH = Classes(("neg", "pos"))
LABELS = pl.DataFrame({"document_id": ["a", "b", "c", "d"], "label": ["neg", "neg", "neg", "pos"]})
OURS = prediction_frame(LABELS, np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]), CLASSES)
THEIRS = prediction_frame(LABELS, np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]), CLASSES)
# Two stages, each of which counts its epochs from 0; the second one has one record only.
HISTORY = pl.DataFrame(
    {
        "stage": ["head", "head", "all"],
        "step": [1, 2, 3],
        "epoch": [0.5, 1.0, 1.0],
        "lr": [0.2, 0.1, 0.05],
        "train_loss": [0.7, 0.6, 0.5],
        "validation_loss": [None, 0.55, 0.45],
        "accuracy": [None, 0.8, 0.9],
    }
)


def _traces(figure: Any) -> dict[str, tuple[list[Any], list[Any]]]:
    return {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if trace.name}


def test_confusion_and_calibration_are_those_of_the_predictions() -> None:
    figure = plot_confusion(OURS, BOTH)
    actual, probabilities = prediction_arrays(OURS, CLASSES)
    assert figure.data == plots.plot_confusion(actual, probabilities.argmax(axis=1), CLASSES, "").data
    (heat,) = plot_confusion(OURS.with_columns(p_mixed=pl.lit(0.0)), Classes(("neg", "mixed", "pos"))).data
    np.testing.assert_allclose(np.array(heat.z), [[2 / 3, 0.0, 1 / 3], [0.0] * 3, [0.0, 0.0, 1.0]])  # no mixed one
    perfect, ours, our_counts, theirs, their_counts = plot_calibration(
        OURS, THEIRS, BOTH, ReportOptions(calibration_bins=5)
    ).data
    assert (list(perfect.x), list(perfect.y)) == ([0.5, 1.0], [0.5, 1.0])
    # Bins (0.4, 0.6]: 0.6, right; (0.6, 0.8]: 0.8 right and 0.7 wrong; (0.8, 1]: 0.9, right.
    np.testing.assert_allclose(ours.x, [0.6, 0.75, 0.9])
    assert (list(ours.y), list(our_counts.y)) == ([1.0, 0.5, 1.0], [1, 2, 1])
    assert (list(theirs.y), list(their_counts.y)) == ([0.75], [4])
    # (0.4 + 2 x 0.25 + 0.1) / 4
    assert (ours.name, theirs.name) == ("classifier (ECE 0.250)", "baseline (ECE 0.150)")


def test_stages_follow_one_another_and_are_named() -> None:
    figure = plot_training(HISTORY, "Training")
    assert figure.layout.title.text == "Training"
    assert _traces(figure) == {
        "training loss": ([0.5, 1.0, 2.0], [0.7, 0.6, 0.5]),
        "held-out loss": ([1.0, 2.0], [0.55, 0.45]),
        "held-out accuracy": ([1.0, 2.0], [0.8, 0.9]),
        "lr": ([0.5, 1.0, 2.0], [0.2, 0.1, 0.05]),
    }
    names = {note.text: note.x for note in figure.layout.annotations}
    assert names == {"head": 0.5, "all": 1.5}
    assert {shape.x0 for shape in figure.layout.shapes} == {1.0}


def test_training_without_held_out_rows_shows_loss_and_rate_and_needs_no_more() -> None:
    history = HISTORY.select("epoch", "lr", "train_loss", accuracy=pl.lit(None, dtype=pl.Float64))
    assert list(_traces(plot_training(history, "Training"))) == ["training loss", "lr"]
    with pytest.raises(DataError, match="'lr'; it has: stage, step, epoch, train_loss"):
        plot_training(HISTORY.drop("lr"), "Training")
