"""The baseline of the classifier: NB-SVM, a logistic regression on n-grams of tokens weighted by Naive Bayes.

Wang & Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", with a logistic loss.
A document is the binary vector ``x`` of its n-grams, ``f = x / ||x||_2``. Each class has the log-count ratios ``r`` of
its n-grams against those of all other classes, and a logistic regression on ``f * r`` (elementwise). Two classes share
one, since their ratios differ in the sign only; of more, each has its own, and the probabilities are normalised.

DIFF(Wang & Manning): rows have the length 1 before they are multiplied by the ratios. In three of five folds of the
25,000 training reviews of the Large Movie Review Dataset (tokens of dl1, best of three strengths of the penalty) the
accuracy was 0.9215 and the log loss 0.198; with rows of the length 1 after it 0.9211 and 0.199, with rows as they are
0.9191 and 0.207. The weight of an n-gram, ``r * w``, is then one number. Weights by inverse document frequency made
20 classes of short texts worse.
"""

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator

from embedline.errors import DataError
from embedline.pipelines.text.documents import TEST, TRAIN, VALIDATION, SplitOptions, assign_splits, stratified_folds
from embedline.pipelines.text.evaluation import class_codes, prediction_frame
from embedline.pipelines.text.ngrams import Matrix, Ngrams
from embedline.pipelines.text.tokenizer import flat_lists
from embedline.training.metrics import log_loss
from embedline.training.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

KIND = "naive_bayes_svm"
ALPHA = 1.0  # added to each count of the ratios
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # values of `c` to choose from, ascending
FOLDS = 3  # of the training documents, where there are no validation documents
SEPARATOR = b"\xff"  # between the words of the model file: no byte of a text in UTF-8


class BaselineOptions(Options):
    """Settings of the baseline.

    Attributes:
        ngrams: tokens of the shortest and of the longest n-gram that is a feature.
        min_df: minimum number of training documents that contain a feature.
        c: inverse strength of the L2 penalty of the logistic regression; None: the one of :data:`STRENGTHS` with the
            lowest log loss on the validation documents.
        max_iterations: limit of its solver (liblinear, dual); a warning says if the solver reached it.
    """

    ngrams: tuple[int, int] = (1, 3)
    min_df: int = Field(default=2, ge=1)
    c: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    max_iterations: int = Field(default=1000, ge=1)

    @field_validator("ngrams")
    @classmethod
    def _check_ngrams(cls, ngrams: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= ngrams[0] <= ngrams[1]:
            raise ValueError(f"ngrams must be [shortest, longest] with 1 <= shortest <= longest, got {list(ngrams)}")
        return ngrams


@dataclass(frozen=True)
class NaiveBayesSVM:
    """A fitted NB-SVM.

    Attributes:
        classes: the labels, in the order of the probabilities.
        ngrams: the features.
        weights: of the features, ``r * w``, float32 [C, F]; of two classes [1, F], those of the second one.
        bias: float64 [C], or [1].
    """

    classes: tuple[str, ...]
    ngrams: Ngrams
    weights: NDArray[np.float32]
    bias: NDArray[np.float64]

    @classmethod
    def from_bundle(cls, bundle: "ModelBundle") -> Self:
        """Load the model; a bundle of another kind is a DataError."""
        if bundle.kind != KIND:
            raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
        return cls.from_tensors(bundle.config, bundle.weights)

    @classmethod
    def from_tensors(cls, config: dict[str, Any], tensors: "dict[str, Tensor]") -> Self:
        """Inverse of :meth:`tensors`."""
        text = tensors["words"].numpy().tobytes()
        words = tuple(word.decode() for word in text.split(SEPARATOR)) if text else ()
        keys = np.split(tensors["ngrams"].numpy(), np.cumsum(config["levels"])[:-1])
        ngrams = Ngrams(words, tuple(keys[: len(config["levels"])]), config["shortest"])
        return cls(tuple(config["classes"]), ngrams, tensors["weights"].numpy(), tensors["bias"].numpy())

    def tensors(self) -> "tuple[dict[str, Any], dict[str, Tensor]]":
        """The model as JSON values and tensors, for a model file.

        Returns:
            ``classes``, ``shortest`` and ``levels``, the number of n-grams of 2, 3, … words; and ``words`` uint8 (in
            UTF-8, joined by :data:`SEPARATOR`), ``ngrams`` int64 (the keys of all levels), ``weights`` and ``bias``.
        """
        import torch

        levels = self.ngrams.levels
        joined = np.frombuffer(SEPARATOR.join(word.encode() for word in self.ngrams.words), np.uint8)
        arrays = {
            "words": joined,
            "ngrams": np.concatenate([np.empty(0, np.int64), *levels]),
            "weights": self.weights,
            "bias": self.bias,
        }
        sizes = [len(level) for level in levels]
        config = {"classes": list(self.classes), "shortest": self.ngrams.shortest, "levels": sizes}
        return config, {name: torch.tensor(array) for name, array in arrays.items()}

    def probabilities(
        self, documents: Iterable[Sequence[str]], like: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Probabilities float64 [D, C] of documents, each a sequence of tokens as the tokenizer makes them.

        All rows have the length of the document ``like``, if given: a masked n-gram does not make the others weigh
        more.
        """
        n_known = None if like is None else self.ngrams.matrix([like]).nnz
        return self._probabilities(self.ngrams.matrix(documents), n_known)

    def predict(self, tokens: pl.DataFrame, lexicon: pl.DataFrame) -> pl.DataFrame:
        """Predict the documents of ``tokens``, as :func:`.evaluation.prediction_frame`."""
        codes, offsets = flat_lists(tokens["tokens"])
        ids = self.ngrams.numbers(lexicon["token"])[codes]
        return prediction_frame(tokens, self._probabilities(self.ngrams.matrix_of_ids(ids, offsets)), self.classes)

    def _probabilities(self, matrix: Matrix, n_known: int | None = None) -> NDArray[np.float64]:
        """Probabilities float64 [D, C], given the binary matrix [D, F] of the features, or rows with ``n_known``."""
        from scipy.special import log_expit, softmax

        counts = np.diff(matrix.indptr) if n_known is None else np.full(matrix.shape[0], n_known)
        lengths = np.sqrt(np.maximum(counts, 1))  # of the binary rows; an empty row stays 0
        scores = (matrix @ self.weights.T.astype(np.float64)) / lengths[:, None] + self.bias
        scores = np.hstack([-scores, scores]) if len(self.classes) == 2 else scores
        return np.asarray(softmax(log_expit(scores), axis=1))  # the sigmoid of each score, divided by their sum


def train_baseline(
    tokens: pl.DataFrame,
    lexicon: pl.DataFrame,
    split: SplitOptions,
    classes: Sequence[str],
    options: BaselineOptions,
) -> "tuple[ModelBundle, pl.DataFrame]":
    """Choose ``c`` on the validation documents, then fit the baseline on training and validation documents.

    Without validation documents, cross-validation of the training documents replaces them (:data:`FOLDS` folds).

    Args:
        tokens: ``document_id, label, split, tokens: List(Int32)``; a token is a row of the lexicon, ``token: String``.
        classes: the labels, in the order of the probabilities.

    Returns:
        The model with the metrics ``seconds``, ``rows``, ``features``, ``iterations``, ``c`` and
        ``validation_log_loss`` (of each ``c`` that was tried); and the predictions for the validation documents
        *before* the last fit, by models that have not seen them, as :func:`.evaluation.prediction_frame`.

    Raises:
        DataError: there are fewer than two classes, a label is not in ``classes``, a class has fewer than two training
            documents, or no n-gram is frequent enough.
    """
    from embedline.training.model_file import ModelBundle

    started = time.perf_counter()
    splits = assign_splits(tokens, split)
    known, held_out = splits.is_in([TRAIN, VALIDATION]), (splits == VALIDATION).any()
    learned, splits = tokens.filter(known), splits.filter(known)
    actual = class_codes(learned, classes)
    _check_classes(actual, classes)
    folds = (splits == VALIDATION).cast(pl.Int64).to_numpy() - 1 if held_out else stratified_folds(actual, FOLDS)
    chosen, losses, probabilities = _choose(learned, lexicon, classes, actual, folds, options)
    model, iterations = _fit(*_features(learned, lexicon, options), actual, classes, chosen, options)
    config, tensors = model.tensors()
    metrics = {
        "seconds": time.perf_counter() - started,
        "rows": len(learned),
        "features": len(model.ngrams),
        "iterations": iterations,
        "c": chosen,
        "validation_log_loss": {f"{c:g}": loss for c, loss in losses.items()},
    }
    counts = f"{metrics['features']:,} n-grams of {len(learned):,} documents"
    message = "Baseline: NB-SVM of %s, c = %g (held-out log loss %.4f), in %.0f s"
    logger.info(message, counts, chosen, losses[chosen], metrics["seconds"])
    bundle = ModelBundle(kind=KIND, config=config, encoder={}, weights=tensors, metrics=metrics)
    return bundle, prediction_frame(learned.filter(pl.Series(folds >= 0)), probabilities, classes)


def predict_split(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, bundle: "ModelBundle", *, split: str = TEST
) -> pl.DataFrame:
    """Predict the documents of a split; columns as in :func:`.evaluation.prediction_frame`."""
    documents = tokens.filter(pl.col("split") == split)
    if documents.is_empty():
        raise DataError(f"there is nothing to predict: no document is in the split {split!r}")
    return NaiveBayesSVM.from_bundle(bundle).predict(documents, lexicon)


def _check_classes(actual: NDArray[np.int64], classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise DataError(f"the baseline needs two classes at least, got {list(classes)}")
    counts = np.bincount(actual, minlength=len(classes))
    if (few := np.flatnonzero(counts < 2)).size:
        name, count = classes[few[0]], counts[few[0]]
        raise DataError(f"the class {name!r} has {count} training document(s): the baseline needs two of each class")


def _choose(
    documents: pl.DataFrame,
    lexicon: pl.DataFrame,
    classes: Sequence[str],
    actual: NDArray[np.int64],
    folds: NDArray[np.int64],
    options: BaselineOptions,
) -> tuple[float, dict[float, float], NDArray[np.float64]]:
    """Choose ``c`` by the log loss of the documents of each fold, predicted by a model of all other documents.

    ``folds`` int64 [D] are numbers from 0 on, -1 in no fold.

    Returns:
        The chosen ``c``, the log loss of each that was tried, and the probabilities [D of the folds, C] of the chosen.
    """
    parts = []
    for fold in range(folds.max() + 1):
        held = folds == fold
        features = _features(documents.filter(pl.Series(~held)), lexicon, options)
        codes, offsets = flat_lists(documents.filter(pl.Series(held))["tokens"])
        parts.append((held, features, features[0].matrix_of_ids(features[0].numbers(lexicon["token"])[codes], offsets)))
    losses: dict[float, float] = {}
    found: dict[float, NDArray[np.float64]] = {}
    for c in STRENGTHS if options.c is None else (options.c,):
        probabilities = np.empty((len(actual), len(classes)))
        for held, features, matrix in parts:
            model, _ = _fit(*features, actual[~held], classes, c, options)
            probabilities[held] = model._probabilities(matrix)
        found[c] = probabilities[folds >= 0]
        losses[c] = log_loss(actual[folds >= 0], found[c])
        if losses[c] > min(losses.values()):
            break  # the log loss falls with c, then rises: larger ones, the slowest to fit, are worse still
    best = min(losses, key=lambda c: losses[c])
    return best, losses, found[best]


def _features(documents: pl.DataFrame, lexicon: pl.DataFrame, options: BaselineOptions) -> tuple[Ngrams, Matrix]:
    """The n-grams of documents to learn from, and their binary matrix."""
    codes, offsets = flat_lists(documents["tokens"])
    ngrams = Ngrams.fit(codes, offsets, lexicon["token"].to_list(), options.ngrams, options.min_df)
    if not len(ngrams):
        wanted = f"n-gram that is in min_df = {options.min_df} of them"
        raise DataError(f"the {len(documents)} training documents have no {wanted}: lower baseline.min_df")
    return ngrams, ngrams.matrix_of_ids(ngrams.numbers(lexicon["token"])[codes], offsets)


def _fit(
    ngrams: Ngrams,
    matrix: Matrix,
    actual: NDArray[np.int64],
    classes: Sequence[str],
    c: float,
    options: BaselineOptions,
) -> tuple[NaiveBayesSVM, int]:
    """Fit the logistic regression of each class; return the model and the most iterations of the solver."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weights, bias, iterations = [], [], 0
    lengths = np.repeat(np.sqrt(np.diff(matrix.indptr)), np.diff(matrix.indptr)).astype(np.float32)
    for number in (1,) if len(classes) == 2 else range(len(classes)):
        ratios = log_count_ratios(matrix, actual == number)
        scaled = matrix.copy()
        scaled.data = ratios.astype(np.float32)[matrix.indices] / lengths
        # The dual solver is the fastest by far with more features than documents; the seed orders its steps.
        limit = options.max_iterations
        model = LogisticRegression(C=c, solver="liblinear", dual=True, max_iter=limit, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled, actual == number)
        weights.append(ratios * model.coef_[0])
        bias.append(model.intercept_[0])
        iterations = max(iterations, int(model.n_iter_[0]))
    if iterations >= options.max_iterations:
        logger.warning("The baseline stopped after max_iterations = %d, before it converged", options.max_iterations)
    fitted = NaiveBayesSVM(tuple(classes), ngrams, np.array(weights, np.float32), np.array(bias, np.float64))
    return fitted, iterations


def log_count_ratios(matrix: Matrix, is_class: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log-count ratios float64 [F] of a class, ``log((p / sum(p)) / (q / sum(q)))``, by a binary matrix [D, F].

    ``p`` is :data:`ALPHA` plus the number of the class's documents that contain each feature, ``q`` that of all other
    documents (Wang & Manning 2012, equation 2). ``is_class`` is bool [D].
    """
    p, q = (ALPHA + np.asarray(matrix[rows].sum(axis=0), np.float64).ravel() for rows in (is_class, ~is_class))
    return np.asarray(np.log(p / p.sum()) - np.log(q / q.sum()))
