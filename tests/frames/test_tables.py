"""Typing of text frames, with a message for every kind of fault; look-ups keep every row once and name an odd key."""

from typing import Any

import narwhals as nw
import pytest

from embedline.errors import DataError
from embedline.frames.tables import (
    Date,
    Integer,
    Number,
    Text,
    join_sorted,
    lookup,
    require_unique,
    typed,
)
from frames.conftest import Build, values

SCHEMA = {
    "Store": Integer(nw.Int16, minimum=1),
    "Year": Integer(nw.Int16, fill=1900),
    "Distance": Number(minimum=0),
    "Date": Date(),
    "Kind": Text(required=False),
    "Letter": Text(noun="one letter", pattern="[a-z]"),
}
GOOD: dict[str, list[Any]] = {
    "Store": ["1", "32767"],
    "Year": ["2008", ""],
    "Distance": ["570.5", ""],
    "Date": ["2015-07-31", "2016-02-29"],
    "Kind": ["", "a"],
    "Letter": ["a", "z"],
}


def test_every_column_gets_its_type_and_the_order_of_the_schema(build: Build) -> None:
    frame = typed(build({"Unused": ["x", "y"], **GOOD}), SCHEMA, file="t.csv")
    types = frame.collect_schema()
    assert types.names() == list(SCHEMA)
    assert [types[name] for name in ("Store", "Year", "Distance")] == [nw.Int16, nw.Int16, nw.Float32]
    assert values(frame, "Store") == [1, 32767]
    assert values(frame, "Year") == [2008, 1900]
    assert values(frame, "Distance") == [570.5, None]
    assert [str(day)[:10] for day in values(frame, "Date")] == ["2015-07-31", "2016-02-29"]
    assert values(frame, "Kind") == [None, "a"]


def test_null_means_missing_as_the_empty_text_does(build: Build) -> None:
    columns = {**GOOD, "Distance": [None, "1"], "Kind": [None, "a"], "Year": [None, "2000"]}
    frame = typed(build(columns), SCHEMA, file="t.csv")
    assert [values(frame, name)[0] for name in ("Distance", "Kind", "Year")] == [None, None, 1900]


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("Store", "", "column Store, row 2: the value is missing"),
        ("Store", None, "column Store, row 2: the value is missing"),
        ("Store", "one", "column Store, row 2: 'one' is not a whole number"),
        ("Store", "1.5", "column Store, row 2: '1.5' is not a whole number"),
        ("Store", "0", "column Store, row 2: '0' is not between 1 and 32767"),
        ("Store", "32768", "column Store, row 2: '32768' is not between 1 and 32767"),
        ("Year", "long ago", "column Year, row 2: 'long ago' is not a whole number"),
        ("Distance", "far", "column Distance, row 2: 'far' is not a number"),
        ("Distance", "-1", "column Distance, row 2: '-1' is below 0"),
        ("Distance", "inf", "column Distance, row 2: 'inf' is not finite"),
        ("Date", "2015-13-01", "column Date, row 2: '2015-13-01' is not a date"),
        ("Date", "2015-02-29", "column Date, row 2: '2015-02-29' is not a date"),
        ("Date", "", "column Date, row 2: the value is missing"),
        ("Letter", "ab", "column Letter, row 2: 'ab' is not one letter"),
        ("Letter", "", "column Letter, row 2: the value is missing"),
    ],
)
def test_a_fault_names_file_column_row_and_value(build: Build, column: str, text: str | None, says: str) -> None:
    frame = build({**GOOD, column: [GOOD[column][0], text]})
    with pytest.raises(DataError) as raised:
        typed(frame, SCHEMA, file="t.csv")
    assert str(raised.value) == f"t.csv: {says}"


def test_a_missing_column_and_an_empty_file_are_named(build: Build) -> None:
    with pytest.raises(DataError, match=r"t.csv: column Date, Store is missing \(the file has Year\)"):
        typed(build({"Year": ["2000"]}), {name: SCHEMA[name] for name in ("Store", "Year", "Date")}, file="t.csv")
    with pytest.raises(DataError, match=r"t.csv: there are no rows below the header"):
        typed(build(GOOD).head(0), SCHEMA, file="t.csv")


def test_dates_are_cut_out_of_another_column(build: Build) -> None:
    schema = {"first": Date(source="week"), "last": Date(source="week", start=13)}
    frame = typed(build({"week": ["2012-12-02 - 2012-12-08"]}), schema, file="t.csv")
    assert [str(values(frame, name)[0])[:10] for name in schema] == ["2012-12-02", "2012-12-08"]
    with pytest.raises(DataError, match=r"column week, row 1: .* has '2012-12-32', which is not a date"):
        typed(build({"week": ["2012-12-02 - 2012-12-32"]}), schema, file="t.csv")


SALES = {"Store": [2, 1, 2, 3], "Day": [1, 1, 2, 1]}
STORES = {"Store": [1, 2, 3, 4], "Type": ["a", "b", None, "d"]}


def test_lookup_adds_columns_and_keeps_rows(build: Build) -> None:
    joined = lookup(build(SALES), build(STORES), ["Store"], name="sales", table_name="stores").sort("Store", "Day")
    assert joined.collect_schema().names() == ["Store", "Day", "Type"]
    assert values(joined, "Type") == ["a", "b", "b", None]


def test_an_unknown_key_is_named_and_counted(build: Build) -> None:
    sales = build({"Store": [1, 17, 17], "Day": [1, 2, 3]})
    with pytest.raises(DataError, match=r"^sales: Store 17 has no match in stores \(2 rows without one\)$"):
        lookup(sales, build(STORES), ["Store"], name="sales", table_name="stores")


def test_a_repeated_key_of_the_table_is_named(build: Build) -> None:
    stores = build({"Store": [1, 2, 2], "Type": ["a", "b", "c"]})
    with pytest.raises(DataError, match=r"^stores: Store 2 occurs 2 times; it may occur once$"):
        lookup(build(SALES), stores, ["Store"], name="sales", table_name="stores")


def test_unique_keys_of_two_columns(build: Build) -> None:
    require_unique(build(SALES), ["Store", "Day"], name="sales")
    with pytest.raises(DataError, match=r"^sales: Store 2, Day 1 occurs 2 times; it may occur once$"):
        require_unique(build({"Store": [2, 1, 2], "Day": [1, 1, 1]}), ["Store", "Day"], name="sales")


@pytest.mark.parametrize("keys", [[1, 2, 4], [4, 1, 2]])  # the second is not sorted: slower, not wrong
def test_sorted_joins(build: Build, keys: list[int]) -> None:
    joined = join_sorted(build({"key": keys}), build({"key": [1, 2, 3], "value": [10, 20, 30]}), "key").sort("key")
    assert values(joined, "value") == [10, 20, None]
