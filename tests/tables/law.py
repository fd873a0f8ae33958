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
