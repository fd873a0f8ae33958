"""How continuous variables and the target are scaled, from the training rows alone."""

from typing import Literal

import narwhals as nw
from pydantic import BaseModel, ConfigDict

TINY = 1e-7  # added to the deviation that divides, as in the lessons
ROUNDING = 1e-12  # a deviation below this part of the mean is what float64 leaves of a constant


class Scale(BaseModel):
    """Value to fill in, limits, and mean and population standard deviation to standardise by, of the training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fill: float
    mean: float
    std: float
    limits: tuple[float, float] | None = None

    def complete(self, number: nw.Expr) -> nw.Expr:
        """The variable without missing values, within its limits."""
        limited = number.clip(*self.limits) if self.limits else number
        return limited.fill_null(self.fill)


class TargetScale(BaseModel):
    """Transform of the target and, of the transformed training values, mean, deviation and maximum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    transform: Literal["log", "none"]
    mean: float
    std: float
    maximum: float


def spread(std: float, mean: float) -> float:
    """``std``, or 1 for a constant column, whose computed deviation may be 1e-17 instead of 0.

    DIFF(fastai): it divides by 1e-7 there, and a value that training never saw becomes 1e7 standard deviations.
    """
    return std if std > ROUNDING * abs(mean) else 1.0
