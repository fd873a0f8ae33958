"""Predictions beside labels, the metrics of a classifier and its baseline from them, and the worst mistakes."""

import html
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from embedline.errors import DataError
from embedline.training.metrics import check_probabilities, classification_metrics

logger = logging.getLogger(__name__)

LINE_BREAK = re.compile(r"<\s*br\s*/?\s*>", re.IGNORECASE)
PREFIX = "p_"
CUT = "\n[…]\n"


class ReportOptions(BaseModel):
    """What the report holds.

    Attributes:
        mistakes: how many of the most confident mistakes the table lists.
        excerpt: characters of a document shown from its beginning, and as many from its end.
        calibration_bins: bins of equal width of the calibration table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mistakes: int = Field(default=50, ge=0)
    excerpt: int = Field(default=300, ge=1)
    calibration_bins: int = Field(default=15, ge=1)


def evaluate(
    predictions: pl.DataFrame,
    baseline_predictions: pl.DataFrame | None,
    classes: Sequence[str],
    *,
    classifier: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    language_model: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    options: ReportOptions | None = None,
) -> dict[str, Any]:
    """Every figure of a text model as nested JSON values; warns where the classifier does not beat its baseline.

    Args:
        predictions: of the network for the test part; see :func:`prediction_frame`.
        baseline_predictions: of the baseline for the same documents in any order, or None where there is none.
        classes: the labels, in the order of the probabilities' columns.
        classifier: figures of the training (seconds, tokens per second, device, validation figures, …).
        baseline: what the baseline cost.
        language_model: figures of the language model; left out where None.
        vocabulary: size and origin of the vocabulary, such as the parts it was fitted on; left out where None.

    Returns:
        ``classifier`` and ``baseline``: :func:`embedline.training.classification.classification_metrics` of the test
        part, then the figures handed in; ``beats_baseline``: whether the classifier's accuracy is the greater one (a
        tie is no win); the other mappings under their names.

    Raises:
        DataError: if the two frames are not of the same documents, or a figure handed in has the name of one measured.
    """
    bins = (options or ReportOptions()).calibration_bins
    ours = _figures("classifier", predictions, classes, classifier, bins)
    metrics: dict[str, Any] = {"classifier": ours}
    if baseline_predictions is None:
        logger.info("Test accuracy %.4f; no baseline", ours["accuracy"])
    else:
        _same_documents(predictions, baseline_predictions)
        theirs = _figures("baseline", baseline_predictions, classes, baseline, bins)
        beaten = ours["accuracy"] > theirs["accuracy"]
        metrics |= {"baseline": theirs, "beats_baseline": beaten}
        logger.info("Test accuracy %.4f; baseline %.4f", ours["accuracy"], theirs["accuracy"])
        if not beaten:
            logger.warning(
                "The classifier (accuracy %.4f) does not beat its baseline (%.4f) on %d test documents",
                ours["accuracy"],
                theirs["accuracy"],
                ours["rows"],
            )
    others = {"language_model": language_model, "vocabulary": vocabulary}
    return metrics | {name: dict(figures) for name, figures in others.items() if figures is not None}


def _figures(
    what: str, predictions: pl.DataFrame, classes: Sequence[str], given: Mapping[str, Any] | None, bins: int
) -> dict[str, Any]:
    actual, probabilities = prediction_arrays(predictions, classes)
    measured = classification_metrics(actual, probabilities, classes, n_bins=bins)
    if twice := sorted(measured.keys() & (given or {}).keys()):
        raise DataError(f"the figures of the {what} already have {twice[0]!r}, measured on the test part: rename it")
    return measured | dict(given or {})


def mistakes(
    predictions: pl.DataFrame,
    documents: pl.DataFrame,
    baseline_predictions: pl.DataFrame | None = None,
    options: ReportOptions | None = None,
) -> pl.DataFrame:
    """The most confident mistakes, at most ``options.mistakes`` rows, the surest first (ties by document_id).

    Returns:
        ``document_id``, ``label``, ``predicted``, ``confidence``, ``baseline`` (what the baseline predicts, null
        without one) and ``text``: the beginning and the end of the document, HTML resolved.

    Raises:
        DataError: if a mistaken document has no text in ``documents``, or the baseline's documents are others.
    """
    options = options or ReportOptions()
    wrong = (
        predictions.filter(pl.col("predicted") != pl.col("label"))
        .sort(pl.col("confidence"), pl.col("document_id"), descending=[True, False])
        .head(options.mistakes)
        .select("document_id", "label", "predicted", "confidence")
    )
    if baseline_predictions is None:
        wrong = wrong.with_columns(baseline=pl.lit(None, dtype=pl.String))
    else:
        _same_documents(predictions, baseline_predictions)
        theirs = baseline_predictions.select("document_id", baseline="predicted")
        wrong = wrong.join(theirs, on="document_id", how="left", maintain_order="left")
    wrong = wrong.join(documents.select("document_id", "text"), on="document_id", how="left", maintain_order="left")
    if wrong["text"].null_count():
        absent = wrong.filter(pl.col("text").is_null())["document_id"][0]
        raise DataError(f"document {absent!r} has a prediction but no text among the documents")
    return wrong.with_columns(
        pl.Series("text", [excerpt(text, options.excerpt) for text in wrong["text"]], dtype=pl.String)
    )


def excerpt(text: str, n: int) -> str:
    """The first and the last ``n`` characters of the readable ``text``, or all of it where no more is left between."""
    text = readable(text)
    return text if len(text) <= 2 * n + len(CUT) else text[:n].rstrip() + CUT + text[-n:].lstrip()


def _same_documents(predictions: pl.DataFrame, baseline_predictions: pl.DataFrame) -> None:
    for ours, theirs, which in (
        (predictions, baseline_predictions, "only the classifier"),
        (baseline_predictions, predictions, "only the baseline"),
    ):
        alone = ours.join(theirs.select("document_id"), on="document_id", how="anti")
        if len(alone):
            raise DataError(f"{which} predicts document {alone['document_id'][0]!r}: {len(alone)} such documents")
    if len(predictions) != len(baseline_predictions):
        raise DataError(
            f"the classifier predicts {len(predictions)} documents, the baseline {len(baseline_predictions)}: "
            "document_id repeats"
        )


def readable(text: str) -> str:
    """``text`` with HTML entities as characters and ``<br />`` as a new line.

    Entities come first, so that an escaped ``&lt;br /&gt;`` is a line break too.
    """
    return LINE_BREAK.sub("\n", html.unescape(text))


def class_codes(documents: pl.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    """Number of each document's label in ``classes``, int64 [N].

    Raises:
        DataError: naming the first document whose label is none of them, or the class that is declared twice.
    """
    if len(set(classes)) != len(classes):
        raise DataError(f"the classes name one twice: {list(classes)}")
    numbers = {name: k for k, name in enumerate(classes)}
    codes = [numbers.get(label, -1) for label in documents["label"]]
    if -1 in codes:
        row = codes.index(-1)
        document, label = documents["document_id"][row], documents["label"][row]
        raise DataError(f"document {document!r} has the label {label!r}, which is none of the classes {list(classes)}")
    return np.array(codes, dtype=np.int64)


def prediction_frame(
    documents: pl.DataFrame, probabilities: NDArray[np.float64], classes: Sequence[str]
) -> pl.DataFrame:
    """Labels beside predictions, a row for each document.

    Args:
        documents: ``document_id``, ``label``; other columns are left out.
        probabilities: float [N, C], in the order of ``classes``.

    Returns:
        ``document_id``, ``label``, ``predicted`` (the most probable class, the first one of equals), ``confidence``
        (its probability) and ``p_<class>`` for each class.

    Raises:
        DataError: if a row of ``probabilities`` is no distribution.
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
    """Back from :func:`prediction_frame`: the actual class of each row, int64 [N], and probabilities, float64 [N, C].

    Raises:
        DataError: if the frame lacks the column of a class, or a label is none of ``classes``.
    """
    columns = [f"{PREFIX}{name}" for name in classes]
    if missing := [name for name in ("document_id", "label", *columns) if name not in predictions.columns]:
        raise DataError(f"the predictions have no column {missing[0]!r}; they have: {', '.join(predictions.columns)}")
    return class_codes(predictions, classes), predictions.select(columns).to_numpy().astype(np.float64)
