"""The users of every MovieLens layout as one frame."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from embedline.errors import DataError
from embedline.sources.movielens_files import COLONS, CSV, content_of, layout_of

USERS_SCHEMA: dict[str, pl.DataType] = {
    "user": pl.Int32(),
    "age": pl.Int16(),
    "gender": pl.String(),
    "occupation": pl.String(),
}
FIELDS_100K = ("user", "age", "gender", "occupation")  # u.user: a zip code follows
FIELDS_COLONS = ("user", "gender", "age", "occupation")  # users.dat of ml-1m: likewise


def read_users(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the users of a MovieLens release.

    Args:
        raw: the files, from `embedline.sources.movielens_files.acquire_files`.
        ratings: from `embedline.sources.movielens_ratings.read_ratings`; its column ``user`` is looked at.

    Returns:
        A row a user who rated, by number: ``user: Int32``; ``age: Int16`` in years (ml-1m: the first year of a range);
        ``gender: String``, M or F; ``occupation: String`` (ml-1m: a number). Null where the release does not say: of
        ml-10m and the newer releases that is all but the number.

    Raises:
        DataError: a line has too few fields, a number is none, or a user comes twice; names file, line and value.
    """
    rated = ratings.select(pl.col("user").unique().cast(pl.Int32)).sort("user")
    layout = layout_of(raw)
    name, separator, fields = ("users.dat", "::", FIELDS_COLONS) if layout == COLONS else ("u.user", "|", FIELDS_100K)
    data = None if layout == CSV else content_of(raw, name)
    known = pl.DataFrame(schema=USERS_SCHEMA) if data is None else _known(data, name, separator, fields)
    return rated.join(known, on="user", how="left", maintain_order="left")


def _known(data: bytes, name: str, separator: str, fields: tuple[str, ...]) -> pl.DataFrame:
    lines: dict[int, int] = {}
    users = []
    for line, values in _lines(data, name, separator, fields):
        where = f"{name}, line {line}"
        user = _number(values["user"], f"{where}: the user", below=2**31)
        age = _number(values["age"], f"{where}: the age", below=2**15)
        if user in lines:
            raise DataError(f"{where}: user {user} stands in line {lines[user]} already")
        lines[user] = line
        users.append((user, age, values["gender"], values["occupation"]))
    return pl.DataFrame(users, schema=USERS_SCHEMA, orient="row")


def _lines(data: bytes, name: str, separator: str, fields: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    for number, text in enumerate(data.decode("latin-1").splitlines(), start=1):
        if not text.strip():
            continue
        values = text.split(separator)
        if len(values) < len(fields):
            raise DataError(
                f"{name}, line {number}: {len(values)} fields instead of {len(fields)} ({', '.join(fields)})"
            )
        yield number, dict(zip(fields, values, strict=False))  # a zip code follows


def _number(text: str, what: str, *, below: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= below:
        raise DataError(f"{what} is {text!r}, not a whole number from 0 to {below - 1}")
    return int(text)
