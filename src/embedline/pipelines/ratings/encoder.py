"""The encoder: ids of users and items as row numbers of the embeddings, and their features as codes."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError, about_frame, input_name
from embedline.frames.checks import require_finite
from embedline.pipelines.ratings.contract import assign_splits, id_column, require_columns, subset, to_polars
from embedline.pipelines.ratings.features import Features, fit_feature
from embedline.pipelines.ratings.options import (
    SPLIT_COLUMN,
    TRAIN,
    FeatureOptions,
    Id,
    RatingColumns,
    RatingSplit,
    Span,
)

USER_ROW, ITEM_ROW, RATING = "user_row", "item_row", "rating"
UNKNOWN = 0  # row of a user or an item that no training row has
LOOKED_UP = 4_000_000  # ids looked up at a time: bounds memory


class RatingsEncoder(BaseModel):
    """Fitted state of the encoding; JSON through ``model_dump(mode="json")`` and ``model_validate``.

    Attributes:
        users: ids in the order of their rows: row = place + 1, and row 0 stands for every unknown user. Users with
            training ratings come first, sorted; users who are only in the users' frame follow.
        items: likewise.
        trained_users: number of ``users`` with training ratings; the others have their features alone.
        trained_items: likewise.
        rating_mean: mean of the training ratings.
        rating_range: lowest and highest possible rating; predictions are clipped to it.
        columns: names of the columns of the frames.
        item_features: columns that describe the items.
        user_features: columns that describe the users.
        item_codes: their features, a list for each of ``items``.
        user_codes: likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[Id, ...]
    items: tuple[Id, ...]
    trained_users: int
    trained_items: int
    rating_mean: float
    rating_range: tuple[float, float]
    columns: RatingColumns = RatingColumns()
    item_features: Features = Features()
    user_features: Features = Features()
    item_codes: tuple[tuple[int, ...], ...] = ()
    user_codes: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def item_feature_codes(self) -> NDArray[np.int32]:
        """Codes int32 [n_items + 1, L] of the features of each item's row, padded with 0; row 0 has none."""
        return _with_row_0(self.item_codes, len(self.items))

    @cached_property
    def user_feature_codes(self) -> NDArray[np.int32]:
        """Codes int32 [n_users + 1, L] of the features of each user's row, padded with 0; row 0 has none."""
        return _with_row_0(self.user_codes, len(self.users))

    def user_rows(self, values: Any) -> NDArray[np.int32]:
        """Rows int32 [N] of users' ids (a series or an array); 0 of an unknown one."""
        return _look_up(values, self.users, "user")

    def item_rows(self, values: Any) -> NDArray[np.int32]:
        """Rows int32 [N] of items' ids (a series or an array); 0 of an unknown one."""
        return _look_up(values, self.items, "item")


def fit_encoder(
    train_rows: Any,
    columns: RatingColumns,
    rating_range: Span = "auto",
    features: FeatureOptions | None = None,
    items: Any = None,
    users: Any = None,
) -> RatingsEncoder:
    """Learn ids, mean and range of the ratings, and features from training rows only.

    Args:
        train_rows: training rows of :func:`.contract.assign_splits`.
        rating_range: lowest and highest rating; ``auto``: those of the training rows.
        items: a row an item, with ``columns.item`` and the columns of ``features.items``, whose levels and cuts are
            those of the items that training rows have. None where there is no such frame.
        users: likewise.

    Raises:
        DataError: naming the column, the frame or the YAML key at fault.
    """
    features = features or FeatureOptions()
    rows = to_polars(train_rows)
    ratings = rows.get_column(columns.rating)
    span = _range_of(ratings, rating_range)
    trained_users = rows.get_column(columns.user).unique().sort()
    trained_items = rows.get_column(columns.item).unique().sort()
    all_users, user_features, user_codes = _describe(users, trained_users, features.users, features.bins, "user")
    all_items, item_features, item_codes = _describe(items, trained_items, features.items, features.bins, "item")
    return RatingsEncoder(
        users=tuple(all_users.to_list()),
        items=tuple(all_items.to_list()),
        trained_users=len(trained_users),
        trained_items=len(trained_items),
        rating_mean=float(ratings.cast(pl.Float64).mean()),  # type: ignore[arg-type]
        rating_range=span,
        columns=columns,
        item_features=item_features,
        user_features=user_features,
        item_codes=item_codes,
        user_codes=user_codes,
    )


def _range_of(ratings: pl.Series, wanted: Span) -> tuple[float, float]:
    """Lowest and highest rating; a DataError where they do not rise or a training rating lies outside."""
    key = input_name("rating_range")
    low, high = float(ratings.min()), float(ratings.max())  # type: ignore[arg-type]
    if wanted == "auto":
        if low >= high:
            raise DataError(f"all training ratings are {low:g}: there is nothing to learn, or give {key}")
        return low, high
    if wanted[0] >= wanted[1]:
        raise DataError(f"{key} must rise, got {list(wanted)}")
    if low < wanted[0] or high > wanted[1]:
        raise DataError(
            f"column {ratings.name!r} holds ratings from {low:g} to {high:g} in training, beyond {key} "
            f"{list(wanted)}: widen {key}, or set it to auto, which takes those of training"
        )
    return wanted


def encode(
    ratings: Any,
    encoder: RatingsEncoder,
    columns: RatingColumns | None = None,
    split: RatingSplit | None = None,
) -> pl.DataFrame:
    """Encode ratings of any backend, with the splits of ``split``; without one all rows are ``train``.

    Returns:
        ``user_row: Int32``, ``item_row: Int32``, ``rating: Float32`` and ``split`` (Enum), the rows in their order.

    Raises:
        DataError: naming the column at fault.
    """
    columns = columns or encoder.columns
    rows = to_polars(assign_splits(ratings, columns, split or RatingSplit(kind="none")))
    return pl.DataFrame(
        {
            USER_ROW: encoder.user_rows(rows.get_column(columns.user)),
            ITEM_ROW: encoder.item_rows(rows.get_column(columns.item)),
            RATING: rows.get_column(columns.rating),
            SPLIT_COLUMN: rows.get_column(SPLIT_COLUMN),
        }
    )


class TrainingCounts(NamedTuple):
    """Training ratings by row: ``users`` int64 [n_users + 1] and ``items`` int64 [n_items + 1]; row 0 has none."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]


def training_counts(encoded: pl.DataFrame, encoder: RatingsEncoder) -> TrainingCounts:
    """Count the training rows of an encoded frame."""
    train = subset(encoded, TRAIN)
    return TrainingCounts(
        np.bincount(train[USER_ROW].to_numpy(), minlength=len(encoder.users) + 1),
        np.bincount(train[ITEM_ROW].to_numpy(), minlength=len(encoder.items) + 1),
    )


def _describe(
    frame: Any, trained: pl.Series, wanted: Sequence[str], bins: int, key: str
) -> tuple[pl.Series, Features, tuple[tuple[int, ...], ...]]:
    """Ids of all rows, the ``trained`` ones (sorted, named as in the frame) first; their features, and the codes."""
    if not wanted:
        return trained, Features(), ()
    what, name = f"the {key}s frame", trained.name
    if frame is None:
        raise DataError(f"features.{key}s lists {list(wanted)}, but {what} is missing")
    with about_frame(f"{key}s"):
        table = to_polars(frame, [name, *wanted])
        require_columns(table, [name], what=what, key=f"columns.{key}")
        require_columns(table, wanted, what=what, key=f"features.{key}s")
        _require_finite(table, wanted)
        ids = id_column(table, name, key)
        if (ids.dtype == pl.String) != (trained.dtype == pl.String):
            raise DataError(f"columns.{key}: {name!r} holds {trained.dtype} in the ratings and {ids.dtype} in {what}")
        if ids.is_duplicated().any():
            row = ids.is_duplicated().arg_true()[1]
            raise DataError(f"{what} has more than one row of {name!r} {ids[row]!r}, such as row {row + 1}")
        own = trained.cast(pl.Int64) if trained.dtype.is_integer() else trained
        ids = ids.cast(own.dtype)
        everyone = pl.concat([own, ids.filter(~ids.is_in(own.implode())).sort()])
        table = table.select(ids.alias("id of row"), *(pl.col(column) for column in wanted))
        table = pl.DataFrame({"id of row": everyone}).join(table, on="id of row", how="left", maintain_order="left")
        fitted = table.head(len(trained))
        features = Features(
            columns=tuple(fit_feature(fitted.get_column(column), bins, key=f"features.{key}s") for column in wanted)
        )
        return everyone, features, tuple(map(tuple, features.codes(table, what).tolist()))


def _require_finite(table: pl.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        require_finite(nw.from_native(table.get_column(name), series_only=True), name)


def _with_row_0(codes: Sequence[Sequence[int]], size: int) -> NDArray[np.int32]:
    if not codes:
        return np.zeros((size + 1, 0), dtype=np.int32)
    rows = np.array(codes, dtype=np.int32)
    return np.vstack([np.zeros((1, rows.shape[1]), dtype=np.int32), rows])


def _look_up(values: Any, ids: Sequence[Id], key: str) -> NDArray[np.int32]:
    series = values.to_polars() if isinstance(values, nw.Series) else pl.Series(values)
    if isinstance(series.dtype, (pl.Categorical, pl.Enum)):
        series = series.cast(pl.String)
    known = pl.Series(ids)
    if len(series) and (series.dtype == pl.String) != (known.dtype == pl.String):
        raise DataError(f"{key} ids are {known.dtype} in the encoder and {series.dtype} here")
    rows = pl.arange(1, len(known) + 1, eager=True, dtype=pl.Int32)
    found = np.empty(len(series), dtype=np.int32)
    for start in range(0, len(series), LOOKED_UP):
        block = series.slice(start, LOOKED_UP)
        found[start : start + len(block)] = block.replace_strict(
            known, rows, default=UNKNOWN, return_dtype=pl.Int32
        ).to_numpy()
    return found
