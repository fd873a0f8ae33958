"""Pairs in, ratings out: the service against the batch prediction, on models with random weights."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import predict_held_out
from embedline.pipelines.ratings.learner import load_model
from embedline.pipelines.ratings.network import build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import BaselineOptions, FeatureOptions, RatingNetwork
from embedline.serving.ratings import hold_out_ratings, pack_ratings
from embedline.serving.service import Service
from embedline.training.model_file import ModelBundle

COLUMNS = RatingColumns(user="listener", item="album", rating="stars", timestamp=None, title=None)
SPLIT = RatingSplit(kind="column", column="held", value=1)


def make_ratings(strings: bool) -> pl.DataFrame:
    """Twelve ratings, the last three held out: an unseen user and an unseen item are among them."""
    users = [1, 1, 2, 2, 3, 3, 4, 4, 4, 1, 9, 2]
    items = [10, 11, 10, 12, 11, 12, 10, 11, 12, 12, 10, 77]
    as_id = [str(user) for user in users] if strings else users
    return pl.DataFrame(
        {"listener": as_id, "album": items, "stars": [1.0, 4, 2, 5, 3, 3, 5, 1, 2, 4, 3, 2], "held": [0] * 9 + [1] * 3}
    )


def make_bundle(strings: bool) -> ModelBundle:
    """Two members with random weights; albums have a genre, also one that nobody has rated."""
    import torch

    ratings = make_ratings(strings)
    albums = pl.DataFrame({"album": [10, 11, 12, 13], "genre": ["rock", "jazz", "rock", "jazz"]})
    train = ratings.filter(pl.col("held") == 0)
    encoder = fit_encoder(train, COLUMNS, (1.0, 5.0), FeatureOptions(items=("genre",)), items=albums)
    config, random = network_config(encoder, RatingNetwork(factors=3)), torch.Generator().manual_seed(5)
    weights = {}
    for member in range(2):
        for name, value in build_network(config, feature_codes(encoder), seed=member).state_dict().items():
            drawn = 0.5 * torch.randn(value.shape, generator=random) if value.is_floating_point() else value
            weights[f"{member}.{name}"] = drawn if "own" not in name else drawn.index_fill(0, torch.tensor([0]), 0.0)
    metrics = {"members": 2, "member_weights": [0.75, 0.25]}
    return ModelBundle("ratings", config, encoder.model_dump(mode="json"), weights, metrics)


@pytest.fixture(scope="module", params=[False, True], ids=["integer ids", "string ids"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return make_bundle(request.param)


@pytest.fixture(scope="module")
def packed(bundle: ModelBundle) -> Service:
    """As it comes back from its file."""
    return Service.from_bytes(pack_ratings(bundle).to_bytes())


def test_answers_are_those_of_the_batch(packed: Service, bundle: ModelBundle) -> None:
    model = load_model(bundle)
    user, item = model.encoder.users[0], 13  # of album 13 the genre alone is known
    strange = "nobody" if isinstance(user, str) else 12345
    pairs = [(one, other) for one in (*model.encoder.users, strange) for other in (10, 11, 12, 13, 4711)]
    rows = pd.DataFrame(pairs, columns=["listener", "album"])
    found = packed.open().predict(rows)
    expected = model.predict(
        model.encoder.user_rows(pl.Series([pair[0] for pair in pairs])),
        model.encoder.item_rows(pl.Series([pair[1] for pair in pairs])),
    )
    assert list(found.columns) == ["predicted"]
    np.testing.assert_array_equal(found["predicted"], expected)
    value = dict(zip(pairs, expected, strict=True))
    assert value[strange, 4711] == pytest.approx(model.encoder.rating_mean, abs=1e-6)  # nothing is known of either
    assert value[user, item] != value[user, 4711]  # its features count
    assert 1.0 <= expected.min() and expected.max() <= 5.0


def test_held_out_ratings_have_the_figure_of_the_batch(packed: Service, bundle: ModelBundle) -> None:
    model, ratings = load_model(bundle), make_ratings(isinstance(bundle.encoder["users"][0], str))
    held_out = hold_out_ratings(ratings, COLUMNS, SPLIT)
    assert held_out.columns == ["listener", "album", "actual"] and held_out["actual"].to_list() == [4.0, 3.0, 2.0]
    service = packed.open()
    answers = service.predict(held_out.drop("actual").to_pandas())
    encoded = encode(ratings, model.encoder, COLUMNS, SPLIT)
    batch = predict_held_out(ratings, encoded, model, COLUMNS, SPLIT, BaselineOptions())
    np.testing.assert_array_equal(answers["predicted"], batch["predicted"])
    measured = service.measure(answers, held_out["actual"].to_pandas())
    mse = ((batch["predicted"] - batch["actual"]) ** 2).mean()
    assert (measured.path, measured.better) == (("mse",), "lower") and measured.value == pytest.approx(mse, rel=1e-12)


def test_the_signature_follows_the_ids(packed: Service) -> None:
    strings = isinstance(packed.bundle.encoder["users"][0], str)
    kinds = {column.name: (column.type, column.required) for column in packed.columns}
    assert kinds == {"listener": ("string" if strings else "long", True), "album": ("long", True)}
    assert len(packed.open().predict(pd.DataFrame(packed.example))) == 2


class TestIds:
    @pytest.fixture(scope="class")
    def service(self) -> Any:
        return pack_ratings(make_bundle(False)).open()

    def test_whole_floats_are_whole_numbers(self, service: Any) -> None:
        floats = service.predict(pd.DataFrame({"listener": [1.0, 9e15], "album": [10.0, 11.0]}))
        pd.testing.assert_frame_equal(
            floats, service.predict(pd.DataFrame({"listener": [1, 9 * 10**15], "album": [10, 11]}))
        )

    def test_a_number_beyond_64_bits_is_an_unknown_id(self, service: Any) -> None:
        huge = service.predict(pd.DataFrame({"listener": pd.Series([10**30], dtype=object), "album": [10]}))
        pd.testing.assert_frame_equal(huge, service.predict(pd.DataFrame({"listener": [12345], "album": [10]})))

    @pytest.mark.parametrize(
        ("value", "shown"), [("a", "'a'"), (None, "no value"), (1.5, "1.5"), (True, "True"), (np.inf, "inf")]
    )
    def test_another_value_is_named(self, service: Any, value: Any, shown: str) -> None:
        rows = pd.DataFrame({"listener": [1, 2], "album": pd.Series([10, value], dtype=object)})
        with pytest.raises(DataError, match=f"column 'album', row 2: {shown} is not a whole number"):
            service.predict(rows)

    def test_a_number_is_no_string(self) -> None:
        rows = pd.DataFrame({"listener": [1], "album": [10]})
        with pytest.raises(DataError, match="column 'listener', row 1: 1 is not text"):
            pack_ratings(make_bundle(True)).open().predict(rows)
