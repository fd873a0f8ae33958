"""Simulated ratings in the layout of MovieLens 100k, for runs and tests without the real archive.

They have the files of ml-100k that say who rated what with the real quirks: no headers, ``u.data`` in no order and the
held-out fifths in that of users and films, latin-1, an empty column, one film called ``unknown`` with nothing but that
flag, genres in 19 flags, an empty last line in ``u.genre``. Titles are invented; activity and popularity are skewed.

The ratings follow the true effects below: no result on them says anything about real ones. A user's *liking* of a film,
in stars, is

    3.5 + user bias + film bias + <user factors, film factors>,

with `N_FACTORS` factors. User biases are normal with standard deviation `USER_SD`, film biases with `FILM_SD`, and the
product has the standard deviation `MATCH_SD`. Films of like genres are alike: `GENRE_BIAS` of the variance of the film
biases and `GENRE_FACTORS` of that of the film factors come from the genres. So the genres of a new film predict much of
its factors, as a few ratings predict those of a new user. A rating is the liking plus normal noise, rounded to a whole
star (or half a star) and cut off at the ends of the scale: that is how `rate` draws it.

The noise is drawn for each rating apart from all others, and which film a user rates, and when, has nothing to do with
the liking. So the mean of the rating given the liking, `expected_rating`, is the best forecast, and its mean squared
error, `least_mse`, is the floor. A model of finitely many ratings has to estimate biases and factors, and stays above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from embedline.pipelines.movielens.files import FOLD_FILES, GENRES, MONTHS, UNKNOWN_GENRE
from embedline.training.options import Options

MEAN = 3.5
USER_SD, FILM_SD, MATCH_SD = 0.35, 0.45, 0.6  # in stars, of the user biases, film biases and product of the factors
N_FACTORS = 3
GENRE_BIAS, GENRE_FACTORS = 0.3, 0.8  # shares of the variance of film biases and factors that the genres explain
LEAST_RATINGS = 20  # that every user gives, as in the originals
ACTIVITY = 0.9  # deviation of the logarithm of a user's activity: some users rate ten times as much as others
FIRST_SECOND, SPAN_SECONDS = 874_724_710, 18_500_000  # first time in ml-100k (September 1997), and seven months
GAP_SECONDS = 45.0  # mean time from one rating of a user to the next
CHUNK_RATINGS = 1_000_000  # that `write_large` holds at a time
OCCUPATIONS = tuple("artist doctor educator engineer librarian none other student technician writer".split())

_GENRE_SHARES = np.array([15, 8, 3, 7, 30, 6, 3, 43, 1.5, 1.5, 5, 3, 4, 15, 6, 15, 4, 2])  # about ml-100k's
_FIRST = (
    "Silver Broken Quiet Burning Hidden Last Golden Midnight Paper Winter Distant Crooked Electric Velvet Hollow "
    "Scarlet Endless Little Wild Secret Blue Stolen Lonely Bitter Frozen Painted Sleeping Northern Borrowed Second"
).split()
_SECOND = (
    "Harbour Garden River Letters Train Summer Mirror Station Island Promise Orchard Shadow Bridge Circus Lantern "
    "Valley Witness Voyage Kingdom Window Thunder Waltz Detective Stranger Hotel Sparrow Alibi Carousel Comet Meadow "
    "Piano Fortune Border Puppet Desert Castle Engine Doctor Empire Ghost"
).split()
_SPECIAL = (
    "unknown",  # as ml-100k's film 267: no date, no address, no genre
    '"Hush", She Said',  # a comma and quotes, which CSV has to quote
    *("Été sans fin, L'", "Caf\u00e9 M\u00fcller", "Señor Otoño", "À bient\u00f4t, Zo\u00eb (See You Soon, Zoe)"),
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class GeneratorOptions(Options):
    """How many ratings to simulate, and how noisy they are. ml-100k has 943 users, 1,682 films, 100,000 ratings."""

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


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """Simulate the files of ml-100k, bytes by name; equal options give equal bytes. The noise is drawn apart from all.

    Age, gender and occupation of a user have nothing to do with the liking.
    """
    draw = _Draw(options)
    rows = draw.ratings(0, options.n_users, options.noise).with_columns(pl.col("rating").cast(pl.Int64)).drop("liking")
    folds = draw.rng["folds"].permutation(options.n_ratings) % len(FOLD_FILES)
    order = draw.rng["folds"].permutation(options.n_ratings)
    genres = "".join(f"{name}|{flag}\n" for flag, name in enumerate((UNKNOWN_GENRE, *GENRES)))
    return {
        "u.data": _tabs(rows[order]),
        "u.item": _item_lines(draw.films).encode("latin-1"),
        "u.genre": f"{genres}\n".encode(),
        "u.user": _user_lines(options.n_users, draw.rng["people"]).encode(),
        **{file: _tabs(rows.filter(pl.Series(folds == fold))) for fold, file in enumerate(FOLD_FILES)},
    }


def noise_floor(options: GeneratorOptions) -> float:
    """Return the mean squared error that the best forecast expects on the simulated ratings, in stars squared."""
    draw = _Draw(options)
    return least_mse(draw.ratings(0, options.n_users, options.noise)["liking"].to_numpy(), options.noise)


def write_large(path: str | Path, *, n_users: int, n_items: int, n_ratings: int, seed: int) -> None:
    """Write ratings in the layout of the newer releases' ``ratings.csv``, in bounded memory, for benchmarks.

    Sorted by user and film; half stars, by the same effects with a noise of 0.6 stars. 25 million ratings
    (``n_users=162_541, n_items=59_047``) take about 650 MB of disk. Equal seeds and sizes give equal bytes.
    """
    options = GeneratorOptions(n_users=n_users, n_items=n_items, n_ratings=n_ratings, seed=seed)
    draw = _Draw(options)
    # Chunks of whole users, each of about CHUNK_RATINGS ratings.
    limits = np.arange(CHUNK_RATINGS, n_ratings + CHUNK_RATINGS, CHUNK_RATINGS)
    ends = np.unique(np.minimum(np.searchsorted(np.cumsum(draw.counts), limits) + 1, n_users)).tolist()
    with Path(path).open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for first, end in pairwise([0, *ends]):
            draw.ratings(first, end, options.noise, HALF_STARS).drop("liking").write_csv(file, include_header=False)


# The true effects


@dataclass(frozen=True)
class Scale:
    """The ratings that there are: ``low``, ``low + step``, … ``high``."""

    low: float = 1.0
    high: float = 5.0
    step: float = 1.0

    @property
    def levels(self) -> Floats:
        """All ratings, rising, [L]."""
        return np.arange(self.low, self.high + self.step / 2, self.step)


WHOLE_STARS = Scale()
HALF_STARS = Scale(low=0.5, step=0.5)


@dataclass(frozen=True)
class Tastes:
    """The true effects of users and films. U users, I films, K = `N_FACTORS`; all in stars."""

    user_bias: Floats  # [U]
    film_bias: Floats  # [I]
    user_factors: Floats  # [U, K]
    film_factors: Floats  # [I, K]

    def liking(self, users: NDArray[np.integer], films: NDArray[np.integer]) -> Floats:
        """Return the likings of N pairs, given as rows into the arrays, [N]."""
        match = np.einsum("nk,nk->n", self.user_factors[users], self.film_factors[films])
        return MEAN + self.user_bias[users] + self.film_bias[films] + match


def draw_tastes(n_users: int, genres: NDArray[np.bool_], rng: np.random.Generator) -> Tastes:
    """Draw users and films; ``genres``, [I, G], says which film has which. One without a genre shares nothing."""
    n_films, n_genres = genres.shape
    by_genre = rng.standard_normal((n_genres, 1 + N_FACTORS))
    of_genre = genres @ by_genre / np.sqrt(np.maximum(genres.sum(axis=1), 1))[:, None]  # variance 1
    shares = np.array([GENRE_BIAS] + [GENRE_FACTORS] * N_FACTORS)
    films = np.sqrt(shares) * of_genre + np.sqrt(1 - shares) * rng.standard_normal((n_films, 1 + N_FACTORS))
    users = rng.standard_normal((n_users, 1 + N_FACTORS))
    match = MATCH_SD / math.sqrt(N_FACTORS)
    return Tastes(USER_SD * users[:, 0], FILM_SD * films[:, 0], users[:, 1:], films[:, 1:] * match)


def rate(liking: Floats, noise: float, rng: np.random.Generator, scale: Scale = WHOLE_STARS) -> Floats:
    """Draw the ratings of N likings, [N]; ``noise`` is a standard deviation, in stars."""
    wish = liking + noise * rng.standard_normal(len(liking))
    return np.clip(scale.low + scale.step * np.rint((wish - scale.low) / scale.step), scale.low, scale.high)


def rating_shares(liking: Floats, noise: float, scale: Scale = WHOLE_STARS) -> Floats:
    """Return the probability of each rating given the liking, [N, L]; the exact distribution of `rate`.

    >>> rating_shares(np.array([3.0]), 0.5).round(4).tolist()
    [[0.0013, 0.1573, 0.6827, 0.1573, 0.0013]]
    """
    from scipy.special import ndtr

    borders = scale.levels[:-1] + scale.step / 2
    below = ndtr((borders - liking[:, None]) / max(noise, 1e-12))
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def least_mse(liking: Floats, noise: float, scale: Scale = WHOLE_STARS) -> float:
    """Return the mean squared error, in stars squared, that the best forecast expects on ratings of these likings."""
    shares = rating_shares(liking, noise, scale)
    mean = shares @ scale.levels
    return float(np.mean(shares @ scale.levels**2 - mean**2))


# Films, who rates which of them, and when


@dataclass(frozen=True)
class Films:
    """I films, numbered from 1 in the files and from 0 here."""

    titles: list[str]  # with the year in parentheses but for "unknown"
    dates: list[str]  # day of release such as 01-Jan-1995, "" where unknown
    genres: NDArray[np.bool_]  # [I, G] in the order of `GENRES`


def draw_films(n_films: int, rng: np.random.Generator) -> Films:
    """Draw films: no title comes twice, the first six are special ones (`_SPECIAL`), one to three genres each.

    The first, ``unknown``, has no genre; every other has one at least.
    """
    years = 1998 - np.minimum(rng.exponential(8.0, n_films), 75.0).astype(int)
    months, days = rng.integers(0, 12, n_films), rng.integers(1, 29, n_films)
    combinations = len(_FIRST) * len(_SECOND)
    order = rng.permutation(combinations).tolist()
    names = [_title(order[film % combinations], film // combinations) for film in range(len(_SPECIAL), n_films)]
    titles = [f"{name} ({year})" for name, year in zip([*_SPECIAL, *names], years, strict=True)]
    dates = [f"{day:02d}-{MONTHS[month]}-{year}" for day, month, year in zip(days, months, years, strict=True)]
    titles[0], dates[0] = UNKNOWN_GENRE, ""
    # The largest of log share + Gumbel noise are a draw without replacement (Gumbel top-k).
    scores = np.log(_GENRE_SHARES / _GENRE_SHARES.sum()) + rng.gumbel(size=(n_films, len(GENRES)))
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    counts = rng.choice([1, 2, 3], size=n_films, p=[0.5, 0.33, 0.17])
    counts[0] = 0
    return Films(titles, dates, ranks < counts[:, None])


def _title(combination: int, sequel: int) -> str:
    first, second = divmod(combination, len(_SECOND))
    article = ("", ", The", ", A")[combination % 3]
    return f"{_FIRST[first]} {_SECOND[second]}{f' {sequel + 1}' if sequel else ''}{article}"


def ratings_per_user(n_users: int, n_films: int, n_ratings: int, rng: np.random.Generator) -> Integers:
    """Share ``n_ratings`` out among the users, [U]: from `LEAST_RATINGS` to ``n_films`` each, log-normal between."""
    weights = np.exp(ACTIVITY * rng.standard_normal(n_users))
    counts = np.full(n_users, LEAST_RATINGS, dtype=np.int64)
    while (left := n_ratings - int(counts.sum())) > 0:
        room = n_films - counts
        open_weights = np.where(room > 0, weights, 0.0)
        shares = left * open_weights / open_weights.sum()
        more = np.minimum(shares.astype(np.int64), room)
        if not more.any():  # fewer left than users: one each to those with the largest shares
            more[np.argsort(-shares, kind="stable")[:left]] = 1
            more = np.minimum(more, room)
        counts += more
    return counts


def popularity(n_films: int) -> Floats:
    """Return the cumulative shares of the films in order of popularity, [I]: ``1 / (rank + 10)``, the last is 1."""
    cumulative = np.cumsum(1.0 / (np.arange(n_films) + 10.0))
    return cumulative / cumulative[-1]


def choose_films(counts: Integers, cumulative: Floats, rng: np.random.Generator) -> Integers:
    """Draw different films for each user: ranks of popularity, rising within a user, users one after the other.

    Of a user with n films, the k-th comes from the k-th of n equal slices of all ratings; where two fall on one film,
    the later moves on to the next. So there is no rejection, and a chunk of users costs O(ratings). ``counts`` [U] are
    the films of each user, none above I; ``cumulative`` [I] is of `popularity`.
    """
    n_films, n_total = len(cumulative), int(counts.sum())
    user = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(n_total) - np.repeat(np.cumsum(counts) - counts, counts)
    of_user = counts[user]
    drawn = np.searchsorted(cumulative, (place + rng.random(n_total)) / of_user)
    # Rising within a user: drawn - place must not fall. The offset starts each user afresh.
    offset = user * (2 * n_films + 1)
    rising = np.maximum.accumulate(drawn - place + offset) - offset + place
    return np.minimum(rising, n_films - of_user + place)  # room for those that come after


def choose_times(counts: Integers, rng: np.random.Generator) -> Integers:
    """Draw the second of each rating, [N], users one after the other.

    Each user rates in one sitting, in an order of chance: all times of a user differ, and the k-th rating in time is
    any of the user's.
    """
    n_total = int(counts.sum())
    user = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(user + rng.random(n_total), kind="stable")
    since = np.cumsum(1 + rng.exponential(GAP_SECONDS, n_total).astype(np.int64))
    first = np.cumsum(counts) - counts
    start = FIRST_SECOND + rng.integers(0, SPAN_SECONDS, len(counts)) - since[first]
    times = np.empty(n_total, dtype=np.int64)
    times[order] = start[user] + since
    return times


def _streams(seed: int) -> dict[str, np.random.Generator]:
    """Return random numbers that do not depend on one another."""
    names = ("films", "tastes", "choices", "times", "noise", "folds", "people")
    seeds = np.random.SeedSequence(seed).spawn(len(names))
    return {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}


class _Draw:
    """Films, users and ratings; the ratings of some users at a time."""

    def __init__(self, options: GeneratorOptions) -> None:
        n_users, n_items = options.n_users, options.n_items
        self.rng = _streams(options.seed)
        self.films = draw_films(n_items, self.rng["films"])
        self.counts = ratings_per_user(n_users, n_items, options.n_ratings, self.rng["choices"])
        self._tastes = draw_tastes(n_users, self.films.genres, self.rng["tastes"])
        self._popularity, self._by_rank = popularity(n_items), self.rng["choices"].permutation(n_items)

    def ratings(self, first: int, end: int, noise: float, scale: Scale = WHOLE_STARS) -> pl.DataFrame:
        """Draw the ratings of the users from ``first`` to before ``end``, sorted by ``user`` and ``item``, from 1."""
        counts, n_items = self.counts[first:end], len(self._by_rank)
        users = np.repeat(np.arange(first, end), counts)
        items = self._by_rank[choose_films(counts, self._popularity, self.rng["choices"])]
        items = np.sort(users * n_items + items) % n_items
        liking = self._tastes.liking(users, items)
        ratings, times = rate(liking, noise, self.rng["noise"], scale), choose_times(counts, self.rng["times"])
        return pl.DataFrame(
            {"user": users + 1, "item": items + 1, "rating": ratings, "timestamp": times, "liking": liking}
        )


def _tabs(rows: pl.DataFrame) -> bytes:
    return rows.write_csv(include_header=False, separator="\t").encode()


def _item_lines(films: Films) -> str:
    lines = []
    for number, (title, date, genres) in enumerate(zip(films.titles, films.dates, films.genres, strict=True), start=1):
        address = f"http://films.invalid/{number}" if date else ""
        flags = ("1" if flag else "0" for flag in (not genres.any(), *genres))
        lines.append("|".join([str(number), title, date, "", address, *flags]))
    return "\n".join(lines) + "\n"


def _user_lines(n_users: int, rng: np.random.Generator) -> str:
    """Return the lines of u.user: user|age|gender|occupation|zip code."""
    ages = np.clip(np.rint(rng.normal(34, 12, n_users)), 7, 73).astype(np.int64)
    genders, occupations = rng.choice(["M", "F"], n_users, p=[0.7, 0.3]), rng.choice(OCCUPATIONS, n_users)
    people = zip(ages, genders, occupations, rng.integers(0, 100_000, n_users), strict=True)
    lines = (f"{user}|{age}|{sex}|{work}|{code:05}\n" for user, (age, sex, work, code) in enumerate(people, start=1))
    return "".join(lines)
