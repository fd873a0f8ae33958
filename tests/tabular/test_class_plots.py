"""Plots of classes hold the shares and the matrix of the predictions; names of columns are those of the frame."""

import numpy as np
import polars as pl
import pytest

from embedline.pipelines.tabular import plots
from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.plots import plot_class_errors, plot_reliability
from embedline.pipelines.tabular.targets import CategoryMap, ClassTarget
from embedline.training.ensemble import history_frame

GRADE = ClassTarget(column="grade", levels=CategoryMap(kind="string", levels=("a", "b")), counts=(3, 1))
PREDICTIONS = pl.DataFrame(
    {
        "shop": ["p", "p", "q", None],
        "actual": ["a", "a", "a", "b"],
        "predicted": ["a", "a", "b", "b"],
        "p_a": [0.9, 0.8, 0.3, 0.4],
        "p_b": [0.1, 0.2, 0.7, 0.6],
        "group_mean.p_a": [0.6] * 4,
        "group_mean.p_b": [0.4] * 4,
    }
)


def _several() -> pl.DataFrame:
    other = {f"other.{name}": PREDICTIONS[name] for name in ("actual", "predicted", "p_a", "group_mean.p_a")}
    return PREDICTIONS.rename({name: f"grade.{name}" for name in PREDICTIONS.columns if name != "shop"}).with_columns(
        **other
    )


@pytest.mark.parametrize(("frame", "prefix"), [(PREDICTIONS, ""), (_several(), "grade.")])
def test_reliability_of_the_network_and_its_baselines(frame: pl.DataFrame, prefix: str) -> None:
    figure = plot_reliability(frame, GRADE, prefix, "Calibration")
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert [name.split(" ")[0] for name in names] == ["perfect", "network", "group_mean"]
    np.testing.assert_allclose(figure.data[1].x, [0.6, 0.7, 0.8, 0.9])
    assert list(figure.data[1].y) == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("frame", "prefix"), [(PREDICTIONS, ""), (_several(), "grade.")])
def test_mistakes_show_the_matrix_and_the_error_rate_by_column(frame: pl.DataFrame, prefix: str) -> None:
    report = ReportOptions(error_by=("shop", "shop"))
    figure = plot_class_errors(frame, GRADE, prefix, report, "Errors")
    matrix, rate, expected = figure.data[:3]
    np.testing.assert_allclose(np.array(matrix.z), [[2 / 3, 1 / 3], [0.0, 1.0]])
    assert list(rate.x) == ["(missing)", "p", "q"]
    assert list(rate.y) == [0.0, 0.0, 1.0]
    assert list(rate.customdata) == [1, 2, 1]
    assert list(expected.y) == pytest.approx([0.4, 0.15, 0.3])
    assert len(figure.data) == 1 + 2 * 2
    assert figure.layout.title.text == "Errors"


def test_without_columns_the_matrix_stands_alone() -> None:
    figure = plot_class_errors(PREDICTIONS, GRADE, "", ReportOptions(), "Errors")
    assert [trace.type for trace in figure.data] == ["heatmap"]


def _history(*prefixes: str) -> pl.DataFrame:
    held_out = {
        f"{prefix}{name}": value for prefix in prefixes for name, value in (("accuracy", 0.8), ("log_loss", 0.5))
    }
    return history_frame(
        [
            {"member": 0, "step": 1, "epoch": 0.5, "lr": 0.1, "train_loss": 0.7},
            {"member": 0, "step": 2, "epoch": 1.0, "lr": 0.2, "train_loss": 0.6, **held_out},
        ]
    )


def test_training_on_classes_shows_accuracy_and_log_loss() -> None:
    figure = plots.plot_training(_history(""), "Training")
    traces = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if trace.name}
    assert traces == {
        "training loss": ([0.5, 1.0], [0.7, 0.6]),
        "held-out accuracy": ([1.0], [0.8]),
        "held-out log loss": ([1.0], [0.5]),
    }
    axes = {trace.name: trace.yaxis for trace in figure.data}
    assert axes["held-out log loss"] == axes["training loss"] != axes["held-out accuracy"]
    assert figure.layout.yaxis.title.text == "loss (nats)"


def test_training_on_several_targets_shows_the_first_of_them() -> None:
    figure = plots.plot_training(_history("grade.", "passed."), "Training")
    assert [trace.name for trace in figure.data] == ["training loss", "held-out grade.accuracy", None]
    assert figure.layout.yaxis.title.text == "loss (sum of all targets)"


def test_importances_have_the_greatest_on_top() -> None:
    importance = pl.DataFrame(
        {
            "target": ["grade", "grade", "price"],
            "variable": ["heat", "shop", "shop"],
            "loss": ["log_loss", "log_loss", "rmse"],
            "increase": [0.5, 0.25, 3.0],
            "deviation": [0.02, 0.01, 0.5],
        }
    )
    figure = plots.plot_importance(importance, "Importance")
    (bars,) = figure.data
    assert (list(bars.y), list(bars.x)) == (["shop", "heat"], [0.25, 0.5])  # drawn from the bottom
    assert list(bars.error_x.array) == [0.01, 0.02]
    assert figure.layout.xaxis.title.text == "increase of log loss when shuffled"


def test_of_many_variables_the_most_important_are_drawn() -> None:
    importance = pl.DataFrame(
        {
            "target": ["y"] * 60,
            "variable": [f"v{k}" for k in range(60)],
            "loss": ["rmse"] * 60,
            "increase": [60.0 - k for k in range(60)],
            "deviation": [0.0] * 60,
        }
    )
    (bars,) = plots.plot_importance(importance, "Importance").data
    assert (len(bars.y), bars.y[-1], bars.y[0]) == (15, "v0", "v14")
