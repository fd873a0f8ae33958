"""The pipeline that brings a table's model into service."""

from typing import Any

import narwhals as nw
import polars as pl
from kedro.pipeline import Pipeline

from embedline.errors import DataError, about_frame
from embedline.pipelines.serving.pipeline import create_publish_pipeline
from embedline.tables.columns import EVALUATE, Columns, Split, assign_parts
from embedline.tables.contract import read_table
from embedline.training.canonical import open_frame, settle_objects

Frame = Any  # polars.DataFrame or pandas.DataFrame
Bundle = Any  # embedline.training.bundle.ModelBundle
Packed = Any  # embedline.serving.packed.PackedService

ACTUAL = "actual"


def create_table_publish_pipeline(source: str, *, table: str | None = None) -> Pipeline:
    """Pack and measure the model of a table, the dataset ``table`` or ``<source>.table``."""
    rows = table or "table"
    return create_publish_pipeline(
        source,
        pack=pack_table,
        pack_inputs=["model", rows],
        hold_out=hold_out_table,
        hold_out_inputs=[rows, "params:columns", "params:split", "encoder"],
    )


def pack_table(model: Bundle, table: Frame) -> Packed:
    """The model as a service for rows of the canonical table."""
    from embedline.serving.tables import pack_table as pack

    with about_frame("table"):
        rows = open_frame(table)
        encoder = model.encoder
        shown = dict.fromkeys((*encoder["categorical"], *encoder["groups"], *encoder["continuous"], *encoder["keys"]))
        rows = settle_objects(rows, (name for name in shown if name in rows.columns))
    return pack(model, rows.select(*(name for name in shown if name in rows.columns)).to_polars())


def hold_out_table(table: Frame, columns: Columns, split: Split, encoder: dict[str, Any]) -> pl.DataFrame:
    """The rows that the split holds out, as a request has them, and ``actual``, the value of the first target."""
    inputs = [*encoder["categorical"], *encoder["groups"], *encoder["continuous"]]
    if ACTUAL in inputs:
        raise DataError(f"the table has a variable {ACTUAL!r}, the name of what came true: rename it to publish")
    with about_frame("table"):
        rows = assign_parts(read_table(table, columns, split), columns, split).filter(nw.col("part") == EVALUATE)
    chosen = rows.select(*dict.fromkeys(inputs), nw.col(columns.targets[0]).alias(ACTUAL)).to_polars()
    text = [name for name, dtype in chosen.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    return chosen.with_columns(pl.col(text).cast(pl.String))
