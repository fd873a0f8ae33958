"""The figures of merit that a report compares: their names, which way is better, and how numbers are written."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One figure of merit.

    Attributes:
        name: key in a metrics file.
        label: what the page calls it.
        lower: whether a lower value is the better one.
    """

    name: str
    label: str
    lower: bool

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` beats ``other``; a tie is no win."""
        return value < other if self.lower else value > other

    def error(self, value: float) -> float:
        """The value as an error, lower being better: of a share that is to be 1, what is missing to it."""
        return value if self.lower else 1.0 - value


# In the order of a table's columns; the first one that a metrics file has is its main one (see `main_measure`).
KNOWN = (
    Measure("exp_rmspe", "exp RMSPE", lower=True),
    Measure("accuracy", "accuracy", lower=False),
    Measure("rmse", "RMSE", lower=True),
    Measure("mse", "MSE", lower=True),
    Measure("mae", "MAE", lower=True),
    Measure("r2", "R²", lower=False),
    Measure("log_loss", "log loss", lower=True),
    Measure("roc_auc", "ROC-AUC", lower=False),
    Measure("average_precision", "average precision", lower=False),
    Measure("f1", "F1", lower=False),
    Measure("f1_macro", "F1, macro", lower=False),
    Measure("calibration_error", "calibration error", lower=True),
    Measure("perplexity", "perplexity", lower=True),
    Measure("next_word_accuracy", "next word right", lower=False),
)
MAIN = ("exp_rmspe", "accuracy", "rmse", "perplexity")
RANKED = re.compile(r"(precision|recall|ndcg)_at_(\d+)")  # of a ranking: how many items count is a setting
RANKED_LABELS = {"precision": "precision", "recall": "recall", "ndcg": "NDCG"}


def measures_of(names: Iterable[str]) -> list[Measure]:
    """The known measures among the names of figures, in the order of :data:`KNOWN`, then those of rankings."""
    given = list(dict.fromkeys(names))
    known = [measure for measure in KNOWN if measure.name in given]
    ranked = [(name, found) for name in given if (found := RANKED.fullmatch(name))]
    return known + [Measure(name, f"{RANKED_LABELS[found[1]]}@{found[2]}", lower=False) for name, found in ranked]


def main_measure(figures: Mapping[str, Any]) -> Measure | None:
    """The measure by which models are compared, None where there is no known one."""
    found = {measure.name: measure for measure in measures_of(figures)}
    return next((found[name] for name in MAIN if name in found), next(iter(found.values()), None))


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Values of the known measures in a mapping; what is missing (null) is left out."""
    values = {measure.name: metrics[measure.name] for measure in measures_of(metrics)}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def number(value: float, digits: int = 4) -> str:
    """A number for people: ``digits`` significant ones, thousands apart.

    >>> [number(value) for value in (0.0813404, 650.3306, 1039.98, 28866, 0.8738)]
    ['0.08134', '650.3', '1,040', '28,866', '0.8738']
    """
    if value == 0 or not abs(value) < float("inf"):
        return str(value) if value else "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.{digits - 1}g}"


def duration(seconds: float) -> str:
    """Seconds in words: ``34 s``, ``13 min``, ``2 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def gain(measure: Measure, value: float, other: float) -> str:
    """How ``value`` stands to ``other``: in points for a share, else in per cent of the error.

    >>> gain(KNOWN[0], 0.09, 0.10), gain(KNOWN[1], 0.91, 0.90)
    ('10.0 % lower error', '1.0 points higher')
    """
    if measure.lower:
        share = (other - value) / other if other else 0.0
        return f"{abs(share):.1%} {'lower' if share > 0 else 'higher'} error".replace("%", " %")
    points = 100.0 * (value - other)
    return f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}"
