"""Features of users and items: columns that describe them, as codes with weights.

Every level of every column has a code from 1 on; code 0 is no feature. A row's features are padded with 0. The weight
of a feature is 1 / sqrt(number of the row's features of the same column), so that three genres of a film weigh as much
in all as one genre of another.
"""

import itertools
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError


class FeatureColumn(BaseModel):
    """One column: the levels of strings and booleans, or the cuts between the bins of numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["strings", "string", "boolean", "number"]
    levels: tuple[str, ...] = ()
    cuts: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.cuts) + 1 if self.kind == "number" else len(self.levels)

    @property
    def names(self) -> list[str]:
        """Names of the features, such as ``Comedy``, ``True`` or ``[1990, 1995)``."""
        if self.kind != "number":
            return list(self.levels)
        ends = ["-inf", *(f"{cut:g}" for cut in self.cuts), "inf"]
        return [f"[{low}, {high})" for low, high in itertools.pairwise(ends)]


class Features(BaseModel):
    """The columns that describe users, or items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[FeatureColumn, ...] = ()

    @property
    def size(self) -> int:
        """Number of features of all columns; their codes are 1 … size."""
        return sum(column.size for column in self.columns)

    @cached_property
    def column_of(self) -> NDArray[np.int32]:
        """Number of the column, from 1, that each code belongs to, int32 [size + 1]; 0 of code 0."""
        sizes = [column.size for column in self.columns]
        return np.repeat(np.arange(len(sizes) + 1, dtype=np.int32), [1, *sizes])

    def codes(self, frame: pl.DataFrame, what: str) -> NDArray[np.int32]:
        """Codes int32 [N, L] of the rows of a frame; levels that no training row had are no features.

        Raises:
            DataError: if a column is missing or is not of the kind it was; ``what`` the frame is stands in front.
        """
        blocks, first = [], 1
        for column in self.columns:
            if column.name not in frame.columns:
                raise DataError(f"{what} has no column {column.name!r}, a feature; it has {frame.columns}")
            blocks.append(_codes(frame.get_column(column.name), column, first, what))
            first += column.size
        return np.hstack(blocks) if blocks else np.zeros((len(frame), 0), dtype=np.int32)

    def weights(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Weight float32 [N, L] of each feature; 0 of code 0."""
        columns = self.column_of[codes]
        weights = np.zeros(codes.shape, dtype=np.float32)
        for number in range(1, len(self.columns) + 1):
            own = columns == number
            weights += own / np.sqrt(np.maximum(own.sum(axis=1, keepdims=True), 1)).astype(np.float32)
        return weights


def fit_feature(values: pl.Series, bins: int, *, key: str) -> FeatureColumn:
    """Levels or cuts of a column of the users or items that occur in training rows.

    Raises:
        DataError: naming the column, and ``key``, the YAML key that lists it, if it holds nothing or another type.
    """
    kind = _kind(values, key)
    inner = values.explode() if kind == "strings" else values
    present = inner.drop_nulls()
    if kind == "number":
        numbers = present.cast(pl.Float64).drop_nans().to_numpy()
        if len(numbers):
            return FeatureColumn(name=values.name, kind=kind, cuts=_cuts(numbers, bins))
    elif len(present):
        names = _text(present, kind).unique().sort().to_list()
        return FeatureColumn(name=values.name, kind=kind, levels=tuple(names))
    raise DataError(f"column {values.name!r} holds only missing values in training: take it out of {key}")


def _cuts(values: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    """Cuts between bins of one width from the first to the last percentile; a bin without a value joins the one below.

    Quantiles as cuts put half of the years of ml-100k's films between 1993 and 1997 and all before 1968 together, and
    its held-out error was higher (mean square 0.812 instead of 0.809, ten bins).
    """
    low, high = np.quantile(values, [0.01, 0.99])
    cuts = np.unique(low + (high - low) * np.arange(1, bins) / bins)
    filled = np.unique(np.searchsorted(cuts, values, side="right"))  # bin 0 ends at the first cut
    return tuple(cuts[filled[1:] - 1].tolist())


def _kind(values: pl.Series, key: str) -> Literal["strings", "string", "boolean", "number"]:
    dtype = values.dtype
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, (pl.String, pl.Categorical, pl.Enum)):
        return "strings"
    if isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return "string"
    if isinstance(dtype, pl.Boolean):
        return "boolean"
    if dtype.is_numeric():
        return "number"
    raise DataError(
        f"column {values.name!r} holds {dtype}; a feature is a string, a boolean, a number or a list of strings: "
        f"take it out of {key}"
    )


def _text(values: pl.Series, kind: str) -> pl.Series:
    if kind == "boolean":
        return values.replace_strict([False, True], ["False", "True"], default=None, return_dtype=pl.String)
    return values.cast(pl.String)


def _codes(values: pl.Series, column: FeatureColumn, first: int, what: str) -> NDArray[np.int32]:
    """Codes int32 [N, L] of one column, whose first level has the code ``first``."""
    if values.dtype == pl.Null:
        return np.zeros((len(values), 1), dtype=np.int32)
    kind = _kind(values, what)
    if kind != column.kind:
        raise DataError(f"column {column.name!r} of {what} is a {kind} feature; in training it was a {column.kind} one")
    if kind == "number":
        numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        bins = np.searchsorted(np.asarray(column.cuts), numbers, side="right")
        return np.where(np.isnan(numbers), 0, bins + first).astype(np.int32)[:, None]
    numbers_of = dict[str, Any](old=list(column.levels), new=list(range(first, first + column.size)))
    if kind != "strings":
        codes = _text(values, kind).replace_strict(**numbers_of, default=0, return_dtype=pl.Int32)
        return codes.to_numpy()[:, None]
    rows = pl.DataFrame({"row": pl.arange(len(values), eager=True, dtype=pl.Int64), "code": values}).explode("code")
    rows = rows.with_columns(_text(rows["code"], kind).replace_strict(**numbers_of, default=0, return_dtype=pl.Int32))
    rows = rows.filter(pl.col("code") > 0).unique(maintain_order=True).sort("row", "code")
    place = rows.select(pl.int_range(pl.len()).over("row")).to_series().to_numpy()
    padded = np.zeros((len(values), int(place.max(initial=-1)) + 1), dtype=np.int32)
    padded[rows["row"].to_numpy(), place] = rows["code"].to_numpy()
    return padded
