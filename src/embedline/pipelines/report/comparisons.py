"""A metrics file as tables: the model and its baselines, row by row, whatever learner wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedline.pipelines.report.measures import Measure, duration, figures_of, gain, main_measure, measures_of

LABELS = {
    "lightgbm": "LightGBM",
    "damped_bias": "damped biases",
    "global_mean": "global mean",
    "baseline": "TF-IDF and logistic regression",
}
RATES = {"rows_per_second": "rows/s", "tokens_per_second": "tokens/s"}
INTERVAL = ("accuracy_low", "accuracy_high")


@dataclass(frozen=True)
class Contestant:
    """A model or baseline with its figures, and the 95 % interval of its accuracy where there is one."""

    label: str
    figures: dict[str, float]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """A model and the baselines on the same rows.

    Attributes:
        title: what is compared, such as the target; empty where there is but one comparison.
        model: of the project.
        baselines: the others.
        facts: what the training took, in short sentences.
    """

    title: str
    model: Contestant
    baselines: list[Contestant]
    facts: list[str] = field(default_factory=list)

    @property
    def measures(self) -> list[Measure]:
        """Measures that the model has."""
        return measures_of(self.model.figures)

    @property
    def main(self) -> Measure | None:
        """The measure that decides."""
        return main_measure(self.model.figures)

    @property
    def best_baseline(self) -> Contestant | None:
        """The baseline to beat, by the main measure."""
        main = self.main
        rated = [one for one in self.baselines if main and main.name in one.figures]
        return min(rated, key=lambda one: main.error(one.figures[main.name])) if main and rated else None

    @property
    def verdict(self) -> tuple[bool, str] | None:
        """Whether the model beats its best baseline, and by how much; None without one."""
        main, best = self.main, self.best_baseline
        if main is None or best is None:
            return None
        ours, theirs = self.model.figures[main.name], best.figures[main.name]
        what = f"{gain(main, ours, theirs)} than {best.label}" if ours != theirs else f"as good as {best.label}"
        return main.better(ours, theirs), what

    @property
    def lost(self) -> list[str]:
        """Of a model that wins by the main measure: which baselines are better in others, in words."""
        if self.verdict is None or not self.verdict[0]:
            return []
        found: dict[str, list[str]] = {}
        for measure in self.measures:
            rivals = [one for one in self.baselines if measure.name in one.figures]
            best = min(rivals, key=lambda one: measure.error(one.figures[measure.name]), default=None)
            if best and measure.better(best.figures[measure.name], self.model.figures[measure.name]):
                found.setdefault(best.label, []).append(measure.label)
        return [f"{label} is better in {', '.join(measures)}" for label, measures in found.items()]


def compare(metrics: Mapping[str, Any]) -> list[Comparison]:
    """Every comparison of a metrics file of the three learners; for another one, its known figures alone."""
    if isinstance(metrics.get("targets"), Mapping):
        facts = _facts(metrics)
        return [_flat(of_one, f"target {name}", facts) for name, of_one in metrics["targets"].items()]
    if isinstance(metrics.get("classifier"), Mapping):
        return _of_texts(metrics)
    return [_flat(metrics, "", _facts(metrics))] if figures_of(metrics) else []


def _flat(metrics: Mapping[str, Any], title: str, facts: list[str]) -> Comparison:
    baselines = metrics.get("baselines") or {}
    rivals = [_contestant(_label(name, figures), figures) for name, figures in baselines.items()]
    return Comparison(title, _contestant("embedline", metrics), rivals, facts)


def _of_texts(metrics: Mapping[str, Any]) -> list[Comparison]:
    classifier, baseline = metrics["classifier"], metrics.get("baseline")
    rivals = [_contestant(LABELS["baseline"], baseline)] if baseline else []
    tests = [f"{classifier['rows']:,} test documents"] if "rows" in classifier else []
    found = [
        Comparison(
            "classifier",
            _contestant("embedline", classifier),
            rivals,
            [*tests, *_facts(classifier.get("training") or {})],
        )
    ]
    language = metrics.get("language_model")
    if language and figures_of(language):
        found.append(Comparison("language model", _contestant("embedline", language), [], _facts(language)))
    return found


def _contestant(label: str, metrics: Mapping[str, Any]) -> Contestant:
    low, high = (metrics.get(name) for name in INTERVAL)
    return Contestant(label, figures_of(metrics), (low, high) if low is not None and high is not None else None)


def _label(name: str, figures: Mapping[str, Any]) -> str:
    if name == "group_mean" and figures.get("group_by"):
        return f"mean by {', '.join(figures['group_by'])}"
    return LABELS.get(name, name.replace("_", " "))


def _facts(metrics: Mapping[str, Any]) -> list[str]:
    """What the training took, as far as the figures tell: ``28,866 training rows``, ``2 networks of 10 epochs``, …"""
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
        facts.append(f"{duration(metrics['seconds'])} of training" + (f" ({details})" if details else ""))
    return facts
