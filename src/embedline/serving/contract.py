"""Checks of the rows of a request: names first, then sizes and types, all before a frame is made."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from pydantic import Field

from embedline.serving.columns import InputColumn, listed, parse_text
from embedline.training.options import Options

SCALARS = frozenset({str, int, float, bool, type(None)})
SOURCE = "the request"


class RefusedError(Exception):
    """A request that is not answered: an HTTP status between 400 and 499, or 503, and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Limits(Options):
    """Bounds of a request; one beyond them is refused before it is decoded.

    Attributes:
        body: bytes of the body, and characters of the texts in it once it is decoded.
        cells: values in it, those of ignored columns included.
        text: characters of one value.
        seconds: until the whole body has to be there.
        waiting: how many times ``body`` all bodies that one process reads or answers may have together; the first
            65,536 bytes of each do not count.
    """

    body: int = Field(default=32_000_000, ge=1)
    rows: int = Field(default=100_000, ge=1)
    cells: int = Field(default=4_000_000, ge=1)
    text: int = Field(default=32_000_000, ge=1)
    seconds: float = Field(default=30.0, gt=0.0)
    waiting: float = Field(default=4.0, ge=1.0)


@dataclass(frozen=True)
class RequestContract:
    """The columns of the model and the limits of its requests; ``strict``: refuse columns that are not the model's."""

    columns: tuple[InputColumn, ...]
    limits: Limits
    strict: bool = True

    @property
    def cells(self) -> int:
        """Most values of a request."""
        own = self.limits.rows * max(1, len(self.columns))
        return min(self.limits.cells, own) if self.strict else self.limits.cells

    def check_size(self, rows: int, columns: int = 1) -> None:
        """Raise a RefusedError for more rows or more values than the limits allow."""
        if rows > self.limits.rows:
            raise RefusedError(413, f"a request may have {self.limits.rows:,} rows; this one has more")
        if rows * columns > self.cells:
            raise RefusedError(413, f"a request may have {self.cells:,} values; this one has more")

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read, in the model's order; a RefusedError names all that are missing, unknown or there twice.

        DIFF(mlflow): a column that the model does not have is refused; MLflow leaves a misspelt one out in silence.
        """
        given = set(names)
        if len(given) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise RefusedError(400, f"column {listed(twice)} is there more than once")
        known = {column.name: column for column in self.columns}
        unknown = [name for name in names if name not in known] if self.strict else []
        missing = [name for name, column in known.items() if column.required and name not in given]
        lacking = f"the request has no column {listed(missing)}"
        if unknown:
            near = _similar(unknown, [name for name in known if name not in given])
            hint = f"did you mean {listed(near)}?" if near else f"it has {listed(known)}"
            strange = f"the model has no column {listed(unknown)}: {hint}"
            both = [name for name in missing if name not in near]
            raise RefusedError(400, f"the request has no column {listed(both)}, and {strange}" if both else strange)
        if missing:
            raise RefusedError(400, f"{lacking}; it has {listed(names)}")
        return [name for name in known if name in given]

    def frame(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """The rows as a frame.

        ``values`` are lists of Python values, or ``polars.Series`` of text as a CSV has it, by column; all of one
        length.

        Raises:
            RefusedError: there are no rows; or column and row of a cell that is no single finite value, or too long a
                text.
            DataError: column and row of a text that is no value of its column.
        """
        kinds = {column.name: column.type for column in self.columns}
        columns = {}
        for name, cells in values.items():
            if isinstance(cells, pl.Series):
                found = parse_text(cells, kinds[name], source=SOURCE).to_list()
            else:
                found = list(cells)
            columns[name] = _column(name, found)
            self._check_texts(name, found)
        frame = pd.DataFrame(columns)
        if not len(frame):
            raise RefusedError(400, "the request has no rows")
        return frame

    def _check_texts(self, name: str, cells: list[Any]) -> None:
        most = self.limits.text
        if most >= self.limits.body:  # no text can be longer
            return
        row = next((row for row, value in enumerate(cells, 1) if isinstance(value, str) and len(value) > most), None)
        if row is not None:
            raise RefusedError(413, f"column {name!r}, row {row}: a text may have {most:,} characters, not more")


def _column(name: str, values: list[Any]) -> pd.Series:
    """Python values as a column; whole numbers keep their digits beside missing ones, which pandas alone would round.

    A RefusedError names column and row of a list, an object or an infinite number.
    """
    types = set(map(type, values))
    if types - SCALARS:
        row, value = next((row, value) for row, value in enumerate(values, 1) if type(value) not in SCALARS)
        kind = "object" if isinstance(value, dict) else type(value).__name__
        raise RefusedError(400, f"column {name[:200]!r} holds a {kind} in row {row}: a cell is one value")
    if float in types and any(isinstance(value, float) and math.isinf(value) for value in values):
        row = next(row for row, value in enumerate(values, 1) if isinstance(value, float) and math.isinf(value))
        raise RefusedError(400, f"{SOURCE}: column {name[:200]!r}, row {row}: an infinite number is no finite number")
    dtype: Any = object
    if types == {int}:
        dtype = np.int64 if all(-(2**63) <= value < 2**63 for value in (min(values), max(values))) else object
    elif float in types and types <= {float, type(None)}:
        dtype = np.float64
    elif types == {bool}:
        dtype = np.bool_
    return pd.Series(np.array(values, dtype=dtype), dtype=dtype, copy=False)


def _similar(unknown: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Columns of the model that are absent and may be meant by the unknown ones."""
    lowered = {name.lower(): name for name in absent}
    matches = (difflib.get_close_matches(name[:200].lower(), lowered, n=1) for name in unknown[:20])
    return list(dict.fromkeys(lowered[match[0]] for match in matches if match))
