"""Predictions, metrics and mistakes of a text model, value by value."""

import json
import logging

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.text.evaluation import (
    ReportOptions,
    class_codes,
    evaluate,
    excerpt,
    mistakes,
    prediction_arrays,
    prediction_frame,
    resolve_html,
)

CLASSES = ["neg", "pos"]
DOCUMENTS = pl.DataFrame(
    {
        "document_id": ["d", "c", "b", "a"],
        "label": ["neg", "pos", "pos", "neg"],
        "text": ["Fine.<br /><br />Not &amp; never.", "x" * 1000, "y", "z"],
        "split": ["test"] * 4,
    }
)
OURS = prediction_frame(DOCUMENTS, np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9]]), CLASSES)
THEIRS = prediction_frame(DOCUMENTS, np.array([[0.7, 0.3], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]]), CLASSES)


def test_predictions_stand_beside_the_labels() -> None:
    assert OURS.rows() == [
        ("d", "neg", "pos", 0.8, 0.2, 0.8),
        ("c", "pos", "neg", 0.9, 0.9, 0.1),
        ("b", "pos", "pos", 0.7, 0.3, 0.7),
        ("a", "neg", "pos", 0.9, 0.1, 0.9),
    ]
    assert OURS.columns == ["document_id", "label", "predicted", "confidence", "p_neg", "p_pos"]


def test_a_tie_is_the_first_class() -> None:
    assert prediction_frame(DOCUMENTS[:1], np.array([[0.5, 0.5]]), CLASSES)["predicted"].to_list() == ["neg"]


def test_predictions_and_back() -> None:
    actual, probabilities = prediction_arrays(OURS, CLASSES)
    assert actual.tolist() == [0, 1, 1, 0]
    assert probabilities.tolist() == [[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9]]
    # The order of the classes is the caller's.
    actual, probabilities = prediction_arrays(OURS, CLASSES[::-1])
    assert actual.tolist() == [1, 0, 0, 1]
    assert probabilities[0].tolist() == [0.8, 0.2]


def test_predictions_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="no column 'p_mixed'; they have: document_id, label"):
        prediction_arrays(OURS, ["neg", "mixed", "pos"])
    with pytest.raises(DataError, match="row 1 has probabilities that do not sum to 1"):
        prediction_frame(DOCUMENTS[:2], np.array([[0.5, 0.5], [0.5, 0.6]]), CLASSES)


def test_labels_are_checked_by_document() -> None:
    with pytest.raises(DataError, match="document 'c' has the label 'pos', which is none of"):
        class_codes(DOCUMENTS, ["neg", "positive"])
    with pytest.raises(DataError, match="name one twice"):
        class_codes(DOCUMENTS, ["neg", "pos", "neg"])
    assert class_codes(DOCUMENTS[:0], CLASSES).shape == (0,)


def test_a_missing_probability_is_named() -> None:
    spoilt = OURS.with_columns(p_pos=pl.when(document_id="c").then(None).otherwise("p_pos"))
    with pytest.raises(DataError, match="row 1 has a probability that is not a number"):
        evaluate(spoilt, None, CLASSES)


def test_losing_to_the_baseline_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        metrics = evaluate(
            OURS,
            THEIRS.reverse(),
            CLASSES,
            classifier={"epochs": 3},
            baseline={"seconds": 1.5},
            language_model={"perplexity": 70.0},
            vocabulary={"size": 100, "fitted_on": ["train", "unlabelled"]},
        )
    assert (metrics["classifier"]["accuracy"], metrics["baseline"]["accuracy"]) == (0.25, 0.5)
    assert metrics["beats_baseline"] is False
    assert metrics["classifier"]["confusion"]["counts"] == [[0, 2], [1, 1]]
    assert metrics["baseline"]["confusion"]["counts"] == [[1, 1], [1, 1]]
    assert (metrics["classifier"]["epochs"], metrics["baseline"]["seconds"]) == (3, 1.5)
    assert metrics["language_model"] == {"perplexity": 70.0}
    assert metrics["vocabulary"] == {"size": 100, "fitted_on": ["train", "unlabelled"]}
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["The classifier (accuracy 0.2500) does not beat its baseline (0.5000) on 4 test documents"]


def test_beating_the_baseline_is_no_warning_and_a_tie_no_win(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert evaluate(THEIRS, OURS, CLASSES)["beats_baseline"] is True
        assert not caplog.records
        assert evaluate(OURS, OURS, CLASSES)["beats_baseline"] is False
    assert len(caplog.records) == 1


def test_without_a_baseline_there_is_nothing_to_beat() -> None:
    metrics = evaluate(OURS, None, CLASSES)
    assert list(metrics) == ["classifier"]
    assert metrics["classifier"]["accuracy"] == 0.25


def test_the_bins_of_the_report_are_used() -> None:
    metrics = evaluate(OURS, None, CLASSES, options=ReportOptions(calibration_bins=1))
    assert metrics["classifier"]["calibration"] == [
        {"lower": 0.0, "upper": 1.0, "count": 4, "confidence": pytest.approx(0.825), "accuracy": 0.25}
    ]


def test_a_metric_is_not_overwritten() -> None:
    with pytest.raises(DataError, match="metrics of the classifier already have 'accuracy'"):
        evaluate(OURS, None, CLASSES, classifier={"accuracy": 0.99})


def test_both_must_predict_the_same_documents() -> None:
    with pytest.raises(DataError, match="only the classifier predicts document 'a': 1 such"):
        evaluate(OURS, THEIRS[:3], CLASSES)
    with pytest.raises(DataError, match="only the baseline predicts document 'd'"):
        evaluate(OURS[1:], THEIRS, CLASSES)
    with pytest.raises(DataError, match="document_id repeats"):
        evaluate(OURS, pl.concat([THEIRS, THEIRS[:1]]), CLASSES)


def test_the_surest_mistakes_come_first() -> None:
    table = mistakes(OURS, DOCUMENTS, THEIRS, ReportOptions(excerpt=4))
    assert table.columns == ["document_id", "label", "predicted", "confidence", "baseline", "text"]
    assert table.rows() == [
        ("a", "neg", "pos", 0.9, "pos", "z"),
        ("c", "pos", "neg", 0.9, "neg", "xxxx\n[…]\nxxxx"),
        ("d", "neg", "pos", 0.8, "neg", "Fine\n[…]\nver."),
    ]
    assert mistakes(OURS, DOCUMENTS, THEIRS, ReportOptions(mistakes=1))["document_id"].to_list() == ["a"]


def test_mistakes_without_a_baseline_or_without_any() -> None:
    table = mistakes(OURS, DOCUMENTS)
    assert table["baseline"].to_list() == [None] * 3
    assert table.schema["baseline"] == pl.String
    right = prediction_frame(DOCUMENTS, np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]), CLASSES)
    empty = mistakes(right, DOCUMENTS)
    assert empty.is_empty()
    assert empty.schema == table.schema


def test_a_mistake_without_its_text_is_named() -> None:
    with pytest.raises(DataError, match="document 'c' has a prediction but no text"):
        mistakes(OURS, DOCUMENTS.filter(pl.col("document_id") != "c"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one<br />two<br/>three<BR>four", "one\ntwo\nthree\nfour"),
        ("Tom &amp; Jerry &lt;3 &#39;quoted&#39;", "Tom & Jerry <3 'quoted'"),
        ("escaped&lt;br /&gt;break", "escaped\nbreak"),
        ("a < b and <i>c</i>", "a < b and <i>c</i>"),
    ],
)
def test_html_is_resolved(text: str, shown: str) -> None:
    assert resolve_html(text) == shown


def test_an_excerpt_is_shorter_than_the_text() -> None:
    assert excerpt("abcdefghijklm", 4) == "abcdefghijklm"  # 13 characters: two ends and the mark between are as long
    assert excerpt("abcdefghijklmn", 4) == "abcd\n[…]\nklmn"
    assert excerpt("abc  efghij  mno", 4) == "abc\n[…]\nmno"


def test_options_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="mistake"):
        ReportOptions.model_validate({"mistake": 3})
