"""The ratings of every MovieLens layout as one frame, with the canonical folds of ml-100k."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from embedline.errors import DataError
from embedline.sources.movielens_files import COLONS, CSV, FOLD_FILES, content_of, layout_of

logger = logging.getLogger(__name__)

RATINGS_SCHEMA = {
    "user": pl.Int32,
    "item": pl.Int32,
    "rating": pl.Float32,
    "timestamp": pl.Int64,
    "fold": pl.Int8,
}
_BOM = b"\xef\xbb\xbf"
_COLUMNS = ("user", "item", "rating", "timestamp")
_HEADER = {"userId": "user", "movieId": "item", "rating": "rating", "timestamp": "timestamp"}
_LIMITS = {"user": 2**31, "item": 2**31, "timestamp": 2**63}
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class _Format:
    """The format of a file of ratings: separator, header and columns."""

    separator: str
    header: tuple[str, ...] = ()  # of the file, empty where it has none
    columns: tuple[str, ...] = _COLUMNS  # the fields, in order; others have the names of the header

    @property
    def polars_schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """The columns with their types; with ``::``, Polars sees an empty column between two colons."""
        schema: dict[str, pl.DataType | type[pl.DataType]] = {}
        for place, column in enumerate(self.columns):
            if self.separator == "::" and place:
                schema[f"colon {place}"] = pl.String
            schema[column] = RATINGS_SCHEMA.get(column, pl.String)
        return schema


def read_ratings(raw: pl.DataFrame) -> pl.DataFrame:
    """Read the ratings of any MovieLens layout.

    A user who rated an item more than once is taken at the last word: the rating with the latest time (of equal times,
    the lower line) stays, and the number of the others is logged. MovieLens has no such pairs, one's own logs do.

    Args:
        raw: the files, from `embedline.sources.movielens_files.acquire_files`.

    Returns:
        A row a rating, in the order of the file: ``user: Int32``, ``item: Int32``, ``rating: Float32``, ``timestamp:
        Int64`` (seconds since 1970 UTC; null where the file has no such column) and ``fold: Int8``, the number of the
        ``u1.test`` … ``u5.test`` of ml-100k that holds the rating, null without such files.

    Raises:
        DataError: a line has another number of fields, a value is missing or no number, the header lacks a column, or
            the folds do not hold each rating once; the message names file, line and value.
    """
    layout = layout_of(raw)
    name = layout.ratings
    data = content_of(raw, name)
    assert data is not None  # layout_of has found it
    table = _parse(data, name, _format_of(data, name, "::" if layout == COLONS else "," if layout == CSV else "\t"))
    table = _latest(table, name)
    folds = {file: content for file in FOLD_FILES if (content := content_of(raw, file)) is not None}
    if not folds:
        return table.with_columns(fold=pl.lit(None, pl.Int8))
    return _with_folds(table, folds, name)


def _format_of(data: bytes, name: str, separator: str) -> _Format:
    """Return the format of a file; raise `DataError` where the header lacks a column."""
    if separator != ",":
        return _Format(separator)
    line = data[: data.find(b"\n") if b"\n" in data else len(data)].removeprefix(_BOM).rstrip(b"\r")
    header = tuple(next(csv.reader([line.decode("utf-8", errors="replace")]), []))
    missing = [column for column in _HEADER if column not in header and column != "timestamp"]
    if missing:
        columns = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{name} lacks {columns} {', '.join(missing)}; its first line is {_shown(line)}")
    if len(set(header)) < len(header):
        raise DataError(f"{name} names a column twice: its first line is {_shown(line)}")
    columns_ = tuple(_HEADER.get(column, f"other {column}") for column in header)
    return _Format(separator, header, columns_)


def _parse(data: bytes, name: str, form: _Format) -> pl.DataFrame:
    """Return the four columns of a file; one typed read, and a look at each line only where that fails."""
    schema = form.polars_schema
    present = [column for column in _COLUMNS if column in schema]
    start = data.find(b"\n") + 1 if form.header else 0
    skipped = 1 if form.header else 0
    text = data
    if data[start : start + 1] in (b"\n", b"\r"):  # Polars takes the first line for the number of fields
        text, skipped = data[start:].lstrip(b"\r\n"), 0
    try:
        table = pl.read_csv(
            text,
            separator=form.separator[0],
            has_header=False,
            skip_rows=skipped,
            schema=schema,
            quote_char='"' if form.header else None,
        )
    except pl.exceptions.PolarsError as error:
        _raise_first_fault(data, name, form)
        raise DataError(f"{name}: {str(error).splitlines()[0]}") from error
    colons = [column for column in schema if column.startswith("colon ")]
    sound = pl.all_horizontal(
        *(pl.col(column).null_count() == 0 for column in present),
        pl.col("rating").is_finite().all(),
        *(pl.col(column).null_count() == pl.len() for column in colons),
    )
    if not table.select(sound).item():
        _raise_first_fault(data, name, form)
        table = table.filter(pl.col("user").is_not_null())  # no fault: blank lines, which Polars reads as nulls
    if table.is_empty():
        raise DataError(f"{name} holds no ratings")
    if "timestamp" not in present:
        table = table.with_columns(timestamp=pl.lit(None, pl.Int64))
    return table.select(_COLUMNS)


def _latest(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the table with the latest rating of each user and item, in its order."""
    key = pl.col("user").cast(pl.Int64) * 2**32 + pl.col("item")
    keys = table.select(key.alias("key"))["key"]
    # The newer releases are sorted by user and item: then one comparison shows that no pair comes twice.
    if (keys.diff().slice(1) > 0).all() or keys.n_unique() == len(table):
        return table
    order = ["timestamp", "row"]
    latest = table.with_row_index("row").sort(order).unique(["user", "item"], keep="last").sort("row").drop("row")
    dropped = f"{len(table) - len(latest):,}"
    logger.warning("%s: %s ratings were left out for a later one of the same user and item", name, dropped)
    return latest


def _with_folds(table: pl.DataFrame, files: Mapping[str, bytes], name: str) -> pl.DataFrame:
    """Add the column ``fold``; raise `DataError` unless the files share all ratings out among them."""
    missing = [file for file in FOLD_FILES if file not in files]
    if missing:
        raise DataError(f"{', '.join(files)} are there, but no {', '.join(missing)}: the folds are five or none")
    parts = []
    for fold, file in enumerate(FOLD_FILES, start=1):
        part = _parse(files[file], file, _Format("\t")).select("user", "item")
        parts.append(part.with_columns(fold=pl.lit(fold, pl.Int8)).with_row_index("line", offset=1))
    folds = pl.concat(parts)
    twice = folds.filter(pl.struct("user", "item").is_duplicated()).sort("user", "item", "fold").head(2)
    if len(twice):
        (line, user, item, fold), (_, _, _, other) = twice.rows()
        raise DataError(f"u{fold}.test, line {line}: user {user}, item {item} stands in u{other}.test too")
    unknown = folds.join(table, on=["user", "item"], how="anti").head(1)
    if len(unknown):
        line, user, item, fold = unknown.row(0)
        raise DataError(f"u{fold}.test, line {line}: user {user}, item {item} has no rating in {name}")
    joined = table.join(folds.drop("line"), on=["user", "item"], how="left", maintain_order="left")
    left_out = joined.filter(pl.col("fold").is_null())
    if len(left_out):
        user, item = left_out.row(0)[:2]
        raise DataError(f"{name}: the rating of user {user}, item {item} is in none of {', '.join(FOLD_FILES)}")
    return joined


def _raise_first_fault(data: bytes, name: str, form: _Format) -> None:
    """Look at a file line by line and raise the `DataError` of the first fault; return where there is none."""
    for line, fields in _lines(data, form):
        where = f"{name}, line {line}"
        if len(fields) != len(form.columns):
            wanted = form.header or form.columns
            raise DataError(f"{where}: {len(fields)} fields instead of {len(wanted)} ({', '.join(wanted)})")
        for place, column in enumerate(form.columns):
            if column in _COLUMNS and (fault := _fault(column, fields[place])):
                raise DataError(f"{where}: {form.header[place] if form.header else column} {fault}")


def _lines(data: bytes, form: _Format) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the fields of each line that is not blank, with its number from 1; not the header."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="replace", newline="")
    if form.header:
        reader = csv.reader(text)
        next(reader)
        for fields in reader:
            if fields:
                yield reader.line_num, fields
        return
    for number, line in enumerate(text, start=1):
        if line.strip("\r\n"):
            yield number, line.strip("\r\n").split(form.separator)


def _fault(column: str, value: str) -> str | None:
    """Return what is wrong with a value, None where nothing is. Like Polars, it overlooks blanks before a number."""
    value = value.lstrip(" ")
    if not value:
        return "is missing"
    if column == "rating":
        is_number = _NUMBER.fullmatch(value) and math.isfinite(float(value))
        return None if is_number else f"is {value!r}, not a finite number"
    if not _WHOLE.fullmatch(value):
        return f"is {value!r}, not a whole number"
    limit = _LIMITS[column]
    return None if -limit <= int(value) < limit else f"is {value!r}, not between {-limit} and {limit - 1}"


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace")
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
