"""The evaluation of a classifier: predictions beside labels, metrics of it and its members, and the worst mistakes."""

import html
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from embedline.errors import DataError
from embedline.training.metrics import (
    check_probabilities,
    classification_metrics,
    paired_difference,
    row_log_losses,
)
from embedline.training.options import Options

logger = logging.getLogger(__name__)

LINE_BREAK = re.compile(r"<\s*br\s*/?\s*>", re.IGNORECASE)
PREFIX = "p_"
MEMBER_METRICS = ("accuracy", "accuracy_low", "accuracy_high", "log_loss", "calibration_error")
CUT = "\n[…]\n"


class ReportOptions(Options):
    """Number of mistakes to list, characters to show from each end of a text, and bins of equal width of confidence."""

    mistakes: int = Field(default=50, ge=0)
    excerpt: int = Field(default=300, ge=1)
    calibration_bins: int = Field(default=15, ge=1)


def evaluate(
    predictions: pl.DataFrame,
    member_predictions: pl.DataFrame,
    classes: Sequence[str],
    options: ReportOptions,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Metrics of a classifier and of its members as nested JSON values; logs how it compares with each of them.

    Args:
        predictions: predictions of the classifier for the test split; see :func:`prediction_frame`.
        member_predictions: probabilities of each ``member`` for the same documents, in any order; others are a
            DataError.
        seconds: of the members' trainings, by their names.

    Returns:
        ``classifier``: :func:`embedline.training.metrics.classification_metrics` of the test split. ``members``: by
        name the ``accuracy`` with its interval, ``log_loss``, ``calibration_error``, ``seconds`` and ``differences``:
        by metric, accuracy and log loss, the classifier's less the member's
        (:func:`embedline.training.metrics.paired_difference`). ``beaten_by``: the members that are better in one of the
        two, outside of chance; ``no_difference``: those that differ in neither.
    """
    actual, ours = prediction_arrays(predictions, classes)
    metrics = classification_metrics(actual, ours, classes, n_bins=options.calibration_bins)
    members: dict[str, dict[str, Any]] = {}
    for name in member_predictions["member"].unique(maintain_order=True):
        rows = member_predictions.filter(member=name).drop("member")
        require_same_documents({"classifier": predictions, name: rows})
        labelled = predictions.select("document_id", "label")
        theirs = prediction_arrays(labelled.join(rows, on="document_id", maintain_order="left"), classes)[1]
        measured = classification_metrics(actual, theirs, classes, n_bins=options.calibration_bins)
        losses = [row_log_losses(actual, each) for each in (ours, theirs)]
        correct = [each.argmax(axis=1) == actual for each in (ours, theirs)]
        members[name] = {
            **{key: measured[key] for key in MEMBER_METRICS},
            **({"seconds": seconds[name]} if name in seconds else {}),
            "differences": {
                "accuracy": paired_difference(*correct, higher_is_better=True),
                "log_loss": paired_difference(*losses),
            },
        }
        _log_differences(name, metrics, members[name])
    verdicts = {name: {each["verdict"] for each in found["differences"].values()} for name, found in members.items()}
    return {
        "classifier": metrics,
        "members": members,
        "beaten_by": [name for name, found in verdicts.items() if "worse" in found],
        "no_difference": [name for name, found in verdicts.items() if found == {"no difference"}],
    }


def _log_differences(name: str, metrics: Mapping[str, Any], member: Mapping[str, Any]) -> None:
    """Log how the classifier compares with a member: a warning where it is worse, outside of chance."""
    for metric, found in member["differences"].items():
        logger.log(
            logging.WARNING if found["verdict"] == "worse" else logging.INFO,
            "Test %s %.4f, %s %.4f: %s (%+.4f, 95 %% interval %+.4f to %+.4f)",
            metric,
            metrics[metric],
            name,
            member[metric],
            found["verdict"],
            found["difference"],
            found["low"],
            found["high"],
        )


def mistakes(
    predictions: pl.DataFrame, documents: pl.DataFrame, baseline_predictions: pl.DataFrame, options: ReportOptions
) -> pl.DataFrame:
    """List the most confident mistakes, at most ``options.mistakes`` rows, by confidence (ties by document_id).

    Returns:
        ``document_id``, ``label``, ``predicted``, ``confidence``, ``baseline`` (the prediction of the baseline) and
        ``text``: the beginning and the end of the document, HTML resolved. A document without a text, and a baseline
        that predicts other documents, are a DataError.
    """
    require_same_documents({"classifier": predictions, "baseline": baseline_predictions})
    wrong = predictions.filter(pl.col("predicted") != pl.col("label"))
    wrong = wrong.sort("confidence", "document_id", descending=[True, False]).head(options.mistakes)
    wrong = wrong.select("document_id", "label", "predicted", "confidence")
    theirs = baseline_predictions.select("document_id", baseline="predicted")
    for columns in (theirs, documents.select("document_id", "text")):
        wrong = wrong.join(columns, on="document_id", how="left", maintain_order="left")
    if wrong["text"].null_count():
        absent = wrong.filter(pl.col("text").is_null())["document_id"][0]
        raise DataError(f"document {absent!r} has a prediction but no text among the documents")
    texts = [excerpt(text, options.excerpt) for text in wrong["text"]]
    return wrong.with_columns(pl.Series("text", texts, dtype=pl.String))


def excerpt(text: str, n: int) -> str:
    """The first and the last ``n`` characters of ``text`` after :func:`resolve_html`, or all of a short text."""
    text = resolve_html(text)
    return text if len(text) <= 2 * n + len(CUT) else text[:n].rstrip() + CUT + text[-n:].lstrip()


def require_same_documents(frames: Mapping[str, pl.DataFrame]) -> None:
    """Raise a DataError if two frames, by the names of their models, have not the same column ``document_id``."""
    for (which, ours), theirs in zip(frames.items(), [*frames.values()][::-1], strict=True):
        alone = ours.join(theirs, on="document_id", how="anti")["document_id"]
        if len(alone):
            raise DataError(f"only the {which} predicts document {alone[0]!r}: {len(alone)} such documents")
        if (repeated := ours["document_id"].is_duplicated()).any():
            raise DataError(f"the {which} predicts document {ours.filter(repeated)['document_id'][0]!r} more than once")


def resolve_html(text: str) -> str:
    """Resolve HTML entities in ``text``, then replace ``<br />`` by a new line: an escaped one is a line break too."""
    return LINE_BREAK.sub("\n", html.unescape(text))


def class_codes(documents: pl.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    """Index of each document's label in ``classes``, int64 [N]; a label that is not among them is a DataError."""
    numbers = {name: k for k, name in enumerate(classes)}
    if len(numbers) != len(classes):
        raise DataError(f"the classes name one twice: {list(classes)}")
    codes = [numbers.get(label, -1) for label in documents["label"]]
    if -1 in codes:
        row = codes.index(-1)
        document, label = documents["document_id"][row], documents["label"][row]
        raise DataError(f"document {document!r} has the label {label!r}, which is none of the classes {list(classes)}")
    return np.array(codes, dtype=np.int64)


def prediction_frame(
    documents: pl.DataFrame, probabilities: NDArray[np.float64], classes: Sequence[str]
) -> pl.DataFrame:
    """Labels of ``documents`` and predictions, a row for each, given probabilities float [N, C] in the classes' order.

    A row that is no probability distribution is a DataError.

    Returns:
        ``document_id``, ``label``, ``predicted`` (the most probable class, the first one of a tie), ``confidence`` (its
        probability) and ``p_<class>`` for each class.
    """
    probabilities = check_probabilities(class_codes(documents, classes), probabilities, classes)
    predicted = probabilities.argmax(axis=1)
    return documents.select("document_id", "label").with_columns(
        pl.Series("predicted", [classes[k] for k in predicted], dtype=pl.String),
        pl.Series("confidence", probabilities.max(axis=1), dtype=pl.Float64),
        *(pl.Series(f"{PREFIX}{name}", probabilities[:, k], dtype=pl.Float64) for k, name in enumerate(classes)),
    )


def prediction_arrays(
    predictions: pl.DataFrame, classes: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Inverse of :func:`prediction_frame`: actual class of each row, int64 [N], and probabilities, float64 [N, C]."""
    columns = [f"{PREFIX}{name}" for name in classes]
    if missing := [name for name in ("document_id", "label", *columns) if name not in predictions.columns]:
        raise DataError(f"the predictions have no column {missing[0]!r}; they have: {', '.join(predictions.columns)}")
    return class_codes(predictions, classes), predictions.select(columns).to_numpy().astype(np.float64)
