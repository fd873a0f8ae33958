"""Predictions, metrics and mistakes of a text model, value by value."""

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

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


def long_frame(**members: pl.DataFrame) -> pl.DataFrame:
    """Predictions of members as one frame."""
    return pl.concat(
        frame.select("document_id", "p_neg", "p_pos", member=pl.lit(name)) for name, frame in members.items()
    )


def compare(ours: pl.DataFrame, theirs: pl.DataFrame = THEIRS, n_bins: int = 15, **seconds: float) -> dict[str, Any]:
    options = ReportOptions(calibration_bins=n_bins)
    return evaluate(ours, long_frame(baseline=theirs, same=ours), CLASSES, options, seconds)


def test_predictions_stand_beside_the_labels_and_back() -> None:
    assert OURS.rows() == [
        ("d", "neg", "pos", 0.8, 0.2, 0.8),
        ("c", "pos", "neg", 0.9, 0.9, 0.1),
        ("b", "pos", "pos", 0.7, 0.3, 0.7),
        ("a", "neg", "pos", 0.9, 0.1, 0.9),
    ]
    assert OURS.columns == ["document_id", "label", "predicted", "confidence", "p_neg", "p_pos"]
    tie = prediction_frame(DOCUMENTS[:1], np.array([[0.5, 0.5]]), CLASSES)
    assert tie["predicted"].to_list() == ["neg"]  # the first class
    for classes, codes in ((CLASSES, [0, 1, 1, 0]), (CLASSES[::-1], [1, 0, 0, 1])):  # the order is the caller's
        actual, probabilities = prediction_arrays(OURS, classes)
        assert actual.tolist() == class_codes(DOCUMENTS, classes).tolist() == codes
        assert probabilities.tolist() == OURS.select(f"p_{name}" for name in classes).to_numpy().tolist()
    assert class_codes(DOCUMENTS[:0], CLASSES).shape == (0,)


SPOILT = OURS.with_columns(p_pos=pl.when(document_id="c").then(None).otherwise("p_pos"))
BARE = DOCUMENTS.with_columns(label=pl.lit(None, dtype=pl.String))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: prediction_arrays(OURS, ["neg", "mixed", "pos"]), "'p_mixed'; they have: document_id, label"),
        (lambda: prediction_frame(DOCUMENTS[:2], np.array([[0.5, 0.5], [0.5, 0.6]]), CLASSES), "row 1 .* sum to 1"),
        (lambda: class_codes(DOCUMENTS, ["neg", "positive"]), "document 'c' has the label 'pos', which is none of"),
        (lambda: class_codes(BARE, CLASSES), "document 'd' has the label None"),
        (lambda: class_codes(DOCUMENTS, ["neg", "pos", "neg"]), "twice"),
        (lambda: compare(SPOILT), "row 1 .* not a number"),
        (lambda: compare(OURS, THEIRS[:3]), "only the classifier predicts document 'a': 1 such"),
        (lambda: compare(OURS[1:], THEIRS), "only the baseline predicts document 'd'"),
        (lambda: compare(OURS, pl.concat([THEIRS, THEIRS[:1]])), "baseline predicts document 'd' more than once"),
        (lambda: mistakes(OURS, DOCUMENTS[:1], THEIRS, ReportOptions()), "document 'a' .* no text"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(compute: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute()


def test_the_model_is_compared_with_each_member(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        metrics = compare(OURS, THEIRS.reverse(), baseline=1.5)
    assert metrics["classifier"]["accuracy"] == 0.25
    assert metrics["classifier"]["confusion"]["counts"] == [[0, 2], [1, 1]]
    member = metrics["members"]["baseline"]
    assert (member["accuracy"], member["seconds"]) == (0.5, 1.5)
    ours, theirs = np.log([0.2, 0.1, 0.7, 0.1]), np.log([0.7, 0.4, 0.6, 0.4])
    assert member["log_loss"] == pytest.approx(-theirs.mean())
    # Confidences 0.7, 0.6, 0.6, 0.6 of which the first and the third are right, in bins of 1/15.
    assert member["calibration_error"] == pytest.approx((0.3 + 3 * abs(0.6 - 1 / 3)) / 4)
    differences = {name: found["difference"] for name, found in member["differences"].items()}
    assert differences == {"accuracy": -0.25, "log_loss": pytest.approx((theirs - ours).mean())}
    assert {name: found["difference"] for name, found in metrics["members"]["same"]["differences"].items()} == {
        "accuracy": 0.0,
        "log_loss": 0.0,
    }
    assert "seconds" not in metrics["members"]["same"] and "same" in metrics["no_difference"]
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def many(p_right: float, n: int = 400) -> pl.DataFrame:
    """Predictions of which the share 3/4 is right, with the probability ``p_right`` of the right class."""
    rows = [{"document_id": str(row), "label": CLASSES[row % 2]} for row in range(n)]
    right = np.where(np.arange(n) % 4 < 3, p_right, 1 - p_right)
    positive = np.where(np.arange(n) % 2 == 1, right, 1 - right)
    return prediction_frame(pl.DataFrame(rows), np.stack([1 - positive, positive], axis=1), CLASSES)


def test_better_and_worse_are_said_only_outside_of_chance(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        metrics = compare(many(0.75), many(0.95))  # calibrated against overconfident: the same classes
    verdicts = {name: found["verdict"] for name, found in metrics["members"]["baseline"]["differences"].items()}
    assert verdicts == {"accuracy": "no difference", "log_loss": "better"}
    assert (metrics["beaten_by"], metrics["no_difference"]) == ([], ["same"])
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [": better" in message for message in caplog.messages] == [False, True, False, False]
    worse = compare(many(0.95), many(0.75))
    assert worse["beaten_by"] == ["baseline"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "log_loss" in warning and "baseline" in warning and ": worse" in warning
    barely = compare(OURS, THEIRS)  # four documents say nothing about accuracy
    assert barely["members"]["baseline"]["differences"]["accuracy"]["verdict"] == "no difference"


def test_the_surest_mistakes_come_first() -> None:
    table = mistakes(OURS, DOCUMENTS, THEIRS, ReportOptions(excerpt=4))
    assert table.columns == ["document_id", "label", "predicted", "confidence", "baseline", "text"]
    assert table.rows() == [
        ("a", "neg", "pos", 0.9, "pos", "z"),
        ("c", "pos", "neg", 0.9, "neg", "xxxx\n[…]\nxxxx"),
        ("d", "neg", "pos", 0.8, "neg", "Fine\n[…]\nver."),
    ]
    assert mistakes(OURS, DOCUMENTS, THEIRS, ReportOptions(mistakes=1))["document_id"].to_list() == ["a"]
    right = prediction_frame(DOCUMENTS, np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]), CLASSES)
    empty = mistakes(right, DOCUMENTS, THEIRS, ReportOptions())
    assert empty.is_empty() and empty.schema == table.schema


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abcdefghijklm", "abcdefghijklm"),  # 13 characters: two ends and the mark between are as long
        ("abcdefghijklmn", "abcd\n[…]\nklmn"),
        ("abc  efghij  mno", "abc\n[…]\nmno"),
    ],
)
def test_an_excerpt_is_shorter_than_the_text(text: str, shown: str) -> None:
    assert excerpt(text, 4) == shown
