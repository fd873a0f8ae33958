"""From the files of a MovieLens release, real or simulated, to its canonical frames of films and users.

That of the ratings is of :func:`.files.read_ratings`.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import polars as pl

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.paths import GENERATED, find_source
from embedline.pipelines.movielens import files
from embedline.pipelines.movielens.simulator import GeneratorOptions, generate_files, noise_floor

logger = logging.getLogger(__name__)

ITEMS_SCHEMA: dict[str, pl.DataType] = {
    **{"item": pl.Int32(), "title": pl.String(), "genres": pl.List(pl.String), "year": pl.Int16()},
    **{"released": pl.Date()},
}
USERS_SCHEMA: dict[str, pl.DataType] = {
    **{"user": pl.Int32(), "age": pl.Int16(), "gender": pl.String(), "occupation": pl.String()}
}

_YEAR = re.compile(r"\((\d{4})(?:[-\u2013]\d{0,4} ?)?\)")
_DATE = re.compile(rf"(\d\d?)-({'|'.join(files.MONTHS)})-(\d{{4}})")

_Line = tuple[int, tuple[Any, ...]]  # its number, and the row in it


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the files from the address ``source``, or simulate them: ``path`` and ``content``, as they are."""
    if source == GENERATED:
        return pl.DataFrame(sorted(generate_files(generator).items()), schema=FILES_SCHEMA, orient="row")
    return files.read_files(find_source(source), verify=verify)


def measure_ceiling(source: str, generator: GeneratorOptions) -> dict[str, float]:
    """The least ``mse`` (stars squared) and ``rmse`` (stars) that a model of generated ratings can expect.

    Exact as a mean over all ratings, rounding and cutting off included (:func:`.simulator.noise_floor`); for a held-out
    part of n ratings an estimate of the mse with a standard error of 0.08 / sqrt(n). Empty for real ratings.
    """
    if source != GENERATED:
        return {}
    least = noise_floor(generator)
    return {"mse": least, "rmse": math.sqrt(least)}


def read_items(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the films of any layout, and add those that were rated but are not listed: their ids are their titles.

    Text is UTF-8, or latin-1 in the older layouts where it is not valid UTF-8.

    Returns:
        A row a film, in the order of the file: ``item: Int32``; ``title: String``, with the year, as it stands there;
        ``genres: List(String)``, empty for ``(no genres listed)`` and for the flag ``unknown``; ``year: Int16``, the
        last one in parentheses in the title, else that of the release, else null; ``released: Date``, of ml-100k only.

    Raises:
        DataError: a line has another number of fields, an id, flag or date is none, a film comes twice, or the header
            lacks a column; names file, line and value.
    """
    layout = files.layout_of(raw)
    name = layout.items
    if (data := files.content_of(raw, name)) is None:
        raise DataError(f"the raw files have no {name}, the items of {layout.ratings}")
    if layout == files.CSV:
        rows = _csv_items(data, name)
    elif layout == files.COLONS:
        rows = _colon_items(data, name)
    else:
        rows = _flag_items(data, name, _genre_names(files.content_of(raw, "u.genre")))
    items = pl.DataFrame(_each_once(rows, "item", name), schema=ITEMS_SCHEMA, orient="row")
    unlisted = ratings.select(pl.col("item").unique().sort()).join(items, on="item", how="anti", maintain_order="left")
    if unlisted.is_empty():
        return items
    logger.warning("%s rated items are not in %s: their ids are their titles", f"{len(unlisted):,}", name)
    genres = pl.lit([], dtype=ITEMS_SCHEMA["genres"])
    return pl.concat(
        [items, unlisted.with_columns(title=pl.col("item").cast(pl.String), genres=genres)], how="diagonal"
    )


def _flag_items(data: bytes, name: str, genres: tuple[str, ...]) -> Iterator[_Line]:
    """Yield the films of u.item: item|title|release date|date on video|address and a flag for each genre."""
    for line, fields in files.split_lines(data, "|", _encoding_of(data)):
        where, n = f"{name}, line {line}", len(genres)
        if len(fields) != 5 + n:
            raise DataError(f"{where}: {len(fields)} fields instead of {5 + n} (5 and {n} flags of genres)")
        flags = dict(zip(genres, fields[5:], strict=True))
        if wrong := [genre for genre, flag in flags.items() if flag not in ("0", "1")]:
            raise DataError(f"{where}: the flag of {wrong[0]} is {flags[wrong[0]]!r}, neither 0 nor 1")
        chosen = [genre for genre, flag in flags.items() if flag == "1" and genre != files.UNKNOWN_GENRE]
        yield line, _item(fields[0], fields[1], chosen, where, _release_day(fields[2], where))


def _colon_items(data: bytes, name: str) -> Iterator[_Line]:
    """Yield the films of movies.dat: item::title::genre|genre."""
    for line, fields in files.split_lines(data, "::", _encoding_of(data)):
        files.require_fields(fields, ("item", "title", "genres"), f"{name}, line {line}")
        yield line, _item(fields[0], fields[1], _genres(fields[2]), f"{name}, line {line}")


def _csv_items(data: bytes, name: str) -> Iterator[_Line]:
    """Yield the films of movies.csv: columns movieId, title and genres, in any order and among others."""
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}") from error
    lines = files.csv_lines(data)
    _, header = next(lines, (1, []))
    columns = ("movieId", "title", "genres")
    files.require_columns(columns, header, name, f"it has {', '.join(header) or 'nothing'}")
    places = [header.index(column) for column in columns]
    for line, fields in lines:
        files.require_fields(fields, header, f"{name}, line {line}")
        item, title, genres = (fields[place] for place in places)
        yield line, _item(item, title, _genres(genres), f"{name}, line {line}")


def _item(item: str, title: str, genres: list[str], where: str, released: dt.date | None = None) -> tuple[Any, ...]:
    if not files.WHOLE.fullmatch(item) or not -(2**31) <= int(item) < 2**31:
        raise DataError(f"{where}: the item is {item!r}, not a whole number between {-(2**31)} and {2**31 - 1}")
    years = _YEAR.findall(title)
    year = int(years[-1]) if years else released.year if released else None
    return int(item), title.strip() or item, genres, year, released


def _genres(text: str) -> list[str]:
    """Return the genres between bars; none for an empty text and for ``(no genres listed)``."""
    return [genre for genre in text.strip().split("|") if genre not in ("", "(no genres listed)")]


def _genre_names(data: bytes | None) -> tuple[str, ...]:
    """Return the genre of each flag of u.item, from u.genre (name|place) where it is there."""
    if data is None:
        return (files.UNKNOWN_GENRE, *files.GENRES)
    names: list[str] = []
    for line, fields in files.split_lines(data, "|", _encoding_of(data)):
        if len(fields) != 2 or fields[1] != str(len(names)):
            raise DataError(f"u.genre, line {line}: {'|'.join(fields)!r} is not a genre and the number {len(names)}")
        names.append(fields[0])
    return tuple(names)


def _release_day(text: str, where: str) -> dt.date | None:
    """Return the day of ``01-Jan-1995``; None for an empty text."""
    if not text:
        return None
    with suppress(ValueError):  # a day that the month has not
        if match := _DATE.fullmatch(text):
            return dt.date(int(match[3]), files.MONTHS.index(match[2]) + 1, int(match[1]))
    raise DataError(f"{where}: the release date is {text!r}, not a day such as 01-Jan-1995")


def read_users(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the users of any layout.

    Returns:
        A row a user who rated, by number: ``user: Int32``; ``age: Int16`` in years (ml-1m: the first year of a range);
            ``gender: String``, M or F; ``occupation: String`` (ml-1m: a number). Null where the release does not say:
            of ml-10m and the newer releases that is all but the number.

    Raises:
        DataError: a line has too few fields, a number is none, or a user comes twice; names file, line and value.
    """
    rated = ratings.select(pl.col("user").unique().cast(pl.Int32)).sort("user")
    name, separator, fields = "u.user", "|", ("user", "age", "gender", "occupation")  # a zip code follows
    if files.layout_of(raw) == files.COLONS:
        name, separator, fields = "users.dat", "::", ("user", "gender", "age", "occupation")
    rows = _user_rows(files.content_of(raw, name) or b"", name, separator, fields)
    known = pl.DataFrame(_each_once(rows, "user", name), schema=USERS_SCHEMA, orient="row")
    return rated.join(known, on="user", how="left", maintain_order="left")


def _user_rows(data: bytes, name: str, separator: str, fields: tuple[str, ...]) -> Iterator[_Line]:
    for line, values in files.split_lines(data, separator, "latin-1"):
        where = f"{name}, line {line}"
        files.require_fields(values[: len(fields)], fields, where)
        row = dict(zip(fields, values, strict=False))
        user = _number(row["user"], f"{where}: the user", below=2**31)
        age = _number(row["age"], f"{where}: the age", below=2**15)
        yield line, (user, age, row["gender"], row["occupation"])


def _number(text: str, what: str, *, below: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= below:
        raise DataError(f"{what} is {text!r}, not a whole number from 0 to {below - 1}")
    return int(text)


def _each_once(rows: Iterable[_Line], what: str, name: str) -> list[tuple[Any, ...]]:
    """Return the rows without their lines; raise a DataError where two have one number, their first field."""
    lines: dict[int, int] = {}
    kept = []
    for line, row in rows:
        if row[0] in lines:
            raise DataError(f"{name}, line {line}: {what} {row[0]} stands in line {lines[row[0]]} already")
        lines[row[0]] = line
        kept.append(row)
    return kept


def _encoding_of(data: bytes) -> str:
    """Return UTF-8, or latin-1: its accented letters are hardly ever valid UTF-8."""
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"
