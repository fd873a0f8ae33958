"""Predictions of all targets beside the actual values, as columns of a frame, and the metrics computed from them.

A numeric target has the columns ``actual``, ``predicted`` and one with the name of each baseline. A target with classes
has ``actual`` and ``predicted`` (names of classes), ``p_<class>`` for each class and ``<baseline>.p_<class>`` for each
class of a baseline. With several targets every name starts with ``<target>.``.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.targets import ClassTarget, Target
from embedline.training.metrics import classification_metrics, log_loss, regression_metrics, rmspe

logger = logging.getLogger(__name__)

ACTUAL, PREDICTED = "actual", "predicted"
NamedArrays = dict[str, NDArray[Any]]  # by the name of the column, [N] each


def actual_columns(target: Target, actual: NDArray[Any], prefix: str) -> NamedArrays:
    """Actual values as columns; classes by name."""
    return {prefix + ACTUAL: _class_names(target)[actual] if isinstance(target, ClassTarget) else actual}


def predicted_columns(target: Target, prediction: NDArray[np.float64], prefix: str) -> NamedArrays:
    """The prediction of the network as columns; for classes the most probable name and all probabilities."""
    if not isinstance(target, ClassTarget):
        return {prefix + PREDICTED: prediction}
    named = {prefix + PREDICTED: _class_names(target)[prediction.argmax(axis=1)]}
    return named | dict(zip(probability_names(target, prefix), prediction.T, strict=True))


def baseline_columns(target: Target, prediction: NDArray[np.float64], baseline: str, prefix: str) -> NamedArrays:
    """The prediction of a baseline as columns."""
    if not isinstance(target, ClassTarget):
        return {prefix + baseline: prediction}
    return dict(zip(probability_names(target, f"{prefix}{baseline}."), prediction.T, strict=True))


def to_series(columns: NamedArrays, backend: Any) -> list[nw.Series[Any]]:
    """Series of a dataframe backend: Float64 for numbers, String for names."""
    return [
        nw.new_series(name, values, nw.Float64, backend=backend)
        if values.dtype.kind == "f"
        else nw.new_series(name, values.tolist(), nw.String, backend=backend)
        for name, values in columns.items()
    ]


def read_actual(frame: nw.DataFrame[Any], target: Target, prefix: str) -> NDArray[Any]:
    """The inverse of :func:`actual_columns`: numbers float64 [N], or class numbers int64 [N]."""
    column = frame.get_column(prefix + ACTUAL)
    if not isinstance(target, ClassTarget):
        return column.to_numpy()
    numbers = {name: k for k, name in enumerate(target.names)}
    return np.array([numbers[name] for name in column.to_list()], dtype=np.int64)


def read_prediction(frame: nw.DataFrame[Any], target: Target, prefix: str, baseline: str = "") -> NDArray[np.float64]:
    """The prediction of the network, or of a baseline, from its columns."""
    if not isinstance(target, ClassTarget):
        return frame.get_column(prefix + (baseline or PREDICTED)).to_numpy()
    names = probability_names(target, f"{prefix}{baseline}." if baseline else prefix)
    return np.stack([frame.get_column(name).to_numpy() for name in names], axis=1)


def probability_names(target: ClassTarget, prefix: str) -> list[str]:
    """Columns of the probabilities of the classes, in order."""
    return [f"{prefix}p_{name}" for name in target.names]


def baseline_names(columns: Sequence[str], target: ClassTarget, prefix: str) -> list[str]:
    """The baselines that have probabilities among ``columns``."""
    end = f".p_{target.names[0]}"
    found = [name.removeprefix(prefix).removesuffix(end) for name in columns if name.endswith(end)]
    return [name for name in found if f"{prefix}{name}{end}" in columns]


def all_metrics(target: Target, actual: NDArray[Any], prediction: NDArray[np.float64]) -> dict[str, Any]:
    """All metrics of a prediction, of regression or of classification."""
    if isinstance(target, ClassTarget):
        return classification_metrics(actual, prediction, target.names, positive=target.positive)
    return dict(regression_metrics(actual, prediction, logarithmic=target.transform == "log"))


def main_metric(target: Target) -> str:
    """Name of the metric by which a model is reported."""
    if isinstance(target, ClassTarget):
        return "accuracy"
    return "exp_rmspe" if target.transform == "log" else "rmse"


def compare(
    frame: nw.DataFrame[Any], target: Target, prefix: str, baseline_costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Compare the network with each baseline; log a warning for each baseline that is as good or better.

    The comparison uses :func:`loss_name`: for a rare class, a model that never predicts it may be the most accurate.

    Returns:
        The metrics of the network, ``beaten_by`` (names of baselines) and ``baselines``: the metrics and costs of each
        baseline by its name.
    """
    actual, loss = read_actual(frame, target, prefix), loss_name(target)
    ours = all_metrics(target, actual, read_prediction(frame, target, prefix))
    baselines = {
        name: {**all_metrics(target, actual, read_prediction(frame, target, prefix, name)), **cost}
        for name, cost in baseline_costs.items()
    }
    winners = [name for name, theirs in baselines.items() if theirs[loss] <= ours[loss]]
    for name in winners:
        logger.warning(
            "The network (%s %.4f) loses to %s (%.4f)", prefix + loss, ours[loss], name, baselines[name][loss]
        )
    for metric in dict.fromkeys((main_metric(target), loss)):
        others = ", ".join(f"{name} {theirs[metric]:.4f}" for name, theirs in baselines.items())
        logger.info("%s %.4f; %s", prefix + metric, ours[metric], others)
    return {**ours, "beaten_by": winners, "baselines": baselines}


def loss_name(target: Target) -> str:
    """Name of the loss by which models are compared and importances are computed; lower is better."""
    return "log_loss" if isinstance(target, ClassTarget) else main_metric(target)


def prediction_loss(target: Target, actual: NDArray[Any], prediction: NDArray[np.float64]) -> float:
    """Value of the loss that :func:`loss_name` names: log loss in nats, or the error of numbers."""
    if isinstance(target, ClassTarget):
        return log_loss(actual, prediction)
    if target.transform == "log":
        return rmspe(actual, prediction)
    return float(np.sqrt(np.mean((actual - prediction) ** 2)))


def _class_names(target: ClassTarget) -> NDArray[Any]:
    return np.array(target.names, dtype=object)
