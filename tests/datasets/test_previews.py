"""What kedro-viz shows of a stored frame: few rows, and nothing that it cannot write as JSON."""

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from embedline.datasets import PolarsFrame

FRAME = pl.DataFrame(
    {
        "name": ["a", None, "c"],
        "value": [0.5, float("nan"), 1.5],
        "count": [1, 2, 3],
        "day": [date(2015, 8, 1), None, date(2015, 8, 3)],
        "vector": [[0.25] * 10, [1.0, -2.0], []],
        "genres": [["Drama", "War"], ["Comedy"], None],
    }
)


@pytest.mark.parametrize("file_format", ["ipc", "parquet"])
def test_cells_are_json_values(tmp_path: Path, file_format: str) -> None:
    dataset = PolarsFrame(filepath=str(tmp_path / "frame"), file_format=file_format)
    dataset.save(FRAME)
    shown = dataset.preview(nrows=2)
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "index": [0, 1],
        "columns": FRAME.columns,
        "data": [
            ["a", 0.5, 1, "2015-08-01", ", ".join(["0.25"] * 8) + " …", "Drama, War"],
            [None, None, 2, None, "1, -2", "Comedy"],
        ],
    }
    assert dataset.load().equals(FRAME)
