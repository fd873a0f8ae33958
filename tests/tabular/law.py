"""A small table with a known law: sales of a shop, with noise of a known size."""

import numpy as np
import polars as pl

NOISE = 0.05  # standard deviation of the logarithm: no model's relative error can be smaller


def sales_table(n_rows: int = 3000, *, seed: int = 0, n_unlabelled: int = 0) -> pl.DataFrame:
    """``sales = exp(level of the shop + effect of the weekday + 0.3 heat²) · noise``; every fifth row is held out.

    The last ``n_unlabelled`` rows have no sales. Some values of ``heat`` and of ``shop`` are missing.
    """
    random = np.random.default_rng(seed)
    shop, weekday = random.integers(0, 12, n_rows), random.integers(1, 8, n_rows)
    heat = random.normal(size=n_rows)
    levels, effects = np.linspace(3.0, 5.0, 12)[np.argsort(np.sin(np.arange(12)))], np.cos(np.arange(8))
    logarithm = levels[shop] + 0.4 * effects[weekday] + 0.3 * heat**2 + NOISE * random.normal(size=n_rows)
    return pl.DataFrame(
        {
            "shop": pl.Series([f"shop {k:02}" for k in shop]),
            "weekday": weekday,
            "heat": pl.Series(heat),
            "day": pl.date_range(pl.date(2020, 1, 1), pl.date(2040, 1, 1), "1d", eager=True)[:n_rows],
            "held_out": np.arange(n_rows) % 5 == 0,
            "sales": np.exp(logarithm),
        }
    ).with_columns(sales=pl.when(pl.int_range(pl.len()) < n_rows - n_unlabelled).then("sales"))


def grade_table(n_rows: int = 4000, *, seed: int = 0, n_unlabelled: int = 0) -> pl.DataFrame:
    """Three grades, drawn with known probabilities: logits ``(level, 2 heat, 0)``; every fourth row is held out.

    ``level`` is the shop's, from -2 to 2. The columns ``p_high``, ``p_low`` and ``p_mid`` are the probabilities: no
    classifier can be expected to be right more often than the mean of the greatest of them. ``noise`` and ``colour``
    say nothing. ``passed`` is a class of its own (not ``low``), ``price`` a number. The last ``n_unlabelled`` rows have
    no grade.
    """
    random = np.random.default_rng(seed)
    shop, heat, noise = random.integers(0, 6, n_rows), random.normal(size=n_rows), random.normal(size=n_rows)
    levels = np.linspace(-2.0, 2.0, 6)[np.array([3, 0, 5, 1, 4, 2])]
    logits = np.stack([levels[shop], 2.0 * heat, np.zeros(n_rows)], axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (probabilities.cumsum(axis=1) > random.random((n_rows, 1))).argmax(axis=1)
    grades = np.array(["high", "low", "mid"])[drawn]
    return pl.DataFrame(
        {
            "shop": [f"shop {k}" for k in shop],
            "colour": random.choice(["blue", "red"], n_rows),
            "heat": heat,
            "noise": noise,
            "day": pl.date_range(pl.date(2020, 1, 1), pl.date(2040, 1, 1), "1d", eager=True)[:n_rows],
            "held_out": np.arange(n_rows) % 4 == 0,
            "price": np.exp(1.0 + 0.5 * levels[shop] + 0.3 * heat + NOISE * random.normal(size=n_rows)),
            "passed": grades != "low",
            "grade": grades,
            **{f"p_{name}": probabilities[:, k] for k, name in enumerate(("high", "low", "mid"))},
        }
    ).with_columns(grade=pl.when(pl.int_range(pl.len()) < n_rows - n_unlabelled).then("grade"))
