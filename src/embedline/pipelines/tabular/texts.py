"""Free text as inputs: how much of each topic a text holds, by the words and pairs of words that it has.

The counts of the terms are weighted by TF-IDF and reduced by a singular value decomposition (latent semantic analysis,
Deerwester et al. 1990). Both are fitted on the training rows alone.
"""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns

MOST_TERMS = 2_000
COMMON = 2  # training rows that a term is in at least, unless no term is in so many
NOISE = 1e-6  # share of the largest singular value below which a topic is rounding
DECIMALS = 6  # of the stored weights: what more a network could not tell apart
WORD = r"(?u)\b\w+\b"


class TextTopics(BaseModel):
    """The inputs that a column of text becomes.

    Attributes:
        terms: words and pairs of words, lower-case and sorted.
        idf: inverse document frequency of each term.
        topics: weights of the terms in each topic, [K] lists of one number a term.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    terms: tuple[str, ...]
    idf: tuple[float, ...]
    topics: tuple[tuple[float, ...], ...]

    @property
    def categorical(self) -> tuple[str, ...]:
        """None: all parts of a text are numbers."""
        return ()

    @property
    def continuous(self) -> tuple[str, ...]:
        """One number a topic, counted from 1."""
        return tuple(f"{self.column}.topic{k}" for k in range(1, len(self.topics) + 1))

    def values(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Topics of each text, float64 [N, K]; zeros for a text without a known term."""
        vectorizer = _vectorizer(vocabulary=list(self.terms))
        vectorizer.idf_ = np.array(self.idf)
        return np.asarray(vectorizer.transform(texts) @ np.array(self.topics).T)


def fit_texts(table: nw.DataFrame[Any], names: Sequence[str], size: int) -> tuple[TextTopics, ...]:
    """The topics of columns of text on the training rows, at most ``size`` of each.

    Raises:
        DataError: naming a column without a word.
    """
    return tuple(_fit_topics(read_texts(table, name), name, size) for name in names)


def add_topics(table: nw.DataFrame[Any], texts: Sequence[TextTopics]) -> nw.DataFrame[Any]:
    """Add the topics of each text as Float64 columns; a missing text counts as an empty one."""
    for each in texts:
        values = each.values(read_texts(table, each.column))
        table = table.with_columns(
            nw.new_series(name, values[:, k], nw.Float64, backend=table.implementation)
            for k, name in enumerate(each.continuous)
        )
    return table


def with_topics(columns: Columns, texts: Sequence[TextTopics]) -> Columns:
    """The roles of the columns with the topics of the texts among the continuous variables."""
    topics = (name for each in texts for name in each.continuous)
    return columns.model_copy(update={"continuous": (*columns.continuous, *topics), "text": ()})


def read_texts(table: nw.DataFrame[Any], name: str) -> list[str]:
    """A column of strings of any type as Python strings, "" where one is missing."""
    # Through Polars: of a column of objects, pandas would turn a missing value into the text None.
    found: list[str] = table.get_column(name).to_polars().cast(pl.String).fill_null("").to_list()
    return found


def _fit_topics(texts: list[str], name: str, size: int) -> TextTopics:
    from sklearn.utils.extmath import randomized_svd

    words = _vectorizer().build_analyzer()
    known = [bool(words(text)) for text in texts]
    if not any(known):
        raise DataError(
            f"column {name!r} (columns.text) holds no word on the {len(texts):,} training rows: take it out of "
            "columns.text"
        )
    try:
        vectorizer = _vectorizer(max_features=MOST_TERMS, min_df=COMMON).fit(texts)
    except ValueError:  # each term is in one text only, as in a table of a few rows
        vectorizer = _vectorizer(max_features=MOST_TERMS).fit(texts)
    weights = vectorizer.transform(texts)
    # Not TruncatedSVD, which refuses a single term. A fixed start: the decomposition is a random one.
    _, strengths, topics = randomized_svd(weights, min(size, *weights.shape), n_iter=5, random_state=0)
    return TextTopics(
        column=name,
        terms=tuple(vectorizer.get_feature_names_out()),
        idf=tuple(vectorizer.idf_.tolist()),
        topics=tuple(map(tuple, topics[strengths > NOISE * strengths[0]].round(DECIMALS).tolist())),
    )


def _vectorizer(**settings: Any) -> Any:
    """scikit-learn's TF-IDF of words and of pairs of neighbours, rows of the length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD, **settings)
