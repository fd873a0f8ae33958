"""The metrics that a report compares, which direction is better, and how numbers are written."""

import pytest

from embedline.pipelines.report.metrics import (
    format_duration,
    format_number,
    gain,
    known_metrics,
    main_metric,
    metric_values,
)

METRICS = {"rows": 40, "accuracy": 0.9, "log_loss": 0.3, "seconds": 3.0, "ndcg_at_5": 0.2, "roc_auc": None}


def test_known_metrics_are_found_and_those_of_rankings_come_last() -> None:
    found = known_metrics(METRICS)
    assert [(one.name, one.label, one.lower) for one in found] == [
        ("accuracy", "accuracy", False),
        ("log_loss", "log loss", True),
        ("roc_auc", "ROC-AUC", False),
        ("ndcg_at_5", "NDCG@5", False),
    ]
    assert metric_values(METRICS) == {"accuracy": 0.9, "log_loss": 0.3, "ndcg_at_5": 0.2}


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["rmse", "exp_rmspe"], "exp_rmspe"),
        (["log_loss", "accuracy"], "accuracy"),
        (["mse", "rmse"], "rmse"),
        (["next_word_accuracy", "perplexity"], "perplexity"),
        (["r2"], "r2"),
        (["seconds"], None),
    ],
)
def test_the_main_metric(names: list[str], main: str | None) -> None:
    found = main_metric(dict.fromkeys(names, 1.0))
    assert (found.name if found else None) == main


def test_better_is_lower_for_errors_and_higher_for_shares() -> None:
    accuracy, log_loss = known_metrics(["accuracy", "log_loss"])
    assert accuracy.better(0.9, 0.8) and not accuracy.better(0.9, 0.9)
    assert log_loss.better(0.2, 0.3) and not log_loss.better(0.3, 0.3)
    assert accuracy.error(0.9) == pytest.approx(0.1) and log_loss.error(0.2) == 0.2


@pytest.mark.parametrize(
    ("name", "value", "other", "words"),
    [
        ("exp_rmspe", 0.09, 0.10, "10.0 % lower error"),
        ("exp_rmspe", 0.11, 0.10, "10.0 % higher error"),
        ("accuracy", 0.91, 0.90, "1.0 points higher"),
        ("accuracy", 0.80, 0.825, "2.5 points lower"),
    ],
)
def test_the_gain_in_words(name: str, value: float, other: float, words: str) -> None:
    (metric,) = known_metrics([name])
    assert gain(metric, value, other) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0813404, "0.08134"), (650.3306, "650.3"), (1039.98, "1,040"), (28866.0, "28,866"), (0.0, "0"), (1.0, "1.000")],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_durations() -> None:
    assert [format_duration(seconds) for seconds in (34.2, 780, 7500)] == ["34 s", "13 min", "2 h 05 min"]
