"""Which class is predicted, given the probabilities of all: the most probable one, or that of the least cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.tabular.losses import class_weights
from embedline.pipelines.tabular.options import DecisionOptions, TableTraining
from embedline.pipelines.tabular.targets import ClassTarget, Target
from embedline.training.options import HeldOutStopping

Decision = Sequence[float]
"""Weight of each class: the class with the largest probability times weight is predicted."""


def check_decision(
    targets: Sequence[Target], decision: DecisionOptions, early_stopping: HeldOutStopping | None
) -> None:
    """Raise a DataError if ``training.decision`` fits no target, or has no rows to choose a threshold on."""
    if not any(isinstance(target, ClassTarget) and target.width == 2 for target in targets):
        names = [target.column for target in targets]
        raise DataError(f"training.decision needs a target of two classes, and {names} has none: take it out")
    if decision.beta is not None and early_stopping is None:
        raise DataError(
            "training.decision.beta chooses its threshold on rows that the networks did not learn from: set "
            "training.early_stopping, such as {patience: 3, fraction: 0.1, rotate: true}"
        )


def choose_decisions(
    targets: Sequence[Target],
    training: TableTraining,
    inner: Mapping[str, tuple[NDArray[np.integer], NDArray[np.float64]]],
) -> dict[str, list[float]]:
    """The decision of each target with classes whose most probable class is not always predicted.

    Args:
        inner: by target the classes int [N] and the probabilities [N, C] of rows that no network of the prediction
            learned from; only ``training.decision.beta`` reads it.
    """
    found: dict[str, list[float]] = {}
    for target in targets:
        if not isinstance(target, ClassTarget):
            continue
        if training.decision is not None and target.width == 2:
            positive = positive_class(target)
            threshold = _threshold(training.decision, positive, *inner.get(target.column, (None, None)))
            weights = [threshold, threshold]
            weights[positive] = 1.0 - threshold
            found[target.column] = weights
        elif (by_class := class_weights(target, training, alone=len(targets) == 1)) is not None:
            found[target.column] = by_class.tolist()
    return found


def positive_class(target: ClassTarget) -> int:
    """Number of the positive class of two."""
    return target.names.index(target.positive) if target.positive is not None else 1


def decide(probabilities: NDArray[np.floating], decision: Decision | None) -> NDArray[np.intp]:
    """The predicted class of each row, int [N], from probabilities [N, C]; the first of equals."""
    return (probabilities if decision is None else probabilities * np.asarray(decision)).argmax(axis=1)


def decision_threshold(target: ClassTarget, decision: Decision) -> float:
    """Probability of the positive class of two above which it is predicted."""
    positive = positive_class(target)
    return float(decision[1 - positive] / sum(decision))


def _threshold(decision: DecisionOptions, positive: int, actual: Any, probabilities: Any) -> float:
    """Probability of the positive class above which it is predicted."""
    if decision.beta is None:
        assert decision.false_positive and decision.false_negative
        return decision.false_positive / (decision.false_positive + decision.false_negative)
    return best_threshold(actual == positive, probabilities[:, positive], decision.beta)


def best_threshold(actual: NDArray[np.bool_], probability: NDArray[np.floating], beta: float) -> float:
    """The threshold with the highest F-beta: midway between two probabilities, the lowest of equals.

    Args:
        actual: bool [N], the rows of the positive class.
        probability: [N], of the positive class.

    Raises:
        DataError: if no row is positive.
    """
    if not actual.any():
        raise DataError(
            "training.decision.beta: none of the rows that early stopping holds out has the positive class: raise "
            "training.early_stopping.fraction, or give the costs of both errors"
        )
    values, place, counts = np.unique(probability, return_inverse=True, return_counts=True)
    # Of the rows from each value upwards, which are predicted positive where the threshold lies just below it.
    hits = np.bincount(place, weights=actual)[::-1].cumsum()[::-1]
    predicted = counts[::-1].cumsum()[::-1]
    scores = (1.0 + beta**2) * hits / (beta**2 * actual.sum() + predicted)
    best = int(scores.argmax())
    below = values[best - 1] if best else 0.0
    return float((values[best] + below) / 2.0)
