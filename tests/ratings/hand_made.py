"""Models with random weights, made without a training, and the ratings that they go with."""

from typing import Any

import numpy as np
import polars as pl
import torch

from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.network import FactorModel, build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork

COLUMNS = RatingColumns()
NO_SPLIT = RatingSplit(kind="none")


def encoder_of(
    ratings: pl.DataFrame, items: pl.DataFrame | None = None, features: tuple[str, ...] = ()
) -> RatingsEncoder:
    """Encoder of all rows, with a rating range of 1 to 5."""
    return fit_encoder(ratings, COLUMNS, (1.0, 5.0), FeatureOptions(items=features), items)


def network_of(encoder: RatingsEncoder, seed: int, std: float = 0.6, **options: Any) -> FactorModel:
    """Network whose weights are all random, but for the rows 0 and those of untrained rows."""
    settings = RatingNetwork(**{"factors": 4, **options})
    network = build_network(network_config(encoder, settings), feature_codes(encoder), seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=random))
        for side, trained in ((network.users, encoder.trained_users), (network.items, encoder.trained_items)):
            side.own[0] = 0.0
            side.own[trained + 1 :] = 0.0
            if side.feature is not None:
                side.feature[0] = 0.0
    return network.eval()


def model_of(encoder: RatingsEncoder, weights: tuple[float, ...] = (1.0,), **options: Any) -> RatingModel:
    """Ensemble of random networks."""
    networks = [network_of(encoder, seed, **options) for seed in range(1, len(weights) + 1)]
    return RatingModel(encoder, networks, list(weights))


def small_ratings() -> pl.DataFrame:
    """Ten users, eight items, 44 different pairs; user 9 has rated all items but one."""
    random = np.random.default_rng(3)
    pairs = sorted({*((9, item) for item in range(7)), *map(tuple, random.integers(0, (9, 8), (75, 2)).tolist())})
    user, item = (np.array(column) for column in zip(*pairs, strict=True))
    rating = random.integers(1, 6, len(pairs)).astype(np.float64)
    return pl.DataFrame({"user": user + 1, "item": [f"i{k}" for k in item], "rating": rating})


def small_items() -> pl.DataFrame:
    """Titles and genres of the items of :func:`small_ratings`, and of one that nobody has rated."""
    genres = [["War"], ["Comedy"], ["War", "Comedy"], ["Drama"], ["Drama"], ["War"], ["Comedy"], ["Drama"], ["War"]]
    ids, titles = [f"i{k}" for k in range(9)], [f"Film {k}" for k in range(9)]
    return pl.DataFrame({"item": ids, "title": titles, "genres": genres})


def encoded_of(ratings: pl.DataFrame, encoder: RatingsEncoder, split: RatingSplit = NO_SPLIT) -> pl.DataFrame:
    return encode(ratings, encoder, COLUMNS, split)
