"""The metrics that a report compares: their names, which direction is better, and how numbers are written."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of a model.

    Attributes:
        name: key in a metrics file.
        label: name on the page.
        lower: whether lower values are better.
        note: what it is, where its name does not say so.
    """

    name: str
    label: str
    lower: bool
    note: str = ""

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` beats ``other``; a tie is no win."""
        return value < other if self.lower else value > other

    def error(self, value: float) -> float:
        """The value as an error, where lower is better: 1 minus a share that should be 1."""
        return value if self.lower else 1.0 - value


# In the order of the columns of a table.
KNOWN = (
    Metric(
        "exp_rmspe",
        "exp RMSPE",
        lower=True,
        note="root mean square of (actual - predicted) / actual, after the learned logarithm is undone: 0.08 is 8 %",
    ),
    Metric("accuracy", "accuracy", lower=False),
    Metric("rmse", "RMSE", lower=True),
    Metric("mse", "MSE", lower=True),
    Metric("mae", "MAE", lower=True),
    Metric("r2", "R²", lower=False),
    Metric("pinball_loss", "pinball loss", lower=True),
    Metric("log_loss", "log loss", lower=True),
    Metric("roc_auc", "ROC-AUC", lower=False),
    Metric("average_precision", "average precision", lower=False),
    Metric("f1", "F1", lower=False),
    Metric("f1_macro", "F1, macro", lower=False),
    Metric("calibration_error", "calibration error", lower=True),
    Metric("perplexity", "perplexity", lower=True),
    Metric("next_word_accuracy", "next word right", lower=False),
)
MAIN = ("exp_rmspe", "accuracy", "rmse", "perplexity")
RANKING = re.compile(r"(precision|recall|ndcg|mrr)_at_(\d+)")  # the number of items is a setting
RANKING_LABELS = {"precision": "precision", "recall": "recall", "ndcg": "NDCG", "mrr": "MRR"}


def known_metrics(names: Iterable[str]) -> list[Metric]:
    """The known metrics among ``names``, in the order of :data:`KNOWN`, then the metrics of rankings."""
    given = list(dict.fromkeys(names))
    known = [metric for metric in KNOWN if metric.name in given]
    ranked = [(name, found) for name in given if (found := RANKING.fullmatch(name))]
    return known + [Metric(name, f"{RANKING_LABELS[found[1]]}@{found[2]}", lower=False) for name, found in ranked]


def main_metric(values: Mapping[str, Any], given: str | None = None) -> Metric | None:
    """The metric by which models are compared: the ``given`` one or the first of :data:`MAIN` in ``values``.

    Without these, the first known one.
    """
    found = {metric.name: metric for metric in known_metrics(values)}
    return next((found[name] for name in (given, *MAIN) if name in found), next(iter(found.values()), None))


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Values of the known metrics in a mapping; missing ones (null) are left out."""
    values = {metric.name: metrics[metric.name] for metric in known_metrics(metrics)}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def format_number(value: float, digits: int = 4) -> str:
    """A number as text: ``digits`` significant digits, thousands separated.

    >>> [format_number(value) for value in (0.0813404, 650.3306, 1039.98, 28866, 0.8738)]
    ['0.08134', '650.3', '1,040', '28,866', '0.8738']
    """
    if value == 0 or not abs(value) < float("inf"):
        return str(value) if value else "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.{digits - 1}g}"


def bound(metric: Metric, best: float) -> str:
    """What a model can expect at best, as text.

    >>> bound(KNOWN[1], 0.83954)
    'no model can expect more than 0.8395'
    """
    return f"no model can expect {'less' if metric.lower else 'more'} than {format_number(best)}"


def gain(metric: Metric, value: float, other: float) -> str:
    """The difference of ``value`` from ``other`` as text: in points for a share, else in per cent of the error.

    >>> gain(KNOWN[0], 0.09, 0.10), gain(KNOWN[1], 0.91, 0.90)
    ('10.0 % lower error', '1.0 points higher')
    """
    if metric.lower:
        share = (other - value) / other if other else 0.0
        return f"{abs(share):.1%} {'lower' if share > 0 else 'higher'} error".replace("%", " %")
    points = 100.0 * (value - other)
    return f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}"
