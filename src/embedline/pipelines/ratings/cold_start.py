"""The trial of new users and new items: a model that never saw some of either, measured on their ratings.

A new item is known by its features alone, a new user by what features there are and by a handful of ratings that are
folded in. All of it happens inside the training part: the held-out ratings of the report are not looked at.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.ratings.cold_items import measure_items
from embedline.pipelines.ratings.cold_users import measure_users
from embedline.pipelines.ratings.contract import to_polars
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.fold_in_options import FoldInOptions
from embedline.pipelines.ratings.learner import load_model, train_ratings
from embedline.pipelines.ratings.options import (
    TRAIN,
    BaselineOptions,
    ColdStartOptions,
    FeatureOptions,
    RatingColumns,
    RatingNetwork,
    RatingSplit,
    RatingsTraining,
    Span,
)
from embedline.pipelines.ratings.predictions import fit_biases
from embedline.pipelines.ratings.splits import assign_splits, subset

logger = logging.getLogger(__name__)


class Trial(NamedTuple):
    """Training ratings, split for the trial.

    Attributes:
        known: to train on: known users' ratings of known items.
        of_items: known users' ratings of held-out items.
        of_users: held-out users' ratings of known items.
    """

    known: pl.DataFrame
    of_items: pl.DataFrame
    of_users: pl.DataFrame


def measure_cold_start(
    ratings: Any,
    columns: RatingColumns,
    split: RatingSplit,
    options: ColdStartOptions,
    *,
    network: RatingNetwork,
    training: RatingsTraining,
    baselines: BaselineOptions,
    folding: FoldInOptions,
    rating_range: Span = "auto",
    features: FeatureOptions | None = None,
    items: Any = None,
    users: Any = None,
) -> dict[str, Any]:
    """Train without some users and items, and predict their ratings; warns where a baseline is as good.

    Returns:
        ``known_ratings``, how many were trained on; ``new_items``
        (:func:`.cold_items.measure_items`); ``new_users``
        (:func:`.cold_users.measure_users`); ``beaten_by``: the baselines that are as good, such as
        ``new_items.user_mean`` or ``new_users.given.1.damped_bias``.

    Raises:
        DataError: if ``cold_start`` leaves nothing to train on or to measure.
    """
    rows = subset(to_polars(assign_splits(ratings, columns, split)), TRAIN)
    trial = hold_out(rows.select(columns.user, columns.item, columns.rating), columns, options)
    encoder = fit_encoder(trial.known, columns, rating_range, features, items, users)
    encoded = encode(trial.known, encoder, columns)
    bundle, _ = train_ratings(encoded, encoder, network, training, name="cold_start", evaluated=False)
    model = load_model(bundle)
    biases = fit_biases(encoded, encoder, baselines)
    of_items = measure_items(trial.of_items, model, encoded, biases, baselines)
    of_users = measure_users(trial.of_users, model, biases, baselines, folding, training.penalty, options)
    measured = {"known_ratings": len(trial.known), "new_items": of_items, "new_users": of_users}
    return {**measured, "beaten_by": _warn(of_items, of_users)}


def hold_out(rows: pl.DataFrame, columns: RatingColumns, options: ColdStartOptions) -> Trial:
    """Take ``options.fraction`` of the users and of the items out of the ratings; at least one of each.

    Ratings of held-out items by held-out users belong to neither trial, nor do those of an item, or by a user, of whom
    nothing is left to train on.

    Raises:
        DataError: if one of the three parts is empty.
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
    for what, part in zip(("to train on", "of a new item", "of a new user"), trial, strict=True):
        if part.is_empty():
            raise DataError(
                f"cold_start.fraction {options.fraction:g} of the {len(rows):,} training ratings leaves none {what}"
            )
    return trial


def _warn(of_items: dict[str, Any], of_users: dict[str, Any]) -> list[str]:
    """Name and warn of each baseline that is as good as the model, by the mean squared error."""
    trials = {"new_items": of_items} | {f"new_users.given.{n}": one for n, one in of_users["given"].items()}
    beaten = []
    for trial, ours in trials.items():
        for name, theirs in ours["baselines"].items():
            logger.info("Cold start, %s: mse %.4f, %s %.4f", trial, ours["mse"], name, theirs["mse"])
            if theirs["mse"] <= ours["mse"]:
                beaten.append(f"{trial}.{name}")
                logger.warning(
                    "Cold start, %s: the model (mse %.4f) loses to %s (%.4f)", trial, ours["mse"], name, theirs["mse"]
                )
    return beaten
