"""Generated stores, in the layout of ``store.csv`` and ``store_states.csv``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.sources.rossmann_law import LEVEL_SD, LEVELS, STORE_TYPES

PROMO_INTERVALS = ("Jan,Apr,Jul,Oct", "Feb,May,Aug,Nov", "Mar,Jun,Sept,Dec")

_TYPE_SHARES = (0.54, 0.015, 0.133, 0.312)
_STATE_SHARES = {
    **{"HB,NI": 0.02, "BE": 0.083, "BW": 0.065, "BY": 0.161, "HE": 0.1, "HH": 0.025},
    **{"NW": 0.257, "RP": 0.036, "SH": 0.103, "SN": 0.067, "ST": 0.05, "TH": 0.033},
}
_INTERVAL_SHARES = (0.587, 0.228, 0.185)
_OLDEST_COMPETITION = 1900  # the originals have one such store


@dataclass(frozen=True)
class Stores:
    """S stores. Arrays of shape (S,); NaN where the table is blank."""

    levels: NDArray[np.float64]
    types: NDArray[np.int64]  # place in STORE_TYPES
    assortments: NDArray[np.str_]
    states: NDArray[np.str_]
    competition_distance: NDArray[np.float64]
    competition_month: NDArray[np.float64]
    competition_year: NDArray[np.float64]
    promo2_week: NDArray[np.float64]  # NaN: does not take part
    promo2_year: NDArray[np.float64]
    promo2_interval: NDArray[np.int64]  # place in PROMO_INTERVALS, -1: does not take part

    def table(self) -> pl.DataFrame:
        """Return the columns of ``store.csv``, stores numbered from 1."""
        takes_part = self.promo2_interval >= 0
        whole = {
            "CompetitionDistance": self.competition_distance,
            "CompetitionOpenSinceMonth": self.competition_month,
            "CompetitionOpenSinceYear": self.competition_year,
            "Promo2": takes_part.astype(float),
            "Promo2SinceWeek": self.promo2_week,
            "Promo2SinceYear": self.promo2_year,
        }
        numbers = [pl.Series(name, values).fill_nan(None).cast(pl.Int64) for name, values in whole.items()]
        return pl.DataFrame(
            [
                pl.Series("Store", np.arange(1, len(self.types) + 1)),
                pl.Series("StoreType", np.array(STORE_TYPES)[self.types]),
                pl.Series("Assortment", self.assortments),
                *numbers,
                pl.Series("PromoInterval", np.array([*PROMO_INTERVALS, ""])[self.promo2_interval]),
            ]
        )

    def states_table(self) -> pl.DataFrame:
        """Return the columns of ``store_states.csv``."""
        return pl.DataFrame({"Store": np.arange(1, len(self.states) + 1), "State": self.states})


def generate_stores(n_stores: int, rng: np.random.Generator) -> Stores:
    """Draw stores with about the originals' shares of types, states and blanks, each quirk at least once."""
    types = _types(n_stores, rng)
    assortments = np.where(rng.random(n_stores) < 0.5, "a", "c")
    assortments = np.where((types == STORE_TYPES.index("b")) & (rng.random(n_stores) < 0.5), "b", assortments)
    states = rng.choice(list(_STATE_SHARES), size=n_stores, p=_normalised(tuple(_STATE_SHARES.values())))
    if "HB,NI" not in states:
        states[rng.integers(n_stores)] = "HB,NI"

    distance = np.clip(np.rint(rng.lognormal(np.log(2325), 1.4, n_stores) / 10) * 10, 20, 75860)
    month = rng.integers(1, 13, n_stores).astype(float)
    year = np.clip(np.rint(2016 - rng.gamma(2.0, 3.5, n_stores)), 1990, 2015)
    shuffled = rng.permutation(n_stores)
    undated = shuffled[: _count(0.317, n_stores)]
    month[undated] = year[undated] = np.nan
    distance[undated[: _count(0.0027, n_stores)]] = np.nan
    if n_stores >= 10:
        month[shuffled[-1]], year[shuffled[-1]] = 1.0, _OLDEST_COMPETITION

    outside = rng.permutation(n_stores)[: _count(0.488, n_stores)]
    week = rng.integers(1, 51, n_stores).astype(float)
    since = rng.choice(np.arange(2009.0, 2016), size=n_stores, p=_normalised((12, 15, 21, 13, 20, 15, 4)))
    interval = rng.choice(len(PROMO_INTERVALS), size=n_stores, p=_normalised(_INTERVAL_SHARES))
    week[outside] = since[outside] = np.nan
    interval[outside] = -1
    return Stores(
        levels=LEVELS[types] + rng.normal(0, LEVEL_SD, n_stores),
        types=types,
        assortments=assortments,
        states=states,
        competition_distance=distance,
        competition_month=month,
        competition_year=year,
        promo2_week=week,
        promo2_year=since,
        promo2_interval=interval,
    )


def _types(n_stores: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return store types in fixed shares, at least one of each, in random order."""
    counts = [_count(share, n_stores) for share in _TYPE_SHARES]
    counts[0] = n_stores - sum(counts[1:])
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def _count(share: float, total: int) -> int:
    return max(1, int(share * total))


def _normalised(shares: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array(shares) / sum(shares)
