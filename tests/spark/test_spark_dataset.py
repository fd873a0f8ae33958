"""SparkFrame without a session: what it refuses."""

from pathlib import Path

import polars as pl
import pytest
from kedro.io.core import DatasetError, Version

from embedline.datasets.spark import SparkFrame, _tidy
from embedline.errors import DataError


def test_other_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"t\.parquet: expected a frame in parts, got DataFrame"):
        SparkFrame(filepath=f"{tmp_path}/t.parquet", version=Version(None, "1")).save(pl.DataFrame({"a": [1]}))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_atomic_and_workers_that_wrote_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.parquet: frames of Spark have to be `versioned: true`"):
        SparkFrame(filepath=f"{tmp_path}/t.parquet")
    with pytest.raises(DataError, match="in a folder that all machines see, not at memory://"):
        SparkFrame(filepath="memory://t.parquet", version=Version(None, "1"))
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"the workers of spark://a:7077 have written nothing to .*: they do not see"):
        _tidy(tmp_path, "spark://a:7077")
