"""Delimited text (CSV, TSV) as a frame of text cells; a fault is reported with the line of the file."""

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from embedline.errors import DataError

_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by default, and a book is longer


class _Row(NamedTuple):
    """A row: the line in which it begins, from 1; its cells; the lines that it covers, where these are several."""

    line: int
    cells: list[str]
    lines: list[str]


def read_delimited(
    text: str,
    name: str,
    *,
    separator: str = ",",
    header: bool = True,
    quoting: bool | None = None,
    hint: str = "write a quotation mark within a quoted cell twice",
) -> pl.DataFrame:
    r"""Read delimited text, every cell as text and an empty one as null. Lines end with ``\n``, ``\r\n`` or ``\r``.

    Args:
        text: the whole file; lines without any character are skipped.
        name: the file's name, for messages.
        separator: the character between two cells.
        header: whether the first line holds the names of the columns; else they are ``column_0``, ``column_1``, …
        quoting: whether a cell may stand in quotation marks (RFC 4180), so that it may hold separators and line breaks.
            None: it may, but a quoted cell of several lines is refused where each of them looks like a whole row:
            there, quotation marks are characters like any other, and rows would be merged in silence.
        hint: what to do where quotation marks do not match, for messages.

    Raises:
        DataError: the text is empty, two columns have one name, a row has more or fewer cells than the first one, or
            quotation marks do not match. The message names the file and the line.
    """
    kind = "tsv" if separator == "\t" else "csv"
    rows: list[_Row] = []
    try:
        for row in _rows(text, separator, quoting, hint):
            rows.append(row)
            if len(row.cells) != len(rows[0].cells):
                more = "more" if len(row.cells) > len(rows[0].cells) else "fewer"
                raise DataError(
                    f"found {more} fields in line {row.line} than in line {rows[0].line}, {len(row.cells)} instead of "
                    f"{len(rows[0].cells)} (between two stands {separator!r})"
                )
        if not rows:
            raise DataError("empty CSV, without a line of text")
        if quoting is None:
            _refuse_merged(rows, separator, hint)
    except DataError as error:
        raise DataError(f"{name} cannot be read as {kind}: {error}") from error.__cause__
    names = rows[0].cells if header else [f"column_{k}" for k in range(len(rows[0].cells))]
    if repeated := [one for one in dict.fromkeys(names) if names.count(one) > 1]:
        raise DataError(f"{name}, line {rows[0].line}: the column {', '.join(map(repr, repeated))} stands there twice")
    cells = [row.cells for row in (rows[1:] if header else rows)]
    frame = pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient="row")
    return frame.select(pl.when(pl.col(one) != "").then(pl.col(one)).alias(one) for one in names)


def _rows(text: str, separator: str, quoting: bool | None, hint: str) -> Iterator[_Row]:
    """The rows one by one; blank lines are left out."""
    csv.field_size_limit(_LONGEST_CELL)
    lines: list[str] = []  # of the row that is being read

    def noted() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(
        noted(), delimiter=separator, quoting=csv.QUOTE_NONE if quoting is False else csv.QUOTE_MINIMAL, strict=True
    )
    start = 1
    try:
        for cells in reader:
            if cells:
                yield _Row(start, cells, lines.copy() if len(lines) > 1 else [])
            lines.clear()
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the row that begins in line {start} has a quotation mark that does not match ({error}, line "
            f"{reader.line_num}); {hint}"
        ) from error


def _refuse_merged(rows: list[_Row], separator: str, hint: str) -> None:
    """Raise a DataError for the first row of several lines each of which looks like a row of its own.

    Each line has as many separators as a row, and, unless these are tabs (rare in a text), one of its cells, such as
    the label, has a value that another row has in this column.
    """
    width = len(rows[0].cells)
    for row in rows:
        if not row.lines or width == 1 or any(line.count(separator) != width - 1 for line in row.lines):
            continue
        columns = zip(*(line.rstrip("\r\n").split(separator) for line in row.lines), strict=True)
        others = zip(*(other.cells for other in rows if not other.lines), strict=True)
        if separator == "\t" or any(set(ours) <= set(theirs) for ours, theirs in zip(columns, others, strict=False)):
            raise DataError(
                f"a quotation mark in line {row.line} begins a cell of {len(row.lines)} lines, and each of them looks "
                f"like a row of its own; {hint}"
            )
