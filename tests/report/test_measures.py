"""Which figures a report compares, which way is better, and how it writes them."""

import pytest

from embedline.pipelines.report.measures import duration, figures_of, gain, main_measure, measures_of, number

METRICS = {"rows": 40, "accuracy": 0.9, "log_loss": 0.3, "seconds": 3.0, "ndcg_at_5": 0.2, "roc_auc": None}


def test_known_measures_are_found_and_those_of_rankings_come_last() -> None:
    found = measures_of(METRICS)
    assert [(one.name, one.label, one.lower) for one in found] == [
        ("accuracy", "accuracy", False),
        ("log_loss", "log loss", True),
        ("roc_auc", "ROC-AUC", False),
        ("ndcg_at_5", "NDCG@5", False),
    ]
    assert figures_of(METRICS) == {"accuracy": 0.9, "log_loss": 0.3, "ndcg_at_5": 0.2}


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
def test_the_measure_that_decides(names: list[str], main: str | None) -> None:
    found = main_measure(dict.fromkeys(names, 1.0))
    assert (found.name if found else None) == main


def test_better_is_lower_for_errors_and_higher_for_shares() -> None:
    accuracy, log_loss = measures_of(["accuracy", "log_loss"])
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
    (measure,) = measures_of([name])
    assert gain(measure, value, other) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0813404, "0.08134"), (650.3306, "650.3"), (1039.98, "1,040"), (28866.0, "28,866"), (0.0, "0"), (1.0, "1.000")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_durations() -> None:
    assert [duration(seconds) for seconds in (34.2, 780, 7500)] == ["34 s", "13 min", "2 h 05 min"]
