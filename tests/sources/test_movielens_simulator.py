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
    GeneratorOptions,
    best_forecast,
    choose_films,
    choose_times,
    generate_files,
    noise_floor,
    popularity,
    ratings_per_user,
    write_films,
    write_large,
)

OPTIONS = GeneratorOptions()
LIKE_100K = GeneratorOptions(n_users=943, n_items=1682, n_ratings=100_000)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(OPTIONS)


@pytest.fixture(scope="module")
def ratings() -> pl.DataFrame:
    return read_ratings(acquire("generated", verify=True, generator=LIKE_100K))


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


def test_sizes_and_skew(ratings: pl.DataFrame) -> None:
    assert ratings.shape == (100_000, 5) and ratings["fold"].value_counts()["count"].to_list() == [20_000] * 5
    assert ratings.select("user", "item").n_unique() == 100_000
    users, items = ratings["user"].value_counts(sort=True)["count"], ratings["item"].value_counts(sort=True)["count"]
    assert len(users) == 943 and users[-1] >= 20 and len(items) > 1500
    assert users[0] > 10 * users[len(users) // 2] and items[0] > 10 * items[len(items) // 2]
    assert set(ratings["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert not ratings["user"].is_sorted()  # u.data is in no order, as the original
    small = read_ratings(acquire("generated", verify=True, generator=OPTIONS))
    assert small.shape == (20_000, 5) and small.n_unique("user") == 300 and small.n_unique("item") == 200


def test_times_of_a_user_differ(ratings: pl.DataFrame) -> None:
    assert ratings.select("user", "timestamp").n_unique() == 100_000
    first, last = ratings["timestamp"].min(), ratings["timestamp"].max()
    assert 874_724_710 <= first < last < 895_000_000  # type: ignore[operator]
    # The order in time has nothing to do with the film: the rank correlation is that of chance.
    ranked = ratings.select(
        pl.col("timestamp").rank().over("user").alias("time"), pl.col("item").rank().over("user").alias("film"), "user"
    )
    within = ranked.select(pl.col("time", "film") - pl.col("time", "film").mean().over("user"))
    assert abs(np.corrcoef(within["time"], within["film"])[0, 1]) < 4 / math.sqrt(100_000)


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


def test_the_floor_is_what_the_best_forecast_reaches(ratings: pl.DataFrame) -> None:
    floor = noise_floor(LIKE_100K)
    assert floor == pytest.approx(0.40595, abs=1e-5)
    joined = ratings.join(best_forecast(LIKE_100K), on=["user", "item"], how="left", validate="1:1")
    squares = (joined["rating"] - joined["forecast"]).to_numpy() ** 2
    assert len(squares) == 100_000 and abs(squares.mean() - floor) < 4 * squares.std() / math.sqrt(100_000)
    worse = [((joined["rating"] - joined["forecast"] * scale) ** 2).mean() for scale in (0.98, 1.02)]
    assert min(worse) > squares.mean() > 0  # type: ignore[operator, type-var]


def test_biases_leave_what_factors_explain(ratings: pl.DataFrame) -> None:
    """The true effects are neither trivial nor hopeless: between the mean, the biases and the floor lies much."""
    centred = ratings.with_columns(pl.col("rating").cast(pl.Float64) - ratings["rating"].mean())
    for _ in range(10):
        centred = centred.with_columns(rating=pl.col("rating") - pl.col("rating").mean().over("item")).with_columns(
            rating=pl.col("rating") - pl.col("rating").mean().over("user")
        )
    variance, left, floor = ratings["rating"].var(), centred["rating"].var(), noise_floor(LIKE_100K)
    assert 0.8 < variance < 1.1  # type: ignore[operator]
    assert floor + 0.2 < left < variance - 0.2  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_users": 10, "n_ratings": 199}, r"n_ratings must lie between 200 \(20 for each user\) and 2,000 \(every"),
        ({"n_users": 10, "n_ratings": 2001}, "got 2,001"),
        ({"n_items": 19}, "greater than or equal to 20"),
        ({"noise": -0.1}, "greater than or equal to 0"),
        ({"noise": math.inf}, "finite number"),
        ({"ratings": 5}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GeneratorOptions(**options)


def test_every_user_and_film_once() -> None:
    frame = read_ratings(
        acquire("generated", verify=True, generator=GeneratorOptions(n_users=5, n_items=20, n_ratings=100))
    )
    assert frame.select("user", "item").n_unique() == 100 == 5 * 20


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
    write_films(tmp_path / "movies.csv", n_items=500, seed=3)
    assert (tmp_path / "ratings.csv").read_bytes().startswith(b"userId,movieId,rating,timestamp\n1,")
    raw = acquire(str(tmp_path), verify=False, generator=OPTIONS)
    ratings = read_ratings(raw)
    assert len(ratings) == 20_000 and ratings.select("user", "item").n_unique() == 20_000
    assert ratings["user"].to_list() == ratings["user"].sort().to_list() and ratings["user"].max() == 400
    assert set(ratings["rating"]) == set(np.arange(0.5, 5.01, 0.5))
    items = read_items(raw, ratings)
    assert len(items) == 500 and items["title"][1].startswith('"Hush", She Said (')
    assert items["genres"][0].to_list() == [] and items["genres"].list.len()[1:].min() == 1
    again = tmp_path / "again.csv"
    write_large(again, n_ratings=20_000, **sizes)
    assert again.read_bytes() == (tmp_path / "ratings.csv").read_bytes()
