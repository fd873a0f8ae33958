"""The files of a MovieLens release in any of its layouts, and the ratings in them."""

from __future__ import annotations

import csv
import io
import logging
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from embedline.archive import check_sha256, files_frame, first_names, select_members
from embedline.errors import DataError

logger = logging.getLogger(__name__)

FOLD_FILES = tuple(f"u{fold}.test" for fold in range(1, 6))
UNKNOWN_GENRE = "unknown"
GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)  # of ml-100k, in the order of its flags, without the first flag, ``unknown``
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

RATINGS_SCHEMA = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64, "fold": pl.Int8}


@dataclass(frozen=True)
class Layout:
    """The names of a release's files. Only these distinguish the layouts: the archive may have any name."""

    ratings: str
    items: str
    others: tuple[str, ...] = ()  # read where they are there

    @property
    def files(self) -> tuple[str, ...]:
        """All that is read."""
        return (self.ratings, self.items, *self.others)


# ml-100k: tabs, no header, genres as flags, the five canonical folds.
ML_100K = Layout("u.data", "u.item", ("u.genre", "u.user", *FOLD_FILES))
# ml-1m and ml-10m: ``::`` between the fields, no header.
COLONS = Layout("ratings.dat", "movies.dat", ("users.dat",))
# Every newer release (ml-20m, ml-25m, ml-32m, ml-latest, ml-latest-small): CSV with a header, UTF-8.
CSV = Layout("ratings.csv", "movies.csv")
LAYOUTS = (ML_100K, COLONS, CSV)
_RATINGS_FILES = ", ".join(layout.ratings for layout in LAYOUTS)

ORIGINAL_SHA256 = {  # MovieLens 100k
    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
}
_BOM = b"\xef\xbb\xbf"
_COLUMNS = ("user", "item", "rating", "timestamp")
_CSV_COLUMNS = {"userId": "user", "movieId": "item", "rating": "rating", "timestamp": "timestamp"}
WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_files(source: str, *, verify: bool = True) -> pl.DataFrame:
    """Return the files of a release: ``path``, their names without folders, and ``content``; sorted by path.

    ``source`` is an archive or folder, see `embedline.archive.iter_members`, with the files of one of `LAYOUTS` at the
    top or in a sub-folder; ``verify`` compares ``u.data`` and ``u.item`` with the sha256 of MovieLens 100k.

    Raises:
        DataError: the source cannot be read, lacks a file, holds the ratings more than once, or fails the comparison;
            names the file.
    """
    by_name = {layout.ratings: layout for layout in LAYOUTS}
    wanted = {name for layout in LAYOUTS for name in layout.files}

    def is_wanted(member: str) -> bool:
        return posixpath.basename(member) in wanted and "__MACOSX" not in member

    members, held = select_members(source, is_wanted)
    ratings = [member for member in members if posixpath.basename(member) in by_name]
    if not ratings:
        raise DataError(f"{source} holds no ratings ({_RATINGS_FILES}); it holds {held}")
    depth = min(member.count("/") for member in ratings)
    highest = sorted(member for member in ratings if member.count("/") == depth)
    if len(highest) > 1:
        raise DataError(f"{source} holds ratings more than once: {', '.join(highest)}")
    folder, name = posixpath.split(highest[0])
    layout = by_name[name]
    paths = {file: posixpath.join(folder, file) for file in layout.files}
    if paths[layout.items] not in members:
        raise DataError(f"{source} has no {paths[layout.items]}, the items of {highest[0]}")
    files = {file: members[path] for file, path in paths.items() if path in members}
    for name, expected in ORIGINAL_SHA256.items() if verify else ():
        if name not in files:
            raise DataError(
                f"{source} is not MovieLens 100k: it has no {name}; for another release, turn the check off "
                "(verify: false)"
            )
        check_sha256(name, files[name], expected, source=source, whose="MovieLens 100k's")
    return files_frame(files)


def layout_of(raw: pl.DataFrame) -> Layout:
    """Return the layout of the files of `read_files`."""
    paths = sorted(raw["path"])
    for layout in LAYOUTS:
        if layout.ratings in paths:
            return layout
    raise DataError(f"the raw files hold no ratings ({_RATINGS_FILES}); they are {first_names(paths) or 'none'}")


def content_of(raw: pl.DataFrame, name: str) -> bytes | None:
    """Return the content of a file, None where there is no such file."""
    found = raw.filter(pl.col("path") == name)["content"]
    return found[0] if len(found) else None


# Ratings


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
    """Read the ratings of any layout, with the canonical folds of ml-100k.

    Of several ratings of an item by one user the latest stays (of equal times, the lower line), and the number of the
    others is logged. MovieLens has no such pairs, one's own logs do.

    Returns:
        A row a rating, in the order of the file: ``user: Int32``, ``item: Int32``, ``rating: Float32``, ``timestamp:
        Int64`` (seconds since 1970 UTC; null where the file has no such column) and ``fold: Int8``, the number of the
        ``u1.test`` … ``u5.test`` of ml-100k that holds the rating, null without such files.

    Raises:
        DataError: a line has another number of fields, a value is missing or no number, the header lacks a column, or
            the folds do not hold each rating once; names file, line and value.
    """
    layout = layout_of(raw)
    name = layout.ratings
    data = content_of(raw, name) or b""
    form = _csv_format(data, name) if layout == CSV else _Format("::" if layout == COLONS else "\t")
    table = _latest(_parse(data, name, form), name)
    folds = {file: content for file in FOLD_FILES if (content := content_of(raw, file)) is not None}
    return _with_folds(table, folds, name) if folds else table.with_columns(fold=pl.lit(None, pl.Int8))


def _csv_format(data: bytes, name: str) -> _Format:
    line = data[: data.find(b"\n") if b"\n" in data else len(data)].removeprefix(_BOM).rstrip(b"\r")
    text = line.decode("utf-8", errors="replace")
    header = tuple(next(csv.reader([text]), []))
    shown = f"its first line is {text if len(text) <= 80 else text[:79] + '…'!r}"
    require_columns([column for column in _CSV_COLUMNS if column != "timestamp"], header, name, shown)
    if len(set(header)) < len(header):
        raise DataError(f"{name} names a column twice: {shown}")
    return _Format(",", header, tuple(_CSV_COLUMNS.get(column, f"other {column}") for column in header))


def _parse(data: bytes, name: str, form: _Format) -> pl.DataFrame:
    """Return the four columns of a file; one typed read, and a look at each line only where that fails."""
    schema = form.polars_schema
    present = [column for column in _COLUMNS if column in schema]
    start, skipped = (data.find(b"\n") + 1, 1) if form.header else (0, 0)
    text = data
    if data[start : start + 1] in (b"\n", b"\r"):  # Polars takes the first line for the number of fields
        text, skipped = data[start:].lstrip(b"\r\n"), 0
    quote = '"' if form.header else None
    options = {"has_header": False, "skip_rows": skipped, "schema": schema, "quote_char": quote}
    try:
        table = pl.read_csv(text, separator=form.separator[0], **options)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        _raise_first_fault(data, name, form)
        raise DataError(f"{name}: {str(error).splitlines()[0]}") from error
    sound = pl.all_horizontal(
        *(pl.col(column).null_count() == 0 for column in present),
        pl.col("rating").is_finite().all(),
        *(pl.col(column).null_count() == pl.len() for column in schema if column.startswith("colon ")),
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
    keys = table.select(key=pl.col("user").cast(pl.Int64) * 2**32 + pl.col("item"))["key"]
    # The newer releases are sorted by user and item: then one comparison shows that no pair comes twice.
    if (keys.diff().slice(1) > 0).all() or keys.n_unique() == len(table):
        return table
    in_time = table.with_row_index("row").sort("timestamp", "row")
    latest = in_time.unique(["user", "item"], keep="last").sort("row").drop("row")
    dropped = f"{len(table) - len(latest):,}"
    logger.warning("%s: %s ratings were left out for a later one of the same user and item", name, dropped)
    return latest


def _with_folds(table: pl.DataFrame, files: Mapping[str, bytes], name: str) -> pl.DataFrame:
    """Add the column ``fold``; raise `DataError` unless the files share all ratings out among them."""
    if missing := [file for file in FOLD_FILES if file not in files]:
        raise DataError(f"{', '.join(files)} are there, but no {', '.join(missing)}: the folds are five or none")
    folds = pl.concat(
        _parse(files[file], file, _Format("\t"))
        .select("user", "item", fold=pl.lit(fold, pl.Int8))
        .with_row_index("line", offset=1)
        for fold, file in enumerate(FOLD_FILES, start=1)
    )
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
    lines = csv_lines(data) if form.header else split_lines(data, form.separator)
    for line, fields in islice(lines, 1 if form.header else 0, None):
        where = f"{name}, line {line}"
        require_fields(fields, form.header or form.columns, where)
        for place, column in enumerate(form.columns):
            if column in _COLUMNS and (fault := _fault(column, fields[place])):
                raise DataError(f"{where}: {form.header[place] if form.header else column} {fault}")


def _fault(column: str, value: str) -> str | None:
    """Return what is wrong with a value, None where nothing is. Like Polars, it overlooks blanks before a number."""
    value = value.lstrip(" ")
    if not value:
        return "is missing"
    if column == "rating":
        is_number = _NUMBER.fullmatch(value) and math.isfinite(float(value))
        return None if is_number else f"is {value!r}, not a finite number"
    if not WHOLE.fullmatch(value):
        return f"is {value!r}, not a whole number"
    limit = 2**63 if column == "timestamp" else 2**31
    return None if -limit <= int(value) < limit else f"is {value!r}, not between {-limit} and {limit - 1}"


# Lines


def split_lines(data: bytes, separator: str, encoding: str = "utf-8-sig") -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each line that is not blank, with its number from 1."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding, errors="replace"), start=1):
        if line.strip():
            yield number, line.removesuffix("\n").split(separator)


def csv_lines(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row of a CSV that is not blank, with the number of its last line from 1."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", errors="replace", newline=""))
    return ((reader.line_num, fields) for fields in reader if fields)


def require_columns(columns: Iterable[str], header: Sequence[str], name: str, shown: str) -> None:
    """Raise a DataError that names the columns which the header lacks, and what it is."""
    if missing := [column for column in columns if column not in header]:
        what = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{name} lacks {what} {', '.join(missing)}; {shown}")


def require_fields(fields: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise a DataError where a line has more or fewer fields than wanted."""
    if len(fields) != len(wanted):
        raise DataError(f"{where}: {len(fields)} fields instead of {len(wanted)} ({', '.join(wanted)})")
