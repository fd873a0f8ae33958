"""The parameter blocks of the Rossmann preparation."""

from typing import Literal

from pydantic import Field, field_validator

from embedline.pipelines.rossmann.schemas import WEATHER
from embedline.training.options import Options


class FeatureOptions(Options):
    """``params:rossmann.features``: how the tables become features."""

    window: int = Field(default=7, ge=1, le=100)
    """Rows of a store, this one included, in the backward and forward counts."""
    competition_months_cap: int = Field(default=24, ge=1, le=1000)
    """Longest time that the nearest competitor counts as open, months of 30 days."""
    promo2_weeks_cap: int = Field(default=25, ge=1, le=1000)
    """Longest time that the second promotion counts as running, weeks."""
    weather: tuple[str, ...] = (
        *("Max_TemperatureC", "Mean_TemperatureC", "Min_TemperatureC", "Max_Humidity", "Mean_Humidity", "Min_Humidity"),
        *("Max_Wind_SpeedKm_h", "Mean_Wind_SpeedKm_h", "CloudCover", "Precipitationmm", "Events"),
    )
    """Columns of weather.csv that the table carries."""
    horizon: int = Field(default=42, ge=1, le=1000)
    """Days of a block, where the split has no window that says how long one is."""
    calendar: Literal["window", "all"] = "window"
    """``window``: promotions, holidays and openings after the end of a row's block are not known; ``all``: they are."""
    conditions: Literal["known", "lagged"] = "known"
    """``known``: weather and trends of the row's day; ``lagged``: of the day before its block."""

    @field_validator("weather")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name in WEATHER if name not in ("file", "Date")]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{', '.join(unknown)}: no such column in weather.csv; it has {', '.join(known)}")
        if len(set(names)) < len(names):
            raise ValueError("a column is named twice")
        return names
