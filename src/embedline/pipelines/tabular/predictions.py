"""Predictions of all targets beside the actual values, as columns of a frame, and the metrics computed from them.

A numeric target has the columns ``actual``, ``predicted`` and one with the name of each baseline; of predicted
quantiles ``predicted`` is the median, and each has a column, such as ``q10``. A target with classes
has ``actual`` and ``predicted`` (names of classes), ``p_<class>`` for each class and ``<baseline>.p_<class>`` for each
class of a baseline. With several targets every name starts with ``<target>.``.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.frames.tables import describe_key
from embedline.pipelines.tabular.decisions import Decision, decide, decision_threshold, positive_class
from embedline.pipelines.tabular.intervals import interval_metrics
from embedline.pipelines.tabular.options import quantile_name
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target, point_prediction
from embedline.training.metrics import (
    classification_metrics,
    label_metrics,
    log_loss,
    paired_difference,
    precision_difference,
    quantile_metrics,
    regression_metrics,
    row_log_losses,
)

logger = logging.getLogger(__name__)

ACTUAL, PREDICTED = "actual", "predicted"
NETWORKS, TREES = "networks", "trees"  # the members of a blend, beside the baselines
RARE = 0.1  # share of the training rows below which a positive class is rare
NamedArrays = dict[str, NDArray[Any]]  # by the name of the column, [N] each


def actual_columns(target: Target, actual: NDArray[Any], prefix: str) -> NamedArrays:
    """Actual values as columns; classes by name."""
    return {prefix + ACTUAL: _class_names(target)[actual] if isinstance(target, ClassTarget) else actual}


def predicted_columns(
    target: Target, prediction: NDArray[np.float64], prefix: str, decisions: Mapping[str, Decision]
) -> NamedArrays:
    """The prediction of the network as columns; for classes the name that ``decisions`` choose, and all probabilities.

    Args:
        decisions: by target, those of :func:`.decisions.choose_decisions`.
    """
    if not isinstance(target, ClassTarget):
        quantiles = dict(zip(quantile_names(target, prefix), prediction.T, strict=True)) if target.quantiles else {}
        return {prefix + PREDICTED: point_prediction(target, prediction), **quantiles}
    named = {prefix + PREDICTED: _class_names(target)[decide(prediction, decisions.get(target.column))]}
    return named | dict(zip(probability_names(target, prefix), prediction.T, strict=True))


def baseline_columns(target: Target, prediction: NDArray[np.float64], baseline: str, prefix: str) -> NamedArrays:
    """The prediction of a baseline as columns."""
    if not isinstance(target, ClassTarget):
        return {prefix + baseline: prediction}
    return dict(zip(probability_names(target, f"{prefix}{baseline}."), prediction.T, strict=True))


def to_series(columns: NamedArrays, backend: Any) -> list[nw.Series[Any]]:
    """Series of a dataframe backend: Float64 or Int64 for numbers, String for names."""
    kinds: dict[str, Any] = {"f": nw.Float64, "i": nw.Int64}
    return [
        nw.new_series(name, values, kinds[values.dtype.kind], backend=backend)
        if values.dtype.kind in kinds
        else nw.new_series(name, values.tolist(), nw.String, backend=backend)
        for name, values in columns.items()
    ]


def read_actual(frame: nw.DataFrame[Any], target: Target, prefix: str) -> NDArray[Any]:
    """The inverse of :func:`actual_columns`: numbers float64 [N], or class numbers int64 [N]."""
    if not isinstance(target, ClassTarget):
        return frame.get_column(prefix + ACTUAL).to_numpy()
    return _class_numbers(frame, target, prefix + ACTUAL)


def read_classes(frame: nw.DataFrame[Any], target: ClassTarget, prefix: str) -> NDArray[np.int64]:
    """Numbers of the classes that the network predicts, int64 [N]."""
    return _class_numbers(frame, target, prefix + PREDICTED)


def read_prediction(frame: nw.DataFrame[Any], target: Target, prefix: str, baseline: str = "") -> NDArray[np.float64]:
    """The prediction of the network, or of a baseline, from its columns."""
    if isinstance(target, ClassTarget):
        names = probability_names(target, f"{prefix}{baseline}." if baseline else prefix)
    elif baseline or not target.quantiles:
        return frame.get_column(prefix + (baseline or PREDICTED)).to_numpy()
    else:
        names = quantile_names(target, prefix)
    return np.stack([frame.get_column(name).to_numpy() for name in names], axis=1)


def probability_names(target: ClassTarget, prefix: str) -> list[str]:
    """Columns of the probabilities of the classes, in order."""
    return [f"{prefix}p_{name}" for name in target.names]


def quantile_names(target: NumericTarget, prefix: str) -> list[str]:
    """Columns of the predicted quantiles, in order."""
    return [prefix + quantile_name(level) for level in target.quantiles]


def baseline_names(columns: Sequence[str], target: ClassTarget, prefix: str) -> list[str]:
    """The baselines that have probabilities among ``columns``."""
    end = f".p_{target.names[0]}"
    found = [name.removeprefix(prefix).removesuffix(end) for name in columns if name.endswith(end)]
    return [name for name in found if f"{prefix}{name}{end}" in columns]


def all_metrics(
    target: Target,
    actual: NDArray[Any],
    prediction: NDArray[np.float64],
    *,
    repeats: int = 1,
    predicted: NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """All metrics of a prediction, of regression or of classification, of rows that stand there ``repeats`` times.

    Args:
        predicted: int [N], the classes that are predicted, if they are not the most probable ones.
    """
    if isinstance(target, ClassTarget):
        settings: dict[str, Any] = {"positive": target.positive, "repeats": repeats, "predicted": predicted}
        return classification_metrics(actual, prediction, target.names, **settings)
    point = point_prediction(target, prediction)
    metrics = dict(regression_metrics(actual, point, logarithmic=target.transform == "log"))
    if target.transform == "log":  # a single odd row may decide exp_rmspe
        metrics["median_relative_error"] = float(np.median(np.abs(point / actual - 1.0)))
    return metrics if prediction.ndim == 1 else metrics | quantile_metrics(actual, prediction, target.quantiles)


def epoch_metrics(target: Target, actual: NDArray[Any], prediction: NDArray[np.float64]) -> dict[str, float]:
    """Metrics computed after each epoch of a training; for classes the accuracy and the log loss (nats)."""
    if isinstance(target, ClassTarget):
        accuracy = float((prediction.argmax(axis=1) == actual).mean())
        return {"accuracy": accuracy, "log_loss": log_loss(actual, prediction)}
    return regression_metrics(actual, point_prediction(target, prediction), logarithmic=target.transform == "log")


def main_metric(target: Target) -> str:
    """Name of the metric by which a model is reported: of a rare class, the average precision.

    The accuracy says nothing there: it is high where no row is predicted to be of that class.
    """
    if isinstance(target, ClassTarget):
        rare = target.width == 2 and target.counts[positive_class(target)] < RARE * sum(target.counts)
        return "average_precision" if rare else "accuracy"
    return "exp_rmspe" if target.transform == "log" else "rmse"


def compare(
    frame: nw.DataFrame[Any],
    target: Target,
    prefix: str,
    baseline_costs: Mapping[str, Mapping[str, Any]],
    *,
    repeated: bool = False,
    decision: Decision | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """Compare the model with each baseline by :func:`loss_name`; log a warning for each baseline that is better.

    For a rare class, a model that never predicts it may be the most accurate: the log loss decides.

    Args:
        repeated: whether rows stand there several times, by their number in the column ``row``, as in folds.
        decision: which class of the target is predicted, from the probabilities of the baselines, too.
        groups: of the rows, for the coverage of the intervals (:func:`.intervals.interval_metrics`).

    Returns:
        The metrics of the model; ``intervals``, where the frame has them; ``main_metric``, where a class is rare;
        ``threshold`` of the positive class, where one is decided on; ``beaten_by``: the baselines that are better, and
        ``no_difference``: those whose interval holds 0, each with the best first; ``baselines``: the metrics and costs
        of each by its name, and under ``differences`` by metric the model's less its own
        (:func:`.metrics.paired_difference`), with the row it is ``decided_by`` where without this one the other model
        would have the lower loss.
    """
    actual, loss = read_actual(frame, target, prefix), loss_name(target)
    prediction = read_prediction(frame, target, prefix)
    # Predictions of one row by several repeats are no independent rows.
    row = frame["row"].to_numpy() if repeated else np.arange(len(frame))
    repeats = np.bincount(row)
    classes = target if isinstance(target, ClassTarget) else None
    decided = read_classes(frame, classes, prefix) if classes else None
    ours = all_metrics(target, actual, prediction, repeats=int(repeats[0]), predicted=decided)
    main = main_metric(target) if main_metric(target) in ours else "accuracy"  # without a row of the positive class

    def difference(values: Sequence[NDArray[Any]], **settings: Any) -> dict[str, Any]:
        return paired_difference(*(np.bincount(row, each) / repeats for each in values), **settings)

    baselines: dict[str, dict[str, Any]] = {}
    for name, cost in baseline_costs.items():
        theirs = read_prediction(frame, target, prefix, name)
        losses = [row_losses(target, actual, each) for each in (prediction, theirs)]
        differences = {loss: difference(losses, root=classes is None)}
        if (decisive := decisive_row(*losses)) is not None:
            differences[loss]["decided_by"] = _describe_row(frame, decisive, prefix)
        decided_by = decide(theirs, decision) if classes else None
        if classes and decided is not None:
            correct = [decided == actual, decided_by == actual]
            differences["accuracy"] = difference(correct, higher_is_better=True)
            if main == "average_precision":
                positive = positive_class(classes)
                probabilities = prediction[:, positive], theirs[:, positive]
                differences[main] = precision_difference(actual == positive, *probabilities, row)
        metrics = all_metrics(target, actual, theirs, repeats=int(repeats[0]), predicted=decided_by)
        baselines[name] = {**metrics, "differences": differences, **cost}
    by_loss = sorted(baselines, key=lambda name: baselines[name][loss])
    verdicts = {name: baselines[name]["differences"][loss]["verdict"] for name in by_loss}
    for name in by_loss:
        found = baselines[name]["differences"][loss]
        logger.log(
            logging.WARNING if verdicts[name] == "worse" else logging.INFO,
            "%s: %s %.4f, %s %.4f: %s (%+.4f, 95 %% interval %+.4f to %+.4f)%s",
            prefix + loss,
            "blend" if TREES in baselines else "network",
            ours[loss],
            name,
            baselines[name][loss],
            verdicts[name],
            found["difference"],
            found["low"],
            found["high"],
            f"; one row decides which is lower: {found['decided_by']}" if "decided_by" in found else "",
        )
    intervals = interval_metrics(frame, prefix, actual, groups or {})
    for level, values in intervals.items():
        share, width = 100.0 * values["coverage"], values["width"]
        logger.info("%sintervals of %s %%: hold %.1f %% of the values, %.4g wide", prefix, level, share, width)
    return {
        **ours,
        **({"intervals": intervals} if intervals else {}),
        **({"main_metric": main} if main == "average_precision" else {}),
        **({"threshold": decision_threshold(classes, decision)} if classes and decision and classes.width == 2 else {}),
        "beaten_by": [name for name in by_loss if verdicts[name] == "worse"],
        "no_difference": [name for name in by_loss if verdicts[name] == "no difference"],
        "baselines": baselines,
    }


def decisive_row(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> int | None:
    """The row without which the other model would have the lower sum of losses [N]; None if no single row decides."""
    differences = ours - theirs
    total = float(differences.sum())
    row = int((differences * np.sign(total)).argmax())
    return row if total * (total - float(differences[row])) < 0.0 else None


def _describe_row(frame: nw.DataFrame[Any], row: int, prefix: str) -> str:
    """What identifies a row: its columns before the actual value, or its number."""
    names = list(itertools.takewhile(lambda name: name != prefix + ACTUAL, frame.columns))
    return describe_key(frame.select(names).rows(named=True)[row]) if names else f"row {row + 1}"


def compare_labels(frame: nw.DataFrame[Any], targets: Sequence[Target]) -> dict[str, float]:
    """Metrics of several targets of two classes as labels of a row (:func:`.metrics.label_metrics`); else empty.

    A label is set where the class is ``columns.positive`` of the target, or the last in order.
    """
    pairs = [target for target in targets if isinstance(target, ClassTarget) and target.width == 2]
    if len(targets) < 2 or len(pairs) < len(targets):
        return {}
    chosen = {f"{target.column}.": target.names[positive_class(target)] for target in pairs}
    actual, predicted = (
        np.stack([(frame.get_column(prefix + name) == label).to_numpy() for prefix, label in chosen.items()], axis=1)
        for name in (ACTUAL, PREDICTED)
    )
    return label_metrics(actual.astype(bool), predicted.astype(bool))


def row_losses(target: Target, actual: NDArray[Any], prediction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Loss of each row, float64 [N]: log loss in nats, or the squared error of a number (relative, of a logarithm)."""
    if isinstance(target, ClassTarget):
        return row_log_losses(actual, prediction)
    errors = actual - point_prediction(target, prediction)
    if target.transform == "log":
        errors = errors / actual
    return np.asarray(errors**2)


def loss_name(target: Target) -> str:
    """Name of the loss by which models are compared and importances are computed; lower is better."""
    return "log_loss" if isinstance(target, ClassTarget) else main_metric(target)


def prediction_loss(target: Target, actual: NDArray[Any], prediction: NDArray[np.float64]) -> float:
    """Value of the loss that :func:`loss_name` names: log loss in nats, or the error of numbers."""
    mean = float(row_losses(target, actual, prediction).mean())
    return mean if isinstance(target, ClassTarget) else float(np.sqrt(mean))


def _class_numbers(frame: nw.DataFrame[Any], target: ClassTarget, column: str) -> NDArray[np.int64]:
    numbers = {name: k for k, name in enumerate(target.names)}
    return np.array([numbers[name] for name in frame.get_column(column).to_list()], dtype=np.int64)


def _class_names(target: ClassTarget) -> NDArray[Any]:
    return np.array(target.names, dtype=object)
