"""Cold start: a model and a ranker are fitted without some users and some items, predict their ratings and rank them.

A new item has its features alone; a new user has its features and a handful of known ratings, which are folded in. All
of it happens inside the split ``train``: the ratings of the split ``test`` are not looked at. The ranker is chosen anew
on an inner split of what is left.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from embedline.errors import DataError, about_frame
from embedline.pipelines.ratings.contract import (
    SPLIT_COLUMN,
    SPLITS,
    TEST,
    TRAIN,
    RatingColumns,
    RatingSplit,
    assign_splits,
    subset,
)
from embedline.pipelines.ratings.cross_validation import ModelSettings
from embedline.pipelines.ratings.encoder import (
    ITEM_ROW,
    RATING,
    UNKNOWN,
    USER_ROW,
    RatingsEncoder,
    encode,
    training_counts,
)
from embedline.pipelines.ratings.evaluation import Biases, as_good, damped_means, fit_biases
from embedline.pipelines.ratings.factors import Factors
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.network import Vectors
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    ColdStartOptions,
    FoldInOptions,
    Penalty,
    RankerOptions,
    RankingOptions,
    RecommendationOptions,
)
from embedline.pipelines.ratings.rankers import Popularity
from embedline.pipelines.ratings.ranking import (
    RATING_RANKER,
    REGRESSION,
    Recommender,
    fit_ranker,
    interaction_matrix,
    load_ranker,
)
from embedline.pipelines.ratings.ranking_metrics import Scores, measure_lists
from embedline.training.ensemble import weighted_mean

logger = logging.getLogger(__name__)

NO_FEATURES, FEATURES, AVERAGE = "no_features", "features", "features_and_average"  # vectors of a new item


class Trial(NamedTuple):
    """Training ratings, split for the trial."""

    known: pl.DataFrame  # to train on: known users' ratings of known items
    of_items: pl.DataFrame  # known users' ratings of held-out items
    of_users: pl.DataFrame  # held-out users' ratings of known items


class RankingSettings(NamedTuple):
    """What the choice of a ranker takes beside the ratings."""

    ranking: RankingOptions
    recommendation: RecommendationOptions
    rankers: RankerOptions


def measure_cold_start(
    ratings: Any,
    split: RatingSplit,
    options: ColdStartOptions,
    fold_in_options: FoldInOptions,
    settings: ModelSettings,
    lists: RankingSettings,
) -> dict[str, Any]:
    """Train without some users and items, and predict their ratings; warns where a baseline is as good.

    Returns:
        ``known_ratings``, the number of ratings in training; ``new_items`` (:func:`measure_items`); ``new_users``
        (:func:`measure_users`); ``ranking`` (:func:`measure_rankings`); ``beaten_by``: the baselines that are as good,
        such as ``new_items.user_mean`` or ``new_users.given.1.damped_bias``.
    """
    columns, baselines = settings.columns, settings.baselines
    with about_frame("ratings"):
        rows = subset(assign_splits(ratings, columns, split), TRAIN)
    timed = [columns.timestamp] if columns.timestamp in rows.columns else []
    trial = hold_out(rows.select(columns.user, columns.item, columns.value, *timed), columns, options)
    encoded, model, biases = settings.train(trial.known, RatingSplit(kind="none"), "cold_start")
    of_items = measure_items(trial.of_items, model, encoded, biases, baselines)
    penalty = settings.training.penalty
    of_users = measure_users(trial.of_users, model, biases, baselines, fold_in_options, penalty, options)
    trials = {"new_items": of_items} | {f"new_users.given.{n}": one for n, one in of_users["given"].items()}
    beaten_by = []
    for name, ours in trials.items():
        theirs = {baseline: one["mse"] for baseline, one in ours["baselines"].items()}
        beaten_by += [f"{name}.{baseline}" for baseline in as_good(f"cold start, {name}: mse", ours["mse"], theirs)]
    ranked = measure_rankings(trial, encoded, model.encoder, lists, options)
    found = {"known_ratings": len(trial.known), "new_items": of_items, "new_users": of_users, "ranking": ranked}
    return {**found, "beaten_by": beaten_by}


def hold_out(rows: pl.DataFrame, columns: RatingColumns, options: ColdStartOptions) -> Trial:
    """Take ``options.fraction`` of the users and of the items out of the ratings; at least one of each.

    Ratings of held-out items by held-out users are dropped, and so are those of an item or a user that has no rating
    left in training. An empty set of ratings is a DataError.
    """
    random = np.random.default_rng(options.seed)
    away = []
    for name in (columns.user, columns.item):
        ids = rows[name].unique().sort()
        chosen = random.permutation(len(ids))[: max(1, round(options.fraction * len(ids)))]
        away.append(rows[name].is_in(ids.gather(np.sort(chosen)).implode()))
    of_user, of_item = away
    known = rows.filter(~of_user & ~of_item)
    trial = Trial(
        known,
        rows.filter(~of_user & of_item).filter(pl.col(columns.user).is_in(known[columns.user].unique().implode())),
        rows.filter(of_user & ~of_item).filter(pl.col(columns.item).is_in(known[columns.item].unique().implode())),
    )
    for what, rows_of in zip(("to train on", "of a new item", "of a new user"), trial, strict=True):
        if rows_of.is_empty():
            raise DataError(
                f"cold_start.fraction {options.fraction:g} of the {len(rows):,} training ratings leaves none {what}"
            )
    return trial


def measure_items(
    rows: pl.DataFrame, model: RatingModel, encoded: pl.DataFrame, biases: Biases, baselines: BaselineOptions
) -> dict[str, Any]:
    """Predict ``rows``, ratings of new items by users with training ratings, by the items' features.

    ``encoded`` are the ratings that the model was trained on, ``biases`` their damped ones.

    Returns:
        ``rows``, ``items``, ``users``, and ``mse`` and ``rmse`` of the model by the item's features alone;
        ``no_features``: the same of row 0, the prediction without any features (the main metrics, where there are
        none); ``features_and_average`` (only with features): of the features plus the mean own vector over the training
        ratings, since a rating is more often one of a liked item than of a disliked one; ``baselines``:
        ``damped_bias``, the mean and the user's bias, and ``user_mean``, the user's damped mean rating, whatever the
        items were.
    """
    encoder = model.encoder
    columns = encoder.columns
    user_rows = encoder.user_rows(rows[columns.user])
    actual = rows[columns.value].to_numpy().astype(np.float64)
    new, place = np.unique(rows[columns.item].to_numpy(), return_inverse=True)
    new_rows = encoder.item_rows(pl.Series(new))
    counts = training_counts(encoded, encoder).items
    has_features = encoder.item_features.size > 0
    outputs: dict[str, list[NDArray[np.float32]]] = {NO_FEATURES: [], FEATURES: [], AVERAGE: []}
    for network in model.networks:
        users = network.user_vectors(np.arange(len(encoder.users) + 1))
        features, average = network.item_vectors(new_rows), network.average_item(counts)
        nothing = Vectors(features.factors * 0.0, features.biases * 0.0)
        typical = Vectors(features.factors + average.factors, features.biases + average.biases)
        for way, vectors in ((NO_FEATURES, nothing), (FEATURES, features), (AVERAGE, typical)):
            if has_features or way == NO_FEATURES:
                outputs[way].append(network.score_pairs(users, user_rows, vectors, place))
    metrics = {
        way: errors(weighted_mean(members, model.weights), actual, encoder.rating_range)
        for way, members in outputs.items()
        if members
    }
    nowhere = np.zeros_like(user_rows)
    means = fit_biases(encoded.with_columns(pl.lit(UNKNOWN, pl.Int32).alias(ITEM_ROW)), encoder, baselines)
    theirs = {"damped_bias": biases, "user_mean": means}
    return {
        "rows": len(rows),
        "items": len(new),
        "users": len(np.unique(user_rows)),
        **metrics.pop(FEATURES if has_features else NO_FEATURES),
        **metrics,
        "baselines": {
            name: errors(one.predict(user_rows, nowhere), actual, encoder.rating_range) for name, one in theirs.items()
        },
    }


def errors(
    predicted: NDArray[np.floating], actual: NDArray[np.float64], rating_range: tuple[float, float]
) -> dict[str, float]:
    """Mean squared error of predictions [N], cut off at the rating range, and its root."""
    mse = float(np.mean((np.clip(predicted, *rating_range) - actual) ** 2))
    return {"mse": mse, "rmse": float(np.sqrt(mse))}


def measure_users(
    rows: pl.DataFrame,
    model: RatingModel,
    biases: Biases,
    baselines: BaselineOptions,
    fold_in_options: FoldInOptions,
    penalty: Penalty,
    options: ColdStartOptions,
) -> dict[str, Any]:
    """Predict ``rows``, ratings of new users, with 0 known ratings, and with each number in ``options.given``.

    The ratings of each user are shuffled once. The first of them are known to every method, and those behind the
    largest number are predicted, whatever the number: all metrics are of the same rows. Users with too few ratings are
    left out; that none has enough is a DataError. ``biases`` and ``penalty`` are those of the model's training.

    Returns:
        ``rows``, ``users``, ``users_left_out``, and ``given``: for each number of known ratings, as a string, ``mse``
        and ``rmse`` of the model, and of ``damped_bias`` in ``baselines``: the items' biases, and a bias of the user
        that is fitted on the known ratings.
    """
    encoder = model.encoder
    new, user, item, rating, place = _shuffled(rows, encoder, options)
    most, enough = max(options.given), np.bincount(user, minlength=len(new))[user] > max(options.given)
    asked = enough & (place >= most)
    if not asked.any():
        busiest = int(np.bincount(user).max())
        raise DataError(
            f"cold_start.given takes {most} ratings of a new user, and needs more to predict: "
            f"the busiest of {len(new):,} held-out users has {busiest:,}"
        )
    new_rows, all_items = encoder.user_rows(new), np.arange(len(encoder.items) + 1)
    places, item_rows, actual = user[asked], item[asked], rating[asked]
    results = {}
    for n in (0, *sorted(set(options.given))):
        some = enough & (place < n)
        known = KnownRatings.by_user(user[some], item[some], rating[some], len(new))
        outputs = []
        for network in model.networks:
            users = fold_in(network, known, network.user_vectors(new_rows), fold_in_options, penalty)
            outputs.append(network.score_pairs(users, places, network.item_vectors(all_items), item_rows))
        residual = known.rating - biases.mean - biases.item[known.item]
        own = damped_means(known.user, residual, len(new), baselines.user_damping)
        theirs = biases.mean + biases.item[item_rows] + own[places]
        results[str(n)] = {
            **errors(weighted_mean(outputs, model.weights), actual, encoder.rating_range),
            "baselines": {"damped_bias": errors(theirs, actual, encoder.rating_range)},
        }
    kept = len(np.unique(user[enough]))
    return {"rows": len(actual), "users": kept, "users_left_out": len(new) - kept, "given": results}


def _shuffled(
    rows: pl.DataFrame, encoder: RatingsEncoder, options: ColdStartOptions
) -> tuple[pl.Series, NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], NDArray[np.int64]]:
    """Ratings of new users in an order drawn once.

    The users' ids; of each rating [N] the number of its user, the row of its item, the rating, and its place among
    those of the user, from 0.
    """
    columns = encoder.columns
    new, user = np.unique(rows[columns.user].to_numpy(), return_inverse=True)
    order = np.random.default_rng((options.seed, 1)).permutation(len(user))
    order = order[np.argsort(user[order], kind="stable")]
    counts = np.bincount(user)
    place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    rating = rows[columns.value].to_numpy()[order].astype(np.float64)
    return pl.Series(new), user[order], encoder.item_rows(rows[columns.item])[order], rating, place


def measure_rankings(
    trial: Trial, encoded: pl.DataFrame, encoder: RatingsEncoder, lists: RankingSettings, options: ColdStartOptions
) -> dict[str, Any]:
    """NDCG of lists of new items alone, and of lists for new users, by a ranker that is fitted on the known ratings.

    Returns:
        ``ranker``; ``cold``, what it scores new items by; ``new_items`` (None without features of items): metrics of
        :meth:`.ranking_metrics.ListMetrics.summary` with the interval, and ``baselines``: ``regression``,
        ``popularity_of_features`` (mean number of ratings of the known items with the same features) and ``random``;
        ``new_users``: ``given``, by number of known ratings the same of the ranker and of ``baselines``: ``popularity``
        and, where it was fitted, the network ``factors``; ``beaten_by``: baselines that are as good, such as
        ``new_users.given.1.popularity``.
    """
    ranking, recommendation, rankers = lists
    kinds = tuple(kind for kind in rankers.compared if kind != RATING_RANKER)
    wanted = "auto" if recommendation.ranker == RATING_RANKER else recommendation.ranker
    everything = RatingSplit(kind="none")
    recommendation = recommendation.model_copy(update={"ranker": wanted})
    rankers = rankers.model_copy(update={"compared": kinds})
    bundle = fit_ranker(trial.known, encoder, everything, ranking, recommendation, rankers)
    recommender, main = load_ranker(bundle, encoded), f"ndcg_at_{ranking.k}"
    of_items = _rank_items(trial.of_items, recommender, encoded, ranking) if encoder.item_features.size else None
    of_users = _rank_for_users(trial.of_users, recommender, ranking, options)
    trials = {"new_items": of_items} if of_items else {}
    trials |= {f"new_users.given.{n}": one for n, one in of_users["given"].items() if n != "0"}
    beaten_by = [
        f"{name}.{rival}"
        for name, one in trials.items()
        for rival, theirs in one["baselines"].items()
        if rival != REGRESSION and (theirs[main] or 0.0) >= (one[main] or 0.0)
    ]
    found = {"ranker": recommender.kind, "cold": bundle.config["cold"], "new_items": of_items, "new_users": of_users}
    return {**found, "beaten_by": beaten_by}


def _rank_items(
    rows: pl.DataFrame, recommender: Recommender, encoded: pl.DataFrame, ranking: RankingOptions
) -> dict[str, Any]:
    encoder, random = recommender.encoder, np.random.default_rng(0)
    columns = encoder.columns.model_copy(update={"repeats": None})
    new = encode(rows, encoder, columns).with_columns(
        pl.lit(TEST).cast(encoded.schema[SPLIT_COLUMN]).alias(SPLIT_COLUMN)
    )
    both = pl.concat([encoded, new])
    popular = popularity_of_features(encoder, recommender.popularity.counts.numpy())
    nothing = np.full(encoder.trained_items, -np.inf, dtype=np.float32)

    def of_new(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.hstack([np.tile(nothing, (len(scores), 1)), scores[:, encoder.trained_items :]])

    baselines: dict[str, Scores] = {
        REGRESSION: replace(recommender, cold=None).cold_scores,
        "popularity_of_features": lambda users: of_new(np.tile(popular, (len(users), 1))),
        "random": lambda users: of_new(random.random((len(users), len(encoder.items)), dtype=np.float32)),
    }
    if recommender.kind == Factors.kind:
        baselines.pop(REGRESSION)
    ours = measure_lists(recommender.cold_scores, both, encoder, ranking)
    theirs = {name: measure_lists(scores, both, encoder, ranking) for name, scores in baselines.items()}
    shown = {"ranker": ours.ndcg, **{name: one.ndcg for name, one in theirs.items()}}
    logger.info("New items alone, NDCG@%d: %s", ranking.k, shown)
    return {
        "items": rows[columns.item].n_unique(),
        **ours.summary(),
        **ours.interval(),
        "baselines": {name: {**one.summary(), **one.interval()} for name, one in theirs.items()},
    }


def popularity_of_features(encoder: RatingsEncoder, counts: NDArray[np.floating]) -> NDArray[np.float32]:
    """For all items, float32 [n_items], the mean over an item's features of the mean count of the items with them.

    ``counts`` are those of the items with training ratings [trained_items].
    """
    codes = encoder.item_feature_codes[1:]
    weights = np.zeros((len(codes), encoder.item_features.size + 1))
    np.put_along_axis(weights, codes, encoder.item_features.weights(codes).astype(np.float64), axis=1)
    weights[:, 0] = 1e-9  # of an item without features the mean of all
    known = weights[: encoder.trained_items]
    means = known.T @ counts / np.maximum(known.sum(axis=0), 1e-12)
    return np.asarray(weights @ means / weights.sum(axis=1), dtype=np.float32)


def _rank_for_users(
    rows: pl.DataFrame, recommender: Recommender, ranking: RankingOptions, options: ColdStartOptions
) -> dict[str, Any]:
    encoder, most = recommender.encoder, max(options.given)
    new, user, item, rating, place = _shuffled(rows, encoder, options)
    features = encoder.user_rows(new)  # rows without training ratings
    codes = encoder.user_codes and tuple(encoder.user_codes[row - 1] if row else () for row in features)
    theirs = encoder.replace(users=tuple(new), user_codes=codes, trained_users=len(new))
    given, network = {}, recommender.cold
    for n in (0, *sorted(set(options.given))):
        split = pl.when(pl.Series(place < n)).then(pl.lit(TRAIN)).otherwise(pl.lit(TEST)).cast(SPLITS)
        values = {USER_ROW: (user + 1).astype(np.int32), ITEM_ROW: item, RATING: rating.astype(np.float32)}
        frame = pl.DataFrame(values).with_columns(split.alias(SPLIT_COLUMN))
        frame = frame.filter(pl.Series((place < n) | (place >= most)))
        matrix, known_as = interaction_matrix(frame, theirs), np.append(0, features)
        popular = replace(recommender, kind=Popularity.kind, ranker=recommender.popularity, cold=None)
        ways: dict[str, Scores] = {
            "ranker": partial(_of_rows, recommender.row_scores, matrix, known_as),
            Popularity.kind: partial(_of_rows, popular.row_scores, matrix, known_as),
        }
        if network is not None:
            ways[network.kind] = partial(_of_rows, network.scores, matrix, known_as)
        found = {name: measure_lists(scores, frame, theirs, ranking) for name, scores in ways.items()}
        shown = {name: one.ndcg for name, one in found.items()}
        logger.info("New users, %d ratings, NDCG@%d: %s", n, ranking.k, shown)
        ours = found.pop("ranker")
        baselines = {name: {**one.summary(), **one.interval()} for name, one in found.items()}
        given[str(n)] = {**ours.summary(), **ours.interval(), "baselines": baselines}
    return {"given": given}


def _of_rows(
    scores: Callable[..., NDArray[np.float32]],
    matrix: sp.csr_array,
    known_as: NDArray[np.integer],
    users: NDArray[np.int32],
) -> NDArray[np.float32]:
    """``scores`` of new users by their rows of a matrix; what they are to the ranker is ``known_as``."""
    return scores(matrix[users], known_as[users])
