"""How continuous variables are scaled, from the training rows alone."""

from typing import Any

import narwhals as nw
import numpy as np
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import require_numeric
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.quantiles import fit_quantiles, normal_scores

TINY = 1e-7  # added to the deviation that divides, as in the lessons
LARGEST = float(np.finfo(np.float64).max)
ROUNDING = 1e-12  # a deviation below this part of the mean is what float64 leaves of a constant


class Scale(BaseModel):
    """Value to fill in, limits, and mean and population standard deviation to standardise by, of the training rows.

    Attributes:
        quantiles: of the training rows where the variable is scaled by its ranks; ``mean`` and ``std`` are then those
            of the normal scores.
        rows: training rows that the quantiles are of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fill: float
    mean: float
    std: float
    limits: tuple[float, float] | None = None
    quantiles: tuple[float, ...] | None = None
    rows: int = 0

    def complete(self, number: nw.Expr) -> nw.Expr:
        """The variable without missing values, within its limits."""
        limited = number.clip(*self.limits) if self.limits else number
        return limited.fill_null(self.fill)

    def standardise(self, table: nw.DataFrame[Any], number: nw.Expr, name: str) -> nw.Expr | nw.Series[Any]:
        """Float32 inputs of the network, under ``name``, from the raw ``number`` of ``table``."""
        if self.quantiles is None:
            return ((self.complete(number) - self.mean) / (self.std + TINY)).cast(nw.Float32).alias(name)
        values = table.select(self.complete(number).alias(name)).get_column(name).to_numpy()
        scores = (normal_scores(values, self.quantiles, self.rows) - self.mean) / (self.std + TINY)
        return nw.new_series(name, scores.astype(np.float32), nw.Float32, backend=table.implementation)


def fit_scale(values: nw.Series[Any], options: EncodingOptions) -> Scale:
    """Scale of a continuous variable from its Float64 values on the training rows."""
    if values.null_count() == len(values):
        raise DataError(
            f"column {values.name!r} holds only missing values on the training rows: take it out of columns.continuous"
        )
    limits = options.limits.get(values.name)
    if limits:  # a limit on one side has .inf on the other, which JSON does not have
        limits = max(limits[0], -LARGEST), min(limits[1], LARGEST)
    limited = values.clip(*limits) if limits else values
    fill = options.fill.get(values.name, float(limited.median()))
    filled = limited.fill_null(fill)
    if options.scaling_of(values.name) == "standard":
        mean = float(filled.mean())
        return Scale(fill=fill, mean=mean, std=spread(float(filled.std(ddof=0)), mean), limits=limits)
    numbers = filled.to_numpy()
    quantiles = fit_quantiles(numbers)
    scores = normal_scores(numbers, quantiles, len(numbers))
    mean = float(scores.mean())
    std = spread(float(scores.std()), mean)
    return Scale(fill=fill, mean=mean, std=std, limits=limits, quantiles=quantiles, rows=len(numbers))


def as_float(table: nw.DataFrame[Any], name: str, *, mend: str) -> nw.Expr:
    """Column ``name`` as Float64 with null for NaN; raise a DataError that says how to ``mend`` one of another type."""
    require_numeric(table.get_column(name), name, mend=mend)
    number = nw.col(name).cast(nw.Float64)
    return nw.when(~number.is_nan()).then(number).alias(name) if table.schema[name].is_float() else number


def spread(std: float, mean: float) -> float:
    """``std``, or 1 for a constant column, whose computed deviation may be 1e-17 instead of 0.

    DIFF(fastai): it divides by 1e-7 there, and a value that training never saw becomes 1e7 standard deviations.
    """
    return std if std > ROUNDING * abs(mean) else 1.0
