"""The true effects behind the generated film ratings, and the least error that any model of them can reach.

A user's *liking* of a film, in stars, is

    3.5 + user bias + film bias + <user factors, film factors>,

with `N_FACTORS` factors. User biases are normal with standard deviation `USER_SD`, film biases with `FILM_SD`, and the
product has the standard deviation `MATCH_SD`. A rating is the liking plus normal noise, rounded to a whole star (or
half a star) and cut off at the ends of the scale: that is how `rate` draws it.

Films of like genres are alike: `GENRE_BIAS` of the variance of the film biases and `GENRE_FACTORS` of that of the film
factors come from the genres. So the genres of a new film predict much of its factors, as a few ratings predict those
of a new user.

The noise is drawn for each rating apart from all others, and which film a user rates, and when, has nothing to do with
the liking. So the mean of the rating given the liking, `expected_rating`, is the best forecast, and its mean squared
error, `least_mse`, is the floor. A model of finitely many ratings has to estimate biases and factors, and stays above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEAN = 3.5
USER_SD, FILM_SD, MATCH_SD = 0.35, 0.45, 0.6
"""Standard deviations, in stars, of the user biases, the film biases and the product of the factors."""

N_FACTORS = 3
GENRE_BIAS, GENRE_FACTORS = 0.3, 0.8
"""Shares of the variance of the film biases and factors that the genres explain."""

Floats = NDArray[np.float64]


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
    """Draw users and films.

    Args:
        n_users: U.
        genres: which film has which genre, [I, G]; a film without a genre has nothing of theirs.
        rng: random numbers.
    """
    n_films, n_genres = genres.shape
    by_genre = rng.standard_normal((n_genres, 1 + N_FACTORS))
    of_genre = genres @ by_genre / np.sqrt(np.maximum(genres.sum(axis=1), 1))[:, None]  # variance 1
    shares = np.array([GENRE_BIAS] + [GENRE_FACTORS] * N_FACTORS)
    films = np.sqrt(shares) * of_genre + np.sqrt(1 - shares) * rng.standard_normal((n_films, 1 + N_FACTORS))
    users = rng.standard_normal((n_users, 1 + N_FACTORS))
    return Tastes(
        user_bias=USER_SD * users[:, 0],
        film_bias=FILM_SD * films[:, 0],
        user_factors=users[:, 1:],
        film_factors=films[:, 1:] * (MATCH_SD / math.sqrt(N_FACTORS)),
    )


def rate(liking: Floats, noise: float, rng: np.random.Generator, scale: Scale = WHOLE_STARS) -> Floats:
    """Draw the ratings of N likings, [N]; ``noise`` is a standard deviation, in stars."""
    wish = liking + noise * rng.standard_normal(len(liking))
    return np.clip(scale.low + scale.step * np.rint((wish - scale.low) / scale.step), scale.low, scale.high)


def rating_shares(liking: Floats, noise: float, scale: Scale = WHOLE_STARS) -> Floats:
    """Return the probability of each rating given the liking, [N, L]; the exact distribution of `rate`.

    >>> rating_shares(np.array([3.0]), 0.5).round(4).tolist()
    [[0.0013, 0.1573, 0.6827, 0.1573, 0.0013]]
    """
    borders = scale.levels[:-1] + scale.step / 2
    distances = (borders - liking[:, None]) / max(noise, 1e-12)
    below = 0.5 * (1.0 + _erf(distances / math.sqrt(2.0)))
    ends = np.zeros((len(liking), 1))
    return np.diff(np.hstack([ends, below, ends + 1.0]), axis=1)


def expected_rating(liking: Floats, noise: float, scale: Scale = WHOLE_STARS) -> Floats:
    """Return the mean rating given the liking, [N]: the best forecast that there is."""
    return rating_shares(liking, noise, scale) @ scale.levels


def least_mse(liking: Floats, noise: float, scale: Scale = WHOLE_STARS) -> float:
    """Return the mean squared error, in stars squared, that the best forecast expects on ratings of these likings."""
    shares = rating_shares(liking, noise, scale)
    mean = shares @ scale.levels
    return float(np.mean(shares @ scale.levels**2 - mean**2))


def _erf(values: Floats) -> Floats:
    return np.vectorize(math.erf, otypes=[np.float64])(values)
