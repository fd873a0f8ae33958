"""The metrics that a report compares, how numbers are written, and metrics files as comparisons with baselines."""

from typing import Any

import pytest

from embedline.pipelines.report.comparisons import compare, headlines
from embedline.pipelines.report.metrics import (
    format_number,
    gain,
    known_metrics,
    main_metric,
    metric_values,
)
from embedline.training.progress import format_duration

SALES: dict[str, Any] = {
    "exp_rmspe": 0.09,
    "rmse": 650.0,
    "train_rows": 28866,
    "test_rows": 1486,
    "epochs": 10,
    "members": 2,
    "seconds": 34.8,
    "rows_per_second": 16810.3,
    "device": "cpu",
    "precision": "bf16",
    "baselines": {
        "group_mean": {"exp_rmspe": 0.12, "rmse": 1040.0, "group_by": ["Store", "DayOfWeek"]},
        "lightgbm": {"exp_rmspe": 0.10, "rmse": 640.0, "seconds": 3.5},
    },
}


def test_a_number() -> None:
    (one,) = compare(SALES)
    assert one.main is not None and one.main.name == "exp_rmspe"
    assert [who.label for who in one.baselines] == ["mean by Store, DayOfWeek", "LightGBM"]
    assert one.best_baseline is not None and one.best_baseline.label == "LightGBM"
    assert one.verdict == ("better", "10.0 % lower error than LightGBM")
    assert one.lost_metrics == ["LightGBM is better in RMSE"]
    assert one.facts == [
        "28,866 training rows",
        "1,486 held out",
        "2 networks of 10 epochs each",
        "35 s of training (16,810 rows/s, cpu bf16)",
    ]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(0.11, ("worse", "10.0 % higher error than LightGBM")), (0.10, ("no difference", "as good as LightGBM"))],
)
def test_a_loss_and_a_tie_are_no_win(ours: float, verdict: tuple[str, str]) -> None:
    (one,) = compare({**SALES, "exp_rmspe": ours})
    assert one.verdict == verdict
    assert one.lost_metrics == []  # the main metric decides


def test_a_difference_within_its_interval_is_no_win() -> None:
    lightgbm = {"exp_rmspe": 0.10, "differences": {"exp_rmspe": {"verdict": "no difference"}}}
    (one,) = compare({**SALES, "baselines": {"lightgbm": lightgbm}})
    assert one.verdict is not None
    assert one.verdict[0] == "no difference"
    assert "LightGBM" in one.verdict[1] and "10.0 %" in one.verdict[1]
    assert one.verdict[1].startswith("no difference from LightGBM") and one.chance == 0.0
    lightgbm["differences"]["exp_rmspe"] |= {"low": -0.02, "high": 0.01}
    (one,) = compare({**SALES, "baselines": {"lightgbm": lightgbm}})
    assert one.chance == pytest.approx(0.015)
    assert one.lost_metrics == []


def test_what_a_source_is_for_is_the_headline() -> None:
    ranked = compare({"rmse": 0.9, "ranking": {"ndcg_at_10": 0.4, "ranker": "ease"}})
    assert [one.title for one in ranked] == ["predicted ratings", "recommendations"]
    assert [one.title for one in headlines(ranked)] == ["recommendations"]
    texts = compare({"classifier": {"accuracy": 0.9}, "language_model": {"perplexity": 9.0}})
    assert [one.title for one in headlines(texts)] == ["classifier"]
    assert [one.title for one in headlines(compare({"language_model": {"perplexity": 9.0}}))] == ["language model"]
    assert len(headlines(compare({"targets": {"Price": {"rmse": 2.0}, "Grade": {"accuracy": 0.8}}}))) == 2


def test_several_targets_are_compared_one_by_one() -> None:
    targets = {"Price": {"rmse": 2.0, "baselines": {}}, "Grade": {"accuracy": 0.8, "accuracy_low": 0.7} | {}}
    found = compare({"targets": targets, "train_rows": 10})
    assert [(one.title, one.main and one.main.name) for one in found] == [
        ("target Price", "rmse"),
        ("target Grade", "accuracy"),
    ]
    assert found[0].verdict is None and found[0].facts == ["10 training rows"]


def test_a_language_model_alone_is_compared_with_nothing() -> None:
    language = {"perplexity": 6.58, "next_word_accuracy": 0.31, "tokens": 90_000}
    (one,) = compare({"language_model": language, "vocabulary": {"size": 646}})
    assert (one.title, one.baselines, one.facts) == ("language model", [], ["90,000 tokens"])
    assert one.model.values == {"perplexity": 6.58, "next_word_accuracy": 0.31}


def test_texts_have_a_classifier_and_a_language_model() -> None:
    metrics = {
        "classifier": {
            "rows": 400,
            "accuracy": 0.85,
            "accuracy_low": 0.81,
            "accuracy_high": 0.88,
            "training": {"documents": 720, "epochs": 1, "seconds": 7.0, "tokens_per_second": 44954.9},
        },
        "members": {"baseline": {"accuracy": 0.81, "training": {"seconds": 2.2}}},
        "language_model": {"perplexity": 6.58, "vocabulary": 646},
    }
    classifier, language = compare(metrics)
    assert classifier.verdict == ("better", "4.0 points higher than NB-SVM")
    assert classifier.model.interval == (0.81, 0.88)
    assert classifier.facts == [
        "400 test documents",
        "720 documents",
        "1 epoch",
        "7 s of training (44,955 tokens/s)",
    ]
    assert language.title == "language model" and language.model.values == {"perplexity": 6.58}
    assert language.facts == ["646 words"]


def test_a_text_model_stands_beside_its_members_and_its_backward_language_model() -> None:
    def member(accuracy: float, verdict: str) -> dict[str, Any]:
        differences = {"accuracy": {"verdict": verdict}, "log_loss": {"verdict": "better"}}
        return {"accuracy": accuracy, "log_loss": 0.5, "differences": differences}

    metrics = {
        "classifier": {"accuracy": 0.85, "log_loss": 0.4},
        "members": {
            "forward": member(0.80, "better"),
            "backward": member(0.79, "better"),
            "networks": member(0.84, "no difference"),
            "baseline": member(0.81, "better"),
        },
        "language_model": {"perplexity": 6.58, "backward": {"perplexity": 6.9, "epochs": 2}},
    }
    classifier, language, backward = compare(metrics)
    labels = ["the forward network", "the backward network", "the networks alone", "NB-SVM"]
    assert [one.label for one in classifier.baselines] == labels
    assert classifier.verdict is not None and classifier.verdict[0] == "no difference"
    assert labels[2] in classifier.verdict[1]
    assert (language.model.values, backward.model.values) == ({"perplexity": 6.58}, {"perplexity": 6.9})
    assert (backward.title, backward.facts) == ("backward language model", ["2 epochs"])


RANKING: dict[str, Any] = {
    "ranker": "als",
    "ranked_users": 1919,
    "precision_at_10": 0.28,
    "ndcg_at_10": 0.39,
    "ndcg_at_10_low": 0.375,
    "ndcg_at_10_high": 0.408,
    "coverage": 0.184,
    "seconds": 30.0,
    "rankers": {"ease": {"ndcg_at_10": 0.40}, "predicted_rating": {"ndcg_at_10": 0.10}},
    "baselines": {
        "popularity": {"ndcg_at_10": 0.18, "differences": {"ndcg_at_10": {"verdict": "better"}}},
        "random": {"ndcg_at_10": 0.01},
    },
}


def test_recommendations_stand_beside_the_predicted_ratings() -> None:
    errors = {"rmse": 0.893, "mse": 0.797, "baselines": {"damped_bias": {"rmse": 0.94}}}
    ratings, lists = compare({**errors, "ranking": RANKING})
    assert (ratings.title, lists.title) == ("predicted ratings", "recommendations")
    assert ratings.main is not None and ratings.main.name == "rmse"
    assert lists.main is not None and (lists.main.name, lists.main.label) == ("ndcg_at_10", "NDCG@10")
    assert lists.verdict == ("better", "21.0 points higher than popularity")  # not than a ranker of ours
    assert [one.label for one in lists.others] == ["EASE", "predicted rating"]
    for fact in ("ALS", "1,919 users", "0.3750 to 0.4080", "18 %"):
        assert any(fact in text for text in lists.facts)
    assert [one.title for one in compare({"ranking": RANKING})] == ["recommendations"]  # events have no ratings
    (empty,) = compare({**errors, "ranking": {"ndcg_at_10": None, "ranked_users": 0}})
    assert empty.title == ""


def test_the_best_that_a_model_can_expect_is_said_of_the_main_metric() -> None:
    (known,), (unknown,) = compare({**SALES, "ceiling": {"exp_rmspe": 0.0799}}), compare(SALES)
    assert (known.bound, unknown.bound) == ("no model can expect less than 0.07990", "")
    (other,) = compare({**SALES, "ceiling": {"rmse": 500.0}})
    assert (other.bound, other.ceiling) == ("", {"rmse": 500.0})
    text = {"classifier": {"accuracy": 0.9, "ceiling": {"accuracy": 0.94}}, "language_model": {"perplexity": 6.0}}
    assert [one.bound for one in compare(text)] == ["no model can expect more than 0.9400", ""]


def test_a_file_without_known_metrics_has_no_comparison() -> None:
    assert compare({"seconds": 3.0, "note": "nothing"}) == []


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
