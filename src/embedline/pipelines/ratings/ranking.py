"""Choose a ranker on an inner split of the training rows, fit it, store it as a bundle, and score items with it.

A ranker's matrix has the items with training ratings. An item without any is scored by its features, by the better of
two ways on inner rows that hide some items: a ridge regression of each user's scores on the features of the known
items ("what this user's scores say about such items"), or the network of :mod:`.factors`, brought to the user's scores.
Without features an item that training never saw is not ranked.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from embedline.errors import DataError, input_name
from embedline.pipelines.ratings.contract import SPLIT_COLUMN, SPLITS, TEST, TRAIN, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import AGE, ITEM_ROW, RATING, USER_ROW, RatingsEncoder, encode
from embedline.pipelines.ratings.factors import Factors
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.learner import RatingModel, load_model, train_ratings
from embedline.pipelines.ratings.options import (
    FoldInOptions,
    InnerSplit,
    Penalty,
    RankerOptions,
    RankingOptions,
    RatingNetwork,
    RatingsTraining,
    RecommendationOptions,
)
from embedline.pipelines.ratings.rankers import Als, Ease, ItemKnn, Popularity, Ranker, require_items
from embedline.pipelines.ratings.ranking_metrics import measure_lists
from embedline.training.ensemble import weighted_mean
from embedline.training.metrics import unreported
from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

KIND = "ranker"
RATING_RANKER = "rating"  # the predicted ratings, as a ranker
FEATURE_PENALTY = 10.0  # of the regression of scores on features; between 1 and 30 the NDCG hardly changes
REGRESSION = "regression"  # of scores on features, as a way to score items without training ratings
MOST_FEATURES = 10_000  # whose regression takes 0.8 GB; with more, items without training ratings are not ranked

RANKERS: dict[str, Any] = {one.kind: one for one in (Ease, Als, ItemKnn, Popularity)}
CONFIGURABLE = (Ease.kind, Als.kind, ItemKnn.kind, Factors.kind)  # with a block of settings

Settings = dict[str, Any]
NetworkSettings = tuple[RatingNetwork, RatingsTraining]


# Interactions


def interaction_values(ratings: NDArray[np.floating], encoder: RatingsEncoder) -> NDArray[np.float32]:
    """Ratings [N] as float32 from 0 to 1: over the highest of the range, from 0 or, if that is lower, its lowest on.

    Numbers of events are ``log(1 + n)`` over that of the highest number: the tenth view says less than the second.
    """
    low, high = encoder.rating_range
    if encoder.columns.rating is None:
        return (np.log1p(ratings) / np.log1p(high)).astype(np.float32)
    least = min(low, 0.0)
    return ((np.asarray(ratings, np.float64) - least) / (high - least)).astype(np.float32)


def interaction_matrix(encoded: pl.DataFrame, encoder: RatingsEncoder, recency: float = 0.0) -> sp.csr_array:
    """Training rows of an encoded frame, float32 CSR [n_users + 1, trained_items]; a user's row is the user row.

    ``recency``, of :class:`.options.RankerOptions`, is without an effect where the rows have no ``age``.
    """
    train = subset(encoded, TRAIN)
    values = interaction_values(train[RATING].to_numpy(), encoder)
    if recency and AGE in train.columns:
        values *= (1.0 + train[AGE].to_numpy()).astype(np.float32) ** -np.float32(recency)
    pairs = (train[USER_ROW].to_numpy(), train[ITEM_ROW].to_numpy() - 1)
    return sp.csr_array((values, pairs), shape=(len(encoder.users) + 1, encoder.trained_items))


# Choice


def fit_ranker(
    ratings: Any,
    encoder: RatingsEncoder,
    split: RatingSplit,
    ranking: RankingOptions,
    recommendation: RecommendationOptions,
    options: RankerOptions,
    network: NetworkSettings | None = None,
) -> ModelBundle:
    """Compare the rankers on an inner split of the training rows, and fit the chosen one on all of these.

    Args:
        ratings: the ratings frame; what ``split`` holds out is not looked at.
        network: of the rating model; None without one: predicted ratings are not compared.

    Returns:
        A bundle whose config has ``ranker``, its ``settings``, ``candidates``, the best settings of every ranker, and
        ``cold``, what scores items without training ratings; the metrics have the ``trials`` with their NDCG,
        ``cold_trials``, the ``inner`` split and ``seconds``.

    Raises:
        DataError: EASE is asked for, and there are more items than ``rankers.ease.max_items``, or there are too few
            ratings for an inner split.
    """
    started = time.perf_counter()
    wanted = recommendation.ranker
    if wanted == Ease.kind:
        require_items(encoder.trained_items, options.ease.max_items)
    columns = encoder.columns.model_copy(update={"rating": encoder.columns.value, "repeats": None})
    rows = subset(assign_splits(ratings, encoder.columns, split), TRAIN).drop("split")
    inner = _inner_split(split, options)
    try:
        tried = encode(rows, encoder, columns, inner)
    except DataError as error:  # a handful of ratings, or one of each user
        key = input_name("rankers.inner")
        raise DataError(f"{key}: rankers are compared on ratings inside training, too few here: {error}") from error
    with unreported():
        trials = _compare(tried, encoder, ranking, recommendation, options)
        if network is not None and RATING_RANKER in options.compared:
            trials.append(_try_ratings(tried, encoder, ranking, network))
        best: dict[str, Settings] = {}
        for trial in sorted(trials, key=lambda one: -(one["ndcg"] or 0.0)):  # stable: the first of equal ones
            best.setdefault(trial["ranker"], trial)
        chosen = next(iter(best)) if wanted == "auto" else wanted
        settings = best[chosen]["settings"] if chosen in best else {}
        encoded = encode(rows, encoder, columns)
        networks = [one for kind, one in candidates(encoder.trained_items, wanted, options) if kind == Factors.kind]
        networks = [settings] if chosen == Factors.kind else networks
        cold_trials = _compare_cold(encoded, encoder, ranking, (chosen, settings), networks, options.inner)
    plain: dict[str, Any] = {"way": REGRESSION, "settings": {}}
    cold = max(cold_trials, key=lambda one: one["ndcg"] or 0.0) if cold_trials else plain
    if not any(trial["ndcg"] for trial in trials):
        logger.warning("The inner split has nothing relevant to compare rankers on: %s is taken", chosen)
    for name, trial in best.items():
        logger.info("Inner split, NDCG@%d: %s %.4f with %s", ranking.k, name, trial["ndcg"] or 0.0, trial["settings"])
    for trial in cold_trials:
        logger.info(
            "Hidden items, NDCG@%d: %s %.4f %s", ranking.k, trial["way"], trial["ndcg"] or 0.0, trial["settings"]
        )
    logger.info("Recommendations are ranked by %s with %s", chosen, settings or "no settings")
    matrix = interaction_matrix(encoded, encoder)
    fitted = {} if chosen == RATING_RANKER else {KIND: fit(chosen, settings, matrix, encoder)}
    if cold["way"] == Factors.kind != chosen:
        fitted["cold"] = fit(Factors.kind, cold["settings"], matrix, encoder)
    weights = {f"{name}.{key}": value for name, one in fitted.items() for key, value in one.weights().items()}
    weights["popularity.counts"] = Popularity.fit(matrix).counts
    others = {name: trial["settings"] for name, trial in best.items()}
    config = {"ranker": chosen, "settings": settings, "candidates": others, "cold": cold["way"]}
    seconds = round(time.perf_counter() - started, 3)
    described = {"trials": trials, "cold_trials": cold_trials, "inner": inner.model_dump(exclude_defaults=True)}
    return ModelBundle(KIND, config, encoder.model_dump(mode="json"), weights, {**described, "seconds": seconds})


def _inner_split(split: RatingSplit, options: RankerOptions) -> RatingSplit:
    """Hold out inside the training rows as ``split`` does by time, else at random."""
    if split.kind in ("latest", "time"):
        return split
    return RatingSplit(kind="random", fraction=options.inner.fraction, seed=options.inner.seed)


def _compare(
    encoded: pl.DataFrame,
    encoder: RatingsEncoder,
    ranking: RankingOptions,
    recommendation: RecommendationOptions,
    options: RankerOptions,
) -> list[dict[str, Any]]:
    """``ranker``, ``settings`` and ``ndcg`` of each candidate, trained on the split ``train`` of the rows."""
    recencies = options.recency if AGE in encoded.columns else (0.0,)
    matrices = {recency: interaction_matrix(encoded, encoder, recency) for recency in recencies}
    matrix = interaction_matrix(encoded, encoder)
    popularity = Popularity.fit(matrix)
    trials = []
    for kind, settings in candidates(encoder.trained_items, recommendation.ranker, options):
        ranker = fit(kind, settings, matrix, encoder)
        for recency, rows in matrices.items() if kind != Popularity.kind else [(0.0, matrix)]:
            scores = Recommender(encoder, kind, ranker, popularity, rows).scores
            ndcg = measure_lists(scores, encoded, encoder, ranking).ndcg
            used = {**settings, **({"recency": recency} if recency else {})}
            logger.debug("Inner split: %s %s %s", kind, used, ndcg)
            trials.append({"ranker": kind, "settings": used, "ndcg": ndcg})
    return trials


def _try_ratings(
    encoded: pl.DataFrame, encoder: RatingsEncoder, ranking: RankingOptions, network: NetworkSettings
) -> dict[str, Any]:
    """The trial of the predicted ratings, by one network that is trained on the split ``train`` of the rows."""
    shape, training = network
    training = training.model_copy(update={"seeds": training.seeds[:1], "weights": None})
    bundle, _ = train_ratings(encoded, encoder, shape, training, name=KIND, evaluated=False)
    ndcg = measure_lists(load_model(bundle).scores, encoded, encoder, ranking).ndcg
    return {"ranker": RATING_RANKER, "settings": {}, "ndcg": ndcg}


def _compare_cold(
    encoded: pl.DataFrame,
    encoder: RatingsEncoder,
    ranking: RankingOptions,
    chosen: tuple[str, Settings],
    networks: Sequence[Settings],
    inner: InnerSplit,
) -> list[dict[str, Any]]:
    """``way``, ``settings`` and ``ndcg`` of ranking hidden items alone; empty where there is no choice or no such item.

    ``inner.fraction`` of the items of ``encoded``, training rows, are hidden; ``networks`` are settings of factor
    networks.
    """
    (kind, settings), hidden = chosen, np.random.default_rng(inner.seed).random(encoder.trained_items) < inner.fraction
    if not networks or kind == RATING_RANKER or not encoder.item_features.size:
        return []
    if len(encoder.items) == encoder.trained_items or hidden.all() or not hidden.any():
        return []
    fewer, rows = encoder.without_items(hidden)
    old = encoded[ITEM_ROW].to_numpy()
    split = pl.when(pl.Series(np.append(False, hidden)[old])).then(pl.lit(TEST)).otherwise(pl.lit(TRAIN)).cast(SPLITS)
    tried = encoded.with_columns(pl.Series(ITEM_ROW, rows[old]), split.alias(SPLIT_COLUMN))
    matrix, scored = (interaction_matrix(tried, fewer, recency) for recency in (0.0, recency_of(settings)))
    plain = Recommender(fewer, kind, fit(kind, settings, matrix, fewer), Popularity.fit(matrix), scored)
    ways: list[tuple[str, Settings, Recommender]] = [(REGRESSION, {}, plain)]
    if kind == Factors.kind:
        ways = [(kind, settings, plain)]
    else:
        fitted = ((one, Factors.fit(matrix, fewer, **one)) for one in networks)
        ways += [(Factors.kind, one, replace(plain, cold=network)) for one, network in fitted]
    return [
        {"way": way, "settings": own, "ndcg": measure_lists(one.cold_scores, tried, fewer, ranking).ndcg}
        for way, own, one in ways
    ]


def candidates(n_items: int, wanted: str, options: RankerOptions) -> Iterator[tuple[str, Settings]]:
    """Rankers and settings to compare, all combinations of what the options list; popularity, but no ratings."""
    kinds = dict.fromkeys([*options.compared, *([wanted] if wanted in CONFIGURABLE else [])])
    for kind in kinds:
        if kind == RATING_RANKER:
            continue
        block = getattr(options, kind).model_dump(exclude={"max_items"})
        if kind == Ease.kind and n_items > options.ease.max_items:
            logger.warning("EASE is left out: %s items, more than rankers.ease.max_items", f"{n_items:,}")
            continue
        listed = {name: values if isinstance(values, tuple) else (values,) for name, values in block.items()}
        for values in itertools.product(*listed.values()):
            yield kind, dict(zip(listed, values, strict=True))
    yield Popularity.kind, {}


def fit(kind: str, settings: Settings, matrix: sp.csr_array, encoder: RatingsEncoder) -> Ranker:
    """The ranker ``kind``, fitted on the rows of ``matrix``; ``recency`` among the settings is not of the fit."""
    settings = {name: value for name, value in settings.items() if name != "recency"}
    if kind == Factors.kind:
        return Factors.fit(matrix, encoder, **settings)
    ranker: Ranker = RANKERS[kind].fit(matrix, **settings)
    return ranker


def recency_of(settings: Settings) -> float:
    """``recency`` of a ranker's settings."""
    return float(settings.get("recency", 0.0))


# Scores


@dataclass(frozen=True)
class Recommender:
    """A fitted ranker and the training rows of the known users: scores of all items for known and for new users.

    Attributes:
        kind: name of the ranker; ``rating`` for predicted ratings, which need ``model``.
        ranker: None for ``rating``.
        popularity: scores of a user without interactions.
        matrix: of :func:`interaction_matrix`.
        model: the network of the ratings, where there is one.
        cold: the factor network that scores items without training ratings; None: a regression does.
    """

    encoder: RatingsEncoder
    kind: str
    ranker: Ranker | None
    popularity: Popularity
    matrix: sp.csr_array
    model: RatingModel | None = None
    cold: Factors | None = None

    def scores(self, user_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores float32 [n, n_items] of all items, row 0 left out, for users by their rows."""
        if self.ranker is None:
            return self._rating_model.scores(user_rows)
        return self.row_scores(self.matrix[np.asarray(user_rows)], user_rows)

    def cold_scores(self, user_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Those of items without training ratings alone; -inf of the others."""
        scores = self.scores(user_rows)
        scores[:, : self.encoder.trained_items] = -np.inf
        return scores

    def row_scores(self, rows: sp.csr_array, users: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """Scores float32 [n, n_items] for rows of interactions, CSR [n, trained_items].

        ``users`` are rows int [n], for their features; 0 of an unknown one, as all are without.
        """
        assert self.ranker is not None
        users = np.zeros(rows.shape[0], dtype=np.int64) if users is None else np.asarray(users)
        if isinstance(self.ranker, Factors):
            return self.ranker.scores(rows, users)
        known = self.ranker.scores(rows)
        empty = np.diff(rows.indptr) == 0
        if empty.any():
            known[empty] = self.popularity.counts.numpy()
        if not self._untrained_items:
            return known
        return np.hstack([known, self._untrained(known, rows, users)])

    def new_user_scores(
        self,
        item_rows: NDArray[np.integer],
        ratings: NDArray[np.floating],
        options: FoldInOptions,
        penalty: Penalty,
    ) -> NDArray[np.float32]:
        """Scores float32 [n_items] for a new user with some known ratings float [N], without training.

        ``item_rows`` int [N] without training ratings count for ``rating`` alone, which reads ``options`` and
        ``penalty``, too.
        """
        if self.ranker is not None:
            known = (item_rows > 0) & (item_rows <= self.encoder.trained_items)
            values = interaction_values(ratings[known], self.encoder)
            pairs = (np.zeros(len(values), dtype=np.int64), item_rows[known] - 1)
            row = sp.csr_array((values, pairs), shape=(1, self.encoder.trained_items))
            return self.row_scores(row)[0]
        return new_user_ratings(self._rating_model, item_rows, ratings, options, penalty)

    @property
    def _rating_model(self) -> RatingModel:
        if self.model is None:
            raise DataError("recommendation.ranker is rating, which needs a rating model: events have none")
        return self.model

    @property
    def _untrained_items(self) -> int:
        return len(self.encoder.items) - self.encoder.trained_items

    @cached_property
    def _regression(self) -> tuple[sp.csr_array, NDArray[np.float32], sp.csr_array] | None:
        """Features [trained, F] with a constant, ``(FᵀF + penalty I)⁻¹`` [F, F], and features [untrained, F]."""
        size = self.encoder.item_features.size + 1
        if size > MOST_FEATURES:
            logger.warning("Items without training ratings are not ranked: they have %s features", f"{size:,}")
            return None
        codes = self.encoder.item_feature_codes[1:]
        weights = self.encoder.item_features.weights(codes)
        places = np.arange(len(codes))
        inside = codes > 0
        rows = np.concatenate([np.nonzero(inside)[0], places])
        columns = np.concatenate([codes[inside], np.zeros_like(places)])
        values = np.concatenate([weights[inside], np.ones(len(codes), dtype=np.float32)])
        features = sp.csr_array((values, (rows, columns)), shape=(len(codes), size))
        known, other = features[: self.encoder.trained_items], features[self.encoder.trained_items :]
        gram = (known.T @ known).toarray().astype(np.float64) + FEATURE_PENALTY * np.eye(size)
        return known, np.linalg.inv(gram).astype(np.float32), other

    def _untrained(
        self, known: NDArray[np.float32], rows: sp.csr_array, users: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Scores [n, untrained items] in the units of those of the known items; -inf, not in the ranking, without.

        The network's are brought there by a regression over the known items, all of them by their features alone.
        """
        if self.cold is not None:
            theirs = self.cold.scores(rows, users, own=False)
            mean, deviation = theirs[:, : known.shape[1]].mean(axis=1), theirs[:, : known.shape[1]].std(axis=1)
            standard = (theirs - mean[:, None]) / np.maximum(deviation, 1e-9)[:, None]
            slope = np.maximum((standard[:, : known.shape[1]] * known).mean(axis=1, keepdims=True), 1e-9)
            return np.asarray(known.mean(axis=1, keepdims=True) + slope * standard[:, known.shape[1] :])
        if self._regression is None:
            return np.full((len(known), self._untrained_items), -np.inf, dtype=np.float32)
        features, inverse, others = self._regression
        weights = (features.T @ known.T).T @ inverse  # [n, F]
        return np.asarray((others @ weights.T).T, dtype=np.float32)


def new_user_ratings(
    model: RatingModel,
    item_rows: NDArray[np.integer],
    ratings: NDArray[np.floating],
    options: FoldInOptions,
    penalty: Penalty,
) -> NDArray[np.float32]:
    """Ratings float32 [n_items] of a new user by fold-in, not cut off at the range; the arguments as above."""
    is_known = item_rows > 0
    new_user = np.zeros(int(is_known.sum()), dtype=np.int64)
    known = KnownRatings.by_user(new_user, item_rows[is_known], ratings[is_known], 1)
    everything, outputs = np.arange(1, len(model.encoder.items) + 1), []
    for network in model.networks:
        user = fold_in(network, known, network.user_vectors(np.zeros(1, dtype=np.int64)), options, penalty)
        items = network.item_vectors(everything)
        outputs.append(network.score_pairs(user, np.zeros_like(everything), items, everything - 1))
    return weighted_mean(outputs, model.weights).astype(np.float32)


def load_ranker(bundle: ModelBundle, encoded: pl.DataFrame | None, model: RatingModel | None = None) -> Recommender:
    """Rebuild what :func:`fit_ranker` stored.

    ``encoded`` are the ratings by the encoder of the bundle, for the known users' training rows, None: no user is
    known; ``model`` is the network of the ratings, which the ranker ``rating`` needs. A bundle of another learner is a
    DataError.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    encoder = RatingsEncoder.model_validate(bundle.encoder)
    kind, settings = bundle.config["ranker"], bundle.config["settings"]
    nobody = sp.csr_array((len(encoder.users) + 1, encoder.trained_items), dtype=np.float32)
    matrix = nobody if encoded is None else interaction_matrix(encoded, encoder, recency_of(settings))

    def stored(prefix: str) -> dict[str, torch.Tensor]:
        start = f"{prefix}."
        return {name.removeprefix(start): one for name, one in bundle.weights.items() if name.startswith(start)}

    own = {name: settings[name] for name in ("alpha", "penalty")} if kind == Als.kind else {}
    ranker: Ranker | None = None
    if kind == Factors.kind:
        ranker = Factors(encoder, stored(KIND))
    elif kind != RATING_RANKER:
        ranker = RANKERS[kind](**stored(KIND), **own)
    cold = Factors(encoder, stored("cold")) if stored("cold") else None
    return Recommender(encoder, kind, ranker, Popularity(bundle.weights["popularity.counts"]), matrix, model, cold)
