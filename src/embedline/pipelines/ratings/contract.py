"""The frames of ratings, items and users that a user gives: checked, as Polars frames, and with ratings held out.

Rows are counted from 1, the first row below the header, in the frame as it was loaded.
"""

import difflib
import logging
from collections.abc import Sequence
from typing import Any, Literal, Self

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field, model_validator

from embedline.errors import DataError, about_frame, input_name
from embedline.frames.checks import DATE_HINT, first_row, open_frame, require_exact, require_numeric, settle_objects
from embedline.training.options import Options

logger = logging.getLogger(__name__)

TRAIN, TEST = "train", "test"
SPLIT_COLUMN = "split"  # column of the split that a row belongs to
SPLITS = pl.Enum([TRAIN, TEST])
EVENTS = "events"  # column with the number of events of a user and an item, where there are no ratings


class RatingColumns(Options):
    """Names of the columns of the ratings, and of the items.

    Attributes:
        user, item: ids, strings or whole numbers, in the ratings and in the users' and the items' frame.
        rating: a number; null for events, such as views or purchases: a row is one event.
        timestamp: time of the rating: seconds since 1970, or a date or datetime; null where there is none.
        title: name of an item in the items' frame; null where they have none.
        repeats: rows of the same user and item are refused (``error``) or become one, at the place and with the time of
            the last: with its rating (``last``), or with the ``mean`` or ``sum`` of all. Null: ``last`` of ratings, of
            events ``sum``, their number. It happens before rows are held out: no pair is in both splits.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    timestamp: str | None = "timestamp"
    title: str | None = "title"
    repeats: Literal["error", "last", "mean", "sum"] | None = None

    @property
    def value(self) -> str:
        """The column of the ratings or, of events, of their numbers."""
        return EVENTS if self.rating is None else self.rating

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [self.user, self.item, self.value, *([self.timestamp] if self.timestamp else [])]
        if len(set(names)) < len(names):
            raise ValueError(f"columns must name different columns of the ratings, got {names}")
        if SPLIT_COLUMN in names:
            raise ValueError(f"columns lists {SPLIT_COLUMN!r}, the name of the column with the split of a rating")
        return self


class RatingSplit(Options):
    """The ratings that are held out for evaluation.

    * ``random``: a ``fraction`` of the rows, drawn with ``seed``.
    * ``latest``: of each user's ratings the last ``n``, or the last ``fraction`` of them (rounded), by time; at least
      one of each user's ratings stays in training.
    * ``time``: the latest ``fraction`` of all rows, and those of the same time as the first of these.
    * ``column``: rows whose ``column`` equals ``value``.
    * ``none``: nothing is held out: the final fit.
    """

    kind: Literal["random", "latest", "time", "column", "none"]
    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    seed: int = 42
    n: int | None = Field(default=None, ge=1)
    column: str | None = None
    value: bool | int | str | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind in ("random", "time") and self.fraction is None:
            raise ValueError(f"split.kind {self.kind!r} needs a fraction, such as 0.2")
        if self.kind == "latest" and (self.n is None) == (self.fraction is None):
            raise ValueError("split.kind 'latest' needs either n, such as 1, or a fraction, such as 0.2")
        if self.kind == "column" and (self.column is None or self.value is None):
            raise ValueError("split.kind 'column' needs a column and the value of its held-out rows")
        return self


def to_polars(data: Any, needed: Sequence[str] = ()) -> pl.DataFrame:
    """A loaded frame of any backend as a Polars frame; lazy frames are collected.

    Columns that are not ``needed`` and that Polars cannot hold, such as pandas' mixed objects, are left out. What is no
    frame with named columns and rows, and a ``needed`` column that mixes kinds of values, are a DataError.
    """
    frame = open_frame(data)
    if frame.implementation.is_polars():
        settle_objects(frame, [name for name in needed if name in frame.columns])
        return frame.to_polars()
    columns = []
    for name in frame.columns:
        try:
            columns.append(frame.get_column(name).to_polars())
        except (TypeError, ValueError) as error:  # those of pyarrow and Polars are such
            if name in needed:
                settle_objects(frame, [name])  # says what is wrong with it
                raise DataError(f"column {name!r} cannot be read: {str(error).splitlines()[0]}") from error
            logger.debug("Column %r is left out: %s", name, error)
    return pl.DataFrame(columns)


def require_columns(frame: pl.DataFrame, names: Sequence[str], *, what: str, key: str) -> None:
    """Raise a DataError that names the columns of ``names`` that ``frame`` lacks, and the YAML ``key`` at fault."""
    if missing := [name for name in names if name not in frame.columns]:
        near = difflib.get_close_matches(missing[0], frame.columns, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        named = ", ".join(map(repr, missing))
        raise DataError(f"{what} has no column {named}, which {key} names: {hint}It has {frame.columns}")


def read_ratings(
    ratings: Any, columns: RatingColumns, others: Sequence[str] = (), *, warn: bool = False
) -> pl.DataFrame:
    """The ratings as a Polars frame with all of its columns: ids as whole numbers or strings, the rating as Float32.

    Several rows of the same user and item become one, as ``columns.repeats`` says; the last of them is the latest by
    ``columns.timestamp`` where the frame has that column; of equal times, and without times, the last row of the frame.
    Else a pair could be held out and train, too. Of events the column ``events`` has their number. ``others`` are
    further columns that are read, such as that of the split; ``warn``: log how many rows were left out.

    Raises:
        DataError: naming the column that is missing, has a wrong type or lacks a value, with the first such row, or the
            first repeated pair with ``columns.repeats: error``.
    """
    roles = {"user": columns.user, "item": columns.item, **({"rating": columns.rating} if columns.rating else {})}
    own = list(roles.values())
    rows = to_polars(ratings, [*own, *([columns.timestamp] if columns.timestamp else []), *others])
    for role, name in roles.items():
        require_columns(rows, [name], what="the ratings frame", key=f"columns.{role}")
    ids = [id_column(rows, name, key) for name, key in ((columns.user, "user"), (columns.item, "item"))]
    if columns.rating is None:
        numbers = pl.Series(EVENTS, np.ones(len(rows), dtype=np.float32))
    else:
        numbers = _rating_column(rows.get_column(columns.rating))
    return _without_repeats(rows.with_columns(*ids, numbers), columns, warn=warn)


def id_column(frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    """A column of ids without missing values: integers as they are, whole floats as Int64, categories as strings.

    A missing value or something else is a DataError that names ``key``, what names the column under ``columns``.
    """
    values = frame.get_column(name)
    if isinstance(values.dtype, (pl.Categorical, pl.Enum)):
        values = values.cast(pl.String)
    require_exact(nw.from_native(values, series_only=True), name, f"columns.{key}")
    if values.dtype.is_float():
        _refuse(values.is_null() | (values % 1 != 0) | ~values.is_finite(), name, key, "no whole number")
        values = values.cast(pl.Int64)
    if not (values.dtype.is_integer() or values.dtype == pl.String):
        raise DataError(f"columns.{key} names {name!r}, which holds {values.dtype}: ids are strings or whole numbers")
    _refuse(values.is_null(), name, key, "no value")
    return values


def read_described(
    frame: Any, ids: pl.Series, name: str, key: str, wanted: Sequence[str], wanted_key: str
) -> pl.DataFrame:
    """A frame of items or of users (``key``) as ``id``, of the type of ``ids``, and the ``wanted`` columns.

    ``ids`` are those of the ratings, ``name`` is the column of the ids; a DataError names the frame, and the column
    that is missing or of another type, ``wanted_key`` the YAML key of the ``wanted`` ones.
    """
    what = f"the {key}s frame"
    table = to_polars(frame, [name, *wanted])
    require_columns(table, [name], what=what, key=f"columns.{key}")
    require_columns(table, wanted, what=what, key=wanted_key)
    own = id_column(table, name, key)
    if (own.dtype == pl.String) != (ids.dtype == pl.String):
        raise DataError(f"columns.{key}: {name!r} holds {ids.dtype} in the ratings and {own.dtype} in {what}")
    return table.select(own.cast(ids.dtype).alias("id"), *(pl.col(column) for column in wanted))


def item_titles(ids: pl.Series, items: Any, columns: RatingColumns) -> pl.Series:
    """Title (String) of each id; the id itself where there is no title, no row of it, or no frame ``items`` at all."""
    names = ids.cast(pl.String).alias("title")
    if items is None or columns.title is None:
        return names
    with about_frame("items"):
        table = read_described(items, ids, columns.item, "item", [columns.title], "columns.title")
    titles = table.unique("id", keep="first").select("id", title=pl.col(columns.title).cast(pl.String))
    found = ids.alias("id").to_frame().join(titles, on="id", how="left", maintain_order="left")
    return found.select(pl.coalesce("title", names)).to_series().alias("title")


def is_time(dtype: pl.DataType) -> bool:
    """Whether values of a type are in the order of time: numbers, dates or datetimes."""
    return dtype.is_numeric() or dtype in (pl.Date, pl.Datetime)


def time_column(rows: pl.DataFrame, name: str) -> pl.Series:
    """The times of ratings: numbers, dates or datetimes, perhaps missing in rows.

    Something else is a DataError that names the column, and the row where one is at fault.
    """
    times = rows.get_column(name)
    if not is_time(times.dtype):
        hint = DATE_HINT.format(name=name)
        raise DataError(
            f"columns.timestamp names {name!r}, which holds {times.dtype}: it needs seconds, dates or datetimes: {hint}"
        )
    if times.dtype.is_float():
        _refuse(~times.is_finite().fill_null(True), name, "timestamp", "no finite number")
    return times


def _rating_column(values: pl.Series) -> pl.Series:
    """The ratings as Float32 without missing values."""
    if not (values.dtype.is_numeric() or values.dtype.is_decimal()):
        hint = "correct what is none, or have it read as numbers"
        start = f"columns.rating names {values.name!r}, which holds {values.dtype} and no numbers"
        try:
            require_numeric(nw.from_native(values, series_only=True), values.name, hint=hint)
        except DataError as error:
            raise DataError(f"{start}: {error}") from error
        raise DataError(f"{start}: {hint}")
    numbers = values.cast(pl.Float32)
    _refuse(numbers.is_null() | ~numbers.is_finite(), values.name, "rating", "no number")
    return numbers


def _without_repeats(rows: pl.DataFrame, columns: RatingColumns, *, warn: bool) -> pl.DataFrame:
    """The rows with one of each pair of user and item, by ``columns.repeats``; the order stays."""
    pairs = [columns.user, columns.item]
    # Equal pairs have equal hashes, which take a tenth of the memory that 25 million pairs do.
    hashes = rows.select(pl.struct(pairs).hash()).to_series()
    if hashes.n_unique() == len(rows):
        return rows
    places = pl.Series("row", hashes.is_duplicated()).arg_true()
    repeated = rows.select(*pairs, columns.value)[places].with_columns(row=places)
    order = ["row"]
    if columns.timestamp in rows.columns:
        repeated = repeated.with_columns(time=time_column(rows, str(columns.timestamp))[places])
        order = ["time", "row"]
    repeated = repeated.sort(order, nulls_last=False)
    last = repeated.unique(pairs, keep="last", maintain_order=True)
    replaced = places.filter(~places.is_in(last["row"].implode()))
    if not len(replaced):
        return rows
    repeats = columns.repeats or ("last" if columns.rating else "sum")
    user, item = rows.select(pairs).row(replaced[0])
    found = (
        f"{len(replaced):,} rows repeat a user and an item, such as user {user!r} and item {item!r} "
        f"(row {replaced[0] + 1})"
    )
    if repeats == "error":
        raise DataError(f"{found}: columns.repeats is error; last, mean or sum make one row of them")
    if repeats != "last":
        whole = repeated.group_by(pairs).agg(getattr(pl.col(columns.value).cast(pl.Float64), repeats)())
        last = last.drop(columns.value).join(whole, on=pairs, maintain_order="left")
        numbers = rows.get_column(columns.value).scatter(last["row"], last[columns.value].cast(pl.Float32))
        rows = rows.with_columns(numbers)
    if warn and columns.rating:  # of events it is what they are
        kept = f"the latest by {columns.timestamp!r}" if len(order) > 1 else "the last row"
        which = kept if repeats == "last" else f"the {repeats}"
        logger.warning("%s: %s: of each pair %s counts", input_name("ratings"), found, which)
    keep = pl.repeat(True, len(rows), eager=True).scatter(replaced, False)
    return rows.filter(keep)


def _refuse(bad: pl.Series, name: str, key: str, what: str) -> None:
    row = first_row(nw.from_native(bad.fill_null(True), series_only=True))
    if row is not None:
        count = int(bad.fill_null(True).sum())
        raise DataError(f"column {name!r} (columns.{key}) has {what} in {count:,} row(s), first in row {row}")


def assign_splits(ratings: Any, columns: RatingColumns, split: RatingSplit, *, warn: bool = False) -> pl.DataFrame:
    """The rows of :func:`read_ratings` with the column ``split``, ``train`` or ``test``: an Enum of one byte a row.

    Its errors, and that one of the two splits is empty, are DataErrors.
    """
    rows = read_ratings(ratings, columns, [split.column] if split.column else [], warn=warn)
    held_out = _held_out(rows, columns, split)
    wanted = {TRAIN: len(rows) - int(held_out.sum())}
    if split.kind != "none":
        wanted[TEST] = int(held_out.sum())
    for name, count in wanted.items():
        if not count:
            raise DataError(f"the split {split.model_dump(exclude_defaults=True)} leaves no rating to {name}")
    return rows.with_columns(held_out.cast(pl.UInt8).cat.to(SPLITS).alias(SPLIT_COLUMN))


def subset(rows: pl.DataFrame, split: str) -> pl.DataFrame:
    """The rows whose column ``split`` is ``split``: ``train`` or ``test``."""
    column = pl.col(SPLIT_COLUMN)
    return rows.filter((column if rows.schema[SPLIT_COLUMN] == SPLITS else column.cast(pl.String)) == split)


def _held_out(rows: pl.DataFrame, columns: RatingColumns, split: RatingSplit) -> pl.Series:
    """Whether each row is held out, Boolean [N]."""
    if split.kind == "random":
        assert split.fraction is not None  # RatingSplit saw to it
        return pl.Series(np.random.default_rng(split.seed).random(len(rows)) < split.fraction)
    if split.kind in ("latest", "time"):
        times = _times(rows, columns, split.kind)
        return _latest(rows, times, columns, split) if split.kind == "latest" else _after(times, split)
    if split.kind == "none":
        return pl.repeat(False, len(rows), eager=True)
    column, value = str(split.column), split.value
    require_columns(rows, [column], what="the ratings frame", key="split.column")
    dtype = rows.schema[column]
    text = dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum))
    if not {bool: dtype == pl.Boolean, int: dtype.is_numeric(), str: text}[type(value)]:
        raise DataError(f"split.value {value!r} is not of the type of column {column!r}, {dtype}")
    return rows.select((pl.col(column) == pl.lit(value)).fill_null(False)).to_series()


def _times(rows: pl.DataFrame, columns: RatingColumns, kind: str) -> pl.Series:
    """The time of every row; a DataError where one has none."""
    key = columns.timestamp
    if key is None:
        raise DataError(f"split.kind {kind!r} needs columns.timestamp, which is null")
    require_columns(rows, [key], what="the ratings frame", key="columns.timestamp")
    times = time_column(rows, key)
    if missing := times.null_count():
        raise DataError(
            f"split.kind {kind!r} needs a time for every rating: column {key!r} has none in {missing:,}"
            f" row(s), first in row {times.is_null().arg_true()[0] + 1}"
        )
    return times


def _latest(rows: pl.DataFrame, times: pl.Series, columns: RatingColumns, split: RatingSplit) -> pl.Series:
    """The last ratings of each user; of equal times, the lower row counts as the later one."""
    count = pl.len().over(columns.user).cast(pl.Int64)
    wanted = pl.lit(split.n) if split.n is not None else (count * split.fraction).round().cast(pl.Int64)
    place = pl.col(times.name).rank("ordinal").over(columns.user).cast(pl.Int64)  # 1 is the earliest
    return rows.select(place > count - pl.min_horizontal(wanted, count - 1)).to_series()


def _after(times: pl.Series, split: RatingSplit) -> pl.Series:
    """The rows from the time on that leaves ``split.fraction`` of them, or a few more of that very time."""
    assert split.fraction is not None  # RatingSplit saw to it
    wanted = max(1, round(split.fraction * len(times)))
    return times >= times.sort()[len(times) - wanted]
