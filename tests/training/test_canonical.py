"""Frames as users give them: what is opened, what is settled, and what is refused by column and row."""

import contextlib
import datetime
import decimal
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from embedline.errors import NO_NAMES, DataError, FrameError, about_frame, input_names
from embedline.frames.checks import open_frame, require_exact, require_finite, require_numeric, settle_objects

LONG = 76561197960287931  # between 2**56 and 2**57: as a float a multiple of 16
VALUES = {"shop": ["a", "b"], "sales": [1.5, 2.5]}


def _series(values: Any, dtype: Any = None) -> nw.Series[Any]:
    return nw.from_native(pd.Series(values, dtype=dtype), series_only=True)


def _objects(values: list[Any]) -> nw.DataFrame[Any]:
    return nw.from_native(pd.DataFrame({"x": pd.Series(values, dtype=object)}), eager_only=True)


@pytest.mark.parametrize(
    "data",
    [
        pl.LazyFrame(VALUES),
        nw.from_native(pl.LazyFrame(VALUES)),
        nw.from_native(pl.DataFrame(VALUES), eager_only=True),
        pa.table(VALUES),
        pd.DataFrame(VALUES).set_index("shop"),
        pd.DataFrame(VALUES).set_index(["shop", pd.Index([7, 8])]),
        pd.DataFrame(VALUES).set_axis([0, 0]),
    ],
    ids=["lazy", "narwhals lazy", "narwhals", "arrow", "named index", "index of two levels", "repeated index"],
)
def test_frames_of_any_engine_are_opened(data: Any) -> None:
    frame = open_frame(data)
    assert frame.rows(named=True) == [{"shop": "a", "sales": 1.5}, {"shop": "b", "sales": 2.5}]
    assert frame.implementation.is_pandas() == isinstance(data, pd.DataFrame)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pd.DataFrame([[1, 2, 3]], columns=["a", "b", "b"]), "'b'"),
        (pa.table([[1], [2]], names=["a", "a"]), "'a'"),
        (pd.DataFrame([[1, 2]]), "header"),
        (pd.DataFrame([[1, 2]], columns=["a", 2019]), "2019"),
        (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])), "('a', 'b')"),
        (pl.DataFrame({"a": []}), "no rows"),
        (pl.scan_csv("nowhere.csv"), "nowhere.csv"),
        ({"a": [1]}, "dict"),
        (pd.Series([1]), "Series"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_table_is_refused(data: Any, named: str) -> None:
    with pytest.raises(DataError) as caught:
        open_frame(data)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


ONE_KIND = [[1, None, 3], [1, 2.5], [decimal.Decimal("1.5"), None], [True, None], ["a", None]]


@pytest.mark.parametrize("values", [*ONE_KIND, [datetime.datetime(2020, 1, 2), datetime.datetime(2020, 1, 3)]])
def test_objects_of_one_kind_are_settled(values: list[Any]) -> None:
    column = settle_objects(_objects(values), ["x"]).get_column("x")
    assert [None if pd.isna(value) else value for value in column.to_list()] == values
    assert column.dtype in (nw.Int64, nw.Float64, nw.Datetime, nw.Object, nw.String)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (["a"] * 150 + [None, 7], ["'x'", "7", "row 152", "'a'", "row 1"]),  # beyond what engines guess from
        ([None, 7, 8, "a"], ["7", "row 2", "'a'", "row 4"]),
        ([True, 1], ["True", "row 1", "row 2"]),
        ([None, [1, 2]], ["list", "row 2"]),
        ([b"a"], ["bytes", "row 1"]),
        ([2**70, 1], ["'x'", "str"]),
        ([pd.Timestamp("2020", tz="UTC"), pd.Timestamp("2020", tz="Asia/Tokyo")], ["'x'", "time zone"]),
    ],
)
def test_a_column_of_several_kinds_names_the_rows(values: list[Any], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        settle_objects(_objects(values), ["x"])
    assert [part for part in named if part not in str(caught.value)] == []
    settle_objects(_objects(values), [])  # of no use to anybody, it disturbs nobody


@pytest.mark.parametrize(
    ("values", "dtype", "row"),
    [
        *(([1.0, None, float(LONG)], "float64", 3), ([1.0, -float(2**53)], "float64", 2), ([1, 2**63], "uint64", 2)),
        *(([None, float(LONG)], "Float64", 2), ([1.0, float(2**24)], "float32", 2), ([1.0, np.inf], "float64", 2)),
    ],
)
def test_whole_numbers_that_a_column_cannot_tell_apart_are_refused(values: list[Any], dtype: str, row: int) -> None:
    with pytest.raises(DataError, match=rf"(?s)(?=.*'Account')(?=.*columns\.categorical).*row {row}\b"):
        require_exact(_series(values, dtype), "Account", "columns.categorical")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([2.0**53 - 1, None], "float64"), ([LONG, None], "Int64"), ([2**63 - 1], "uint64"), (["a"], None)],
)
def test_exact_ids_pass(values: list[Any], dtype: Any) -> None:
    require_exact(_series(values, dtype), "Account", "columns.categorical")


def test_a_missing_number_is_no_large_one() -> None:
    values = nw.from_native(pl.Series([1.0, float("nan"), None]), series_only=True)
    require_exact(values, "Account", "columns.categorical")
    require_finite(values, "Area")


def test_a_number_that_a_network_cannot_take_is_named_by_its_row() -> None:
    for value in (np.inf, -np.inf, 1e300):
        with pytest.raises(DataError, match=r"'Area'.*row 3"):
            require_finite(_series([1.0, np.nan, value]), "Area")
    require_finite(_series([1.0, np.nan, 1e30]), "Area")
    for values, named in ((["1", None, "1,5"], "correct it.*row 3 holds '1,5'"), ([1j], "complex128.*correct it")):
        with pytest.raises(DataError, match=f"'Area'.*{named}"):
            require_numeric(_series(values), "Area", hint="correct it")


def test_the_error_of_a_frame_begins_with_its_name() -> None:
    def message(text: str, *names: str) -> str:
        with pytest.raises(FrameError) as caught, contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(about_frame(name))
            raise DataError(text)
        return str(caught.value)

    assert message("column 'x' is odd", "ratings", "table") == "the table: column 'x' is odd"
    assert message("the table has no column 'x'", "table") == "the table has no column 'x'"
    input_names.set({"table": "houses.table"})
    try:
        assert message("the table has no column 'x'", "table") == "houses.table has no column 'x'"
    finally:
        input_names.set(NO_NAMES)
