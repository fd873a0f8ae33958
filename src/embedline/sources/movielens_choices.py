"""Who rates which film, and when, in generated ratings: activity and popularity are skewed, no pair comes twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_RATINGS = 20
"""Ratings that every user gives at least, as in the originals."""

ACTIVITY = 0.9
"""Standard deviation of the logarithm of a user's activity: some users rate ten times as much as others."""

FIRST_SECOND, SPAN_SECONDS = 874_724_710, 18_500_000
"""The first time in ml-100k (September 1997) and how long it goes on, seven months."""

GAP_SECONDS = 45.0
"""Mean time from one rating of a user to the next."""

Integers = NDArray[np.int64]


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


def popularity(n_films: int) -> NDArray[np.float64]:
    """Return the cumulative shares of the films in order of popularity, [I]: ``1 / (rank + 10)``, the last is 1."""
    cumulative = np.cumsum(1.0 / (np.arange(n_films) + 10.0))
    return cumulative / cumulative[-1]


def choose_films(counts: Integers, cumulative: NDArray[np.float64], rng: np.random.Generator) -> Integers:
    """Draw different films for each user: ranks of popularity, rising within a user, users one after the other.

    Of a user with n films, the k-th comes from the k-th of n equal slices of all ratings; where two fall on one film,
    the later moves on to the next. So there is no rejection, and a chunk of users costs O(ratings).

    Args:
        counts: films of each user, [U], none above I.
        cumulative: of `popularity`, [I].
        rng: the source of chance.

    Returns:
        Ranks, [N], N the sum of the counts.
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
    gaps = 1 + rng.exponential(GAP_SECONDS, n_total).astype(np.int64)
    since = np.cumsum(gaps)
    first = np.cumsum(counts) - counts
    start = FIRST_SECOND + rng.integers(0, SPAN_SECONDS, len(counts)) - since[first]
    times = np.empty(n_total, dtype=np.int64)
    times[order] = start[user] + since
    return times
