"""Texts in, their classes out: the classifier of the text learner as a service."""

import sys
from dataclasses import replace
from typing import ClassVar

import pandas as pd
import polars as pl

from embedline.pipelines.text.documents import TEST
from embedline.pipelines.text.predict import Predictor
from embedline.serving.columns import InputColumn, require_columns, typed_values
from embedline.serving.contract import Limits
from embedline.serving.service import Score, Service
from embedline.training.model_file import ModelBundle

TEXT = "text"
EXAMPLE = ("A wonderful film, against all odds.", "The acting was dull and the plot made no sense.")


class TextService:
    """The class of each text, with the probability of every class, as the batch prediction has them.

    An empty or missing text, or one without a known word, gets what the classifier makes of nothing.
    """

    # A text is far dearer than a row of a table: 4 MB are about a million tokens, half a minute on two cores. The words
    # of one text are read one after the other: 200,000 characters take 3 s, and 14 s where every second is a hyphen.
    limits: ClassVar[Limits] = Limits(body=4_000_000, rows=2_000, text=200_000)

    def __init__(self, service: Service) -> None:
        # One process tokenizes: a server has no use for a pool that starts for a request.
        self._predictor = replace(Predictor.from_bundle(service.bundle), few_texts=sys.maxsize)
        self._columns = service.columns

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns ``predicted``, ``confidence`` (its probability) and ``p_<class>`` of each class.

        A missing column ``text``, and a value that is no text (row from 1), are a DataError.
        """
        require_columns(rows, self._columns)
        texts = [text or "" for text in typed_values(rows[TEXT], "string")]  # a missing one is empty, as in a table
        found = self._predictor.predict(texts).drop("text")
        return pd.DataFrame(found.to_dict(as_series=False))

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """Accuracy, the metric in ``<source>.metrics``; ``actual`` holds the labels."""
        right = answers["predicted"].to_numpy() == actual.to_numpy()
        return Score(("classifier", "accuracy"), float(right.mean()), "higher")


def pack_texts(bundle: ModelBundle) -> Service:
    """The service of a stored text classifier."""
    return Service(
        service="embedline.serving.texts.TextService",
        bundle=bundle,
        tables={},
        settings={},
        columns=(InputColumn(name=TEXT, type="string"),),
        example=[{TEXT: text} for text in EXAMPLE],
    )


def hold_out_texts(documents: pl.DataFrame) -> pl.DataFrame:
    """The test documents of ``<source>.documents`` as a request has them, and the label of each as ``actual``."""
    return documents.filter(pl.col("split") == TEST).select(TEXT, actual=pl.col("label").cast(pl.String))
