"""The two files of the Adult data, in an archive or folder, and the table that they hold."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

import polars as pl

from embedline.archive import check_sha256, select_members
from embedline.errors import DataError

FILES = {"adult.data": "data", "adult.test": "test"}
"""The name of each file, and what the column ``file`` calls it."""

CATEGORICAL = (
    *("workclass", "education", "marital_status", "occupation", "relationship", "race", "sex", "native_country"),
)
NUMERIC = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
)
"""The fields of a line; UCI's names with underscores instead of hyphens."""

LABELS = ("<=50K", ">50K")
TABLE_SCHEMA = {
    "Id": pl.Int64,
    **{column: pl.Int64 if column in NUMERIC else pl.String for column in COLUMNS},
    "file": pl.String,
}
ORIGINAL_SHA256 = {
    "adult.data": "df25a4e32ed6f1bd4b3910d21a7bd661a09061eced7cb45555a519d9667cc87b",
    "adult.test": "ceb625d3b5aeddf1e04cd5eec3268e18af4140fbde5a853a11223deeebcfe0f5",
}
"""The files that the UCI repository gives out."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def read_files(source: str, *, verify: bool = True) -> dict[str, bytes]:
    """Return ``adult.data`` and ``adult.test``, verbatim, by these names.

    ``source`` is an archive or folder that holds the two at the top or in a sub-folder, see
    `embedline.archive.iter_members`; ``verify`` compares them with the sha256 of UCI's.

    Raises:
        DataError: the source cannot be read, lacks a file, holds one twice, or fails the comparison; names the file.
    """
    members, held = select_members(
        source, lambda member: posixpath.basename(member) in FILES and "__MACOSX" not in member
    )
    files = {}
    for name in FILES:
        places = [member for member in members if posixpath.basename(member) == name]
        if not places:
            raise DataError(f"{source} has no {name}; it holds {held}")
        if len(places) > 1:
            raise DataError(f"{source} holds {name} more than once: {', '.join(places)}")
        files[name] = members[places[0]]
    for name, expected in ORIGINAL_SHA256.items() if verify else ():
        check_sha256(name, files[name], expected, source=source, whose="UCI's file")
    return files


def read_table(files: Mapping[str, bytes]) -> pl.DataFrame:
    """Read both files: no header, ``?`` for missing, a comment line, full stops after the labels of ``adult.test``.

    Blank lines and lines that start with ``|`` are passed over.

    Returns:
        A row a person, those of ``adult.data`` first: ``Id: Int64`` from 0, the columns of `COLUMNS` (numbers as Int64,
        the others as text, null where they are missing) and ``file``, ``data`` or ``test``. ``income`` is ``<=50K`` or
        ``>50K`` in both files.

    Raises:
        DataError: a line has another number of fields, a number is none, or a label is neither of the two; names file,
            line and value.
    """
    rows: list[tuple[str | int | None, ...]] = []
    for name, file in FILES.items():
        before = len(rows)
        for values in _rows(files[name], name):
            rows.append((len(rows), *values, file))
        if len(rows) == before:
            raise DataError(f"{name} holds no rows")
    return pl.DataFrame(rows, schema=TABLE_SCHEMA, orient="row")


def _rows(data: bytes, name: str) -> Iterator[list[str | int | None]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("|"):
            continue
        where = f"{name}, line {number}"
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(COLUMNS):
            raise DataError(f"{where}: {len(fields)} fields instead of {len(COLUMNS)} ({', '.join(COLUMNS)})")
        yield [_value(column, field, where) for column, field in zip(COLUMNS, fields, strict=True)]


def _value(column: str, field: str, where: str) -> str | int | None:
    if column == "income":
        label = field.removesuffix(".")
        if label not in LABELS:
            raise DataError(f"{where}: income is {field!r}, neither {' nor '.join(LABELS)}")
        return label
    if field in ("?", ""):
        return None
    if column not in NUMERIC:
        return field
    if not _WHOLE.fullmatch(field):
        raise DataError(f"{where}: {column} is {field!r}, not a whole number")
    return int(field)
