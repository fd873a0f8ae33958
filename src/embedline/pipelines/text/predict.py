"""Predict the classes of raw texts with a stored classifier, and explain each prediction by the words that decided."""

import itertools
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer
from embedline.pipelines.text.ensemble import TextModel
from embedline.pipelines.text.generation import first_ten, load_bundle
from embedline.pipelines.text.occlusion import Probabilities, Tokens, occlude
from embedline.pipelines.text.options import PredictionOptions
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

EXCERPT = 80  # characters of a text in a frame of predictions
BLOCK_TEXTS = 50_000  # texts that are tokenized and classified at a time: limits the memory
FEW_TEXTS = 100  # texts that are tokenized without a progress bar and without processes
NUMBERED = ("xxrep", "xxwrep", "xxfld")  # special tokens that are followed by their number
SPELLING = {"xxup", "xxmaj", "xxrep", "xxwrep"}  # special tokens that are a part of the next word
CASES: dict[str, Callable[[str], str]] = {"xxup": str.upper, "xxmaj": str.capitalize}
LONGEST_REPEAT = 20  # displayed characters of `!!!!…`
MAX_GAP = 200  # characters between a word and the next one when words are located in the text


@dataclass(frozen=True)
class Predictor:
    """A classifier with its vocabulary and tokenizer settings: it predicts raw texts.

    Attributes:
        probabilities: function from documents (lists of tokens, T >= 1) to class probabilities float64 [N, C].
        estimate: :meth:`.ensemble.TextModel.estimate`.
        classes: labels in the order of the probabilities.
        pooled_tokens: number of tokens that the classifier pools at the end of a document; only these are explained.
        both_ends: whether the tokens at the beginning of a document are explained too: backward networks pool them.
        knows: function that says whether the classifier knows a token.
        class_shares: of the training documents; the probabilities of a text without a known word.
        few_texts: at most this number of texts is tokenized in this process, without a progress bar.
    """

    probabilities: Probabilities
    estimate: Callable[[Tokens, int], NDArray[np.float64]]
    vocabulary: Vocabulary
    tokens: TokenOptions
    classes: tuple[str, ...]
    knows: Callable[[str], bool]
    class_shares: tuple[float, ...]
    pooled_tokens: int = 1400
    both_ends: bool = False
    few_texts: int = FEW_TEXTS

    @classmethod
    def from_bundle(cls, bundle: ModelBundle) -> Self:
        """Load the classifiers of a bundle, on the GPU if there is one; another kind or a broken one is a DataError."""
        model = load_bundle(bundle, TextModel.from_bundle)
        known = bundle.config["vocabulary_size"]
        if len(model.vocabulary) != known:
            raise DataError(
                f"the vocabulary has {len(model.vocabulary)} tokens, the network knows {known}: they do not belong "
                "together"
            )
        return cls(
            model.probabilities,
            model.estimate,
            model.vocabulary,
            model.tokens,
            model.classes,
            model.knows,
            model.class_shares,
            bundle.config["max_tokens"],
            both_ends=len(model.networks) > 1 or model.baseline is not None,
        )

    def predict(self, texts: Sequence[str]) -> pl.DataFrame:
        """Predict the class of each text, in order.

        A text without a known word (an empty one, or one of unknown words and punctuation) gets the class shares of the
        training documents, and a warning. One that is no string, or probabilities that are not finite, are a DataError.

        Returns:
            Columns ``text`` (excerpt of at most 80 characters), ``predicted``, ``confidence`` (its probability, f64)
            and ``p_<class>`` (f64) for each class.
        """
        blocks = [self._classify(texts[at : at + BLOCK_TEXTS], at) for at in range(0, len(texts), BLOCK_TEXTS)]
        found = np.concatenate([np.zeros((0, len(self.classes))), *blocks])
        return pl.DataFrame(
            {
                "text": [excerpt(text) for text in texts],
                "predicted": [self.classes[index] for index in found.argmax(axis=1)],
                "confidence": found.max(axis=1),
                **{f"p_{name}": found[:, index] for index, name in enumerate(self.classes)},
            },
            schema_overrides={"text": pl.String, "predicted": pl.String},
        )

    def explain(
        self, text: str, *, max_tokens: int | None = None, budget: int = 15_000, min_occlusions: int = 16
    ) -> pl.DataFrame:
        """Compute the influence of each word on the decision (:func:`.occlusion.occlude`).

        The influence of a word is the change of the log-odds of the predicted class between it and the unknown token in
        its place: above 0 the word supports the class, below 0 it contradicts it. The special tokens that spell a word
        (``xxmaj``, ``xxrep 3``) are masked with it. Punctuation and other special tokens are neither masked nor listed:
        they are no reasons. A word that the classifier does not know has the influence 0.

        Each word takes two readings of the document. If all of them would exceed the budget, a gradient ranks the
        words, and only the first ones are occluded; the others keep their estimate and have ``exact`` false.

        Args:
            max_tokens: explain only the last ones of a document (with ``both_ends`` also as many of its first ones);
                None: the pooled ones. Other tokens affect a network's decision only through the carried state.
            budget: approximate number of tokens to read: number of occlusions times length.
            min_occlusions: minimum number of occlusions, even beyond the budget.

        Returns:
            Columns ``position`` (i64, index of the word's token in the document), ``word`` (readable spelling),
            ``influence`` (f64, natural logarithm) and ``exact`` (bool: occluded, not estimated), sorted by position.
        """
        (tokens,) = self._documents([text], 0)
        label = int(self._checked([tokens])[0].argmax())
        n_kept = max_tokens or self.pooled_tokens
        last = max(0, len(tokens) - n_kept)
        kept = [*range(min(n_kept, last) if self.both_ends else 0), *range(last, len(tokens))]
        excerpt, place = [tokens[at] for at in kept], {at: number for number, at in enumerate(kept)}
        words = [word for word in readable_words(tokens, self.vocabulary.specials) if place.keys() >= {*word.positions}]
        groups = {word.at: [place[at] for at in word.positions] for word in words if self.knows(tokens[word.at])}
        influence: dict[int, tuple[float, bool]] = {}
        chosen, n_exact = [*groups], max(min_occlusions, budget // (2 * len(excerpt)))
        if len(chosen) > n_exact:
            estimates = self.estimate(excerpt, label)
            sums = {at: float(estimates[positions].sum()) for at, positions in groups.items()}
            influence = {at: (value, False) for at, value in sums.items()}
            chosen = sorted(chosen, key=lambda at: -abs(sums[at]))[:n_exact]
        if chosen:
            settings: dict[str, Any] = {"label": label, "unknown": self._unknown}
            exact = occlude(self._checked, excerpt, [groups[at] for at in chosen], [*groups.values()], **settings)
            influence |= {at: (value, True) for at, value in zip(chosen, exact, strict=True)}
        return pl.DataFrame(
            [(word.at, word.spelling, *influence.get(word.at, (0.0, True))) for word in words],
            schema={"position": pl.Int64, "word": pl.String, "influence": pl.Float64, "exact": pl.Boolean},
            orient="row",
        )

    def predict_frame(self, texts: Any, options: PredictionOptions) -> pl.DataFrame:
        """Add the columns ``predicted``, ``confidence`` and ``p_<class>`` for each class to the columns of a frame.

        A missing text counts as empty. If ``options.words`` is above 0, the column ``moved_by`` lists the most
        influential words. The frame is of any engine that Narwhals supports. If it lacks the column ``options.column``
        of strings, or has one with the name of a result, this is a DataError.
        """
        frame = nw.from_native(texts, eager_only=True).to_polars()
        if options.column not in frame.columns:
            there = ", ".join(map(repr, frame.columns))
            raise DataError(f"the texts have no column {options.column!r}; there are {there}")
        column = frame[options.column]
        if column.dtype not in (pl.String, pl.Categorical, pl.Null):
            raise DataError(f"column {options.column!r} holds {column.dtype}, not text")
        results = ["predicted", "confidence", *(f"p_{name}" for name in self.classes), "moved_by"]
        if clash := [name for name in results[: None if options.words else -1] if name in frame.columns]:
            raise DataError(f"the texts have a column {clash[0]!r}, which is a column of the predictions: rename it")
        rows = column.cast(pl.String).fill_null("").to_list()
        found = self.predict(rows).drop("text")
        if options.words:
            listed = [strongest_words(self.explain(text), options.words) for text in rows]
            found = found.with_columns(pl.Series("moved_by", listed, dtype=pl.String))
        return frame.hstack(found)

    def _classify(self, texts: Sequence[str], first: int) -> NDArray[np.float64]:
        if wrong := [row for row, text in enumerate(texts) if not isinstance(text, str)]:
            raise DataError(f"text {first + wrong[0] + 1} is no string but {texts[wrong[0]]!r}")
        documents = self._documents(texts, first)
        unread: dict[str, list[int]] = {"no words": [], "no word that the model knows": []}
        for row, (text, tokens) in enumerate(zip(texts, documents, strict=True), start=first + 1):
            words = readable_words(tokens, self.vocabulary.specials)
            if not any(self.knows(tokens[word.at]) for word in words):
                unread["no word that the model knows" if text.strip() else "no words"].append(row)
        found = self._checked(documents)
        for fault, rows in unread.items():
            if rows:
                message = "Text %s: %s; it gets the class shares of the training documents"
                logger.warning(message, first_ten(rows), fault)
                found[np.array(rows) - first - 1] = self.class_shares
        return found

    @property
    def _unknown(self) -> str:
        return self.vocabulary.tokens[self.vocabulary.unknown]

    def _documents(self, texts: Sequence[str], first: int) -> list[Tokens]:
        """Tokens of each text; one unknown token for an empty text if the rules have no start token."""
        if len(texts) <= self.few_texts:
            found: list[Tokens] = [*tokenizer.tokenize_texts(texts, self.tokens)]
        else:
            names = [str(row) for row in range(first + 1, first + len(texts) + 1)]
            (codes, offsets), lexicon = tokenizer.tokenize(texts, self.tokens, names)
            words = np.array(lexicon, dtype=object)
            found = [words[codes[start:end]].tolist() for start, end in itertools.pairwise(offsets)]
        return [tokens or [self._unknown] for tokens in found]

    def _checked(self, documents: Sequence[Tokens], like: Tokens | None = None) -> NDArray[np.float64]:
        found = self.probabilities(documents, like=like)
        if found.shape != (len(documents), len(self.classes)):
            raise DataError(
                f"the classifier has {found.shape[1]} classes, but {len(self.classes)} names of classes are stored"
            )
        if not np.isfinite(found).all():
            raise DataError("the classifier's probabilities are not finite numbers: its training has diverged")
        return found


def predict_texts(texts: Any, bundle: ModelBundle, options: PredictionOptions) -> pl.DataFrame:
    """:meth:`Predictor.predict_frame` of a stored classifier."""
    return Predictor.from_bundle(bundle).predict_frame(texts, options)


def excerpt(text: str, length: int = EXCERPT) -> str:
    """The beginning of a text on one line, with an ellipsis if it was cut."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1].rstrip() + "…"


class Word(NamedTuple):
    """A word of a document: the positions of its tokens, the word itself last, and its readable spelling."""

    positions: tuple[int, ...]
    spelling: str

    @property
    def at(self) -> int:
        """Position of the word itself."""
        return self.positions[-1]


def readable_words(tokens: Sequence[str], specials: Iterable[str]) -> Iterator[Word]:
    """The tokens that are words, with the special tokens that spell them.

    ``xxup`` and ``xxmaj`` change the spelling of the next word, ``xxrep 3 ha`` becomes ``hahaha``; a word repeated by
    ``xxwrep`` is listed once. Punctuation and white space are no words.
    """
    marks = set(specials)
    pending: list[str] = []  # special tokens since the last word
    spelling: list[int] = []  # positions of those that spell the next word
    count = 1
    for at, token in enumerate(tokens):
        numbered = pending[-1] if pending else ""
        if token in marks:
            pending.append(token)
            spelling += [at] if token in SPELLING else []
            continue
        if numbered in NUMBERED and token.isdigit():
            count = int(token) if numbered == "xxrep" else 1
            pending[-1] = ""  # the number is used: another number is a word
            spelling += [at] if numbered in SPELLING else []
            continue
        if not is_punctuation(token):
            word = token.replace("▁", " ").replace("\n", "↵")
            for mark in pending:
                word = CASES.get(mark, str)(word)
            yield Word((*spelling, at), word * min(count, LONGEST_REPEAT))
        pending, spelling, count = [], [], 1


def is_punctuation(token: str) -> bool:
    """Whether a token is a sign of punctuation, or white space, once or repeated; an emoticon such as ``:)`` is not."""
    return len(set(token)) == 1 and (unicodedata.category(token[0])[0] in "PZC" or token[0] == "`")


def strongest_words(explanation: pl.DataFrame, n: int) -> str:
    """The ``n`` words with the largest absolute influence, such as ``dull +1.20, fine -0.31``.

    Their sum speaks for the class: as long as it does not, the weakest word against the class makes way for the
    strongest one for it that is not listed.
    """
    words = explanation.filter(pl.col("exact"), pl.col("influence") != 0.0)
    ranked = words.sort(pl.col("influence").abs(), descending=True, maintain_order=True).select("word", "influence")
    listed, rest = ranked[:n].rows(), [row for row in ranked[n:].rows() if row[1] > 0.0]
    while listed and sum(influence for _, influence in listed) <= 0.0:
        listed.remove([row for row in listed if row[1] < 0.0][-1])
        listed += [rest.pop(0)] if rest else []
    return ", ".join(f"{word} {influence:+.2f}" for word, influence in listed)


def locate_words(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Start and end of each word in ``text``, or None for a word that the token rules changed.

    The words must be in the order of the text; case is ignored.
    """
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change their length in lower case, such as the Turkish İ
        lower = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        at = lower.find(word.lower(), cursor, cursor + MAX_GAP)
        places.append((at, at + len(word)) if at >= 0 else None)
        cursor = at + len(word) if at >= 0 else cursor
    return places
