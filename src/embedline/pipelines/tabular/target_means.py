"""Mean of the target over groups of categories, shrunk towards wider groups: what an average already knows."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.pipelines.tabular.scalers import TINY, spread

LARGEST_KEY = 2**63 - 1
Codes = Mapping[str, NDArray[np.integer]]


class GroupLevel(BaseModel):
    """Shrunk means of the groups of ``columns``: ``keys`` are sorted, ``means`` in the transformed target's units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    keys: tuple[int, ...]
    means: tuple[float, ...]


class TargetMeans(BaseModel):
    """Fitted target means of one list of columns, from the widest groups to the narrowest.

    A group's value is ``(sum + smoothing * parent) / (count + smoothing)`` (Micci-Barreca 2001), where the parent is
    the group without the last column, down to the overall mean. A group that training never saw takes its parent's
    value. ``mean`` and ``std`` standardise the result, as those of any continuous input. ``of`` says what the mean is
    of, where the table has several targets or the target is a class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: dict[str, int]
    levels: tuple[GroupLevel, ...]
    overall: float
    mean: float
    std: float
    of: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the narrowest groups."""
        return self.levels[-1].columns

    @property
    def name(self) -> str:
        """Name of the input: ``mean(Store, DayOfWeek)``, or ``mean(>50K; occupation)``."""
        of = f"{self.of}; " if self.of else ""
        return f"mean({of}{', '.join(self.columns)})"

    def standardised(self, codes: Codes) -> NDArray[np.float32]:
        """Value of each row as the network reads it, float32 [N]; ``codes`` as for :meth:`values`."""
        return ((self.values(codes) - self.mean) / (self.std + TINY)).astype(np.float32)

    def values(self, codes: Codes) -> NDArray[np.float64]:
        """Value of each row, float64 [N], not standardised; ``codes`` has an integer array [N] for each column."""
        n_rows = len(next(iter(codes.values())))
        values = np.full(n_rows, self.overall)
        for level in self.levels:
            known, means = np.array(level.keys), np.array(level.means)
            keys = _keys(codes, level.columns, self.sizes)
            position = np.searchsorted(known, keys).clip(max=len(known) - 1)
            values = np.where(known[position] == keys, means[position], values)
        return values


def fit_target_means(
    codes: Codes,
    sizes: Mapping[str, int],
    columns: Sequence[str],
    target: NDArray[np.floating],
    smoothing: float,
    of: str = "",
) -> TargetMeans:
    """Fit on training rows: ``codes`` are integers [N] below ``sizes``, ``target`` the transformed target [N].

    Raises:
        DataError: if the columns have more combinations than an integer key can tell apart.
    """
    if math.prod(sizes[name] for name in columns) > LARGEST_KEY:
        raise DataError(f"encoding.target_means: {list(columns)} have more combinations than 64 bits hold")
    parent = np.full(len(target), float(np.mean(target)))
    levels = []
    for depth in range(1, len(columns) + 1):
        group = tuple(columns[:depth])
        keys, first, rows = np.unique(_keys(codes, group, sizes), return_index=True, return_inverse=True)
        counts = np.bincount(rows)
        means = (np.bincount(rows, weights=target) + smoothing * parent[first]) / (counts + smoothing)
        levels.append(GroupLevel(columns=group, keys=tuple(keys.tolist()), means=tuple(means.tolist())))
        parent = means[rows]
    return TargetMeans(
        sizes={name: sizes[name] for name in columns},
        levels=tuple(levels),
        overall=float(np.mean(target)),
        mean=float(parent.mean()),
        std=spread(float(parent.std()), float(parent.mean())),
        of=of,
    )


def _keys(codes: Codes, columns: Sequence[str], sizes: Mapping[str, int]) -> NDArray[np.int64]:
    """One integer for each combination of codes, by mixed radix."""
    keys = np.zeros(len(codes[columns[0]]), dtype=np.int64)
    for name in columns:
        keys = keys * sizes[name] + codes[name]
    return keys
