"""The model of a text source: networks of both directions and the n-gram baseline, combined by a log-linear pool.

The pool multiplies the members' probabilities, each raised to a power: ``p = softmax(sum over m of a_m log p_m)`` with
``a_m >= 0`` (Genest & Zidek 1986; Hinton 2002). The sum of the ``a_m`` is an inverse temperature, so that the fit
calibrates the pool as temperature scaling does (Guo et al. 2017, arXiv:1706.04599).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from embedline.errors import DataError
from embedline.pipelines.text.baseline import NaiveBayesSVM
from embedline.pipelines.text.classifier import ClassifierEnsemble, class_probabilities, load_classifier
from embedline.pipelines.text.documents import TEST, VALIDATION, stratified_folds
from embedline.pipelines.text.evaluation import (
    PREFIX,
    class_codes,
    prediction_arrays,
    prediction_frame,
    require_same_documents,
)
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.occlusion import Tokens, estimate_by_windows, estimate_occlusion
from embedline.pipelines.text.options import DIRECTIONS
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training.metrics import row_log_losses
from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

NETWORKS, BASELINE = "networks", "baseline"  # members beside those that are named after their direction
POOL = "pool"
FOLDS = 5
# Weight of the penalty, which counts as much as about this many documents: for a classifier whose log-odds have a mean
# square of 4 and whose p (1 - p) has the mean 0.1, one document adds 0.4 to the second derivative by its coefficient.
RIDGE = 10.0


def pool(probabilities: Array, coefficients: NDArray[np.floating]) -> Array:
    """``softmax(sum over m of a_m log p_m)`` float64 [N, C] of the members' probabilities [M, N, C].

    >>> pool(np.array([[[0.8, 0.2]], [[0.5, 0.5]]]), np.array([1.0, 3.0])).round(6)
    array([[0.8, 0.2]])
    """
    return np.asarray(softmax(np.tensordot(coefficients, _logs(probabilities), 1), axis=-1))


def fit_coefficients(probabilities: Array, actual: NDArray[np.integer]) -> Array:
    """Fit the coefficients float64 [M] of :func:`pool` by log loss on held-out documents.

    Minimizes ``sum over n of -log p_n + RIDGE / 2 * sum over m of (a_m - 1/M)^2`` with ``a_m >= 0``, which is convex.
    The penalty keeps a handful of documents from moving the coefficients far from those of a geometric mean; without
    any document they are 1/M. ``probabilities`` [M, N, C] are of members that have not learned from these documents, of
    the classes ``actual`` int [N].
    """
    start = np.full(len(probabilities), 1.0 / len(probabilities))
    logs = _logs(probabilities)
    result = minimize(pool_loss, start, (logs, actual), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(start))
    return np.asarray(result.x)


def pool_loss(coefficients: Array, logs: Array, actual: NDArray[np.integer]) -> tuple[float, Array]:
    """The penalized loss of :func:`fit_coefficients`, and its gradient [M], given log-probabilities [M, N, C]."""
    found, rows = softmax(np.tensordot(coefficients, logs, 1), axis=-1), np.arange(len(actual))
    away = coefficients - 1.0 / len(coefficients)
    loss = -np.log(np.maximum(found[rows, actual], np.finfo(np.float64).tiny)).sum() + RIDGE / 2.0 * (away**2).sum()
    gradient = (found * logs).sum(axis=(1, 2)) - logs[:, rows, actual].sum(axis=1) + RIDGE * away
    return float(loss), np.asarray(gradient)


def choose_coefficients(
    members: Mapping[str, Array], actual: NDArray[np.integer], *, seed: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit the pool of all members, or one member with a temperature, if that has the lower loss on other documents.

    The losses are cross-fitted: coefficients that are fitted on four fifths of the documents of each class are measured
    on the last fifth. The best member stands alone if its loss is lower by more than one standard error of the
    difference. On the sample's reviews (60 random choices of the documents to fit on, log loss of the others) this gave
    0.236, 0.233 and 0.233 for 20, 80 and 200 documents; any lower loss as the rule gave 0.247, 0.234 and 0.236.

    Returns:
        The coefficient of each member, 0 for those that are left out; and the cross-fitted log loss of the ``pool`` and
        of each member, in nats, empty for fewer than two documents.
    """
    choices = {POOL: [*members], **({name: [name] for name in members} if len(members) > 1 else {})}
    stacked = {choice: np.stack([members[name] for name in names]) for choice, names in choices.items()}
    chosen, losses = POOL, dict[str, float]()
    if len(actual) > 1:
        folds = stratified_folds(actual, min(FOLDS, len(actual)), seed=seed)
        rows = {choice: row_log_losses(actual, _cross_fit(each, actual, folds)) for choice, each in stacked.items()}
        losses = {choice: float(values.mean()) for choice, values in rows.items()}
        best = min(losses, key=lambda choice: losses[choice])
        gains = rows[POOL] - rows[best]
        chosen = best if gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)) else POOL
    fitted = dict(zip(choices[chosen], fit_coefficients(stacked[chosen], actual).tolist(), strict=True))
    return {name: fitted.get(name, 0.0) for name in members}, losses


def _cross_fit(probabilities: Array, actual: NDArray[np.integer], folds: NDArray[np.int64]) -> Array:
    """Pooled probabilities [N, C], of each fold with coefficients that were fitted on the others."""
    found = np.empty(probabilities.shape[1:])
    for fold in np.unique(folds):
        rest, held_out = folds != fold, folds == fold
        found[held_out] = pool(probabilities[:, held_out], fit_coefficients(probabilities[:, rest], actual[rest]))
    return found


def _logs(probabilities: Array) -> Array:
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


@dataclass(frozen=True)
class TextModel:
    """A stored text classifier, ready to predict.

    Attributes:
        networks: the networks of each direction, whose probabilities are averaged.
        baseline: the n-gram classifier; None in a bundle of networks only.
        coefficients: of the members in the pool, by direction and ``baseline``; those of 0 do not predict. A bundle of
            networks only has none: the mean of their probabilities is its prediction (1.0 for ``networks``).
        class_shares: of the training documents; equal ones in a bundle of a former version, which does not say it.
    """

    networks: Mapping[str, ClassifierEnsemble]
    vocabulary: Vocabulary
    tokens: TokenOptions
    classes: tuple[str, ...]
    coefficients: Mapping[str, float]
    class_shares: tuple[float, ...]
    baseline: NaiveBayesSVM | None = None

    @classmethod
    def from_bundle(cls, bundle: ModelBundle) -> Self:
        """Load a bundle of :func:`combine` or of :func:`.fine_tuning.train_classifier`, on the GPU if there is one."""
        network, vocabulary, tokens, classes = load_classifier(bundle)
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        networks: dict[str, ClassifierEnsemble] = {}
        for direction in DIRECTIONS:
            own = [place for place, member in enumerate(network.members) if member.direction == direction]
            if own:
                weights = [network.weights[place] for place in own]
                networks[direction] = ClassifierEnsemble([network.members[place] for place in own], weights).eval()
        shares = tuple(bundle.config.get("class_shares", [1 / len(classes)] * len(classes)))
        coefficients = bundle.config.get("coefficients")
        if coefficients is None:
            return cls(networks, vocabulary, tokens, tuple(classes), {NETWORKS: 1.0}, shares)
        prefix = f"{BASELINE}."
        tensors = {n.removeprefix(prefix): tensor for n, tensor in bundle.weights.items() if n.startswith(prefix)}
        baseline = NaiveBayesSVM.from_tensors(bundle.config[BASELINE], tensors)
        return cls(networks, vocabulary, tokens, tuple(classes), coefficients, shares, baseline)

    @property
    def _used(self) -> Mapping[str, float]:
        """The coefficients above 0; all, if there are none: the pool is then uniform."""
        return {name: value for name, value in self.coefficients.items() if value > 0.0} or self.coefficients

    def knows(self, token: str) -> bool:
        """Whether a member that predicts knows the token, the unknown one apart."""
        of_networks = [*self._used] != [BASELINE] and token in self.vocabulary
        of_baseline = BASELINE in self._used and self.baseline is not None and token in self.baseline.ngrams
        return token != self.vocabulary.tokens[self.vocabulary.unknown] and (of_networks or of_baseline)

    def probabilities(self, documents: Sequence[Tokens], like: Tokens | None = None) -> Array:
        """Probabilities float64 [N, C] of documents as tokens, each with one at least; see :class:`.Probabilities`."""
        wanted = [*self._used]
        found: dict[str, Array] = {}
        if wanted != [BASELINE]:
            directions = [*self.networks] if wanted == [NETWORKS] else [name for name in wanted if name != BASELINE]
            found |= self.network_probabilities([self.vocabulary.ids(tokens) for tokens in documents], directions)
        if BASELINE in wanted:
            assert self.baseline is not None
            found[BASELINE] = self.baseline.probabilities(documents, like)
        return self.combined(found)

    def network_probabilities(
        self, documents: Sequence[NDArray[np.integer]] | Corpus, directions: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Probabilities float64 [N, C] of each of the directions (None: of all), and of several their mean."""
        chosen = [*self.networks] if directions is None else directions
        found = {direction: class_probabilities(self.networks[direction], documents) for direction in chosen}
        return found | ({NETWORKS: np.mean([*found.values()], axis=0)} if len(found) > 1 else {})

    def combined(self, members: Mapping[str, Array]) -> Array:
        """The model's probabilities float64 [N, C], given those of its members."""
        members = {NETWORKS: next(iter(members.values())), **members}  # of one direction, it is their mean
        used = self._used
        if [*used.values()] == [1.0]:
            return members[next(iter(used))]
        return pool(np.stack([members[name] for name in used]), np.array([*used.values()]))

    def estimate(self, tokens: Tokens, label: int) -> Array:
        """Estimate the influence of each position of a document, float64 [T], to rank its words.

        The sum of the members' estimates (:mod:`.occlusion`) times their coefficients: for two classes the log-odds of
        the pool are the sum of the members' log-odds times the coefficients.
        """
        ids, unknown = self.vocabulary.ids(tokens), self.vocabulary.unknown
        total = np.zeros(len(tokens))
        for name, network in self.networks.items():
            share = self.coefficients.get(name, self.coefficients.get(NETWORKS, 0.0) / len(self.networks))
            if share:
                total += share * estimate_occlusion(network, unknown, ids, label)
        if share := self.coefficients.get(BASELINE, 0.0):
            assert self.baseline is not None
            word = self.vocabulary.tokens[unknown]
            total += share * estimate_by_windows(self.baseline.probabilities, word, tokens, label)
        return total


def combine(
    ids: pl.DataFrame,
    classifier: ModelBundle,
    baseline: ModelBundle,
    baseline_validation: pl.DataFrame,
    classes: Sequence[str],
) -> ModelBundle:
    """Combine the networks and the baseline into one bundle; the coefficients are fitted on the split ``validation``.

    ``baseline_validation`` are predictions of the baseline for the validation documents, which it has not learned from
    (:func:`.evaluation.prediction_frame`). Other classes than ``classes``, or other documents, are a DataError.

    Returns:
        A bundle of the kind ``text_classifier``: the networks' tensors, those of the baseline with the prefix
        ``baseline.``, and ``coefficients`` in its config. Its metrics are those of the networks, ``ensemble``
        (``coefficients``, ``documents``, and ``log_loss``: that of the pool and of each member, cross-fitted) and
        ``baseline``.
    """
    networks, words = TextModel.from_bundle(classifier), NaiveBayesSVM.from_bundle(baseline)
    for name, there in (("classifier", networks.classes), (BASELINE, words.classes)):
        if tuple(there) != tuple(classes):
            raise DataError(f"the {name} was trained for the classes {list(there)}, not {list(classes)}: run it again")
    documents = ids.filter(pl.col("split") == VALIDATION)
    members = dict.fromkeys((*networks.networks, BASELINE), np.zeros((0, len(classes))))
    if not documents.is_empty():
        found = networks.network_probabilities(_corpus(documents, networks.vocabulary))
        members = {direction: found[direction] for direction in networks.networks}
        members[BASELINE] = _aligned(baseline_validation, documents, classes)
    coefficients, losses = choose_coefficients(members, class_codes(documents, classes))
    shares = ", ".join(f"{name} {coefficient:.2f}" for name, coefficient in coefficients.items())
    measured = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) or "not measured"
    logger.info("Ensemble by %d held-out documents: %s; log loss (cross-fitted): %s", len(documents), shares, measured)
    config, tensors = words.tensors()
    ensemble = {"coefficients": coefficients, "documents": len(documents), "log_loss": losses}
    return replace(
        classifier,
        config=classifier.config | {"coefficients": coefficients, BASELINE: config},
        weights=classifier.weights | {f"{BASELINE}.{name}": tensor for name, tensor in tensors.items()},
        metrics=classifier.metrics | {"ensemble": ensemble, BASELINE: baseline.metrics},
        versions={},
    )


def predict_split(
    ids: pl.DataFrame, bundle: ModelBundle, baseline_predictions: pl.DataFrame | None = None, *, split: str = TEST
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predict the documents of a split; ``baseline_predictions`` are the baseline's, if it is a member.

    Returns:
        The predictions (:func:`.evaluation.prediction_frame`), and those of each member: ``document_id``, ``member``
        (``forward``, ``backward``, the mean of several directions ``networks``, ``baseline``) and ``p_<class>``.
    """
    model = TextModel.from_bundle(bundle)
    documents = ids.filter(pl.col("split") == split)
    if documents.is_empty():
        raise DataError(f"there is nothing to predict: no document is in the split {split!r}")
    members = model.network_probabilities(_corpus(documents, model.vocabulary))
    if baseline_predictions is not None:
        members[BASELINE] = _aligned(baseline_predictions, documents, model.classes)
    frames = [
        documents.select("document_id", member=pl.lit(name)).with_columns(
            pl.Series(f"{PREFIX}{label}", found[:, place]) for place, label in enumerate(model.classes)
        )
        for name, found in members.items()
    ]
    return prediction_frame(documents, model.combined(members), model.classes), pl.concat(frames)


def _corpus(documents: pl.DataFrame, vocabulary: Vocabulary) -> Corpus:
    corpus = Corpus.of(documents)
    if len(corpus.ids) and int(corpus.ids.max()) >= len(vocabulary):
        raise DataError(
            f"a document has the token id {int(corpus.ids.max())}, but the model knows {len(vocabulary)}: "
            "the ids were made with another model's vocabulary"
        )
    return corpus


def _aligned(predictions: pl.DataFrame, documents: pl.DataFrame, classes: Sequence[str]) -> Array:
    """The baseline's probabilities [N, C] in the order of the documents; other documents are a DataError."""
    require_same_documents({BASELINE: predictions, "networks": documents})
    rows = documents.select("document_id").join(predictions, on="document_id", how="left", maintain_order="left")
    return prediction_arrays(rows, classes)[1]
