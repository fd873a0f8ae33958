"""Frames in parts on Spark: the preparation has the rows and types of Polars, and the dataset keeps versions whole."""

from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kedro.io.core import DatasetError, Version

from embedline.datasets.contracts import TableContract
from embedline.datasets.spark import SparkFrame
from embedline.frames.parts import Parts, Plan, SpreadPlan
from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables
from embedline.pipelines.tabular.columns import Split

pytestmark = [pytest.mark.spark, pytest.mark.slow]

WINDOW = Split(kind="window", column="Date", start=date(2015, 6, 19), end=date(2015, 7, 31))
HELD_OUT = Split(kind="window", column="Date", start=date(2014, 8, 1), end=date(2014, 9, 17), train="others")
NOTHING = Split(kind="none")


def dataset(folder: Path, version: str = "1", load: str | None = None, **arguments: Any) -> SparkFrame:
    return SparkFrame(filepath=(folder / "t.parquet").as_posix(), version=Version(load, version), **arguments)


def saved(plan: Plan, folder: Path) -> Parts:
    """The parts, once they are written."""
    assert isinstance(plan, Plan)
    dataset(folder).save(plan)
    parts = dataset(folder, "2").load()
    assert isinstance(parts, Parts)
    return parts


def raw_frame(folder: Path, content: bytes) -> Any:
    """A CSV file as the catalog of conf/spark reads it."""
    file = folder / "t.parquet" / "1" / "t.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return dataset(folder, "2", file_format="csv", load_args={"header": True, "mode": "FAILFAST"}).load()


@pytest.fixture(scope="module")
def raw() -> dict[str, bytes]:
    """The files of four stores, of which one has no day to forecast and is the only one of its part."""
    files = generate_tables(GeneratorOptions(n_stores=4))
    test = pl.read_csv(files["test"], infer_schema=False).filter(pl.col("Store") != "4")
    return {**files, "test": test.write_csv().encode()}


@pytest.fixture(scope="module")
def typed_tables(raw: dict[str, bytes]) -> dict[str, pl.DataFrame]:
    frames = {name: pl.read_csv(content, infer_schema=False) for name, content in raw.items()}
    return {
        "sales": nodes.type_sales(frames["train"], frames["test"]),
        "stores": nodes.type_stores(frames["store"], frames["store_states"], frames["state_names"]),
        "weather": nodes.type_weather(frames["weather"], frames["state_names"]),
        "trends": nodes.type_trends(frames["googletrend"]),
    }


@pytest.fixture(scope="module")
def sales(spark: Any, raw: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """``rossmann.sales`` in parts."""
    folder = tmp_path_factory.mktemp("sales")
    train, test = (raw_frame(folder / name, raw[name]) for name in ("train", "test"))
    return saved(nodes.type_sales(train, test), folder)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.schema == expected.schema
    assert [name for name in expected.columns if not found[name].equals(expected[name])] == []


def test_rows_are_spread_once_and_come_back_in_their_order(sales: Parts, typed_tables: Any) -> None:
    assert len(sales.files) == 2  # spark.sql.shuffle.partitions
    of_parts = [set(pl.read_parquet(file, columns=["Store"])["Store"]) for file in sales.files]
    assert all(of_parts) and not of_parts[0] & of_parts[1]
    assert_same(sales.scan().collect(), typed_tables["sales"])


@pytest.mark.parametrize(
    ("features", "split"),
    [
        (FeatureOptions(), WINDOW),
        (FeatureOptions(calendar="all", conditions="lagged", window=3), HELD_OUT),
        (FeatureOptions(horizon=30), NOTHING),
    ],
    ids=["window", "held out, lagged", "no window"],
)
def test_the_table_is_that_of_polars_row_for_row(
    sales: Parts, typed_tables: Any, features: Any, split: Any, tmp_path: Path
) -> None:
    tables = [typed_tables[name] for name in ("stores", "weather", "trends")]
    options = (features, split)

    def prepare(rows: Any, keep: Any) -> dict[str, Any]:
        joined = keep("joined", nodes.join_tables(rows, *tables, *options))
        calendar = keep("calendar", nodes.build_calendar(rows, *options))
        recency = keep("recency", nodes.build_recency(rows, *options))
        table = keep("table", nodes.build_table(joined, calendar, recency, *options))
        return {"joined": joined, "calendar": calendar, "recency": recency, "table": table}

    found = prepare(sales, lambda name, plan: saved(plan, tmp_path / name))
    expected = prepare(typed_tables["sales"], lambda _, frame: frame)
    for name, frame in expected.items():
        parts = found[name].scan().collect()
        is_sorted = name in ("table", "recency")
        assert_same(*((each if is_sorted else each.sort("StoreDay")) for each in (parts, frame)))
    assert len(expected["table"]) > 2_000


def test_a_fault_names_the_row_of_its_file(spark: Any, raw: dict[str, bytes], tmp_path: Path) -> None:
    lines = raw["train"].split(b"\n")
    fields = lines[700].split(b",")
    lines[700] = b",".join([*fields[:3], b"many", *fields[4:]])
    train, test = raw_frame(tmp_path / "train", b"\n".join(lines)), raw_frame(tmp_path / "test", raw["test"])
    with pytest.raises(DatasetError, match=r"^train\.csv: column Sales, row 700: 'many' is not a whole number"):
        dataset(tmp_path).save(nodes.type_sales(train, test))
    assert not list(tmp_path.glob("t.parquet/*"))
    lines[700] = b",".join([b"four", *fields[1:]])
    train = raw_frame(tmp_path / "again", b"\n".join(lines))
    with pytest.raises(DatasetError, match=r"^train\.csv: column Store, row 700: 'four' is not a whole number"):
        dataset(tmp_path).save(nodes.type_sales(train, test))
    twice = raw_frame(tmp_path / "twice", raw["train"] + raw["train"].split(b"\n")[1] + b"\n")
    with pytest.raises(DatasetError, match=r"train\.csv: Store \d+, Date .* occurs 2 times"):
        dataset(tmp_path).save(nodes.type_sales(twice, test))
    header = raw_frame(tmp_path / "header", raw["test"].split(b"\n")[0] + b"\n")
    train = raw_frame(tmp_path / "good", raw["train"])
    with pytest.raises(DatasetError, match=r"^test\.csv: there are no rows"):
        dataset(tmp_path).save(nodes.type_sales(train, header))
    without = raw_frame(tmp_path / "without", b"Id,Shop\n1,1\n")
    with pytest.raises(DatasetError, match=r"^test\.csv: column .*Store.* is missing"):
        dataset(tmp_path).save(nodes.type_sales(train, without))


def test_a_store_that_is_not_known_is_named(sales: Parts, typed_tables: Any, tmp_path: Path) -> None:
    stores = typed_tables["stores"].filter(pl.col("Store") != 3)
    plan = nodes.join_tables(sales, stores, typed_tables["weather"], typed_tables["trends"], FeatureOptions(), WINDOW)
    with pytest.raises(DatasetError, match=r"Store 3 has no match in store\.csv"):
        saved(plan, tmp_path)


def test_the_contract_of_a_table_holds_in_every_part(sales: Parts, tmp_path: Path) -> None:
    same = sales.map(lambda part: part)
    good = TableContract("t", required=["Sales"], unique=["Store", "Date"], not_null=["Store"]).validate(same)
    assert saved(good, tmp_path / "good").scan().collect().height == sales.scan().collect().height
    for options, says in (
        ({"required": ["till"]}, "^t has no column 'till'$"),
        ({"not_null": ["Store", "Sales"]}, r"^t: column 'Sales' has \d+ missing values$"),
        ({"unique": ["Store", "DayOfWeek"]}, "^t: Store .*, DayOfWeek .* occurs"),
    ):
        with pytest.raises(DatasetError, match=says):
            saved(TableContract("t", **options).validate(same), tmp_path / "bad")
    with pytest.raises(DatasetError, match=r"has no rows"):
        saved(sales.map(lambda part: part.head(0)), tmp_path / "empty")
    assert not [path for name in ("bad", "empty") for path in (tmp_path / name).rglob("*.parquet") if path.is_file()]


def fails_late(part: pl.DataFrame) -> pl.DataFrame:
    if 4 in part["Store"]:
        raise ValueError("the disk is full")
    return part


def test_a_save_that_fails_half_way_leaves_nothing_and_says_why_in_one_line(sales: Parts, tmp_path: Path) -> None:
    dataset(tmp_path, "1").save(sales.map(lambda part: part))
    with pytest.raises(DatasetError, match=r"Spark cannot write .*t\.parquet: ") as raised:
        dataset(tmp_path, "2").save(sales.map(fails_late))
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "t.parquet").iterdir()] == ["1"]
    dataset(tmp_path, "2").save(sales.map(lambda part: part.head(10)))  # and the version may be tried again
    assert dataset(tmp_path, "3", load_as="polars").load().height == 10 * len(sales.files)
    assert dataset(tmp_path, "3", load="1").load().scan().collect().equals(sales.scan().collect())
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"part-00000.parquet", "part-00001.parquet"}
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        dataset(tmp_path, "2").save(sales.map(lambda part: part))


def test_an_empty_range_of_keys_has_no_part(spark: Any, tmp_path: Path) -> None:
    raw = raw_frame(tmp_path / "raw", b'Store,b\r\n1,"HB,NI"\r\n1,"0"\r\n')
    assert sorted(tuple(row) for row in raw.collect()) == [("1", "0"), ("1", "HB,NI")]
    plan = SpreadPlan(frames=(raw,), key="Store", function=partial(pl.DataFrame.sort, by="b"), recheck=len)
    parts = saved(plan, tmp_path)
    assert [Path(file).name for file in parts.files] == ["part-00000.parquet"]
    assert parts.scan().collect().rows() == [("1", "0"), ("1", "HB,NI")]
