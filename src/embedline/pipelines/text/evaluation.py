"""The evaluation of a classifier: predictions beside labels, metrics of it and its baseline, and the worst mistakes."""

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
from embedline.training.metrics import check_probabilities, classification_metrics
from embedline.training.options import Options

logger = logging.getLogger(__name__)

LINE_BREAK = re.compile(r"<\s*br\s*/?\s*>", re.IGNORECASE)
PREFIX = "p_"
CUT = "\n[…]\n"


class ReportOptions(Options):
    """Number of mistakes to list, characters to show from each end of a text, and bins of equal width of confidence."""

    mistakes: int = Field(default=50, ge=0)
    excerpt: int = Field(default=300, ge=1)
    calibration_bins: int = Field(default=15, ge=1)


def evaluate(
    predictions: pl.DataFrame,
    baseline_predictions: pl.DataFrame,
    classes: Sequence[str],
    options: ReportOptions,
    *,
    classifier: Mapping[str, Any],
    baseline: Mapping[str, Any],
) -> dict[str, Any]:
    """Metrics of a classifier and its baseline as nested JSON values; warns if the classifier does not beat it.

    Args:
        predictions: predictions of the network for the test split; see :func:`prediction_frame`.
        baseline_predictions: predictions of the baseline for the same documents, in any order.
        classes: the labels, in the order of the probabilities' columns.
        classifier, baseline: metrics of their trainings to add, such as the seconds.

    Returns:
        ``classifier`` and ``baseline``: :func:`embedline.training.metrics.classification_metrics` of the test split,
        then the given metrics; ``beats_baseline``: whether the classifier's accuracy is greater (not equal).

    Raises:
        DataError: if the documents of the two frames differ, or a given metric has the name of a measured one.
    """
    _same_documents(predictions, baseline_predictions)
    metrics: dict[str, Any] = {}
    both = {"classifier": (predictions, classifier), "baseline": (baseline_predictions, baseline)}
    for model, (frame, given) in both.items():
        actual, probabilities = prediction_arrays(frame, classes)
        measured = classification_metrics(actual, probabilities, classes, n_bins=options.calibration_bins)
        if twice := sorted(measured.keys() & given.keys()):
            raise DataError(
                f"the metrics of the {model} already have {twice[0]!r}, measured on the test split: rename it"
            )
        metrics[model] = measured | dict(given)
    ours, theirs = (metrics[model]["accuracy"] for model in both)
    logger.info("Test accuracy %.4f; baseline %.4f", ours, theirs)
    if ours <= theirs:
        message = "The classifier (accuracy %.4f) does not beat its baseline (%.4f) on %d test documents"
        logger.warning(message, ours, theirs, len(predictions))
    return metrics | {"beats_baseline": ours > theirs}


def mistakes(
    predictions: pl.DataFrame, documents: pl.DataFrame, baseline_predictions: pl.DataFrame, options: ReportOptions
) -> pl.DataFrame:
    """List the most confident mistakes, at most ``options.mistakes`` rows, by confidence (ties by document_id).

    Returns:
        ``document_id``, ``label``, ``predicted``, ``confidence``, ``baseline`` (the prediction of the baseline) and
        ``text``: the beginning and the end of the document, HTML resolved. A document without a text, and a baseline
        that predicts other documents, are a DataError.
    """
    _same_documents(predictions, baseline_predictions)
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


def _same_documents(predictions: pl.DataFrame, baseline_predictions: pl.DataFrame) -> None:
    frames = {"classifier": predictions, "baseline": baseline_predictions}
    for (which, ours), theirs in zip(frames.items(), reversed(frames.values()), strict=True):
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

    Returns:
        ``document_id``, ``label``, ``predicted`` (the most probable class, the first one of a tie), ``confidence``
        (its probability) and ``p_<class>`` for each class.

    Raises:
        DataError: if a row of ``probabilities`` is not a probability distribution.
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
