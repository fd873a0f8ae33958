"""Means of the target by groups of categories, as inputs: shrunk, and cross-fitted where a group has few rows."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.pipelines.tabular.targets import EPSILON, nonzero_std

N_FOLDS = 10  # of the training rows, for their own target means
FEW_ROWS = 100  # of a group: in the mean of more, a row's own target weighs less than a hundredth
# A group has few rows, too, if they are fewer than so many times the smoothing. That is the variance within groups over
# that between them; so much of what its mean tells of a row's target, divided by the rows, is the row's own target. For
# a class of 0.5 % a group of a thousand rows has few.
FEW_SMOOTHINGS = 5
SAME = 1e-4  # deviation of target means, in deviations of the target, below which the groups count as equal
LARGEST_SMOOTHING = 1e9  # rows: the groups then differ by nothing that a float32 holds
LARGEST_KEY = 2**63 - 1

Codes = Mapping[str, NDArray[np.integer]]


class GroupLevel(BaseModel):
    """Shrunk means of the groups of ``columns``: ``keys`` are sorted, ``means`` in the transformed target's units.

    ``smoothing`` is the number of rows of the wider group that each is mixed with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    keys: tuple[int, ...]
    means: tuple[float, ...]
    smoothing: float = 20.0

    @cached_property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The keys and the means."""
        return np.array(self.keys), np.array(self.means)


class TargetMeans(BaseModel):
    """Mean of the target by groups of categories, shrunk towards wider groups (Micci-Barreca 2001).

    The value of a group is ``(sum + smoothing * parent) / (count + smoothing)``. The parent is the group without the
    last column, down to the overall mean. A group without training rows takes the value of its parent.

    Attributes:
        sizes: number of codes of each column, row 0 for missing or unseen included.
        levels: from the widest groups to the narrowest.
        overall: mean of all training rows.
        mean, std: standardise the result, as for any continuous input.
        of: the target or class whose mean it is, where there are several.
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

    def standardised(self, codes: Codes, values: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """Value of each row as the network reads it, float32 [N].

        Args:
            codes: as for :meth:`values`.
            values: in their place, such as those of :meth:`cross_fitted`.
        """
        values = self.values(codes) if values is None else values
        return ((values - self.mean) / (self.std + EPSILON)).astype(np.float32)

    def cross_fitted(self, codes: Codes, target: NDArray[np.floating]) -> NDArray[np.float64]:
        """Value of each training row, float64 [N]; in groups of few rows, fitted on nine tenths without the row.

        A mean that holds the row's own target tells it: of a group of one row, nearly all of it. What learns from such
        means trusts them more than the rows of a later day deserve. Groups of :data:`FEW_ROWS` rows and more keep
        their one mean: fitted in tenths it would differ within the group, against the targets of each tenth. The
        tenths are drawn with a fixed seed.

        Args:
            codes: as for :meth:`values`, of the rows that it was fitted on.
            target: float [N], the transformed target that it was fitted on.
        """
        n_rows = len(target)
        n_folds = min(N_FOLDS, n_rows)
        values = self.values(codes)
        _, group, counts = np.unique(
            _group_keys(codes, self.columns, self.sizes), return_inverse=True, return_counts=True
        )
        few = counts[group] < max(FEW_ROWS, FEW_SMOOTHINGS * self.levels[-1].smoothing)
        if n_folds < 2 or not few.any():
            return values
        fold = np.random.default_rng(0).permutation(n_rows) % n_folds
        for number in range(n_folds):
            own = fold == number
            fitted = fit_target_means(
                {name: column[~own] for name, column in codes.items()},
                self.sizes,
                self.columns,
                target[~own],
                [level.smoothing for level in self.levels],
                overall=self.overall,  # that of a tenth's others would tell the tenth's own
            )
            read = own & few
            values[read] = fitted.values({name: column[read] for name, column in codes.items()})
        return values

    def values(self, codes: Codes) -> NDArray[np.float64]:
        """Value of each row, float64 [N], not standardised; ``codes`` has an integer array [N] for each column."""
        n_rows = len(next(iter(codes.values())))
        values = np.full(n_rows, self.overall)
        for level in self.levels:
            known, means = level.arrays
            keys = _group_keys(codes, level.columns, self.sizes)
            position = np.searchsorted(known, keys).clip(max=len(known) - 1)
            values = np.where(known[position] == keys, means[position], values)
        return values


def fit_target_means(
    codes: Codes,
    sizes: Mapping[str, int],
    columns: Sequence[str],
    target: NDArray[np.floating],
    smoothing: float | Literal["auto"] | Sequence[float],
    of: str = "",
    *,
    overall: float | None = None,
) -> TargetMeans:
    """Fit on training rows: ``codes`` are integers [N] below ``sizes``, ``target`` the transformed target [N].

    With ``auto`` the smoothing of a level is the variance of the target within its groups over that between them, which
    is what minimises the squared error of the means if both are normal (empirical Bayes; the variances by the analysis
    of variance, Searle, Casella & McCulloch 1992).

    Args:
        smoothing: one for all levels, ``auto``, or one for each.
        overall: the mean that the widest groups are mixed with; that of these rows unless given.

    Raises:
        DataError: if the columns have more combinations than an integer key can tell apart.
    """
    if math.prod(sizes[name] for name in columns) > LARGEST_KEY:
        raise DataError(f"encoding.target_means: {list(columns)} have more combinations than 64 bits hold")
    overall = float(np.mean(target)) if overall is None else overall
    parent = np.full(len(target), overall)
    levels: list[GroupLevel] = []
    for depth in range(1, len(columns) + 1):
        group = tuple(columns[:depth])
        keys, first, rows = np.unique(_group_keys(codes, group, sizes), return_index=True, return_inverse=True)
        counts = np.bincount(rows)
        if smoothing == "auto":
            rows_of_parent = _best_smoothing(target - parent, rows, counts)
        else:
            rows_of_parent = float(smoothing if isinstance(smoothing, float | int) else smoothing[depth - 1])
        means = (np.bincount(rows, weights=target) + rows_of_parent * parent[first]) / (counts + rows_of_parent)
        sorted_keys, of_groups = tuple(keys.tolist()), tuple(means.tolist())
        levels.append(GroupLevel(columns=group, keys=sorted_keys, means=of_groups, smoothing=rows_of_parent))
        parent = means[rows]
    # Groups that do not differ are no input: their last bits would be standardised to one.
    std = float(parent.std())
    std = std if std > SAME * float(np.std(target)) else 1.0
    return TargetMeans(
        sizes={name: sizes[name] for name in columns},
        levels=tuple(levels),
        overall=overall,
        mean=float(parent.mean()),
        std=nonzero_std(std, float(parent.mean())),
        of=of,
    )


def _best_smoothing(errors: NDArray[np.floating], rows: NDArray[np.intp], counts: NDArray[np.intp]) -> float:
    """Rows of the parent to mix the groups' means with, from the ``errors`` [N] of the parent and each row's group."""
    n_rows, n_groups = len(errors), len(counts)
    means = np.bincount(rows, weights=errors) / counts
    within = float(((errors - means[rows]) ** 2).sum()) / max(n_rows - n_groups, 1)
    spread = n_rows - float((counts.astype(np.float64) ** 2).sum()) / n_rows
    between = (float((counts * means**2).sum()) - n_groups * within) / max(spread, 1.0)
    if within <= 0.0:
        return 0.0 if between > 0.0 else 1.0
    return min(within / between, LARGEST_SMOOTHING) if between > 0.0 else LARGEST_SMOOTHING


def _group_keys(codes: Codes, columns: Sequence[str], sizes: Mapping[str, int]) -> NDArray[np.int64]:
    """One integer for each combination of codes, by mixed radix."""
    keys = np.zeros(len(codes[columns[0]]), dtype=np.int64)
    for name in columns:
        keys = keys * sizes[name] + codes[name]
    return keys
