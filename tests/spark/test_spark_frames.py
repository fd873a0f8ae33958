"""On Spark the blocks of the preparation have the values and types of Polars, and its dataset keeps versions whole."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from kedro.io.core import DatasetError, Version

from embedline.datasets.contracts import TableContract
from embedline.datasets.spark import SparkFrame
from embedline.errors import DataError
from embedline.frames.days import (
    add_date_parts,
    add_gaps,
    add_neighbours,
    add_window_sums,
    day_number,
    day_number_of,
    day_of_run,
    days_from_next,
    days_since,
    monday_of_week,
)
from embedline.frames.tables import Date, Integer, Number, Text, lookup, typed

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.fixture(scope="module")
def build(spark: Any) -> Callable[[pl.DataFrame], Any]:
    """Make a Narwhals frame of Spark from a Polars frame."""
    return lambda frame: nw.from_native(spark.createDataFrame(frame.to_arrow(compat_level=pl.CompatLevel.oldest())))


def collected(frame: Any) -> pl.DataFrame:
    """The rows as a Polars frame."""
    found = frame.collect("polars").to_native()
    assert isinstance(found, pl.DataFrame)
    return found


def test_dates_around_centuries_and_leap_years(build: Callable[[pl.DataFrame], Any]) -> None:
    firsts = (date(1899, 11, 1), date(1967, 11, 1), date(1999, 11, 1), date(2012, 11, 1))
    days = pl.DataFrame({"Date": [first + timedelta(days=step) for first in firsts for step in range(1_500)]})

    def date_parts(frame: Any) -> Any:
        day = nw.col("Date")
        frame = add_date_parts(frame).with_columns(number=day_number(day))
        year = nw.col("Year")
        return frame.with_columns(
            again=day_number_of(year, nw.col("Month"), 1), monday=monday_of_week(year, nw.col("Week"))
        )

    expected = date_parts(nw.from_native(days)).to_native()
    assert collected(date_parts(build(days))).sort("Date").equals(expected)
    assert expected["Week"].to_list() == [day.isocalendar().week for day in days["Date"]]


def test_windows_are_those_of_polars(build: Callable[[pl.DataFrame], Any]) -> None:
    rng = np.random.default_rng(0)
    flags = {name: rng.random(900) < share for name, share in (("a", 0.02), ("b", 0.5), ("c", 0.9))}
    frame = pl.DataFrame({"group": np.arange(900) % 3, "day": np.arange(900) + 16_000, **flags}).with_columns(
        pl.col("group").cast(pl.Int32), pl.col("day").cast(pl.Int32), pl.col("a", "b", "c").cast(pl.Int8)
    )
    frame = frame.filter(rng.random(900) < 0.8).with_columns(a=pl.when(pl.col("group") == 2).then(0).otherwise("a"))

    def windows(rows: Any) -> Any:
        where = {"day": "day", "group": "group"}
        rows = rows.with_columns(
            since=days_since(nw.col("a") == 1, **where), until=days_from_next(nw.col("a") == 1, **where)
        )
        rows = add_gaps(rows, nw.col("c") == 1, before="before", after="after", **where)
        rows = add_window_sums(rows, ("a", "b", "c"), window=7, order="day", group="group")
        rows = add_neighbours(rows, {-1: ("Before", ["a", "b"]), 2: ("Later", ["c"])}, **where)
        starts = (nw.col("b") == 1) & (nw.col("bBefore").fill_null(0) == 0)
        return rows.with_columns(run=day_of_run(starts, nw.col("b") == 1, **where))

    expected = windows(nw.from_native(frame)).sort("group", "day").to_native()
    found = collected(windows(build(frame))).sort("group", "day")
    assert found.schema == expected.schema
    assert found.equals(expected)
    assert expected["until"].null_count() > expected["group"].value_counts()["count"].min() * 0.5  # group 2 has none


SCHEMA = {"Store": Integer(nw.Int32, minimum=1), "Distance": Number(minimum=0), "Date": Date()}
SCHEMA["Letter"] = Text(required=False, noun="one letter", pattern="[a-z]")
GOOD = {"Store": ["1", "2"], "Distance": ["570.5", ""], "Date": ["2015-07-31", "2016-02-29"], "Letter": ["a", None]}


FAULTS = [
    ("Store", "one", "'one' is not a whole number"),
    ("Store", "0", "'0' is not between 1 and 2147483647"),
    ("Distance", "far", "'far' is not a number"),
    ("Date", "2015-02-29", "'2015-02-29' is not a date"),
    ("Letter", "ab", "'ab' is not one letter"),
]


def test_texts_get_their_types_and_a_fault_names_file_column_row_and_value(build) -> None:
    frame = collected(typed(build(pl.DataFrame(GOOD)), SCHEMA, file="t.csv"))
    assert frame.schema == {"Store": pl.Int32, "Distance": pl.Float32, "Date": pl.Date, "Letter": pl.String}
    assert frame.rows() == [(1, 570.5, date(2015, 7, 31), "a"), (2, None, date(2016, 2, 29), None)]
    for column, text, says in FAULTS:
        bad = build(pl.DataFrame({**GOOD, column: [GOOD[column][0], text]}))
        with pytest.raises(DataError, match=f"^t.csv: column {column}, row 2: {says}$"):
            typed(bad, SCHEMA, file="t.csv")


def test_a_lookup_names_the_key_without_a_partner(build: Callable[[pl.DataFrame], Any]) -> None:
    rows, table = build(pl.DataFrame({"k": [1, 2, 2, 5]})), build(pl.DataFrame({"k": [1, 2], "v": ["a", "b"]}))
    with pytest.raises(DataError, match=r"^rows: k 5 has no match in table \(1 rows without one\)$"):
        lookup(rows, table, ["k"], name="rows", table_name="table")
    with pytest.raises(DataError, match=r"^table: k 2 occurs 2 times; it may occur once$"):
        lookup(table, rows, ["k"], name="rows", table_name="table")


def test_the_contract_of_a_table_holds(build: Callable[[pl.DataFrame], Any]) -> None:
    frame = build(pl.DataFrame({"shop": [1, 1, 2, 2], "day": [1, 2, 1, 1], "sales": [5.0, None, 6.0, 7.0]}))
    native = frame.to_native()
    assert (
        TableContract("t", required=["sales"], unique=["shop", "sales"], not_null=["shop"]).validate(native) is native
    )
    for options, says in (
        ({"required": ["till"]}, "^t has no column 'till'$"),
        ({"not_null": ["shop", "sales"]}, "^t: column 'sales' has 1 missing values$"),
        ({"unique": ["shop", "day"]}, "^t: shop 2, day 1 occurs"),
    ):
        with pytest.raises(DataError, match=says):
            TableContract("t", **options).validate(native)
    with pytest.raises(DataError, match=r"^t has no rows$"):
        TableContract("t").validate(frame.head(0).to_native())


# The dataset


def dataset(folder: Path, version: str = "1", load: str | None = None, **arguments: Any) -> SparkFrame:
    return SparkFrame(filepath=(folder / "t.parquet").as_posix(), version=Version(load, version), **arguments)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_versions_come_back_and_hold_nothing_but_numbered_parts(spark: Any, tmp_path: Path) -> None:
    assert not dataset(tmp_path).exists()
    for version, rows in (("1", 10), ("2", 1000)):
        dataset(tmp_path, version).save(spark.range(rows, numPartitions=2).repartitionByRange(2, "id").sort("id"))
    assert dataset(tmp_path, "3").load().count() == 1000
    assert dataset(tmp_path, "3", load="1").load().count() == 10
    assert dataset(tmp_path, "3", load_as="polars").load()["id"].to_list() == list(range(1000))
    assert dataset(tmp_path, "3").exists()
    assert {path.split("/")[-1] for path in files(tmp_path)} <= {"part-00000.parquet", "part-00001.parquet"}
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        dataset(tmp_path, "2").save(spark.range(3))


def test_a_save_that_fails_half_way_leaves_nothing_and_says_why_in_one_line(spark: Any, tmp_path: Path) -> None:
    dataset(tmp_path, "1").save(spark.range(10))
    fails = spark.range(1000, numPartitions=4).selectExpr("if(id < 900, id, cast('none' as int)) as id")
    with pytest.raises(DatasetError, match=r"Spark cannot write .*t\.parquet: .*CAST_INVALID_INPUT.*'none'") as raised:
        dataset(tmp_path, "2").save(fails)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "t.parquet").iterdir()] == ["1"]
    dataset(tmp_path, "2").save(spark.range(20))  # and the version may be tried again
    assert dataset(tmp_path, "3").load().count() == 20


def test_raw_files_are_read_as_text(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "t.parquet" / "1").mkdir(parents=True)
    (tmp_path / "t.parquet" / "1" / "t.parquet").write_bytes(b'a,b\r\n1,"HB,NI"\r\n,"0"\r\n')
    raw = dataset(tmp_path, "2", file_format="csv", load_args={"header": True, "mode": "FAILFAST"})
    assert [tuple(row) for row in raw.load().collect()] == [("1", "HB,NI"), (None, "0")]
    with pytest.raises(DatasetError, match="are saved as parquet, not csv"):
        raw.save(raw.load())
