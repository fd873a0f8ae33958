"""The forecast in the layout that Kaggle takes."""

from typing import Any

import narwhals as nw

from embedline.errors import DataError

Frame = Any  # polars.DataFrame or pandas.DataFrame


def make_submission(table: Frame, forecast: Frame) -> Frame:
    """Columns ``Id`` and ``Sales`` of ``sample_submission.csv``, ordered by Id: closed days 0, else the forecast.

    Args:
        table: ``rossmann.table``: its rows without ``Sales`` are the ones to submit; ``Open`` is 1 where the raw file
            leaves it blank.
        forecast: ``Store``, ``Date`` and ``predicted`` for each of these rows.

    Raises:
        DataError: if a row of the table has no forecast.
    """
    rows = (
        nw.from_native(table, eager_only=True).filter(nw.col("Sales").is_null()).select("Id", "Store", "Date", "Open")
    )
    joined = rows.join(nw.from_native(forecast, eager_only=True), on=["Store", "Date"], how="left")
    missing = joined.filter(nw.col("predicted").is_null())
    if len(missing):
        raise DataError(f"the forecast has no prediction for {len(missing)} rows, the first with Id {missing['Id'][0]}")
    sales = nw.when(nw.col("Open").cast(nw.Int8) == 0).then(nw.lit(0.0)).otherwise(nw.col("predicted")).alias("Sales")
    return joined.select(nw.col("Id").cast(nw.Int64), sales).sort("Id").to_native()
