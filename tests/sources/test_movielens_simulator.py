"""Simulated ratings: layout, determinism, the true effects in them, and the large CSV."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.pipelines.movielens import simulator
from embedline.pipelines.movielens.files import read_ratings
from embedline.pipelines.movielens.nodes import acquire, read_items
from embedline.pipelines.movielens.simulator import (
    HALF_STARS,
    MEAN,
    WHOLE_STARS,
    GeneratorOptions,
    Scale,
    Tastes,
    choose_films,
    choose_times,
    generate_files,
    least_mse,
    popularity,
    rate,
    rating_shares,
    ratings_per_user,
    write_large,
)

OPTIONS = GeneratorOptions()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(OPTIONS)


def test_equal_options_give_equal_bytes_and_the_noise_is_drawn_apart(files: dict[str, bytes]) -> None:
    assert generate_files(GeneratorOptions()) == files
    digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    assert digest[:16] == "f3a51b3945950bc6", "the generated ratings have changed: so will every result on them"
    louder = generate_files(GeneratorOptions(noise=1.0))
    assert louder["u.item"] == files["u.item"] and louder["u.data"] != files["u.data"]
    for name in ("u.data", "u1.test"):
        fields = [[line.split(b"\t") for line in made[name].splitlines()] for made in (files, louder)]
        without_rating = [[(user, item, time_) for user, item, _, time_ in lines] for lines in fields]
        assert without_rating[0] == without_rating[1]
    assert generate_files(GeneratorOptions(seed=1))["u.item"] != files["u.item"]


def test_films_have_the_quirks_of_the_original(files: dict[str, bytes]) -> None:
    raw = acquire("generated", verify=True, generator=OPTIONS)
    items = read_items(raw, read_ratings(raw))
    assert len(items) == 200 and items["title"].n_unique() == 200
    assert items.filter(pl.col("genres").list.len() == 0).rows() == [(1, "unknown", [], None, None)]
    titles = items["title"].to_list()
    assert titles[1].startswith('"Hush", She Said (') and any("Été sans fin" in title for title in titles)
    with pytest.raises(UnicodeDecodeError):
        files["u.item"].decode("utf-8")
    lines = files["u.item"].decode("latin-1").splitlines()
    assert lines[0] == "1|unknown||||1" + "|0" * 18 and {line.count("|") for line in lines} == {23}
    assert files["u.genre"].endswith(b"Western|18\n\n")
    assert items.select((pl.col("year") == pl.col("released").dt.year()).all()).item()
    assert items["genres"].list.len().max() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_users": 10, "n_ratings": 199}, r"n_ratings must lie between 200 \(20 for each user\) and 2,000 \(every"),
        ({"n_users": 10, "n_ratings": 2001}, "got 2,001"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GeneratorOptions(**options)


def test_choices_are_distinct_rising_and_skewed() -> None:
    rng = np.random.default_rng(0)
    counts = ratings_per_user(500, 300, 30_000, rng)
    assert counts.sum() == 30_000 and counts.min() >= 20 and counts.max() <= 300
    ranks = choose_films(counts, popularity(300), rng)
    user = np.repeat(np.arange(500), counts)
    assert len(ranks) == 30_000 and ranks.min() >= 0 and ranks.max() < 300
    assert np.all(np.diff(user * 300 + ranks) > 0)  # rising, so different, within each user
    frequency = np.bincount(ranks, minlength=300)
    assert frequency[:30].sum() > 2 * frequency[150:180].sum() > 2 * frequency[270:].sum()
    times = choose_times(counts, rng)
    assert len(np.unique(user * 10**10 + times)) == 30_000
    np.testing.assert_allclose(popularity(2), [(1 / 10) / (1 / 10 + 1 / 11), 1.0])


def test_the_large_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "CHUNK_RATINGS", 3000)  # several chunks
    sizes = {"n_users": 400, "n_items": 500, "seed": 3}
    write_large(tmp_path / "ratings.csv", n_ratings=20_000, **sizes)
    assert (tmp_path / "ratings.csv").read_bytes().startswith(b"userId,movieId,rating,timestamp\n1,")
    ratings = pl.read_csv(tmp_path / "ratings.csv").rename({"userId": "user", "movieId": "item"})
    assert len(ratings) == 20_000 and ratings.select("user", "item").n_unique() == 20_000
    assert ratings["user"].to_list() == ratings["user"].sort().to_list() and ratings["user"].max() == 400
    assert set(ratings["rating"]) == set(np.arange(0.5, 5.01, 0.5))
    again = tmp_path / "again.csv"
    write_large(again, n_ratings=20_000, **sizes)
    assert again.read_bytes() == (tmp_path / "ratings.csv").read_bytes()


def test_liking_by_hand() -> None:
    tastes = Tastes(
        user_bias=np.array([0.5, -0.25]),
        film_bias=np.array([1.0, 0.0, -1.0]),
        user_factors=np.array([[1.0, 2.0], [0.0, -1.0]]),
        film_factors=np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.25]]),
    )
    liking = tastes.liking(np.array([0, 1, 1]), np.array([0, 1, 2]))
    np.testing.assert_allclose(liking, [MEAN + 0.5 + 1.0 + 1.5, MEAN - 0.25, MEAN - 0.25 - 1.0 - 0.25])


def test_shares_by_hand() -> None:
    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    (shares,) = rating_shares(np.array([3.2]), 0.5)
    borders = [phi((border - 3.2) / 0.5) for border in (1.5, 2.5, 3.5, 4.5)]
    np.testing.assert_allclose(shares, np.diff([0.0, *borders, 1.0]), rtol=1e-12)
    assert rating_shares(np.array([-9.0, 9.0, 2.9]), 0.0).tolist() == [
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("scale", [WHOLE_STARS, HALF_STARS])
@pytest.mark.parametrize("noise", [0.1, 0.6, 1.5])
def test_shares_mean_and_floor_are_those_of_drawn_ratings(scale: Scale, noise: float) -> None:
    for liking in (0.7, 2.4, 3.5, 4.9):
        likings = np.full(200_000, liking)
        drawn = rate(likings, noise, np.random.default_rng(7), scale)
        found = [(drawn == level).mean() for level in scale.levels]
        expected = rating_shares(likings[:1], noise, scale)[0]
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(200_000))
        assert least_mse(likings[:1], noise, scale) == pytest.approx(drawn.var(), rel=0.03, abs=1e-3)
