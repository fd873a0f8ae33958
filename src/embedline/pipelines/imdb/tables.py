"""Documents in tables: CSV, TSV, JSON lines and Parquet, with the text in one column or several."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from embedline.errors import DataError
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.text.documents import TEST, TRAIN, UNLABELLED
from embedline.pipelines.text.preprocessing import FIELD

_BOM = "\ufeff"
_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by default, and a book is longer
_QUOTING = "set reading.quoting to false if quotation marks are ordinary characters, to true if they quote cells"


def read_tables(files: Sequence[tuple[str, bytes]], options: DocumentOptions) -> pl.DataFrame:
    """Read each row of each table as a document, given the tables' names and contents.

    The name gives the ids, and the split without a ``split_column``. A training row without a label becomes unlabelled;
    a row of the split unlabelled loses its label.

    Returns:
        ``document_id``, ``text``, ``label``, ``split``, all String; a missing cell of text is empty. No table, one that
        cannot be read or lacks a column, a test row without a label and an unknown split are a DataError.
    """
    if not files:
        raise DataError("the source holds no table: .csv, .tsv, .jsonl, .ndjson or .parquet")
    return pl.concat([_documents(_table(name, content, options), name, options) for name, content in files])


def _table(name: str, content: bytes, options: DocumentOptions) -> pl.DataFrame:
    suffix = posixpath.splitext(name)[1].lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(io.BytesIO(content))
        text, _ = decode(content, name, options)
        if suffix in (".jsonl", ".ndjson"):
            _require_objects(text, name)
            return pl.read_ndjson(io.BytesIO(text.encode()), infer_schema_length=None)
        separator = options.separator or ("\t" if suffix == ".tsv" else ",")
        return read_delimited(
            text, name, separator=separator, header=options.header, quoting=options.quoting, hint=_QUOTING
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{name} cannot be read as {suffix.removeprefix('.')}: {reason}") from error


def _require_objects(text: str, name: str) -> None:
    """Raise a DataError that names the first line that is no JSON object; Polars names none."""
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                raise ValueError("it is no object, {…}")
        except ValueError as error:
            raise DataError(f"{name} cannot be read as jsonl: line {number} is no JSON object ({error})") from error


def _documents(table: pl.DataFrame, name: str, options: DocumentOptions) -> pl.DataFrame:
    default_split = _split_of_file(name, options)
    label_column = None if default_split == UNLABELLED and options.split_column is None else options.label_column
    roles = (*options.text_columns, label_column, options.split_column, options.id_column)
    needed = [column for column in roles if column is not None]
    if missing := [column for column in needed if column not in table.columns]:
        raise DataError(f"{name} has no column {', '.join(map(repr, missing))}; it has {', '.join(table.columns)}")
    table = table.select(_strings(table, column, name) for column in needed)
    stem = posixpath.splitext(name)[0]
    row_ids = pl.concat_str(pl.lit(f"{stem}/"), pl.int_range(1, pl.len() + 1).cast(pl.String))
    documents = table.select(
        document_id=pl.col(options.id_column) if options.id_column else row_ids,
        text=_joined(options.text_columns),
        label=pl.col(label_column) if label_column else pl.lit(None, pl.String),
        split=pl.col(options.split_column) if options.split_column else pl.lit(default_split, pl.String),
    )
    if options.split_column:
        documents = _known_splits(documents, name, options)
    if options.id_column and (nulls := documents["document_id"].null_count()):
        raise DataError(f"{name}: column {options.id_column!r} has {nulls} missing values")
    return _with_matching_splits(documents, name, options)


def _split_of_file(name: str, options: DocumentOptions) -> str:
    """Return the split that the name of the table, or else of a folder around it, begins with; train if none does."""
    for step in reversed(posixpath.splitext(name)[0].split("/")):
        for candidate in (step, re.split(r"[-_. ]", step)[0]):
            if split := options.find_split(candidate):
                return split
    return TRAIN


def _strings(table: pl.DataFrame, column: str, name: str) -> pl.Expr:
    dtype = table.schema[column]
    if dtype.is_nested() or dtype == pl.Binary:
        raise DataError(f"{name}: column {column!r} holds {dtype}, not text")
    return pl.col(column).cast(pl.String)


def _joined(columns: tuple[str, ...]) -> pl.Expr:
    """Join several columns, each after its marker; a single column does not change. All blank: an empty text."""
    cells = [pl.col(column).fill_null("").str.replace_all("\r\n", "\n", literal=True) for column in columns]
    if len(cells) == 1:
        return cells[0]
    fields = [pl.concat_str(pl.lit(f"{FIELD} {place} "), cell) for place, cell in enumerate(cells, start=1)]
    blank = pl.all_horizontal(cell.str.strip_chars() == "" for cell in cells)
    return pl.when(blank).then(pl.lit("")).otherwise(pl.concat_str(fields, separator=" "))


def _known_splits(documents: pl.DataFrame, name: str, options: DocumentOptions) -> pl.DataFrame:
    values = documents["split"].to_list()
    known = {value: options.find_split(str(value)) for value in dict.fromkeys(values)}
    if unknown := [value for value, split in known.items() if value is None or split is None]:
        raise DataError(
            f"{name}: column {options.split_column!r} holds {str(unknown[0])!r}, first in row "
            f"{values.index(unknown[0]) + 1}, which means no split; known are {', '.join(options.splits)} "
            "(add to splits)"
        )
    return documents.with_columns(pl.col("split").replace_strict(known, return_dtype=pl.String))


def _with_matching_splits(documents: pl.DataFrame, name: str, options: DocumentOptions) -> pl.DataFrame:
    """Make labels and splits agree: rows without a label become unlabelled, unlabelled rows lose their label."""
    label = pl.when(pl.col("label").str.strip_chars() != "").then("label")
    documents = documents.with_columns(label.alias("label"))
    none = pl.col("label").is_in(options.unlabelled).fill_null(False)
    unlabelled_test = documents.select((pl.col("split") == TEST) & pl.col("label").is_null()).to_series()
    if unlabelled_test.any():
        raise DataError(
            f"{name}: {unlabelled_test.sum():,} rows of the test split have no label, the first is row "
            f"{unlabelled_test.arg_true()[0] + 1} (for test rows without labels, map their split to unlabelled)"
        )
    unlabelled = none | pl.col("label").is_null() | (pl.col("split") == UNLABELLED)
    return documents.with_columns(
        label=pl.when(~unlabelled).then("label"),
        split=pl.when(unlabelled).then(pl.lit(UNLABELLED)).otherwise("split"),
    )


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
        text, name: the whole file, of which empty lines are skipped, and its name, for messages.
        header: whether the first line holds the names of the columns; else they are ``column_0``, ``column_1``, …
        quoting: whether a cell may stand in quotation marks (RFC 4180), so that it may hold separators and line breaks.
            None: it may, but a quoted cell of several lines is refused where each of them looks like a whole row:
            there, quotation marks are characters like any other, and rows would be merged in silence.
        hint: what to do where quotation marks do not match, for messages.

    Raises:
        DataError: naming file and line: the text is empty, two columns have one name, a row has more or fewer cells
            than the first one, or quotation marks do not match.
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


def decode(content: bytes, name: str, options: DocumentOptions) -> tuple[str, bool]:
    """Return the text of one file without a byte-order mark, and whether it is in the encoding of the options.

    A zero byte is invalid, too: it occurs in UTF-16 and in damaged files, not in a text. If ``on_bad_bytes`` is
    ``error``, a DataError names the first invalid byte.
    """
    if options.on_bad_bytes == "error":
        hint = "set encoding, or on_bad_bytes to replace or latin-1"
        return decode_strictly(content, name, options.encoding, hint), True
    try:
        return decode_strictly(content, name, options.encoding, ""), True
    except DataError:
        encoding = options.encoding if options.on_bad_bytes == "replace" else "latin-1"
        return content.decode(encoding, "replace").removeprefix(_BOM).replace("\0", "\ufffd"), False


def decode_strictly(content: bytes, name: str, encoding: str, hint: str) -> str:
    """Return the text of a file without a byte-order mark; a DataError with ``hint`` names its first invalid byte."""
    try:
        text = content.decode(encoding)
        if "\0" in text:
            place = len(text[: text.index("\0")].encode(encoding))
            raise UnicodeDecodeError(encoding, content, place, place + 1, "a zero byte, as in UTF-16 or a damaged file")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line} is not {encoding} (byte 0x{content[error.start]:02x}), position {error.start}: "
            f"{error.reason}; {hint}"
        ) from error
    return text.removeprefix(_BOM)
