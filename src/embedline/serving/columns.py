"""The columns of a request, and their values: one list for MLflow's signature, the checks and the parser of text."""

import datetime
import math
import reprlib
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl

from embedline.errors import DataError
from embedline.training.options import Options

ColumnType = Literal["string", "long", "double", "boolean", "any"]
Kind = Literal["boolean", "integer", "id", "string", "number", "date"]  # of the values that a model reads

# pandas reads these as missing, and nobody writes a number or a boolean so; in a column of text they are text.
MISSING_WORDS = ("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "null", "NULL", "None")
BOOLEAN_WORDS = {"true": True, "1": True, "false": False, "0": False}
_EXACT = 2**53  # up to here a float holds every whole number
_NOUNS: dict[ColumnType, str] = {
    "boolean": "neither true nor false",
    "double": "no number that is finite",
    "long": "no whole number of 64 bits",
}


class InputColumn(Options):
    """A column of the rows that a service takes.

    Attributes:
        type: ``any`` where pandas and JSON give one value in several types, such as 0, "0" and "a" of a holiday. A
            whole number that may be missing is a ``double``, as pandas has it.
        required: whether every request has the column; one that is not required counts as missing in all rows.
    """

    name: str
    type: ColumnType
    required: bool = True


def require_columns(rows: pd.DataFrame, columns: Sequence[InputColumn]) -> None:
    """Raise a DataError that names the required columns that ``rows`` lack, or a column that is there twice."""
    if not rows.columns.is_unique:
        raise DataError(f"the request has the column {rows.columns[rows.columns.duplicated()][0]!r} twice")
    missing = [column.name for column in columns if column.required and column.name not in rows.columns]
    if missing:
        raise DataError(f"the request has no column {listed(missing)}; it has {listed(map(str, rows.columns))}")


def listed(names: Any, *, most: int = 20, characters: int = 60) -> str:
    """Names in quotes, the first ``most`` of them; long ones are cut."""
    found = list(names)
    shown = ", ".join(repr(name[:characters]) for name in found[:most])
    return f"{shown} and {len(found) - most:,} more" if len(found) > most else shown or "none"


def parse_text(values: pl.Series, kind: ColumnType, *, source: str) -> pl.Series:
    """The values of a CSV column as the type that a service takes: one parser for files and requests.

    Args:
        values: String [N], named as the column.
        kind: of the column. Empty fields are null; so are, in numbers and booleans, the words that pandas reads as
            missing. Whole numbers may be written ``3.0`` or ``3e2``.
        source: what the rows come from, first in messages: ``the request``.

    Returns:
        String, Boolean, Float64 or Int64 [N]; UInt64 or Int64 where Float64 or Int64 could not hold the whole numbers.

    Raises:
        DataError: naming column, row and value.
    """
    if kind in ("string", "any"):
        return values.set(values == "", None) if (values == "").any() else values
    if kind == "long" and not (found := values.cast(pl.Int64, strict=False)).null_count():
        return found  # nothing but plain numbers, as in most files
    text = values.str.strip_chars()
    text = text.set(text.is_in(MISSING_WORDS), None)
    if kind == "boolean":
        found = text.str.to_lowercase().replace_strict(BOOLEAN_WORDS, default=None, return_dtype=pl.Boolean)
    else:
        found = _long(text) if kind == "long" else _double(text)
    faulty = (found.is_null() & text.is_not_null()).arg_true()
    if len(faulty):
        shown = repr(values[faulty[0]][:200])
        raise DataError(f"{source}: column {values.name!r}, row {faulty[0] + 1}: {shown} is {_NOUNS[kind]}")
    return found


def _long(text: pl.Series) -> pl.Series:
    """Whole numbers; null where the text is none."""
    found = text.cast(pl.Int64, strict=False)
    if found.null_count() == text.null_count():
        return found
    whole = text.str.replace(r"\.0*$", "")  # of 3.0, cut as text: a float would round a long one
    found = whole.cast(pl.Int64, strict=False)
    if found.null_count() > text.null_count():
        numbers = text.cast(pl.Float64, strict=False)
        is_exact = (numbers % 1 == 0) & (numbers.abs() <= _EXACT)
        found = found.fill_null(numbers.set(~is_exact, None).cast(pl.Int64, strict=False))
    if found.null_count() > text.null_count():
        unsigned = whole.cast(pl.UInt64, strict=False)
        return unsigned if unsigned.null_count() == text.null_count() else found
    return found


def _double(text: pl.Series) -> pl.Series:
    """Finite numbers, or whole numbers where floats would round them; null where the text is none."""
    found = text.cast(pl.Float64, strict=False)
    found = found.set(~found.is_finite(), None)
    if (found.abs() > _EXACT).any():
        whole = _long(text)
        return whole if whole.null_count() == text.null_count() else found
    return found


def plain_values(column: pd.Series) -> list[Any]:
    """None for any missing value; else bool, int, float, str, datetime, or what the object is.

    A column of NumPy's numbers or of text is turned as a whole, one of mixed objects value by value.
    """
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iub":
        values: list[Any] = column.tolist()
        return values
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return [None if math.isnan(value) else value for value in column.tolist()]
    return [_plain(value) for value in column.tolist()]


def typed_values(column: pd.Series, kind: Kind, *, optional: bool = True) -> list[Any]:
    """The values of a request's column as Python values of one kind, None for a missing one, if it may be ``optional``.

    Whole numbers may be floats, as pandas and JSON have them. A DataError names column and row (from 1) of a value of
    another kind.
    """
    values, (noun, holds) = plain_values(column), _KINDS[kind]
    for row, value in enumerate(values, start=1):
        if not (optional if value is None else holds(value)):
            shown = "no value" if value is None else reprlib.repr(value)  # not the whole of a long one
            raise DataError(f"the request: column {column.name!r}, row {row}: {shown} is not {noun}")
    if kind == "date":
        return [None if value is None else _as_time(value) for value in values]
    return [None if value is None else int(value) for value in values] if kind in ("integer", "id") else values


def as_text(value: Any) -> str:
    """A value as a CSV file has it: "" for a missing one, whole floats and booleans as whole numbers, days as dates."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        value = float(value)
    missing = value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def signature_of(columns: Sequence[InputColumn], answers: pd.DataFrame) -> Any:
    """``mlflow.models.ModelSignature`` of a service: ``columns`` in, and out what ``answers`` to the example have."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    specs: list[Any] = [
        # MLflow would make False of a missing boolean.
        ColSpec(
            type=AnyType() if column.type in ("any", "boolean") else column.type,
            name=column.name,
            required=column.required,
        )
        for column in columns
    ]
    return ModelSignature(inputs=Schema(specs), outputs=infer_signature(answers).inputs)


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written: JSON lets half of a surrogate pair through, and UTF-8 does not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_whole(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, bool) and value % 1 == 0


def _as_time(value: Any) -> datetime.datetime:
    """A date or time as a time without a zone: one with a zone counts by its own clock."""
    time = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(time, datetime.datetime):
        time = datetime.datetime.combine(time, datetime.time())
    return time.replace(tzinfo=None)


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime.date):  # times are dates, too
        return True
    try:
        return isinstance(value, str) and bool(datetime.datetime.fromisoformat(value))
    except ValueError:
        return False


_KINDS: dict[Kind, tuple[str, Callable[[Any], bool]]] = {
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", lambda value: _is_whole(value) and abs(value) < 2**63),
    "id": ("a whole number", _is_whole),  # of any size
    "string": ("text", _is_text),
    "number": ("a finite number", _is_number),
    "date": ("a date or time as in 2015-07-31 or 2015-07-31T18:30", _is_date),
}
