"""The split of a table into training rows, held-out rows, and rows to predict."""

import functools
import operator
from datetime import date, timedelta
from typing import Any

import narwhals as nw
import numpy as np

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import (
    PREDICT,
    SPLIT_COLUMN,
    TEST,
    TRAIN,
    Columns,
    Split,
    class_numbers,
    holds_classes,
    local_times,
    present,
    require_columns,
)


def assign_splits(table: nw.DataFrame[Any], columns: Columns, split: Split) -> nw.DataFrame[Any]:
    """Add the column ``split``: ``train``, ``test`` or, where a target is missing, ``predict``.

    Rows in none of them are dropped, such as those after a window with ``train: before``.

    Raises:
        DataError: if a column is missing or a split that the settings ask for is empty.
    """
    require_columns(table, columns.targets, what="the table", key="columns.target")
    require_columns(table, [split.column] if split.column else [], what="the table", key="split.column")
    labelled = functools.reduce(operator.and_, (present(table, name) for name in columns.targets))
    _check_type(table, split)
    flag = nw.generate_temporary_column_name(8, table.columns)
    if split.kind in ("folds", "none"):
        held_out, used = nw.lit(False), nw.lit(True)
    elif split.kind == "window":
        table = table.with_columns(local_times(table, str(split.column)).alias(flag))
        when = nw.col(flag).cast(nw.Date)
        held_out = (when >= split.start) & (when <= split.end)
        used = (when <= split.end) if split.train == "before" else nw.lit(True)
    elif split.kind == "column":
        held_out, used = nw.col(str(split.column)) == split.value, nw.lit(True)
    else:
        table = table.with_columns(_random_flags(table, columns, split).alias(flag))
        held_out, used = nw.col(flag), nw.lit(True)
    name_of_split = (
        nw.when(~labelled)
        .then(nw.lit(PREDICT))
        .otherwise(nw.when(held_out).then(nw.lit(TEST)).otherwise(nw.lit(TRAIN)))
    )
    rows = table.filter(~labelled | used).with_columns(name_of_split.alias(SPLIT_COLUMN))
    counts = dict(rows.group_by(SPLIT_COLUMN).agg(nw.len().alias("rows")).rows())
    for name in (TRAIN, *([] if split.kind in ("folds", "none") else [TEST])):
        if not counts.get(name):
            raise DataError(f"the split {split.model_dump(exclude_defaults=True)} leaves no labelled row to {name}")
    return rows.drop(flag, strict=False)


def backtest_windows(
    split: Split, last_day: date, windows: int, length: int, step: int, *, time: str | None = None
) -> list[Split]:
    """Windows inside the training part of a split, each to be forecast from the rows strictly before it.

    Args:
        split: where it is a window, the newest window ends on the day before it starts.
        last_day: where it is none, the day on which the newest window ends.
        windows: how many.
        length: days of a window.
        step: days from the start of one window to that of the next.
        time: column with the dates of the rows, where ``split`` is no window.

    Returns:
        The windows as splits of their own, the oldest first.

    Raises:
        ValueError: if a number is below 1, or no column has the dates.
    """
    if min(windows, length, step) < 1:
        raise ValueError(f"windows, length and step must be 1 or more, got {windows}, {length} and {step}")
    column = split.column if split.kind == "window" else time
    if column is None:
        raise ValueError(f"windows need a column of dates, and the split of the kind {split.kind!r} has none")
    newest = split.start - timedelta(days=1) if split.kind == "window" and split.start else last_day
    ends = [newest - timedelta(days=step * place) for place in reversed(range(windows))]
    return [Split(kind="window", column=column, start=end - timedelta(days=length - 1), end=end) for end in ends]


def _check_type(table: nw.DataFrame[Any], split: Split) -> None:
    """Raise a DataError if the type of the split's column does not fit its settings."""
    dtype = table.schema[split.column] if split.column else None
    times = local_times(table, str(split.column)).dtype if split.kind == "window" else None
    if split.kind == "window" and times not in (nw.Date, nw.Datetime, nw.Object):  # pandas has dates as objects
        raise DataError(f"split.column {split.column!r} has the type {dtype}; a window needs dates")
    if split.kind == "column" and dtype is not None:
        numeric, boolean = dtype.is_numeric(), dtype == nw.Boolean
        fits = {bool: boolean, int: numeric, str: not numeric and not boolean}[type(split.value)]
        if not fits:
            raise DataError(f"split.value {split.value!r} is not of the type of column {split.column!r}, {dtype}")


def _random_flags(table: nw.DataFrame[Any], columns: Columns, split: Split) -> nw.Series[Any]:
    """Whether each row is held out: a fraction of all rows, or of each class of the first target with classes."""
    drawn = np.random.default_rng(split.seed).random(len(table))
    held_out = drawn < split.fraction
    known = table.select(functools.reduce(operator.and_, (present(table, name) for name in columns.targets)))
    labelled = np.flatnonzero(known.get_column(known.columns[0]).to_numpy())
    classes = [class_numbers(table, name) for name in columns.targets if holds_classes(table, columns, name)]
    if classes and len(labelled):
        numbers = classes[0][labelled]
        order = np.lexsort((drawn[labelled], numbers))  # class by class, the rows with the smallest draws first
        counts = np.bincount(numbers)
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Rounded in sum, so that of many small classes some rows are held out, too.
        shares = np.diff(np.rint(split.fraction * np.cumsum(counts)), prepend=0.0)
        n_held_out = np.minimum(shares, np.maximum(counts - 1, 0))
        held_out[labelled[order]] = place < np.repeat(n_held_out, counts)
    for numbers in classes:  # of further targets, too, no class is held out whole
        trained = set(numbers[labelled[~held_out[labelled]]])
        for number in set(numbers[labelled]) - trained:
            rows = labelled[numbers[labelled] == number]
            held_out[rows[drawn[rows].argmax()]] = False
    return nw.new_series("held_out", held_out, nw.Boolean, backend=table.implementation)
