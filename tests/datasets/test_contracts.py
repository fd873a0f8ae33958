"""The contract of a canonical frame, on each engine, with the message that the user reads."""

from typing import Any

import pandas as pd
import polars as pl
import pytest

from embedline.datasets.contracts import TableContract
from embedline.errors import DataError

ENGINES = pytest.mark.parametrize("make", [pl.DataFrame, pl.LazyFrame, pd.DataFrame])
GOOD: dict[str, list[Any]] = {"shop": [1, 1, 2], "day": [1, 2, 1], "sales": [5.0, None, 6.0]}


@ENGINES
def test_a_good_frame_comes_back_as_it_is(make: Any) -> None:
    frame = make(GOOD)
    assert TableContract("t", required=["sales"], unique=["shop", "day"], not_null=["shop"]).validate(frame) is frame
    assert TableContract("t").validate(frame) is frame


@ENGINES
@pytest.mark.parametrize(
    ("change", "contract", "message"),
    [
        ({}, {"required": ["sales", "open", "id"]}, "^sales.table has no column 'open', 'id'$"),
        ({}, {"unique": ["till"], "not_null": ["till"]}, "^sales.table has no column 'till'$"),
        ({}, {"not_null": ["shop", "sales"]}, "^sales.table: column 'sales' has 1 missing values$"),
        ({"day": [1, 2, 2]}, {"unique": ["day"]}, "^sales.table: {'day': 2} occurs more than once$"),
        (
            {"shop": [1, 2, 2], "day": [3, 4, 4]},
            {"unique": ["shop", "day"]},
            "^sales.table: {'shop': 2, 'day': 4} occurs more than once$",
        ),
        ({"shop": [], "day": [], "sales": []}, {}, "^sales.table has no rows$"),
    ],
)
def test_a_bad_frame_is_refused(make: Any, change: dict[str, Any], contract: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TableContract("sales.table", **contract).validate(make({**GOOD, **change}))
