"""Analysis of the items of a model: their biases, their factors in a plane, and the nearest items.

The axes of two members of an ensemble differ by a rotation, so that their factors must not be averaged. Concatenated
factors need no common axes, however: the cosine of the concatenated unit vectors is the mean of the members' cosines,
and the squared distance of concatenated vectors the sum of the members'. Both are steadier than those of one member.
"""

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from embedline.pipelines.ratings.contract import SPLIT_COLUMN, TEST, TRAIN, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW, named_items, training_counts
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.ranking_metrics import top_items
from embedline.training.plots import principal_components

BLOCK_COSINES = 1 << 24  # cosines computed at a time: 64 MB in float32


def item_biases(encoded: pl.DataFrame, model: RatingModel, items: Any = None) -> pl.DataFrame:
    """The bias of every item, its features' share included: how far it is liked beyond what the factors explain.

    In the order of the items' rows ``item``, ``title``, ``n_ratings`` (of training, Int64), ``mean_rating`` (of
    training, null without any), ``bias`` (the mean of the members', weighted; rating units, before the sigmoid if there
    is one) and ``deviation`` (standard deviation between the members).
    """
    encoder, weights = model.encoder, np.asarray(model.weights)
    rows = torch.arange(1, len(encoder.items) + 1)
    with torch.inference_mode():
        biases = np.stack([network.item_vectors(rows)[1].double().numpy() for network in model.networks])
    mean = weights @ biases
    counts = training_counts(encoded, encoder).items[1:]
    train = subset(encoded, TRAIN)
    sums = np.bincount(train[ITEM_ROW].to_numpy(), train[RATING].to_numpy(), len(encoder.items) + 1)[1:]
    return named_items(encoder, items).with_columns(
        n_ratings=counts,
        mean_rating=pl.Series(sums / np.maximum(counts, 1)).set(pl.Series(counts == 0), None),
        bias=mean,
        deviation=np.sqrt(weights @ (biases - mean) ** 2),
    )


def nearest_items(
    encoded: pl.DataFrame, model: RatingModel, *, k: int, min_ratings: int = 1, items: Any = None
) -> pl.DataFrame:
    """The k nearest items of each item by the cosine of their factors, averaged over the members.

    Items with fewer than ``min_ratings`` training ratings are left out on either side: they have little more than their
    features.

    Returns:
        ``item``, ``title``, ``rank`` (Int32, from 1), ``neighbour``, ``neighbour_title`` and ``cosine`` (Float32), the
        items in the order of their rows. Empty, but for the columns, where fewer than two items have enough ratings.
    """
    encoder = model.encoder
    counts = training_counts(encoded, encoder).items
    rows = np.flatnonzero(counts >= max(1, min_ratings))
    vectors = concatenate_factors(model, rows, normalised=True)
    size = max(1, BLOCK_COSINES // max(1, len(rows)))
    best, cosines = [], []
    for start in range(0, len(rows), size):
        block = vectors[start : start + size] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf  # itself
        found, values = top_items(block, min(k, max(0, len(rows) - 1)))
        best.append(found - 1)
        cosines.append(values)
    named = named_items(encoder, items)
    n_found = best[0].shape[1] if best else 0
    other = rows[np.concatenate(best).ravel()] - 1 if n_found else np.empty(0, dtype=np.int64)
    ranks = np.tile(np.arange(1, n_found + 1), len(rows) if n_found else 0)
    return named[np.repeat(rows, n_found) - 1].with_columns(
        rank=pl.Series(ranks, dtype=pl.Int32),
        neighbour=named["item"].gather(other),
        neighbour_title=named["title"].gather(other),
        cosine=pl.Series(np.concatenate(cosines).ravel() if n_found else [], dtype=pl.Float32),
    )


def item_map(encoded: pl.DataFrame, model: RatingModel, n_items: int, items: Any = None) -> pl.DataFrame:
    """The two main components of the factors of the ``n_items`` most rated items, the most rated first.

    Columns ``item``, ``title``, ``n_ratings``, ``bias``, ``x`` and ``y``.
    """
    rows = most_rated(training_counts(encoded, model.encoder).items, n_items)
    points = principal_components(concatenate_factors(model, rows, normalised=False))
    biases = item_biases(encoded, model, items)[rows - 1]
    return biases.select("item", "title", "n_ratings", "bias").with_columns(x=points[:, 0], y=points[:, 1])


def crosstab(encoded: pl.DataFrame, model: RatingModel, n: int, items: Any = None) -> pl.DataFrame:
    """A row for each pair of the n most active users and the n most rated items, both by training ratings.

    User by user ``user``, ``item``, ``title``, ``actual`` (Float64, NaN where the user has not rated the item),
    ``held_out`` (whether this rating was kept from training) and ``predicted``.
    """
    encoder = model.encoder
    counts = training_counts(encoded, encoder)
    users, films = most_rated(counts.users, n), most_rated(counts.items, n)
    user_rows, item_rows = np.repeat(users, len(films)), np.tile(films, len(users))
    pairs = pl.DataFrame({USER_ROW: user_rows, ITEM_ROW: item_rows}).cast(pl.Int32)
    cells = pairs.join(encoded, on=[USER_ROW, ITEM_ROW], how="left", maintain_order="left")
    return named_items(encoder, items)[item_rows - 1].select(
        pl.Series("user", encoder.users).gather(user_rows - 1),
        "item",
        "title",
        actual=cells[RATING].cast(pl.Float64).fill_null(float("nan")),
        held_out=(cells[SPLIT_COLUMN].cast(pl.String) == TEST).fill_null(False),
        predicted=pl.Series(model.predict(user_rows, item_rows)),
    )


def most_rated(counts: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """Rows of the n most frequent users or items, the most frequent first, the lower row first of equal ones.

    Row 0 and rows without a rating, by ``counts`` of :class:`.encoder.TrainingCounts`, are left out.
    """
    order = 1 + np.argsort(-counts[1:], kind="stable")[:n]
    return order[counts[order] > 0]


def concatenate_factors(model: RatingModel, rows: NDArray[np.integer], *, normalised: bool) -> NDArray[np.float32]:
    """Factors of items, those of the members concatenated, float32 [N, members * k].

    Each member's share is scaled by the square root of its weight, so that products and squared distances are weighted
    means of the members'. Normalised, each member's vector has the length 1 first; a zero vector stays one.
    """
    blocks = []
    for network, weight in zip(model.networks, model.weights, strict=True):
        with torch.inference_mode():
            factors = network.item_vectors(torch.as_tensor(rows))[0].numpy()
        if normalised:
            factors = factors / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
        blocks.append(factors * np.float32(np.sqrt(weight)))
    return np.hstack(blocks)
