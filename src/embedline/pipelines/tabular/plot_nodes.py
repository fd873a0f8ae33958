"""Nodes that draw the plots of the tabular learner; Plotly is imported inside of them."""

from typing import Any

import narwhals as nw
import polars as pl

from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.targets import ClassTarget, Target, read_targets

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure


def plot_training(history: pl.DataFrame) -> Plot:
    """Loss and learning rate over the epochs."""
    from embedline.pipelines.tabular import plots

    return plots.plot_training(history, "Training: loss and learning rate")


def plot_learning_rates(learning_rates: pl.DataFrame) -> Plot:
    """Loss against learning rate in the range test."""
    from embedline.training.plots import plot_range_test

    return plot_range_test(learning_rates, "Learning-rate range test")


def plot_forecast(predictions: Frame, encoder: dict[str, Any], columns: Columns, report: ReportOptions) -> Plot:
    """Actual and predicted values: over time for a few series, or row by row in a table without a time.

    For classes the reliability diagram; of several targets the first one.
    """
    from embedline.pipelines.tabular import plots

    target, prefix, suffix = _first_target(encoder)
    if isinstance(target, ClassTarget):
        return plots.plot_reliability(_polars(predictions), target, prefix, f"Held-out rows: calibration{suffix}")
    title = f"Held-out rows: actual and predicted{suffix}"
    if columns.time is None:
        return plots.plot_actual_predicted(_numbers(predictions, prefix), title)
    return plots.plot_forecast(_numbers(predictions, prefix), columns.time, report, title)


def plot_errors(predictions: Frame, encoder: dict[str, Any], report: ReportOptions) -> Plot:
    """Error by the values of a few columns; for classes with the confusion matrix, of several targets the first one."""
    from embedline.pipelines.tabular import plots

    target, prefix, suffix = _first_target(encoder)
    title = f"Held-out rows: where the error is{suffix}"
    if isinstance(target, ClassTarget):
        return plots.plot_class_errors(_polars(predictions), target, prefix, report, title)
    return plots.plot_errors(_numbers(predictions, prefix), report, title)


def plot_importance(importance: pl.DataFrame) -> Plot:
    """Importance of the variables, the greatest on top."""
    from embedline.pipelines.tabular import plots

    several = importance["target"].n_unique() > 1
    suffix = f" ({importance['target'][0]}, the first target)" if several else ""
    return plots.plot_importance(importance, f"Held-out rows: importance of the variables{suffix}")


def plot_embeddings(embeddings: pl.DataFrame, encoder: dict[str, Any], report: ReportOptions) -> Plot:
    """Embeddings of a few variables in two dimensions; one that the encoding left out has none, and no place."""
    from embedline.pipelines.tabular import plots

    kept = Encoder.model_validate(encoder).left_out.keep(report.embeddings)
    report = report.model_copy(update={"embeddings": kept})
    return plots.plot_embeddings(embeddings, report, "Learned embeddings, first two principal components")


def _first_target(encoder: dict[str, Any]) -> tuple[Target, str, str]:
    """The target that is drawn, the prefix of its columns, and a suffix for titles if there are other targets."""
    target, *others = read_targets(encoder)
    return (target, f"{target.column}.", f" ({target.column}, the first target)") if others else (target, "", "")


def _numbers(predictions: Frame, prefix: str) -> pl.DataFrame:
    """The frame with the columns of one target under the names without ``prefix``."""
    frame = _polars(predictions)
    own = {name: name.removeprefix(prefix) for name in frame.columns if prefix and name.startswith(prefix)}
    return frame.drop(set(own.values()) & set(frame.columns)).rename(own)


def _polars(frame: Frame) -> pl.DataFrame:
    return nw.from_native(frame, eager_only=True).to_polars()
