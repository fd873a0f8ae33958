"""Nodes that make services, measure them on raw rows, and have them answer the rows of a file.

PyTorch is imported inside the functions, since every Kedro command reads this module.
"""

import logging
import math
from typing import Any

import narwhals as nw
import polars as pl

from embedline.errors import DataError, about_frame
from embedline.frames.checks import open_frame, settle_objects
from embedline.pipelines.images.examples import read_images
from embedline.pipelines.images.options import Targets
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.tabular.columns import TEST, Columns, Split, read_table
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.roles import fitted_columns
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.text.documents import read_documents
from embedline.training.metrics import require_finite

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Bundle = Any  # embedline.training.model_file.ModelBundle
Service = Any  # embedline.serving.service.Service

ACTUAL = "actual"
TOLERANCE = 1e-4  # relative: rows in other batches differ by rounding, features computed otherwise by far more


def pack_texts(model: Bundle) -> Service:
    """The service of a text classifier."""
    from embedline.serving.texts import pack_texts as pack

    return pack(model)


def pack_images(model: Bundle) -> Service:
    """The service of an image model."""
    from embedline.serving.images import pack_images as pack

    return pack(model)


def pack_ratings(model: Bundle, ranker: Bundle, encoded: pl.DataFrame) -> Service:
    """The service of a ratings model and of the ranker of its recommendations."""
    from embedline.serving.ratings import pack_ratings as pack

    return pack(model, ranker, encoded)


def pack_table(model: Bundle, table: Frame, intervals: dict[str, Any] | None = None) -> Service:
    """The model as a service for rows of the canonical table; its answers have the ``intervals``, if there are any."""
    from embedline.serving.tables import pack_table as pack

    with about_frame("table"):
        rows = open_frame(table)
        shown = dict.fromkeys((*encoder_inputs(model.encoder), *model.encoder["keys"]))
        rows = settle_objects(rows, (name for name in shown if name in rows.columns))
    return pack(model, rows.select(*(name for name in shown if name in rows.columns)).to_polars(), intervals)


def hold_out_texts(documents: Frame) -> pl.DataFrame:
    """The test documents: ``text``, and the label as ``actual``."""
    from embedline.serving.texts import hold_out_texts as hold_out

    with about_frame("documents"):
        return hold_out(read_documents(documents))


def hold_out_images(images: Frame, raw: pl.DataFrame, encoder: dict[str, Any], targets: Targets) -> pl.DataFrame:
    """The files of the test pictures in base64, and the first target as ``actual``."""
    from embedline.serving.images import hold_out_images as hold_out

    with about_frame("images"):
        return hold_out(read_images(images, list(targets)), raw, encoder["skipped"], next(iter(targets)))


def hold_out_ratings(ratings: Frame, columns: RatingColumns, split: RatingSplit) -> pl.DataFrame:
    """The ratings that the split holds out: user, item, and the rating as ``actual``."""
    from embedline.serving.ratings import hold_out_ratings as hold_out

    with about_frame("ratings"):
        return hold_out(ratings, columns, split)


def hold_out_table(table: Frame, columns: Columns, split: Split, encoder: dict[str, Any]) -> pl.DataFrame:
    """The rows that the split holds out, as a request has them, and ``actual``, the value of the first target."""
    inputs = encoder_inputs(encoder)
    if ACTUAL in inputs:
        raise DataError(f"the table has a variable {ACTUAL!r}, the column of the true values: rename it to publish")
    if split.kind == "folds":
        raise DataError(
            "split.kind folds holds no rows out of the stored model, to measure a service on: set split.kind to random "
            "to publish"
        )
    columns = fitted_columns(columns, encoder)
    with about_frame("table"):
        rows = assign_splits(read_table(table, columns, split), columns, split).filter(nw.col("split") == TEST)
    chosen = rows.select(*inputs, nw.col(columns.targets[0]).alias(ACTUAL)).to_polars()
    text = [name for name, dtype in chosen.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    return chosen.with_columns(pl.col(text).cast(pl.String))


def encoder_inputs(encoder: dict[str, Any]) -> tuple[str, ...]:
    """Columns that a row must have, from the JSON values of an encoder."""
    return Encoder.model_validate(encoder).inputs


def measure_service(service: Service, evaluation: pl.DataFrame, metrics: dict[str, Any]) -> dict[str, Any]:
    """Have the service answer the raw held-out rows, and compare its metric with that of the model.

    A metric that is not finite, or not that of ``metrics``, is a DataError: it would answer otherwise than was
    measured.

    Returns:
        ``metric`` (name), ``path``, ``value``, ``better``, ``rows``, and ``evaluation``: fingerprint of the rows.
    """
    from embedline.serving.champion import fingerprint, measure

    measured = measure(service.open(), evaluation)
    require_finite({measured.name: measured.value}, "the service on raw rows")
    expected: Any = metrics
    for key in measured.path:
        expected = expected[key]
    if not math.isclose(measured.value, expected, rel_tol=TOLERANCE):
        raise DataError(
            f"the service's {measured.name} on raw rows is {measured.value:.6f}, and that of the model {expected:.6f}: "
            "it turns rows into other inputs than the pipeline does, and is not published"
        )
    logger.info("The service's %s on %d raw rows is %.6f", measured.name, len(evaluation), measured.value)
    return {
        "metric": measured.name,
        "path": list(measured.path),
        "value": measured.value,
        "better": measured.better,
        "rows": len(evaluation),
        "evaluation": fingerprint(evaluation),
    }


def predict_rows(rows: Frame, service: Service) -> pl.DataFrame:
    """The rows, with the types that the service takes, and beside them what it answers.

    A column of strings, as a CSV file has it, is read as what the service takes. A DataError names column and row, or a
    column that has the name of a result.
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


def typed_request(rows: pl.DataFrame, service: Service) -> pl.DataFrame:
    """The rows with every column of strings as the type that the service takes; raise a DataError as above."""
    from embedline.serving.columns import parse_text

    return rows.with_columns(
        parse_text(rows[column.name], column.type, source="the rows")
        for column in service.columns
        if column.name in rows.columns and rows[column.name].dtype == pl.String
    )
