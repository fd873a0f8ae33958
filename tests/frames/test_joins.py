"""Look-ups keep every row once and name the key that does not fit."""

import pytest

from embedline.errors import DataError
from embedline.frames.joins import join_sorted, lookup, require_unique, sorted_by
from frames.conftest import Build, values

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


def test_sorting_by_a_key(build: Build) -> None:
    assert values(sorted_by(build(SALES), "Store"), "Store") == [1, 2, 2, 3]
    assert values(sorted_by(build(STORES), "Store"), "Type") == STORES["Type"]


@pytest.mark.parametrize("keys", [[1, 2, 4], [4, 1, 2]])  # the second is not sorted: slower, not wrong
def test_sorted_joins(build: Build, keys: list[int]) -> None:
    joined = join_sorted(build({"key": keys}), build({"key": [1, 2, 3], "value": [10, 20, 30]}), "key").sort("key")
    assert values(joined, "value") == [10, 20, None]
