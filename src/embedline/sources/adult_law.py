"""The true effects behind the simulated incomes, and the metrics that a perfect model reaches.

The log-odds of an income above 50,000 dollars are the sum of

==================  ==================================================================================================
constant            -3.2
education_num       0.33 a level above 10
age                 0.05 a year above 38 up to 55, falling by 0.05 a year after it
marital_status      2.2 where it is Married-civ-spouse
occupation          `OCCUPATIONS`; -0.2 where it is missing
hours_per_week      0.03 an hour above 40
capital_gain        2.5 log(1 + gain / 3000): heavy-tailed, small gains matter as much as large ones
capital_loss        1.2 log(1 + loss / 1000)
==================  ==================================================================================================

and nothing else: workclass, fnlwgt, relationship, race, sex and native_country help only where they correlate with
these. Each income is drawn independently with these odds.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

CONSTANT = -3.2
OCCUPATIONS = {
    "Exec-managerial": 1.0,
    "Prof-specialty": 0.8,
    "Sales": 0.4,
    "Tech-support": 0.6,
    "Protective-serv": 0.5,
    "Adm-clerical": 0.0,
    "Craft-repair": 0.0,
    "Transport-moving": -0.1,
    "Machine-op-inspct": -0.4,
    "Handlers-cleaners": -0.8,
    "Farming-fishing": -0.9,
    "Other-service": -1.0,
    "Armed-Forces": 0.2,
    "Priv-house-serv": -1.5,
}
"""Effect of each occupation on the log-odds."""

NO_OCCUPATION = -0.2
PEAK_AGE = 55

Floats = NDArray[np.float64]


def log_odds(table: pl.DataFrame) -> Floats:
    """Return log P(>50K | row) / P(<=50K | row) for each row of a generated ``adult.table``, in nats, [N]."""
    occupation = pl.col("occupation").cast(pl.String).replace_strict(OCCUPATIONS, default=NO_OCCUPATION)
    total = (
        CONSTANT
        + 0.33 * (pl.col("education_num") - 10)
        + 0.05 * (PEAK_AGE - 38 - (pl.col("age") - PEAK_AGE).abs())
        + 2.2 * (pl.col("marital_status") == "Married-civ-spouse").cast(pl.Float64)
        + occupation
        + 0.03 * (pl.col("hours_per_week") - 40)
        + 2.5 * (1 + pl.col("capital_gain") / 3000).log()
        + 1.2 * (1 + pl.col("capital_loss") / 1000).log()
    )
    return table.select(total.cast(pl.Float64)).to_series().to_numpy()


def probability(odds: Floats) -> Floats:
    """Return the probability of an income above 50,000 dollars, [N].

    >>> probability(np.array([0.0, np.log(3.0)])).round(12).tolist()
    [0.5, 0.75]
    """
    return np.exp(-np.logaddexp(0.0, -odds))  # 1 / (1 + e^-x) without overflow


def expected_accuracy(odds: Floats) -> float:
    """Return the accuracy that always naming the likelier income expects: no classifier can expect more."""
    return float(np.mean(probability(np.abs(odds))))


def expected_log_loss(odds: Floats) -> float:
    """Return the log-loss, in nats a row, that the true probabilities expect: the least of all forecasts."""
    p = probability(odds)
    # log(p) = -log(1 + e^-x), which neither overflows nor loses small numbers
    return float(np.mean(p * np.logaddexp(0.0, -odds) + (1.0 - p) * np.logaddexp(0.0, odds)))
