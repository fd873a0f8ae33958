"""Small services of texts and of ratings with random weights, and bodies of requests in every layout."""

import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from mixed_requests import json_layouts

from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.network import build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork
from embedline.serving.ratings import pack_ratings
from embedline.serving.service import Service
from embedline.serving.texts import pack_texts
from embedline.training.model_file import ModelBundle
from test_commands import make_bundles

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
COLUMNS = RatingColumns(user="listener", item="album", rating="stars", timestamp=None, title=None)
PAIRS = [{"listener": listener, "album": album} for listener in (1, 2, 3, 4, 99) for album in (10, 11, 12, 13, 99)]


def make_ratings(strings: bool) -> pl.DataFrame:
    """Twelve ratings, the last three held out: an unseen user and an unseen item are among them."""
    users = [1, 1, 2, 2, 3, 3, 4, 4, 4, 1, 9, 2]
    items = [10, 11, 10, 12, 11, 12, 10, 11, 12, 12, 10, 77]
    stars = [1.0, 4, 2, 5, 3, 3, 5, 1, 2, 4, 3, 2]
    as_id = [str(user) for user in users] if strings else users
    return pl.DataFrame({"listener": as_id, "album": items, "stars": stars, "held": [0] * 9 + [1] * 3})


def make_bundle(strings: bool) -> ModelBundle:
    """Two members with random weights; albums have a genre, also one that nobody has rated."""
    import torch

    albums = pl.DataFrame({"album": [10, 11, 12, 13], "genre": ["rock", "jazz", "rock", "jazz"]})
    train = make_ratings(strings).filter(pl.col("held") == 0)
    encoder = fit_encoder(train, COLUMNS, (1.0, 5.0), FeatureOptions(items=("genre",)), items=albums)
    config, random = network_config(encoder, RatingNetwork(factors=3)), torch.Generator().manual_seed(5)
    weights = {}
    for member in range(2):
        for name, value in build_network(config, feature_codes(encoder), seed=member).state_dict().items():
            drawn = 0.5 * torch.randn(value.shape, generator=random) if value.is_floating_point() else value
            weights[f"{member}.{name}"] = drawn if "own" not in name else drawn.index_fill(0, torch.tensor([0]), 0.0)
    metrics = {"members": 2, "member_weights": [0.75, 0.25]}
    return ModelBundle("ratings", config, encoder.model_dump(mode="json"), weights, metrics)


def make_ranker(strings: bool, kind: str = "ease") -> tuple[ModelBundle, pl.DataFrame]:
    """A ranker of the training ratings, with the encoder of the model, and the encoded ratings."""
    import torch

    encoder, ratings = RatingsEncoder.model_validate(make_bundle(strings).encoder), make_ratings(strings)
    encoded = encode(ratings, encoder, COLUMNS, RatingSplit(kind="column", column="held", value=1))
    size, random = encoder.trained_items, torch.Generator().manual_seed(6)
    weights = {
        "ranker.matrix": torch.randn(size, size, generator=random),
        "popularity.counts": torch.arange(size) * 1.0,
    }
    weights = weights if kind == "ease" else {"popularity.counts": weights["popularity.counts"]}
    config = {"ranker": kind, "settings": {}, "candidates": {}}
    return ModelBundle("ranker", config, encoder.model_dump(mode="json"), weights), encoded


@cache
def ratings_service() -> Service:
    """Pairs of a listener and an album, without a ranker."""
    return pack_ratings(make_bundle(False))


@cache
def texts_service() -> Service:
    """Texts about films."""
    return pack_texts(make_bundles(3)["model"])


def pair_predictions() -> list[float]:
    """The prediction for each of :data:`PAIRS`."""
    found: list[float] = ratings_service().open().predict(pd.DataFrame(PAIRS))["predicted"].tolist()
    return found


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file of Arrow arrays."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **{"compression": "zstd", "store_schema": False, **options})
    return file.getvalue()


def bodies(rows: Sequence[dict[str, Any]]) -> list[tuple[str, Callable[[], bytes]]]:
    """The rows in every layout: its content type, and what makes the body."""
    layouts = json_layouts(rows)
    columns = layouts[2]["inputs"]
    as_json = [(JSON, lambda layout=layout: json.dumps(layout).encode()) for layout in layouts]
    as_csv = (CSV, lambda: pd.DataFrame(columns, dtype=object).to_csv(index=False).encode())
    return [*as_json, as_csv, (PARQUET, lambda: pd.DataFrame(columns).to_parquet())]
