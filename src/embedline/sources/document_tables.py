"""Documents out of tables: CSV, TSV, JSON lines and Parquet, with the text in one column or several."""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Sequence

import polars as pl

from embedline.errors import DataError
from embedline.sources.delimited import read_delimited
from embedline.sources.document_options import TEST, TRAIN, UNLABELLED, DocumentOptions
from embedline.sources.document_texts import decoded

FIELD = "xxfld"
"""fastai's marker before each field of a text with several."""
QUOTING = "set reading.quoting to false where quotation marks are characters like any other, to true where they quote"


def read_tables(files: Sequence[tuple[str, bytes]], options: DocumentOptions) -> pl.DataFrame:
    """Read each row of each table as a document.

    A missing label makes a training row unlabelled; a row of the part unlabelled loses its label.

    Args:
        files: name, which gives ids and perhaps the part, and content of each table.
        options: columns, header, separator, names of parts, encoding.

    Returns:
        ``document_id``, ``text``, ``label``, ``split``, all String; a missing cell of text is empty.

    Raises:
        DataError: there is no table; one is in another encoding, cannot be parsed or lacks a column; a test row has no
            label; a part is unknown.
    """
    if not files:
        raise DataError("the source holds no table: .csv, .tsv, .jsonl, .ndjson or .parquet")
    return pl.concat([_documents(_table(name, content, options), name, options) for name, content in files])


def _table(name: str, content: bytes, options: DocumentOptions) -> pl.DataFrame:
    suffix = posixpath.splitext(name)[1].lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(io.BytesIO(content))
        text = decoded(content, name, options)
        if suffix in (".jsonl", ".ndjson"):
            _require_objects(text, name)
            return pl.read_ndjson(io.BytesIO(text.encode()), infer_schema_length=None)
        separator = options.separator or ("\t" if suffix == ".tsv" else ",")
        return read_delimited(
            text, name, separator=separator, header=options.header, quoting=options.quoting, hint=QUOTING
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
    default_part = _part_of_file(name, options)
    label_column = None if default_part == UNLABELLED and options.part_column is None else options.label_column
    roles = (*options.text_columns, label_column, options.part_column, options.id_column)
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
        split=pl.col(options.part_column) if options.part_column else pl.lit(default_part, pl.String),
    )
    if options.part_column:
        documents = _known_parts(documents, name, options)
    if options.id_column and (nulls := documents["document_id"].null_count()):
        raise DataError(f"{name}: column {options.id_column!r} has {nulls} missing values")
    return _settled(documents, name, options)


def _part_of_file(name: str, options: DocumentOptions) -> str:
    """Return the part that the name of a table or of a folder around it begins with, innermost first; else train."""
    for step in reversed(posixpath.splitext(name)[0].split("/")):
        for candidate in (step, re.split(r"[-_. ]", step)[0]):
            if part := options.subset(candidate):
                return part
    return TRAIN


def _strings(table: pl.DataFrame, column: str, name: str) -> pl.Expr:
    dtype = table.schema[column]
    if dtype.is_nested() or dtype == pl.Binary:
        raise DataError(f"{name}: column {column!r} holds {dtype}, not text")
    return pl.col(column).cast(pl.String)


def _joined(columns: tuple[str, ...]) -> pl.Expr:
    """One column as it is; of several, each after its marker. All blank: the empty text, without markers."""
    cells = [pl.col(column).fill_null("").str.replace_all("\r\n", "\n", literal=True) for column in columns]
    if len(cells) == 1:
        return cells[0]
    fields = [pl.concat_str(pl.lit(f"{FIELD} {place} "), cell) for place, cell in enumerate(cells, start=1)]
    blank = pl.all_horizontal(cell.str.strip_chars() == "" for cell in cells)
    return pl.when(blank).then(pl.lit("")).otherwise(pl.concat_str(fields, separator=" "))


def _known_parts(documents: pl.DataFrame, name: str, options: DocumentOptions) -> pl.DataFrame:
    values = documents["split"].unique().to_list()
    unknown = sorted({str(value) for value in values if value is None or options.subset(value) is None})
    if unknown:
        row = documents["split"].is_in(unknown) | documents["split"].is_null()
        raise DataError(
            f"{name}: column {options.part_column!r} holds {unknown[0]!r}, first in row {row.arg_true()[0] + 1}, "
            f"which means no part; known are {', '.join(options.parts)} (add to parts)"
        )
    known = {value: options.subset(value) for value in values}
    return documents.with_columns(pl.col("split").replace_strict(known, return_dtype=pl.String))


def _settled(documents: pl.DataFrame, name: str, options: DocumentOptions) -> pl.DataFrame:
    """Bring labels and parts in line: no label, no place among the labelled, and the other way round."""
    label = pl.when(pl.col("label").str.strip_chars() != "").then("label")
    documents = documents.with_columns(label.alias("label"))
    none = pl.col("label").is_in(options.unlabelled).fill_null(False)
    bare_test = documents.select((pl.col("split") == TEST) & pl.col("label").is_null()).to_series()
    if bare_test.any():
        raise DataError(
            f"{name}: {bare_test.sum():,} rows of the test part have no label, the first is row "
            f"{bare_test.arg_true()[0] + 1} (test rows without labels: name their part unlabelled in parts)"
        )
    unlabelled = none | pl.col("label").is_null() | (pl.col("split") == UNLABELLED)
    return documents.with_columns(
        label=pl.when(~unlabelled).then("label"),
        split=pl.when(unlabelled).then(pl.lit(UNLABELLED)).otherwise("split"),
    )
