"""Batch prediction: the service of a stored model answers the rows of a file."""

from typing import Any

import narwhals as nw
import polars as pl
from kedro.pipeline import Node, Pipeline

from embedline.errors import DataError

Frame = Any  # polars.DataFrame or pandas.DataFrame
Packed = Any  # embedline.serving.packed.PackedService


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
    from embedline.serving.columns import parse_text

    return rows.with_columns(
        parse_text(rows[column.name], column.type, source="the rows")
        for column in service.columns
        if column.name in rows.columns and rows[column.name].dtype == pl.String
    )
