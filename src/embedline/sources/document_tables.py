"""Read documents from tables: CSV, TSV, JSON lines and Parquet, with the text in one column or several."""

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
QUOTING = "set reading.quoting to false if quotation marks are ordinary characters, to true if they quote cells"


def read_tables(files: Sequence[tuple[str, bytes]], options: DocumentOptions) -> pl.DataFrame:
    """Read each row of each table as a document.

    A training row without a label becomes unlabelled; a row of the split unlabelled loses its label.

    Args:
        files: name and content of each table; the name gives the ids, and the split without a ``split_column``.
        options: columns, header, separator, names of splits, encoding.

    Returns:
        ``document_id``, ``text``, ``label``, ``split``, all String; a missing cell of text is empty.

    Raises:
        DataError: there is no table; one is in another encoding, cannot be parsed or lacks a column; a test row has no
            label; a split is unknown.
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
    values = documents["split"].unique().to_list()
    unknown = sorted({str(value) for value in values if value is None or options.find_split(value) is None})
    if unknown:
        row = documents["split"].is_in(unknown) | documents["split"].is_null()
        raise DataError(
            f"{name}: column {options.split_column!r} holds {unknown[0]!r}, first in row {row.arg_true()[0] + 1}, "
            f"which means no split; known are {', '.join(options.splits)} (add to splits)"
        )
    known = {value: options.find_split(value) for value in values}
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
