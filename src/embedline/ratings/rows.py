"""Ratings of any engine as a checked Polars frame, and the ids in them."""

import difflib
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import polars as pl

from embedline.errors import DataError
from embedline.ratings.options import RatingColumns


def to_polars(frame: Any) -> pl.DataFrame:
    """A Narwhals frame of any engine, or a frame of such an engine itself, as a Polars frame."""
    return nw.from_native(frame, eager_only=True, pass_through=False).to_polars()


def require_columns(frame: pl.DataFrame, names: Sequence[str], *, what: str, key: str) -> None:
    """Raise a DataError that names the columns of ``names`` that ``frame`` lacks, and the YAML ``key`` to mend."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], frame.columns, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        named = ", ".join(map(repr, missing))
        raise DataError(f"{what} has no column {named}, which {key} names: {hint}It has {frame.columns}")


def read_ratings(ratings: Any, columns: RatingColumns) -> pl.DataFrame:
    """The ratings as a Polars frame with all of its columns: ids as whole numbers or strings, the rating as Float32.

    Raises:
        DataError: naming the column that is missing, has a wrong type or lacks a value, with the first such row.
    """
    rows = to_polars(ratings)
    require_columns(rows, [columns.user, columns.item, columns.rating], what="the ratings frame", key="columns")
    ids = [id_column(rows, name, key) for name, key in ((columns.user, "user"), (columns.item, "item"))]
    values = rows.get_column(columns.rating)
    if not (values.dtype.is_numeric() or values.dtype.is_decimal()):
        raise DataError(f"columns.rating names {columns.rating!r}, which holds {values.dtype} and no numbers")
    numbers = values.cast(pl.Float32)
    _refuse(numbers.is_null() | ~numbers.is_finite(), columns.rating, "rating", "no number")
    return rows.with_columns(*ids, numbers)


def id_column(frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    """A column of ids without missing values: integers as they are, whole floats as Int64, categories as strings.

    Raises:
        DataError: if it lacks a value or holds something else; ``key`` is what names it under ``columns``.
    """
    values = frame.get_column(name)
    if isinstance(values.dtype, (pl.Categorical, pl.Enum)):
        values = values.cast(pl.String)
    if values.dtype.is_float():
        _refuse(values.is_null() | (values % 1 != 0) | ~values.is_finite(), name, key, "no whole number")
        values = values.cast(pl.Int64)
    if not (values.dtype.is_integer() or values.dtype == pl.String):
        raise DataError(f"columns.{key} names {name!r}, which holds {values.dtype}: ids are strings or whole numbers")
    _refuse(values.is_null(), name, key, "no value")
    return values


def _refuse(bad: pl.Series, name: str, key: str, what: str) -> None:
    count = int(bad.fill_null(True).sum())
    if count:
        first = bad.fill_null(True).arg_true()[0]
        raise DataError(f"column {name!r} (columns.{key}) has {what} in {count:,} row(s), first in row {first}")
