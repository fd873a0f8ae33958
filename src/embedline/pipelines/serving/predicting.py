"""Batch prediction: the service of a stored model answers the rows of a file."""

from typing import Any

import narwhals as nw
import polars as pl
from kedro.pipeline import Node, Pipeline

from embedline.errors import DataError

Frame = Any  # polars.DataFrame or pandas.DataFrame
Packed = Any  # embedline.serving.packed.PackedService

_WORDS = {"true": True, "1": True, "false": False, "0": False}


def create_predict_pipeline(source: str, publishing: Pipeline) -> Pipeline:
    """Pack the stored model of ``source`` and have it answer ``<source>.rows``: ``<source>.predicted_rows``.

    Args:
        source: namespace of the model.
        publishing: its publish pipeline, whose node ``pack_service`` this one has too: what one has packed, the other
            one need not pack again.
    """
    node = Node(predict_rows, ["rows", "service"], "predicted_rows", name="predict_rows", tags="predict")
    return publishing.only_nodes(f"{source}.pack_service") + Pipeline([node], namespace=source)


def predict_rows(rows: Frame, service: Packed) -> pl.DataFrame:
    """The rows, with the types that the service takes, and beside them what it answers.

    Args:
        rows: the columns of a request; a column of strings, as a CSV file has it, is read as what the service takes.

    Raises:
        DataError: naming column and row, or a column of ``rows`` that has the name of a result.
    """
    frame = nw.from_native(rows, eager_only=True).to_polars()
    if frame.is_empty():
        raise DataError("there is no row to predict")
    request = typed_request(frame, service)
    answers = pl.from_pandas(service.open().predict(request.to_pandas()))
    results = answers.drop(column.name for column in service.columns if column.name in answers.columns)
    if taken := [name for name in results.columns if name in frame.columns]:
        raise DataError(f"the rows have a column {taken[0]!r}, which is a column of the predictions: rename it")
    return request.hstack(results)


def typed_request(rows: pl.DataFrame, service: Packed) -> pl.DataFrame:
    """The rows with every column of strings as the type that the service takes; raise a DataError as above."""
    return rows.with_columns(
        _typed(rows[column.name], column.type)
        for column in service.columns
        if column.name in rows.columns and rows[column.name].dtype == pl.String
    )


def _typed(values: pl.Series, kind: str) -> pl.Series:
    """Strings of a CSV file as the service's type; an empty field is null."""
    if kind in ("string", "any"):
        return values
    text = values.str.strip_chars()
    text = text.set(text == "", None)
    if kind == "boolean":
        found = text.str.to_lowercase().replace_strict(_WORDS, default=None, return_dtype=pl.Boolean)
    else:
        found = text.cast(pl.Float64 if kind == "double" else pl.Int64, strict=False)
        if kind == "long" and (found.is_null() & text.is_not_null()).any():  # 3.0 is a whole number, too
            numbers = text.cast(pl.Float64, strict=False)
            found = found.fill_null(numbers.set(numbers % 1 != 0, None).cast(pl.Int64, strict=False))
    faulty = (found.is_null() & text.is_not_null()).arg_true()
    if len(faulty):
        what = {"boolean": "neither true nor false", "double": "no number", "long": "no whole number"}[kind]
        raise DataError(f"the rows: column {values.name!r}, row {faulty[0] + 1}: {values[faulty[0]]!r} is {what}")
    return found
