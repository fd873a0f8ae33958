"""A generator of ratings in the layout of MovieLens 100k, for runs and tests without the real archive.

The ratings are invented: they follow the true effects of `embedline.sources.movielens_law`, and no result on them says
anything about real ones. Their noise is known, so `noise_floor` gives the error of a perfect model.

They have the files of ml-100k that say who rated what (``u.data``, ``u.item``, ``u.genre``, ``u.user`` and
the held-out fifths ``u1.test`` … ``u5.test``) with the real quirks: no headers, ``u.data`` in no order and the
fifths in that of users and films, latin-1, an empty column, one film called ``unknown`` with nothing but that flag,
genres in 19 flags, an empty last line in ``u.genre``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.sources.movielens_choices import (
    LEAST_RATINGS,
    choose_films,
    choose_times,
    popularity,
    ratings_per_user,
)
from embedline.sources.movielens_law import (
    HALF_STARS,
    Tastes,
    draw_tastes,
    expected_rating,
    least_mse,
    rate,
)
from embedline.sources.movielens_titles import GENRES, Films, draw_films

N_FOLDS = 5
OCCUPATIONS = (
    "artist",
    "doctor",
    "educator",
    "engineer",
    "librarian",
    "none",
    "other",
    "student",
    "technician",
    "writer",
)
CHUNK_RATINGS = 1_000_000
"""Ratings that `write_large` holds at a time."""


class GeneratorOptions(BaseModel):
    """How many ratings to generate, and how noisy they are. ml-100k has 943 users, 1,682 films, 100,000 ratings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_users: int = Field(default=300, ge=5)
    n_items: int = Field(default=200, ge=LEAST_RATINGS)
    n_ratings: int = Field(default=20_000, ge=100)
    seed: int = Field(default=0, ge=0)
    noise: float = Field(default=0.6, ge=0, allow_inf_nan=False, description="standard deviation, in stars")

    @model_validator(mode="after")
    def _ratings_fit(self) -> Self:
        least, most = LEAST_RATINGS * self.n_users, self.n_users * self.n_items
        if not least <= self.n_ratings <= most:
            raise ValueError(
                f"n_ratings must lie between {least:,} ({LEAST_RATINGS} for each user) and {most:,} "
                f"(every user and film once), got {self.n_ratings:,}"
            )
        return self


@dataclass(frozen=True)
class _Drawn:
    """Generated ratings before they become text. N ratings, in the order of users and films."""

    films: Films
    tastes: Tastes
    users: NDArray[np.int64]  # [N] from 0
    items: NDArray[np.int64]  # [N] from 0
    ratings: NDArray[np.float64]  # [N]
    times: NDArray[np.int64]  # [N]
    folds: NDArray[np.int64]  # [N] 1 … `N_FOLDS`
    order: NDArray[np.int64]  # [N] of the lines of u.data


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """Generate the files; equal options give equal bytes. The noise is drawn apart from all else.

    Returns:
        Latin-1 text by file name: ``u.data u.item u.genre u.user u1.test u2.test u3.test u4.test u5.test``. Age, gender
        and occupation of a user have nothing to do with the liking.
    """
    drawn = _draw(options)
    rows = pl.DataFrame(
        {
            "user": drawn.users + 1,
            "item": drawn.items + 1,
            "rating": drawn.ratings.astype(np.int64),
            "timestamp": drawn.times,
        }
    )
    files = {
        "u.data": _tabs(rows[drawn.order]),
        "u.item": _item_lines(drawn.films).encode("latin-1"),
        "u.genre": ("".join(f"{name}|{flag}\n" for flag, name in enumerate(("unknown", *GENRES))) + "\n").encode(),
    }
    files["u.user"] = _user_lines(options.n_users, _streams(options.seed)["people"]).encode()
    for fold in range(1, N_FOLDS + 1):
        files[f"u{fold}.test"] = _tabs(rows.filter(pl.Series(drawn.folds == fold)))
    return files


def noise_floor(options: GeneratorOptions) -> float:
    """Return the mean squared error that the best forecast expects on the generated ratings, in stars squared."""
    drawn = _draw(options)
    return least_mse(drawn.tastes.liking(drawn.users, drawn.items), options.noise)


def best_forecast(options: GeneratorOptions) -> pl.DataFrame:
    """Return the forecast that a model with perfect knowledge of the true effects makes for each generated rating.

    Returns:
        ``user: Int32``, ``item: Int32``, ``forecast: Float64``, in the order of users and films.
    """
    drawn = _draw(options)
    forecast = expected_rating(drawn.tastes.liking(drawn.users, drawn.items), options.noise)
    ids = {"user": pl.Series(drawn.users + 1, dtype=pl.Int32), "item": pl.Series(drawn.items + 1, dtype=pl.Int32)}
    return pl.DataFrame({**ids, "forecast": forecast})


def write_large(path: str | Path, *, n_users: int, n_items: int, n_ratings: int, seed: int) -> None:
    """Write ratings in the layout of the newer releases' ``ratings.csv``, in bounded memory, for benchmarks.

    Header ``userId,movieId,rating,timestamp``; sorted by user and film; half stars, by the same effects with a noise of
    0.6 stars. 25 million ratings (``n_users=162_541, n_items=59_047``) take about 650 MB of disk.

    Args:
        path: the file to write; its folder has to be there. `write_films` with the same seed writes the films to it.
        n_users, n_items, n_ratings: as in `GeneratorOptions`.
        seed: equal seeds and sizes give equal bytes.
    """
    options = GeneratorOptions(n_users=n_users, n_items=n_items, n_ratings=n_ratings, seed=seed)
    streams = _streams(options.seed)
    films = draw_films(n_items, streams["films"])
    tastes = draw_tastes(n_users, films.genres, streams["tastes"])
    counts = ratings_per_user(n_users, n_items, n_ratings, streams["choices"])
    cumulative, by_rank = popularity(n_items), streams["choices"].permutation(n_items)
    # Chunks of whole users, each of about CHUNK_RATINGS ratings.
    ends = np.searchsorted(np.cumsum(counts), np.arange(CHUNK_RATINGS, n_ratings + CHUNK_RATINGS, CHUNK_RATINGS)) + 1
    with Path(path).open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        first = 0
        for end in np.unique(np.minimum(ends, n_users)).tolist():
            part = counts[first:end]
            users = np.repeat(np.arange(first, end), part)
            items = by_rank[choose_films(part, cumulative, streams["choices"])]
            items = np.sort(users * n_items + items) % n_items
            times = choose_times(part, streams["times"])
            ratings = rate(tastes.liking(users, items), options.noise, streams["noise"], HALF_STARS)
            columns = {"userId": users + 1, "movieId": items + 1, "rating": ratings, "timestamp": times}
            pl.DataFrame(columns).write_csv(file, include_header=False)
            first = end


def write_films(path: str | Path, *, n_items: int, seed: int) -> None:
    """Write the films of `write_large` in the layout of the newer releases' ``movies.csv``, UTF-8."""
    streams = _streams(seed)
    films = draw_films(n_items, streams["films"])
    genres = ["|".join(np.array(GENRES)[flags]) or "(no genres listed)" for flags in films.genres]
    columns = {"movieId": np.arange(1, n_items + 1), "title": films.titles, "genres": genres}
    pl.DataFrame(columns).write_csv(path, quote_style="necessary")


def _streams(seed: int) -> dict[str, np.random.Generator]:
    """Return sources of chance that do not depend on one another."""
    names = ("films", "tastes", "choices", "times", "noise", "folds", "people")
    seeds = np.random.SeedSequence(seed).spawn(len(names))
    return {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}


def _draw(options: GeneratorOptions) -> _Drawn:
    streams = _streams(options.seed)
    films = draw_films(options.n_items, streams["films"])
    tastes = draw_tastes(options.n_users, films.genres, streams["tastes"])
    counts = ratings_per_user(options.n_users, options.n_items, options.n_ratings, streams["choices"])
    users = np.repeat(np.arange(options.n_users), counts)
    by_rank = streams["choices"].permutation(options.n_items)
    items = by_rank[choose_films(counts, popularity(options.n_items), streams["choices"])]
    items = np.sort(users * options.n_items + items) % options.n_items  # by user and film
    shuffled = streams["folds"].permutation(options.n_ratings)
    return _Drawn(
        films=films,
        tastes=tastes,
        users=users,
        items=items,
        ratings=rate(tastes.liking(users, items), options.noise, streams["noise"]),
        times=choose_times(counts, streams["times"]),
        folds=shuffled % N_FOLDS + 1,
        order=streams["folds"].permutation(options.n_ratings),
    )


def _tabs(rows: pl.DataFrame) -> bytes:
    return rows.write_csv(include_header=False, separator="\t").encode()


def _item_lines(films: Films) -> str:
    lines = []
    for film, (title, date) in enumerate(zip(films.titles, films.dates, strict=True)):
        address = f"http://films.invalid/{film + 1}" if date else ""
        flags = [not films.genres[film].any(), *films.genres[film]]
        lines.append("|".join([str(film + 1), title, date, "", address, *("1" if flag else "0" for flag in flags)]))
    return "\n".join(lines) + "\n"


def _user_lines(n_users: int, rng: np.random.Generator) -> str:
    """Lines of u.user: user|age|gender|occupation|zip code."""
    ages = np.clip(np.rint(rng.normal(34, 12, n_users)), 7, 73).astype(np.int64)
    genders, occupations = rng.choice(["M", "F"], n_users, p=[0.7, 0.3]), rng.choice(OCCUPATIONS, n_users)
    codes = rng.integers(0, 100_000, n_users)
    people = enumerate(zip(ages, genders, occupations, codes, strict=True), start=1)
    return "".join(
        f"{user}|{age}|{gender}|{occupation}|{code:05}\n" for user, (age, gender, occupation, code) in people
    )
