"""Predict the classes of texts with a stored classifier, and explain the predictions.

PyTorch is imported inside the functions, so that this module is quick to import.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from embedline.errors import DataError
from embedline.pipelines.text.explain import (
    ExplanationOptions,
    estimate_occlusion,
    occlude,
    readable_words,
    strongest_words,
)
from embedline.pipelines.text.generation import VocabularyLike, load_bundle

if TYPE_CHECKING:
    from embedline.pipelines.text.classifier import ClassifierEnsemble
    from embedline.pipelines.text.tokenizer import TokenOptions
    from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

Ids = NDArray[np.integer]
EXCERPT = 80  # characters of a text in a frame of predictions
BLOCK_TEXTS = 50_000  # texts that are tokenized and classified at a time: limits the memory
FEW_TEXTS = 100  # texts that are tokenized without a progress bar and without processes


class PredictionOptions(BaseModel):
    """How to predict the rows of a frame.

    Attributes:
        column: name of the column with the texts.
        words: number of the most influential words to list for each row; 0 lists none, which is far faster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = "text"
    words: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Predictor:
    """A classifier with its vocabulary and tokenizer settings: it predicts raw texts.

    Attributes:
        probabilities: function from documents (arrays of ids [T >= 1]) to class probabilities float64 [N, C].
        estimate: function from a document and a class to the estimated influence of each position, float64 [T]; see
            :func:`estimate_ensemble_occlusion`.
        vocabulary: ids of tokens.
        tokens: settings of the tokenizer that the classifier was trained with.
        classes: labels in the order of the probabilities.
        pooled_tokens: number of tokens at the end of a document that the classifier pools; only these are explained.
        few_texts: at most this number of texts is tokenized in this process, without a progress bar.
    """

    probabilities: Callable[[Sequence[Ids]], NDArray[np.float64]]
    estimate: Callable[[Ids, int], NDArray[np.float64]]
    vocabulary: VocabularyLike
    tokens: "TokenOptions"
    classes: tuple[str, ...]
    pooled_tokens: int = 1400
    few_texts: int = FEW_TEXTS

    @classmethod
    def from_bundle(cls, bundle: "ModelBundle") -> Self:
        """Load the classifier or the ensemble of a stored bundle; on the GPU if there is one.

        Raises:
            DataError: if the bundle holds another kind of model, or is broken.
        """
        import torch

        from embedline.pipelines.text.classifier_learner import class_probabilities, load_classifier

        network, vocabulary, tokens, classes = load_bundle(bundle, load_classifier)
        known = bundle.config["vocabulary_size"]
        if len(vocabulary) != known:
            raise DataError(
                f"the vocabulary has {len(vocabulary)} tokens, the network knows {known}: they do not belong together"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        probabilities = partial(class_probabilities, network, device=device)
        estimate = partial(estimate_ensemble_occlusion, network.to(device), vocabulary.unknown)
        return cls(probabilities, estimate, vocabulary, tokens, tuple(classes), bundle.config["max_tokens"])

    def predict(self, texts: Sequence[str]) -> pl.DataFrame:
        """Predict the class of each text, in order.

        A text without a known word gets the prediction of an empty document, and a warning.

        Returns:
            Columns ``text`` (excerpt of at most 80 characters), ``predicted``, ``confidence`` (its probability, f64)
            and ``p_<class>`` (f64) for each class.

        Raises:
            DataError: if a text is not a string, or the classifier's probabilities are not finite.
        """
        blocks = [self._classify(texts[at : at + BLOCK_TEXTS], at) for at in range(0, len(texts), BLOCK_TEXTS)]
        found = np.concatenate(blocks) if blocks else np.zeros((0, len(self.classes)))
        best = found.argmax(axis=1)
        return pl.DataFrame(
            {
                "text": [excerpt(text) for text in texts],
                "predicted": [self.classes[index] for index in best],
                "confidence": found[np.arange(len(found)), best],
                **{f"p_{name}": found[:, index] for index, name in enumerate(self.classes)},
            },
            schema_overrides={"text": pl.String, "predicted": pl.String},
        )

    def explain(self, text: str, options: ExplanationOptions | None = None) -> pl.DataFrame:
        """Compute the influence of each word on the decision by occlusion (Zeiler & Fergus 2014; Li et al. 2016).

        The influence of a word is the log-odds of the predicted class, minus its log-odds after the unknown token has
        replaced the word's token: above 0 the word supports the class, below 0 it contradicts it. Special tokens and
        their counts are not occluded; a word outside the vocabulary is the unknown token and has the influence 0.

        Each occlusion reads the document again. If all of them would exceed ``options.budget``, a gradient ranks the
        words, and only the first ones are occluded; the others keep their estimate and have ``exact`` false. A limit of
        occlusion in general: two words of the same meaning may each have the influence 0, since the other one remains.

        Returns:
            Columns ``position`` (i64, index of the word's token in the document), ``word`` (readable spelling),
            ``influence`` (f64, natural logarithm) and ``exact`` (bool: occluded, not estimated), sorted by position.
        """
        from embedline.pipelines.text.tokenizer import tokenize_texts

        options = options or ExplanationOptions()
        tokens = tokenize_texts([text], self.tokens)[0]
        ids = self._ids(tokens)
        predicted = int(self._checked([ids])[0].argmax())
        first = max(0, len(ids) - (options.max_tokens or self.pooled_tokens))
        tail = ids[first:]
        readable = [(at, word) for at, word in readable_words(tokens, self.vocabulary.specials) if at >= first]
        known = [at - first for at, _ in readable if ids[at] != self.vocabulary.unknown]
        influence = self._influences(tail, known, predicted, max(options.min_occlusions, options.budget // len(tail)))
        return pl.DataFrame(
            [(at, word, *influence.get(at - first, (0.0, True))) for at, word in readable],
            schema={"position": pl.Int64, "word": pl.String, "influence": pl.Float64, "exact": pl.Boolean},
            orient="row",
        )

    def _influences(self, ids: Ids, positions: list[int], label: int, n_exact: int) -> dict[int, tuple[float, bool]]:
        """Influence of each position, and whether it is exact, which at most ``n_exact`` are."""
        if not positions:
            return {}
        found: dict[int, tuple[float, bool]] = {}
        if len(positions) > n_exact:
            estimates = self.estimate(ids, label)
            found = {at: (float(estimates[at]), False) for at in positions}
            positions = sorted(positions, key=lambda at: -abs(estimates[at]))[:n_exact]
        exact = occlude(self._checked, ids, positions, label=label, unknown=self.vocabulary.unknown)
        return found | {at: (value, True) for at, value in exact.items()}

    def predict_frame(self, texts: Any, options: PredictionOptions) -> pl.DataFrame:
        """Add the columns ``predicted``, ``confidence`` and ``p_<class>`` for each class to the columns of a frame.

        A missing text counts as empty. If ``options.words`` is above 0, the column ``moved_by`` lists the most
        influential words.

        Args:
            texts: frame of any engine that Narwhals supports, with the texts in the column ``options.column``.

        Raises:
            DataError: if the column is missing or does not hold strings, or a column has the name of a result.
        """
        frame = nw.from_native(texts, eager_only=True).to_polars()
        if options.column not in frame.columns:
            there = ", ".join(map(repr, frame.columns))
            raise DataError(f"the texts have no column {options.column!r}; there are {there}")
        column = frame[options.column]
        if column.dtype not in (pl.String, pl.Categorical, pl.Null):
            raise DataError(f"column {options.column!r} holds {column.dtype}, not text")
        results = ["predicted", "confidence", *(f"p_{name}" for name in self.classes), "moved_by"]
        clash = [name for name in results[: None if options.words else -1] if name in frame.columns]
        if clash:
            raise DataError(f"the texts have a column {clash[0]!r}, which is a column of the predictions: rename it")
        rows = column.cast(pl.String).fill_null("").to_list()
        found = self.predict(rows).drop("text")
        if options.words:
            listed = [strongest_words(self.explain(text), options.words) for text in rows]
            found = found.with_columns(pl.Series("moved_by", listed, dtype=pl.String))
        return frame.hstack(found)

    def _classify(self, texts: Sequence[str], first: int) -> NDArray[np.float64]:
        for row, text in enumerate(texts, start=first + 1):
            if not isinstance(text, str):
                raise DataError(f"text {row} is no string but {text!r}")
        documents = self._documents(texts, first)
        self._warn(texts, documents, first)
        return self._checked(documents)

    def _documents(self, texts: Sequence[str], first: int) -> list[Ids]:
        from embedline.pipelines.text.tokenizer import tokenize, tokenize_texts

        if len(texts) <= self.few_texts:
            return [self._ids(tokens) for tokens in tokenize_texts(texts, self.tokens)]
        names = [str(row) for row in range(first + 1, first + len(texts) + 1)]
        (codes, offsets), lexicon = tokenize(texts, self.tokens, names)
        ids = np.asarray(self.vocabulary.ids(lexicon), dtype=np.int64)[codes]
        return [row if len(row) else self._ids([]) for row in np.split(ids, offsets[1:-1])]

    def _ids(self, tokens: Sequence[str]) -> Ids:
        """Ids of a document; one unknown token for an empty text if the rules have no start token."""
        return np.asarray(self.vocabulary.ids(tokens) if tokens else [self.vocabulary.unknown], dtype=np.int64)

    def _checked(self, documents: Sequence[Ids]) -> NDArray[np.float64]:
        found = self.probabilities(documents)
        if found.shape != (len(documents), len(self.classes)):
            raise DataError(
                f"the classifier has {found.shape[1]} classes, but {len(self.classes)} names of classes are stored"
            )
        if not np.isfinite(found).all():
            raise DataError("the classifier's probabilities are not finite numbers: its training has diverged")
        return found

    def _warn(self, texts: Sequence[str], documents: Sequence[Ids], first: int) -> None:
        specials = self.vocabulary.ids(self.vocabulary.specials)  # the unknown token is one of them
        empty = [row for row, text in enumerate(texts, start=first + 1) if not text.strip()]
        strange = [
            row
            for row, (text, ids) in enumerate(zip(texts, documents, strict=True), start=first + 1)
            if text.strip() and np.isin(ids, specials).all()
        ]
        for rows, fault in ((empty, "no words"), (strange, "no word that the model knows")):
            if rows:
                shown = ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
                logger.warning("Text %s: %s; the prediction says nothing", shown, fault)


def estimate_ensemble_occlusion(
    network: "ClassifierEnsemble", unknown: int, ids: Ids, label: int
) -> NDArray[np.float64]:
    """:func:`.explain.estimate_occlusion` float64 [T] for an ensemble, combined from its members.

    With the mean probability p of the class, the members' p_m and weights w_m, the log-odds change by
    ``d log(p / (1 - p)) = sum of w_m p_m (1 - p_m) d log(p_m / (1 - p_m)) / (p (1 - p))``.
    """
    from embedline.pipelines.text.classifier_learner import class_probabilities

    members = network.members
    changes = [estimate_occlusion(member, unknown, ids, label) for member in members]
    if len(members) == 1:
        return changes[0]
    found = np.stack([class_probabilities(member, [ids])[0] for member in members])  # [M, C]
    mean, weights = np.asarray(network.weights) @ found, np.asarray(network.weights)
    spread = _variance(found, label) * weights / max(_variance(mean[None], label)[0], np.finfo(np.float64).tiny)
    return np.asarray(spread @ np.stack(changes))


def _variance(probabilities: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """``p (1 - p)`` [M] of one class; ``1 - p`` is the sum of the others, which stays exact near 0."""
    return np.asarray(probabilities[:, label] * np.delete(probabilities, label, axis=1).sum(axis=1))


def excerpt(text: str, length: int = EXCERPT) -> str:
    """The beginning of a text on one line, with an ellipsis if it was cut."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1].rstrip() + "…"


def predict_texts(texts: Any, bundle: "ModelBundle", options: PredictionOptions) -> pl.DataFrame:
    """Node: :meth:`Predictor.predict_frame` of a stored classifier."""
    return Predictor.from_bundle(bundle).predict_frame(texts, options)
