"""Simulated incomes in the layout of the UCI Adult files, for runs and tests without the real files.

They have the columns, names of categories and quirks of the real files: no header, ``, `` between the fields, ``?`` for
missing, an empty last line; a comment in the first line of ``adult.test`` and a full stop after its labels. Workclass
and occupation are missing together.

The incomes follow the true effects below: results on them say nothing about real people. The log-odds of an income
above 50,000 dollars are the sum of

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

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from embedline.pipelines.adult.files import CATEGORICAL, COLUMNS, LABELS
from embedline.training.options import Options

CONSTANT = -3.2
OCCUPATIONS = {
    **{"Exec-managerial": 1.0, "Prof-specialty": 0.8, "Sales": 0.4, "Tech-support": 0.6, "Protective-serv": 0.5},
    **{"Adm-clerical": 0.0, "Craft-repair": 0.0, "Transport-moving": -0.1, "Machine-op-inspct": -0.4},
    **{"Handlers-cleaners": -0.8, "Farming-fishing": -0.9, "Other-service": -1.0, "Armed-Forces": 0.2},
    **{"Priv-house-serv": -1.5},
}
"""Effect of each occupation on the log-odds."""

NO_OCCUPATION = -0.2
PEAK_AGE = 55

EDUCATION = (
    *("Preschool", "1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th", "HS-grad", "Some-college"),
    *("Assoc-voc", "Assoc-acdm", "Bachelors", "Masters", "Prof-school", "Doctorate"),
)
"""By ``education_num``, from 1."""

_EDUCATION_WEIGHTS = (1, 3, 5, 10, 8, 14, 18, 7, 160, 110, 21, 16, 82, 26, 9, 6)
_WORKCLASS = {
    **{"Private": 70, "Self-emp-not-inc": 8, "Local-gov": 6, "?": 6, "State-gov": 4, "Self-emp-inc": 3},
    **{"Federal-gov": 3, "Without-pay": 0.1},
}
_OCCUPATION_WEIGHTS = (13, 13, 11, 3, 2, 12, 13, 5, 6, 4, 3, 11, 0.1, 0.5)  # in the order of OCCUPATIONS
_RACE = {"White": 85, "Black": 10, "Asian-Pac-Islander": 3, "Amer-Indian-Eskimo": 1, "Other": 1}
_COUNTRY = {"United-States": 90, "Mexico": 2, "?": 2, "Philippines": 1, "Germany": 1, "Canada": 1, "India": 1}
_HOURS = {40: 47, 50: 9, 45: 6, 60: 5, 35: 4, 20: 4, 30: 4, 55: 2, 25: 2, 48: 2, 38: 2, 15: 1, 70: 1, 80: 0.5, 99: 0.3}
_ALONE = {"Not-in-family": 48, "Own-child": 27, "Unmarried": 19, "Other-relative": 6}

Floats = NDArray[np.float64]


class GeneratorOptions(Options):
    """How many people to simulate."""

    n_data: int = Field(default=3000, ge=20, description="rows of adult.data")
    n_test: int = Field(default=1500, ge=20, description="rows of adult.test")
    seed: int = Field(default=0, ge=0)


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """Simulate ``adult.data`` and ``adult.test``; equal options give equal bytes.

    The files are drawn apart from each other: more rows in one change nothing in the other.
    """
    data, test = (_lines(people) for people in _draw(options).values())
    test = ["|1x3 Cross validator", *(f"{line}." for line in test)]
    return {
        "adult.data": ("\n".join(data) + "\n\n").encode(),
        "adult.test": ("\n".join(test) + "\n\n").encode(),
    }


def bayes_accuracy(options: GeneratorOptions) -> float:
    """Return the accuracy that a perfect model expects on the rows of ``adult.test``; no classifier can expect more."""
    return expected_accuracy(log_odds(_draw(options)["adult.test"]))


def bayes_log_loss(options: GeneratorOptions) -> float:
    """Return the log-loss, in nats, that a perfect model expects on the rows of ``adult.test``."""
    return expected_log_loss(log_odds(_draw(options)["adult.test"]))


def log_odds(table: pl.DataFrame) -> Floats:
    """Return log P(>50K | row) / P(<=50K | row) for each row of ``adult.table``, in nats, [N]."""
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


def _draw(options: GeneratorOptions) -> dict[str, pl.DataFrame]:
    """Return the people of each file: the columns of `COLUMNS`, null where a category is missing."""
    seeds = np.random.SeedSequence(options.seed).spawn(2)
    sizes = {"adult.data": options.n_data, "adult.test": options.n_test}
    return {
        file: _people(size, np.random.default_rng(seed))
        for (file, size), seed in zip(sizes.items(), seeds, strict=True)
    }


def _people(n: int, rng: np.random.Generator) -> pl.DataFrame:
    age = np.clip(np.rint(17 + rng.gamma(2.4, 9.0, n)), 17, 90).astype(np.int64)
    is_male = rng.random(n) < 0.67
    marital = _marital_statuses(age, rng)
    level = 1 + rng.choice(len(EDUCATION), size=n, p=_shares(_EDUCATION_WEIGHTS))
    workclass = _pick(_WORKCLASS, n, rng)
    occupation = _pick(dict(zip(OCCUPATIONS, _OCCUPATION_WEIGHTS, strict=True)), n, rng)
    columns = {
        "age": age,
        "workclass": workclass,
        "fnlwgt": np.rint(np.clip(np.exp(rng.normal(12.0, 0.55, n)), 12_285, 1_484_705)).astype(np.int64),
        "education": np.array(EDUCATION)[level - 1],
        "education_num": level,
        "marital_status": marital,
        "occupation": np.where(workclass == "?", "?", occupation),
        "relationship": np.where(
            marital == "Married-civ-spouse", np.where(is_male, "Husband", "Wife"), _pick(_ALONE, n, rng)
        ),
        "race": _pick(_RACE, n, rng),
        "sex": np.where(is_male, "Male", "Female"),
        "capital_gain": _amounts(n, share=0.083, median=6000, spread=1.0, most=99_999, rng=rng),
        "capital_loss": _amounts(n, share=0.047, median=1880, spread=0.25, most=4356, rng=rng),
        "hours_per_week": _pick(_HOURS, n, rng),
        "native_country": _pick(_COUNTRY, n, rng),
    }
    missing = pl.col(*CATEGORICAL) != "?"
    people = pl.DataFrame(columns).with_columns(pl.when(missing).then(pl.col(*CATEGORICAL)))
    is_rich = rng.random(n) < probability(log_odds(people))
    return people.with_columns(income=pl.Series(np.where(is_rich, LABELS[1], LABELS[0])))


def _marital_statuses(age: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.str_]:
    """The older, the more have married, and the more are no longer."""
    ever = rng.random(len(age)) < 1 - np.exp(-np.maximum(age - 19, 0) / 11.0)
    statuses = ["Married-civ-spouse", "Divorced", "Separated", "Widowed", "Married-spouse-absent", "Married-AF-spouse"]
    later = rng.choice(statuses, size=len(age), p=_shares((69, 20, 4.5, 4.5, 1.9, 0.1)))
    return np.where(ever, later, "Never-married")


def _amounts(
    n: int, *, share: float, median: float, spread: float, most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return dollars: 0 for most people, log-normal for a share of them, cut off at ``most`` as in the originals."""
    drawn = np.rint(np.minimum(median * np.exp(spread * rng.standard_normal(n)), most))
    return np.where(rng.random(n) < share, np.maximum(drawn, 1), 0).astype(np.int64)


def _pick(weights: Mapping[str, float] | Mapping[int, float], n: int, rng: np.random.Generator) -> NDArray[Any]:
    return rng.choice(np.array(list(weights)), size=n, p=_shares(tuple(weights.values())))


def _shares(weights: tuple[float, ...]) -> Floats:
    return np.array(weights, dtype=np.float64) / sum(weights)


def _lines(people: pl.DataFrame) -> list[str]:
    """Return the rows as the files have them: fields separated by ``, ``, ``?`` for missing."""
    texts = people.select(pl.col(COLUMNS).cast(pl.String).fill_null("?"))
    return texts.select(pl.concat_str(COLUMNS, separator=", ")).to_series().to_list()
