"""Small frames in every engine."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import narwhals as nw
import pandas as pd
import polars as pl
import pytest

Build = Callable[[Mapping[str, Sequence[Any]]], Any]

ENGINES: dict[str, Build] = {
    "polars": lambda columns: nw.from_native(pl.DataFrame(columns)),
    "polars-lazy": lambda columns: nw.from_native(pl.LazyFrame(columns)),
    "pandas": lambda columns: nw.from_native(pd.DataFrame(columns)),
}


@pytest.fixture(params=list(ENGINES))
def build(request: pytest.FixtureRequest) -> Build:
    """Make a Narwhals frame of one engine from columns."""
    return ENGINES[request.param]


def values(frame: Any, column: str) -> list[Any]:
    """The column as a list, missing values as None."""
    found = frame.lazy().collect().get_column(column).to_list()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in found]
