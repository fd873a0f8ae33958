"""Nodes that pack the Rossmann model as a service, and the raw rows of its test split.

A file of its own: the service calls the nodes of the preparation, so that :mod:`.nodes` cannot import the service.
"""

from typing import Any

import narwhals as nw
import polars as pl

from embedline.frames.parts import Parts
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.tabular.columns import TEST, Columns, Split
from embedline.pipelines.tabular.splits import assign_splits

Frame = Any  # a frame of Polars, pandas or another Narwhals backend, or one in Parts
Bundle = Any  # embedline.training.model_file.ModelBundle
Service = Any  # embedline.serving.service.Service


def pack_service(
    model: Bundle,
    encoded: Frame,
    sales: Frame,
    stores: Frame,
    weather: Frame,
    trends: Frame,
    features: FeatureOptions,
    split: Split,
    intervals: dict[str, Any] | None = None,
) -> Service:
    """The model as a service for rows as in test.csv, with the tables that the features of such rows come from.

    Its answers have the ``intervals``, if there are any.
    """
    from embedline.pipelines.rossmann.service import pack

    typed = {"sales": _polars(sales), "stores": _polars(stores), "weather": _polars(weather), "trends": _polars(trends)}
    return pack(model, _polars(encoded), **typed, features=features, split=split, intervals=intervals or {})


def hold_out(table: Frame, columns: Columns, split: Split) -> pl.DataFrame:
    """The rows that the split holds out, as test.csv would have them, and ``actual``, their sales."""
    rows = assign_splits(nw.from_native(_polars(table)), columns, split).filter(nw.col("split") == TEST).to_native()
    days = rows.with_columns(StateHoliday=pl.col("HolidayKind").cast(pl.String), Date=pl.col("Date").cast(pl.String))
    day = ("Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
    return days.select(*day, actual=pl.col("Sales")).sort("Store", "Date")  # with every backend: the same fingerprint


def _polars(frame: Frame) -> pl.DataFrame:
    native: pl.DataFrame = (
        nw.from_native(frame.scan() if isinstance(frame, Parts) else frame).lazy().collect(backend="polars").to_native()
    )
    return native
