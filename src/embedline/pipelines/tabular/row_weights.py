"""Weights of rows: their check, and their scale, on which they enter losses and baselines."""

import logging
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import as_float, first_row, require_finite

HINT = "columns.weight needs a column of numbers"

logger = logging.getLogger(__name__)


class RowWeights(BaseModel):
    """The column that weighs the rows, and its mean over the training rows, by which it is divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    mean: float

    @property
    def stored(self) -> str:
        """Column of the encoded frame."""
        return f"weight:{self.column}"

    def scaled(self, table: nw.DataFrame[Any]) -> nw.Expr:
        """Float32 weights under the name ``stored``, whose mean over the training rows is 1; 0 for a missing one."""
        weight = as_float(table, self.column, hint=HINT) / self.mean
        return weight.fill_null(0.0).cast(nw.Float32).alias(self.stored)


def fit_row_weights(table: nw.DataFrame[Any], name: str) -> RowWeights | None:
    """The scale of the weights of the training rows ``table``; None as for :func:`training_weights`."""
    weights = training_weights(table, name)
    if weights is None:
        logger.info("All training rows have the same weight (columns.weight): they are trained without weights")
        return None
    return RowWeights(column=name, mean=float(weights.mean()))


def training_weights(table: nw.DataFrame[Any], name: str | None) -> NDArray[np.float64] | None:
    """Weights [N] of the training rows ``table``; None without a column of them.

    None, too, if all are equal: they then change nothing, to the last bit.

    Raises:
        DataError: if all of them are 0.
    """
    if name is None:
        return None
    weights = table.select(as_float(table, name, hint=HINT)).get_column(name).to_numpy().astype(np.float64)
    if not weights.any():
        raise DataError(f"column {name!r} (columns.weight) is 0 in all training rows: there is nothing to learn from")
    return weights if np.ptp(weights) else None


def require_weights(table: nw.DataFrame[Any], name: str, labelled: Sequence[nw.Expr]) -> None:
    """Raise a DataError that names the first row whose weight is missing, negative or infinite.

    Args:
        labelled: for each target whether a row has it; rows without one are not learned from, and need no weight.
    """
    checked = table.select(nw.all_horizontal(*labelled, ignore_nulls=True).alias("labelled"))
    weights = table.select(as_float(table, name, hint=HINT)).get_column(name)
    require_finite(weights, name)
    faulty = checked.get_column("labelled") & (weights.is_null() | (weights < 0).fill_null(False))
    if (row := first_row(faulty)) is not None:
        value = weights[row - 1]
        found = "no value" if value is None or np.isnan(value) else f"{value:g}"
        raise DataError(
            f"column {name!r} (columns.weight) has {found} at row {row}: a weight is a number from 0 on; correct it, "
            "or take the row out"
        )
