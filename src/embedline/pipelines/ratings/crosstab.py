"""The lesson's table of the most active users by the most rated items."""

from typing import Any

import numpy as np
import polars as pl

from embedline.pipelines.ratings.counts import training_counts
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW
from embedline.pipelines.ratings.item_analysis import most_rated
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import SPLIT_COLUMN, TEST
from embedline.pipelines.ratings.titles import item_titles


def crosstab(encoded: pl.DataFrame, model: RatingModel, n: int, items: Any = None) -> pl.DataFrame:
    """A row for each pair of the n most active users and the n most rated items, both by training ratings.

    Returns:
        User by user ``user``, ``item``, ``title``, ``actual`` (Float64, NaN where the user has not rated the item),
        ``held_out`` (whether this rating was kept from training) and ``predicted``. Where a user has rated an item
        more than once, the last row of the frame counts.
    """
    encoder = model.encoder
    counts = training_counts(encoded, encoder)
    users, films = most_rated(counts.users, n), most_rated(counts.items, n)
    user_rows, item_rows = np.repeat(users, len(films)), np.tile(films, len(users))
    pairs = pl.DataFrame(
        {USER_ROW: pl.Series(user_rows, dtype=pl.Int32), ITEM_ROW: pl.Series(item_rows, dtype=pl.Int32)}
    )
    of_them = encoded.filter(pl.col(USER_ROW).is_in(users.tolist()) & pl.col(ITEM_ROW).is_in(films.tolist()))
    last = of_them.unique([USER_ROW, ITEM_ROW], keep="last")
    cells = pairs.join(last, on=[USER_ROW, ITEM_ROW], how="left", maintain_order="left")
    titles = item_titles(pl.Series("item", encoder.items), items, encoder.columns)
    return pl.DataFrame(
        {
            "user": pl.Series(encoder.users).gather(user_rows - 1),
            "item": pl.Series(encoder.items).gather(item_rows - 1),
            "title": titles.gather(item_rows - 1),
            "actual": cells[RATING].cast(pl.Float64).fill_null(float("nan")),
            "held_out": (cells[SPLIT_COLUMN].cast(pl.String) == TEST).fill_null(False),
            "predicted": model.predict(user_rows, item_rows),
        }
    )
