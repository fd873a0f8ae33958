"""Pairs in, ratings out: the service against the batch prediction, on models with random weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from small_services import COLUMNS, make_bundle, make_ranker, make_ratings, ratings_service

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingSplit
from embedline.pipelines.ratings.encoder import encode
from embedline.pipelines.ratings.evaluation import predict_held_out
from embedline.pipelines.ratings.learner import load_model
from embedline.pipelines.ratings.options import BaselineOptions
from embedline.pipelines.ratings.ranking import load_ranker
from embedline.serving.ratings import hold_out_ratings, pack_ratings
from embedline.serving.service import Service
from embedline.training.model_file import ModelBundle

SPLIT = RatingSplit(kind="column", column="held", value=1)


@pytest.fixture(scope="module", params=[False, True], ids=["integer ids", "string ids"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return make_bundle(request.param)


@pytest.fixture(scope="module")
def packed(bundle: ModelBundle) -> Service:
    """As it comes back from its file."""
    return Service.from_bytes(pack_ratings(bundle).to_bytes())


def test_answers_are_those_of_the_batch(packed: Service, bundle: ModelBundle) -> None:
    model = load_model(bundle)
    encoder, user = model.encoder, model.encoder.users[0]
    strange = "nobody" if isinstance(user, str) else 12345
    pairs = [(one, other) for one in (*encoder.users, strange) for other in (10, 11, 12, 13, 4711)]
    rows = pd.DataFrame(pairs, columns=["listener", "album"])
    found = packed.open().predict(rows)
    expected = model.predict(
        encoder.user_rows(pl.Series(rows["listener"])), encoder.item_rows(pl.Series(rows["album"]))
    )
    assert list(found.columns) == ["predicted"]
    np.testing.assert_array_equal(found["predicted"], expected)
    value = dict(zip(pairs, expected, strict=True))
    assert value[strange, 4711] == pytest.approx(encoder.rating_mean, abs=1e-6)  # nothing is known of either
    assert value[user, 13] != value[user, 4711]  # its features count: of album 13 the genre alone is known
    assert 1.0 <= expected.min() and expected.max() <= 5.0


@pytest.mark.parametrize("kind", ["ease", "rating"])
def test_the_score_is_that_of_the_ranker(bundle: ModelBundle, kind: str) -> None:
    strings = isinstance(bundle.encoder["users"][0], str)
    ranker, encoded = make_ranker(strings, kind)
    service = Service.from_bytes(pack_ratings(bundle, ranker, encoded).to_bytes())
    assert service.identity != pack_ratings(bundle).identity
    recommender = load_ranker(ranker, encoded, load_model(bundle))
    encoder = recommender.encoder
    pairs = [(user, item) for user in encoder.users for item in (10, 13, 12, 4711)]
    found = service.open().predict(pd.DataFrame(pairs, columns=["listener", "album"]))
    assert list(found.columns) == ["predicted", "score"]
    scores = recommender.scores(np.arange(1, len(encoder.users) + 1))
    places = [encoder.items.index(item) for item in (10, 13, 12)]
    np.testing.assert_allclose(found["score"].to_numpy().reshape(-1, 4)[:, :3], scores[:, places], rtol=1e-6)
    np.testing.assert_allclose(found["score"].to_numpy().reshape(-1, 4)[:, 3], scores.min(axis=1), rtol=1e-6)
    without = pack_ratings(bundle).open().predict(pd.DataFrame(pairs, columns=["listener", "album"]))
    np.testing.assert_array_equal(found["predicted"], without["predicted"])
    nobody = pd.DataFrame({"listener": ["nobody" if strings else 12345], "album": [11]})
    if kind == "ease":  # by popularity
        assert service.open().predict(nobody)["score"].tolist() == [encoder.items.index(11) * 1.0]


def test_a_ranker_of_other_ratings_is_not_packed(bundle: ModelBundle) -> None:
    ranker, encoded = make_ranker(isinstance(bundle.encoder["users"][0], str))
    other = replace(ranker, encoder={**ranker.encoder, "rating_mean": 9.0})
    with pytest.raises(DataError, match="ranker"):
        pack_ratings(bundle, other, encoded)


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
    @pytest.mark.parametrize(
        ("listeners", "albums", "plain"),
        [
            ([1.0, 9e15], [10.0, 11.0], [1, 9 * 10**15]),  # whole floats are whole numbers
            (pd.Series([10**30], dtype=object), [10], [12345]),  # beyond 64 bits: an unknown id
        ],
    )
    def test_numbers_of_other_types(self, listeners: Any, albums: list[float], plain: list[int]) -> None:
        service = ratings_service().open()
        found = service.predict(pd.DataFrame({"listener": listeners, "album": albums}))
        wanted = service.predict(pd.DataFrame({"listener": plain, "album": [int(album) for album in albums]}))
        pd.testing.assert_frame_equal(found, wanted)

    @pytest.mark.parametrize(
        ("value", "shown"), [("a", "'a'"), (None, "no value"), (1.5, "1.5"), (True, "True"), (np.inf, "inf")]
    )
    def test_another_value_is_named(self, value: Any, shown: str) -> None:
        rows = pd.DataFrame({"listener": [1, 2], "album": pd.Series([10, value], dtype=object)})
        with pytest.raises(DataError, match=f"'album', row 2: {shown} is not"):
            ratings_service().open().predict(rows)

    def test_a_number_is_no_string(self) -> None:
        with pytest.raises(DataError, match="'listener', row 1: 1 is not text"):
            pack_ratings(make_bundle(True)).open().predict(pd.DataFrame({"listener": [1], "album": [10]}))
