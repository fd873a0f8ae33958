"""The values of a request's column as plain Python values, however pandas holds them."""

import datetime
import math
from typing import Any

import numpy as np
import pandas as pd


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


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written: JSON lets half of a surrogate pair through, and UTF-8 does not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    missing = value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    return None if missing else value
