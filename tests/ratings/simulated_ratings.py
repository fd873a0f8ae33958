"""Small ratings with known true effects, and noise of a known size."""

import numpy as np
import polars as pl

NOISE = 0.3  # standard deviation: no model's error can be smaller
GENRES = ("Comedy", "Drama", "War")
N_USERS, N_ITEMS = 60, 40


def items_table() -> pl.DataFrame:
    """Items 101 … 140 with one or two genres, a year, and a title."""
    numbers = np.arange(N_ITEMS)
    genres = [[GENRES[k % 3], GENRES[(k + 1) % 3]] if k % 4 == 0 else [GENRES[k % 3]] for k in numbers]
    titles = [f"film {k}" for k in numbers]
    return pl.DataFrame({"item": 101 + numbers, "title": titles, "genres": genres, "year": 1960 + numbers})


def users_table() -> pl.DataFrame:
    """Users ``u00`` … with an age and a taste."""
    numbers = np.arange(N_USERS)
    names = [f"u{k:02}" for k in numbers]
    return pl.DataFrame({"user": names, "age": 20 + numbers, "taste": [GENRES[k % 3] for k in numbers]})


def true_ratings(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Expected rating of pairs of numbers from 0: bias of the user, of the first genre, and one more for the taste."""
    likes = user % 3 == item % 3
    return 3.0 + 0.5 * np.sin(user) + 0.4 * (item % 3 - 1) + np.where(likes, 0.8, -0.4)


def ratings_table(n_rows: int = 2000, *, seed: int = 0) -> pl.DataFrame:
    """Different pairs in random order; every user and item has some; ``fold`` goes 1 … 5, ``timestamp`` rises."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(N_USERS * N_ITEMS)[:n_rows]
    user, item = pairs // N_ITEMS, pairs % N_ITEMS
    rating = true_ratings(user, item) + NOISE * random.normal(size=n_rows)
    return pl.DataFrame(
        {
            "user": [f"u{k:02}" for k in user],
            "item": 101 + item,
            "rating": rating,
            "timestamp": 1_000_000 + np.arange(n_rows),
            "fold": pl.Series(np.arange(n_rows) % 5 + 1, dtype=pl.Int8),
        }
    )
