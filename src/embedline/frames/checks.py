"""Open the frames that users give to the learners, and check their columns.

Rows are counted from 1, the first row below the header, in the frame as it was loaded.
"""

import math
from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np

from embedline.errors import DataError

PANDAS_MISSING = ("NAType", "NaTType")
SHOWN = 40  # characters of a value in a message
LARGEST_INTEGER = 2**63 - 1
LARGEST_NUMBER = float(np.finfo(np.float32).max)  # networks compute in single precision
# From this size on a float is not exact for whole numbers: 76561197960287931 reads back as ...932.
INEXACT: dict[type[nw.dtypes.DType], int] = {nw.Float64: 2**53, nw.Float32: 2**24}
DATE_HINT = "have it read as dates: parse_dates: [{name}] (pandas) or try_parse_dates: true (Polars) in load_args"
TEXT_HINT = "have it read as text, dtype: {{{name}: str}} in load_args (pandas), or store it as text"


def open_frame(data: Any) -> nw.DataFrame[Any]:
    """A loaded frame of any backend as an eager frame: pandas stays pandas, all others become Polars.

    Named levels of a pandas index become columns; other levels are dropped. What is no frame, cannot be read, has no
    rows, or columns with no or repeated names, is a DataError.
    """
    data = nw.to_native(data, pass_through=True)
    if nw.dependencies.is_pandas_dataframe(data):
        data = _without_index(data)
    try:
        frame = nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"a frame is needed, and this is a {type(data).__name__}: take a dataset type that loads a frame"
        ) from error
    except nw.exceptions.DuplicateError as error:
        names = list(data.column_names if hasattr(data, "column_names") else data.columns)  # Arrow or pandas
        repeated = sorted({str(name) for name in names if names.count(name) > 1})
        raise DataError(f"column {', '.join(map(repr, repeated))} occurs more than once: rename one") from error
    if isinstance(frame, nw.LazyFrame):
        frame = _collect(frame)
    elif not (frame.implementation.is_pandas_like() or frame.implementation.is_polars()):
        frame = nw.from_native(frame.to_polars(), eager_only=True)
    if unnamed := [name for name in frame.columns if not isinstance(name, str)]:
        raise DataError(
            f"the columns are {', '.join(map(repr, unnamed[:5]))}{', …' if len(unnamed) > 5 else ''}, which are no "
            "names: header: 0 in load_args where the file has a header, or names: [first, second, …]"
        )
    if frame.is_empty():
        raise DataError("there are no rows")
    return frame


def settle_objects(frame: nw.DataFrame[Any], names: Iterable[str]) -> nw.DataFrame[Any]:
    """Convert the columns of Python objects among ``names`` (pandas) to columns of numbers, dates or texts.

    A column that mixes kinds of values, or holds lists, bytes or the like, is a DataError that names column and row.
    """
    settled = {}
    for name in dict.fromkeys(names):
        values = frame.get_column(name).to_native()
        if frame.implementation.is_pandas_like() and values.dtype == object:
            settled[name] = _settled(values, name)
        elif frame.schema[name] == nw.Object and not frame.implementation.is_pandas_like():
            raise DataError(_mixed(name, frame.get_column(name).to_list()))
    return nw.from_native(frame.to_native().assign(**settled), eager_only=True) if settled else frame


def require_exact(values: nw.Series[Any], name: str, use: str) -> None:
    """Raise a DataError that names column and row if whole numbers that identify something are not exact.

    These are floats from 2**53 on (2**24 in single precision), and integers beyond 64 bits with a sign; ``values`` of
    other types pass. ``use`` is the role of the column for the message, such as ``columns.categorical``.
    """
    dtype = values.dtype
    if dtype.is_float():
        limit = INEXACT.get(type(dtype), 2**11)
        if (row := first_row((values.abs() >= limit) & ~values.is_nan())) is not None:
            value = values[row - 1]
            if value in (float("inf"), float("-inf")):
                raise DataError(f"column {name!r} ({use}) holds an infinite value at row {row}")
            raise DataError(
                f"column {name!r} ({use}) holds {value:.0f} at row {row} as a {dtype}, which cannot tell such whole "
                f"numbers apart: dtype: {{{name}: str}} or {{{name}: Int64}} in load_args (pandas), or store it as text"
            )
    elif dtype in (nw.UInt64, nw.UInt128, nw.Int128) and (row := first_row(values > LARGEST_INTEGER)) is not None:
        hint = TEXT_HINT.format(name=name)
        raise DataError(f"column {name!r} ({use}) holds {values[row - 1]} at row {row}, more than 2**63 - 1: {hint}")


def require_finite(values: nw.Series[Any], name: str) -> None:
    """Raise a DataError that names column and row of the first number that is infinite or exceeds float32."""
    if values.dtype.is_float() and (row := first_row((values.abs() > LARGEST_NUMBER) & ~values.is_nan())) is not None:
        value = values[row - 1]
        what = "an infinite value" if value in (float("inf"), float("-inf")) else f"{value:g}, which is too large,"
        raise DataError(f"column {name!r} holds {what} at row {row}: correct it, or leave the cell empty")


def require_numeric(values: nw.Series[Any], name: str, *, hint: str) -> None:
    """Raise a DataError with a ``hint`` that names the first row without a number if the values are not numbers."""
    dtype = values.dtype
    if dtype.is_numeric() or dtype == nw.Boolean or values.null_count() == len(values):
        return
    shown = dtype if dtype != nw.Unknown else values.to_native().dtype
    where = ""
    if dtype == nw.String and (odd := [row for row, value in enumerate(values.to_list()) if not is_number(value)]):
        where = f"; row {odd[0] + 1} holds {short(values[odd[0]])}"
    raise DataError(f"column {name!r} has the type {shown} where numbers are needed: {hint}{where}")


def require_text(values: nw.Series[Any], name: str) -> None:
    """Raise a DataError that names the column if the values of one of ``columns.text`` are no strings; null may be."""
    if not is_string(values.dtype) and values.null_count() < len(values):
        raise DataError(
            f"column {name!r} (columns.text) has the type {values.dtype}, no text: list it under another role, or "
            + TEXT_HINT.format(name=name)
        )


def is_string(dtype: nw.dtypes.DType) -> bool:
    """Whether a type is one of strings: plain ones or categories."""
    return dtype in (nw.String, nw.Categorical, nw.Enum) or isinstance(dtype, nw.Enum)


def as_float(table: nw.DataFrame[Any], name: str, *, hint: str) -> nw.Expr:
    """Column ``name`` as Float64 with null for NaN; errors as those of :func:`require_numeric`."""
    require_numeric(table.get_column(name), name, hint=hint)
    number = nw.col(name).cast(nw.Float64)
    return nw.when(~number.is_nan()).then(number).alias(name) if table.schema[name].is_float() else number


def first_row(faulty: nw.Series[Any]) -> int | None:
    """Row, counted from 1, of the first true value of a boolean series; None without one."""
    flags = faulty.fill_null(False)
    return int(flags.to_numpy().argmax()) + 1 if flags.any() else None


def short(value: Any) -> str:
    """A value as text for a message, cut to :data:`SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _without_index(data: Any) -> Any:
    """A pandas frame whose named index levels have become columns."""
    if data.columns.nlevels > 1:
        raise DataError(
            f"the columns have names of {data.columns.nlevels} levels, such as {data.columns[0]!r}: one row of names "
            "is needed (header: 0 in load_args)"
        )
    named = [name for name in data.index.names if isinstance(name, str) and name not in data.columns]
    if data.index.nlevels == 1 and not named:
        return data
    return data.reset_index(level=named).reset_index(drop=True) if named else data.reset_index(drop=True)


def _collect(lazy: nw.LazyFrame[Any]) -> nw.DataFrame[Any]:
    try:
        return lazy.collect(backend="polars")
    except Exception as error:  # a lazy frame opens its file here, and each backend has its own errors
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"the lazy frame cannot be read: {reason.splitlines()[0]}") from error


def _settled(values: Any, name: str) -> Any:
    """A pandas column of objects as a column of their common type."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(values, skipna=True)
    try:
        if kind == "integer":
            return values.astype("Int64")
        if kind in ("floating", "decimal", "mixed-integer-float"):
            return values.astype("float64")
        if kind in ("datetime", "datetime64"):
            return pd.to_datetime(values)
    except (OverflowError, ValueError, TypeError) as error:
        hint = "store all its times in one time zone" if kind.startswith("datetime") else TEXT_HINT.format(name=name)
        raise DataError(f"column {name!r} ({kind} values): {str(error).splitlines()[0]}: {hint}") from error
    if kind not in ("string", "boolean", "date", "empty"):
        raise DataError(_mixed(name, values.tolist()))
    return values


def _mixed(name: str, values: list[Any]) -> str:
    """Message about a column of objects: its first value, and the first of another type."""
    kinds = [(row, value) for row, value in enumerate(values, start=1) if not _is_missing(value)]
    (row, value), *_ = kinds
    other = next(((k, each) for k, each in kinds if type(each) is not type(value)), None)
    if other is None:
        kind = type(value).__name__
        return f"column {name!r} holds values of the type {kind} (row {row}), which are no numbers, texts or dates"
    return (
        f"column {name!r} mixes kinds of values: {short(value)} at row {row}, {short(other[1])} at row {other[0]}: "
        + TEXT_HINT.format(name=name)
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in PANDAS_MISSING


def is_number(value: Any) -> bool:
    """Whether a value is missing or a text that reads as a number."""
    if _is_missing(value):
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True
