"""The films of every MovieLens layout as one frame."""

from __future__ import annotations

import csv
import datetime as dt
import io
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from embedline.errors import DataError
from embedline.sources.movielens_files import COLONS, CSV, content_of, layout_of
from embedline.sources.movielens_titles import GENRES, MONTHS

logger = logging.getLogger(__name__)

ITEMS_SCHEMA: dict[str, pl.DataType] = {
    "item": pl.Int32(),
    "title": pl.String(),
    "genres": pl.List(pl.String),
    "year": pl.Int16(),
    "released": pl.Date(),
}
NO_GENRES = "(no genres listed)"
UNKNOWN_GENRE = "unknown"

_HEADER = ("movieId", "title", "genres")
_LATIN_FIELDS = 5  # of u.item before the flags: item, title, release date, date on video, address
_YEAR = re.compile(r"\((\d{4})(?:[-\u2013]\d{0,4} ?)?\)")
_DATE = re.compile(rf"(\d\d?)-({'|'.join(MONTHS)})-(\d{{4}})")


class _Item(NamedTuple):
    item: int
    title: str
    genres: list[str]
    year: int | None
    released: dt.date | None


def read_items(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the films of any MovieLens layout.

    Text is UTF-8, or latin-1 in the older layouts where it is not valid UTF-8. A film that somebody rated but that the
    file lacks is added with its id for a title; the number of these is logged.

    Args:
        raw: the files, from `embedline.sources.movielens_files.acquire_files`.
        ratings: from `embedline.sources.movielens_ratings.read_ratings`; its column ``item`` is looked at.

    Returns:
        A row a film, in the order of the file: ``item: Int32``; ``title: String``, with the year, as it stands there;
        ``genres: List(String)``, empty for ``(no genres listed)`` and for the flag ``unknown``; ``year: Int16``, the
        last one in parentheses in the title, else that of the release, else null; ``released: Date``, of ml-100k only.

    Raises:
        DataError: a line has another number of fields, an id, flag or date is none, a film comes twice, or the header
            lacks a column; the message names file, line and value.
    """
    layout = layout_of(raw)
    name = layout.items
    data = content_of(raw, name)
    if data is None:
        raise DataError(f"the raw files have no {name}, the items of {layout.ratings}")
    if layout == CSV:
        rows = _csv_items(_utf8(data, name), name)
    elif layout == COLONS:
        rows = _colon_items(_decoded(data), name)
    else:
        rows = _flag_items(_decoded(data), name, _genre_names(content_of(raw, "u.genre")))
    lines: dict[int, int] = {}
    items = []
    for line, item in rows:
        if item.item in lines:
            raise DataError(f"{name}, line {line}: item {item.item} stands in line {lines[item.item]} already")
        lines[item.item] = line
        items.append(item)
    frame = pl.DataFrame(items, schema=ITEMS_SCHEMA, orient="row")
    return _with_unlisted(frame, ratings, name)


def _with_unlisted(items: pl.DataFrame, ratings: pl.DataFrame, name: str) -> pl.DataFrame:
    rated = ratings.select(pl.col("item").unique()).sort("item")
    unlisted = rated.join(items, on="item", how="anti", maintain_order="left")
    if unlisted.is_empty():
        return items
    logger.warning("%s rated items are not in %s: their ids are their titles", f"{len(unlisted):,}", name)
    empty = pl.lit([], dtype=ITEMS_SCHEMA["genres"])
    added = unlisted.with_columns(title=pl.col("item").cast(pl.String), genres=empty)
    return pl.concat([items, added], how="diagonal")


def _flag_items(text: str, name: str, genres: tuple[str, ...]) -> Iterator[tuple[int, _Item]]:
    """Yield the films of u.item: item|title|release date|date on video|address and a flag for each genre."""
    wanted = _LATIN_FIELDS + len(genres)
    for line, fields in _split_lines(text, "|"):
        where = f"{name}, line {line}"
        if len(fields) != wanted:
            raise DataError(f"{where}: {len(fields)} fields instead of {wanted} (5 and {len(genres)} flags of genres)")
        flags = dict(zip(genres, fields[_LATIN_FIELDS:], strict=True))
        for genre, flag in flags.items():
            if flag not in ("0", "1"):
                raise DataError(f"{where}: the flag of {genre} is {flag!r}, neither 0 nor 1")
        chosen = [genre for genre, flag in flags.items() if flag == "1" and genre != UNKNOWN_GENRE]
        yield line, _item(fields[0], fields[1], chosen, where, released=_release_day(fields[2], where))


def _colon_items(text: str, name: str) -> Iterator[tuple[int, _Item]]:
    """Yield the films of movies.dat: item::title::genre|genre."""
    for line, fields in _split_lines(text, "::"):
        if len(fields) != len(_HEADER):
            raise DataError(f"{name}, line {line}: {len(fields)} fields instead of 3 (item, title, genres)")
        yield line, _item(fields[0], fields[1], _genres(fields[2]), f"{name}, line {line}")


def _csv_items(text: str, name: str) -> Iterator[tuple[int, _Item]]:
    """Yield the films of movies.csv: columns movieId, title and genres, in any order and among others."""
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    missing = [column for column in _HEADER if column not in header]
    if missing:
        columns = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{name} lacks {columns} {', '.join(missing)}; it has {', '.join(header) or 'nothing'}")
    places = [header.index(column) for column in _HEADER]
    for fields in reader:
        if not fields:
            continue
        where = f"{name}, line {reader.line_num}"
        if len(fields) != len(header):
            raise DataError(f"{where}: {len(fields)} fields instead of {len(header)} ({', '.join(header)})")
        item, title, genres = (fields[place] for place in places)
        yield reader.line_num, _item(item, title, _genres(genres), where)


def _item(item: str, title: str, genres: list[str], where: str, *, released: dt.date | None = None) -> _Item:
    if not re.fullmatch(r"[+-]?[0-9]+", item) or not -(2**31) <= int(item) < 2**31:
        raise DataError(f"{where}: the item is {item!r}, not a whole number between {-(2**31)} and {2**31 - 1}")
    years = _YEAR.findall(title)
    year = int(years[-1]) if years else released.year if released else None
    return _Item(int(item), title.strip() or item, genres, year, released)


def _genres(text: str) -> list[str]:
    """Return the genres between bars; none for an empty text and for ``(no genres listed)``."""
    return [genre for genre in text.strip().split("|") if genre and genre != NO_GENRES]


def _genre_names(data: bytes | None) -> tuple[str, ...]:
    """Return the genre of each flag of u.item, from u.genre (name|place) where it is there."""
    if data is None:
        return (UNKNOWN_GENRE, *GENRES)
    names: list[str] = []
    for line, fields in _split_lines(_decoded(data), "|"):
        if len(fields) != 2 or fields[1] != str(len(names)):
            raise DataError(f"u.genre, line {line}: {'|'.join(fields)!r} is not a genre and the number {len(names)}")
        names.append(fields[0])
    return tuple(names)


def _release_day(text: str, where: str) -> dt.date | None:
    """Return the day of ``01-Jan-1995``; None for an empty text."""
    if not text:
        return None
    match = _DATE.fullmatch(text)
    try:
        if match:
            return dt.date(int(match[3]), MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError:
        pass  # a day that the month has not
    raise DataError(f"{where}: the release date is {text!r}, not a day such as 01-Jan-1995")


def _split_lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each line that is not blank, with its number from 1."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r").split(separator)


def _utf8(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}") from error


def _decoded(data: bytes) -> str:
    """Return UTF-8 or latin-1 text: accented letters of latin-1 are hardly ever valid UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
