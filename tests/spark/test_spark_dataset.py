"""SparkFrame: versions, order, and saves that fail."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kedro.io.core import DatasetError, Version

from embedline.datasets.spark import SparkFrame, _tidy
from embedline.errors import DataError


def dataset(folder: Path, version: str = "1", load: str | None = None, **arguments: Any) -> SparkFrame:
    return SparkFrame(filepath=(folder / "t.parquet").as_posix(), version=Version(load, version), **arguments)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.spark
@pytest.mark.slow
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


@pytest.mark.spark
@pytest.mark.slow
def test_a_save_that_fails_half_way_leaves_nothing_and_says_why_in_one_line(spark: Any, tmp_path: Path) -> None:
    dataset(tmp_path, "1").save(spark.range(10))
    fails = spark.range(1000, numPartitions=4).selectExpr("if(id < 900, id, cast('none' as int)) as id")
    with pytest.raises(DatasetError, match=r"Spark cannot write .*t\.parquet: .*CAST_INVALID_INPUT.*'none'") as raised:
        dataset(tmp_path, "2").save(fails)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "t.parquet").iterdir()] == ["1"]
    dataset(tmp_path, "2").save(spark.range(20))  # and the version may be tried again
    assert dataset(tmp_path, "3").load().count() == 20


@pytest.mark.spark
@pytest.mark.slow
def test_raw_files_are_read_as_text(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "t.parquet" / "1").mkdir(parents=True)
    (tmp_path / "t.parquet" / "1" / "t.parquet").write_bytes(b'a,b\r\n1,"HB,NI"\r\n,"0"\r\n')
    raw = dataset(tmp_path, "2", file_format="csv", load_args={"header": True, "mode": "FAILFAST"})
    assert [tuple(row) for row in raw.load().collect()] == [("1", "HB,NI"), (None, "0")]
    with pytest.raises(DatasetError, match="are saved as parquet, not csv"):
        raw.save(raw.load())


def test_other_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"t\.parquet: expected a frame of Spark, got DataFrame"):
        dataset(tmp_path).save(pl.DataFrame({"a": [1]}))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_atomic_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.parquet: frames of Spark have to be `versioned: true`"):
        SparkFrame(filepath=f"{tmp_path}/t.parquet")
    with pytest.raises(DataError, match="in a folder that all machines see, not at memory://"):
        SparkFrame(filepath="memory://t.parquet", version=Version(None, "1"))


def test_workers_that_wrote_elsewhere_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"the workers of spark://a:7077 have written nothing to .*: they do not see"):
        _tidy(tmp_path, "spark://a:7077")
