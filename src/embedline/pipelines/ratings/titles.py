"""Names of items, to show beside their ids."""

from typing import Any

import polars as pl

from embedline.errors import DataError, about_frame
from embedline.pipelines.ratings.contract import id_column, require_columns, to_polars
from embedline.pipelines.ratings.options import RatingColumns

ID, TITLE = "item", "title"


def item_titles(ids: pl.Series, items: Any, columns: RatingColumns) -> pl.Series:
    """Title (String) of each id; the id itself where there is no title, no row of it, or no frame at all.

    Args:
        ids: of items, in any order.
        items: a row an item, of any engine, or None.

    Raises:
        DataError: if the frame lacks the columns that ``columns`` names, or their ids are of another type.
    """
    names = ids.cast(pl.String).alias(TITLE)
    if items is None or columns.title is None:
        return names
    with about_frame("items"):
        table = to_polars(items, [columns.item, columns.title])
        require_columns(table, [columns.item], what="the items frame", key="columns.item")
        require_columns(table, [columns.title], what="the items frame", key="columns.title")
        known = id_column(table, columns.item, "item")
        if (known.dtype == pl.String) != (ids.dtype == pl.String):
            raise DataError(
                f"columns.item: {columns.item!r} holds {ids.dtype} in the ratings and {known.dtype} in the items frame"
            )
    titles = pl.DataFrame({ID: known.cast(ids.dtype), TITLE: table.get_column(columns.title).cast(pl.String)})
    found = pl.DataFrame({ID: ids}).join(titles.unique(ID, keep="first"), on=ID, how="left", maintain_order="left")
    return pl.select(pl.coalesce(found[TITLE], names)).to_series().alias(TITLE)
