"""A metrics file of any learner as comparisons: the model and its baselines on the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from embedline.pipelines.report.metrics import (
    Metric,
    bound,
    format_number,
    gain,
    known_metrics,
    main_metric,
    metric_values,
)
from embedline.training.progress import format_duration

LABELS = {
    "lightgbm": "LightGBM",
    "networks": "the networks alone",
    "trees": "LightGBM alone",
    "linear": "the linear model",
    "constant": "a constant",
    "damped_bias": "damped biases",
    "global_mean": "global mean",
    "baseline": "NB-SVM",
    "forward": "the forward network",
    "backward": "the backward network",
    "popularity_relevant": "popularity among relevant ratings",
    "ease": "EASE",
    "als": "ALS",
    "item_knn": "nearest items",
    "factors": "the factor network",
    "pixels": "regression on pixels",
    "frozen_features": "regression on frozen features",
}
RATES = {"rows_per_second": "rows/s", "tokens_per_second": "tokens/s"}
INTERVAL = ("accuracy_low", "accuracy_high")


@dataclass(frozen=True)
class Contestant:
    """A model or baseline with the values of its metrics.

    Attributes:
        interval: 95 % interval of its accuracy, if there is one.
        differences: of a baseline by metric: the model's value less its own, as ``difference`` with the 95 % interval
            ``low`` to ``high``, and the ``verdict``: whether the model is ``better``, ``worse``, or there is ``no
            difference`` outside of chance.
    """

    label: str
    values: dict[str, float]
    interval: tuple[float, float] | None = None
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A model and the baselines on the same rows.

    Attributes:
        title: subject of the comparison, such as the target; empty if there is only one comparison.
        model: the model of the project.
        baselines: the models to compare it with.
        others: models that could have been the model, shown beside it: rankers that were not chosen.
        facts: size and cost of the training, in short texts.
        given: name of the main metric, where the metrics file says it.
        ceiling: the best that a model can expect by metric, where the law of the data is known.
        seconds: of the training; None where the metrics file has none.
    """

    title: str
    model: Contestant
    baselines: list[Contestant]
    facts: list[str] = field(default_factory=list)
    given: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    others: list[Contestant] = field(default_factory=list)

    @property
    def metrics(self) -> list[Metric]:
        """The known metrics of the model."""
        return known_metrics(self.model.values)

    @property
    def main(self) -> Metric | None:
        """The metric by which the model and the baselines are compared."""
        return main_metric(self.model.values, self.given)

    @property
    def bound(self) -> str:
        """The best that a model can expect by the main metric, in words; empty where the law of the data is unknown."""
        main = self.main
        return bound(main, self.ceiling[main.name]) if main and main.name in self.ceiling else ""

    @property
    def best_baseline(self) -> Contestant | None:
        """The baseline to beat, by the main metric."""
        main = self.main
        rated = [one for one in self.baselines if main and main.name in one.values]
        return min(rated, key=lambda one: main.error(one.values[main.name])) if main and rated else None

    @property
    def verdict(self) -> tuple[str, str] | None:
        """Whether the model is ``better`` or ``worse`` than its best baseline, in words; None without one.

        ``no difference`` where the interval of the difference holds 0, or, without an interval, for a tie.
        """
        main, best = self.main, self.best_baseline
        if main is None or best is None:
            return None
        ours, theirs = self.model.values[main.name], best.values[main.name]
        if ours == theirs:
            return "no difference", f"as good as {best.label}"
        found, size = best.differences.get(main.name, {}).get("verdict"), gain(main, ours, theirs)
        if found == "no difference":
            return found, f"no difference from {best.label} ({size}, within chance)"
        return found or ("better" if main.better(ours, theirs) else "worse"), f"{size} than {best.label}"

    @property
    def chance(self) -> float:
        """Half the interval of the difference to the best baseline, what chance may do to the main metric; else 0."""
        main, best = self.main, self.best_baseline
        found = best.differences.get(main.name, {}) if main and best else {}
        return float(found["high"] - found["low"]) / 2 if {"low", "high"} <= found.keys() else 0.0

    @property
    def lost_metrics(self) -> list[str]:
        """The baselines that are better in other metrics, as text, where the model wins by the main metric."""
        if self.verdict is None or self.verdict[0] != "better":
            return []
        found: dict[str, list[str]] = {}
        for metric in self.metrics:
            rivals = [one for one in self.baselines if metric.name in one.values]
            best = min(rivals, key=lambda one: metric.error(one.values[metric.name]), default=None)
            if best and metric.better(best.values[metric.name], self.model.values[metric.name]):
                found.setdefault(best.label, []).append(metric.label)
        return [f"{label} is better in {', '.join(labels)}" for label, labels in found.items()]


def compare(metrics: Mapping[str, Any]) -> list[Comparison]:
    """All comparisons of a metrics file.

    One a target; the classifier and the language model of a text; predicted ratings and recommendations.
    """
    if isinstance(metrics.get("targets"), Mapping):
        facts, seconds = _facts(metrics), metrics.get("seconds")
        return [_flat(values, f"target {name}", facts, seconds) for name, values in metrics["targets"].items()]
    if any(isinstance(metrics.get(name), Mapping) for name in ("classifier", "language_model")):
        return _text_comparisons(metrics)
    ranking, seconds = metrics.get("ranking"), metrics.get("seconds")
    lists = [_ranking(ranking)] if isinstance(ranking, Mapping) and metric_values(ranking) else []
    title = "predicted ratings" if lists else ""
    return [*([_flat(metrics, title, _facts(metrics), seconds)] if metric_values(metrics) else []), *lists]


def headlines(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that say what a source is for: the classes of texts, the recommendations; otherwise all."""
    return [one for one in comparisons if one.title in ("classifier", "recommendations")] or list(comparisons)


def _flat(metrics: Mapping[str, Any], title: str, facts: list[str], seconds: float | None) -> Comparison:
    baselines = metrics.get("baselines") or {}
    rivals = [_contestant(_label(name, values), values) for name, values in baselines.items()]
    model, ceiling = _contestant("embedline", metrics), metric_values(metrics.get("ceiling") or {})
    networks = metrics.get("networks") or {}  # of an ensemble; one alone is the model
    others = [_contestant(f"network {name}", values) for name, values in networks.items()] if len(networks) > 1 else []
    return Comparison(title, model, rivals, facts, metrics.get("main_metric"), ceiling, seconds, others)


def _ranking(metrics: Mapping[str, Any]) -> Comparison:
    """The recommendations by NDCG, and the other rankers."""
    main = next((name for name in metric_values(metrics) if name.startswith("ndcg_at_")), None)
    facts = [f"ranked by {LABELS.get(metrics['ranker'], metrics['ranker'])}"] if "ranker" in metrics else []
    if "ranked_users" in metrics:
        facts.append(f"{metrics['ranked_users']:,} users")
    low, high = (metrics.get(f"{main}_{end}") for end in ("low", "high"))
    if low is not None and high is not None:
        label = known_metrics([str(main)])[0].label
        facts.append(f"95 % interval of the {label}: {format_number(low)} to {format_number(high)}")
    if metrics.get("coverage") is not None:
        facts.append(f"{metrics['coverage']:.0%} of the items in the lists".replace("%", " %"))
    one = _flat(metrics, "recommendations", facts, metrics.get("seconds"))
    others = [_contestant(_label(name, values), values) for name, values in (metrics.get("rankers") or {}).items()]
    return replace(one, given=main, others=others)


def _text_comparisons(metrics: Mapping[str, Any]) -> list[Comparison]:
    """Those of a classifier, if there is one, and of its language models."""
    found = []
    if classifier := metrics.get("classifier"):
        rivals = [_contestant(LABELS[name], values) for name, values in (metrics.get("members") or {}).items()]
        tests = [f"{classifier['rows']:,} test documents"] if "rows" in classifier else []
        training, ceiling = classifier.get("training") or {}, metric_values(classifier.get("ceiling") or {})
        facts, seconds = [*tests, *_facts(training)], training.get("seconds")
        model = _contestant("embedline", classifier)
        found.append(Comparison("classifier", model, rivals, facts, ceiling=ceiling, seconds=seconds))
    forward = metrics.get("language_model") or {}
    for title, language in (("language model", forward), ("backward language model", forward.get("backward") or {})):
        if metric_values(language):
            facts, seconds = _facts(language), language.get("seconds")
            found.append(Comparison(title, _contestant("embedline", language), [], facts, seconds=seconds))
    return found


def _contestant(label: str, metrics: Mapping[str, Any]) -> Contestant:
    low, high = (metrics.get(name) for name in INTERVAL)
    interval = (low, high) if low is not None and high is not None else None
    return Contestant(label, metric_values(metrics), interval, metrics.get("differences") or {})


def _label(name: str, values: Mapping[str, Any]) -> str:
    if name == "group_mean" and values.get("group_by"):
        return f"mean by {', '.join(values['group_by'])}"
    return LABELS.get(name, name.replace("_", " "))


def _facts(metrics: Mapping[str, Any]) -> list[str]:
    """Size and cost of the training as short texts: ``28,866 training rows``, ``2 networks of 10 epochs each``, …"""
    facts = []
    for name, noun in (
        ("train_rows", "training rows"),
        ("test_rows", "held out"),
        ("documents", "documents"),
        ("tokens", "tokens"),
        ("vocabulary", "words"),
    ):
        if isinstance(metrics.get(name), int):
            facts.append(f"{metrics[name]:,} {noun}")
    if isinstance(metrics.get("epochs"), int):
        members = metrics.get("members", 1)
        epochs = f"{metrics['epochs']} epoch{'s' if metrics['epochs'] > 1 else ''}"
        facts.append(f"{members} networks of {epochs} each" if members > 1 else epochs)
    if isinstance(metrics.get("seconds"), int | float):
        rate = next((f"{metrics[name]:,.0f} {noun}" for name, noun in RATES.items() if name in metrics), "")
        device = " ".join(str(metrics[name]) for name in ("device", "precision") if name in metrics)
        details = ", ".join(text for text in (rate, device) if text)
        facts.append(f"{format_duration(metrics['seconds'])} of training" + (f" ({details})" if details else ""))
    return facts
