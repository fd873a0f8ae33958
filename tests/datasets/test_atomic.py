"""A save that fails, is killed or fills the disk leaves no version behind, and the earlier one still loads."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import polars as pl
import pytest
import torch
from kedro.io.core import DatasetError, Version

from embedline import datasets
from embedline.training.model_file import ModelBundle


def _bundle(value: float) -> ModelBundle:
    return ModelBundle("tabular", {}, {}, {"0.w": torch.full((50, 50), value)})


CASES: dict[str, tuple[str, dict[str, Any], Any, Any]] = {
    # class, arguments, the data that stands for a number, and the number that stands for loaded data
    "parquet": ("PolarsFrame", {"file_format": "parquet"}, lambda v: pl.DataFrame({"a": [v] * 9}), lambda d: d["a"][0]),
    "ipc": ("PolarsFrame", {"file_format": "ipc"}, lambda v: pl.DataFrame({"a": [v] * 9}), lambda d: d["a"][0]),
    "csv": ("PolarsFrame", {"file_format": "csv"}, lambda v: pl.DataFrame({"a": [v] * 9}), lambda d: d["a"][0]),
    "pandas": ("PandasParquet", {}, lambda v: pd.DataFrame({"a": [v] * 9}), lambda d: d["a"].iloc[0]),
    "feather": ("PandasFeather", {}, lambda v: pd.DataFrame({"a": [v] * 9}), lambda d: d["a"].iloc[0]),
    "pandas_csv": (
        "PandasCSV",
        {"save_args": {"index": False}},
        lambda v: pd.DataFrame({"a": [v] * 9}),
        lambda d: d["a"].iloc[0],
    ),
    "json": ("JSON", {}, lambda v: {"a": v, "b": [None, "ä"]}, lambda d: d["a"]),
    "figure": ("Figure", {}, lambda v: go.Figure(go.Bar(y=[v])), lambda d: d.data[0].y[0]),
    "bytes": ("Bytes", {}, lambda v: f"{v}\r\n\0".encode(), lambda d: float(d.split(b"\r")[0])),
    "bundle": ("Bundle", {}, _bundle, lambda d: d.weights["0.w"][49, 49].item()),
}
ALL = pytest.mark.parametrize("case", CASES)


def _dataset(case: str, folder: Path, version: str | None = "1", load: str | None = None) -> Any:
    name, arguments, _, _ = CASES[case]
    versions = {"version": Version(load, version)} if version else {}
    return getattr(datasets, name)(filepath=(folder / "deep" / "file.dat").as_posix(), **arguments, **versions)


def _value(case: str, dataset: Any) -> float:
    return float(CASES[case][3](dataset.load()))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@ALL
def test_versions_come_back_newest_first_or_by_name_and_are_never_overwritten(case: str, tmp_path: Path) -> None:
    make = CASES[case][2]
    assert not _dataset(case, tmp_path).exists()
    _dataset(case, tmp_path, "1").save(make(1.5))
    _dataset(case, tmp_path, "2").save(make(2.5))
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        _dataset(case, tmp_path, "2").save(make(3.5))
    assert _value(case, _dataset(case, tmp_path, "3")) == 2.5
    assert _value(case, _dataset(case, tmp_path, "3", load="1")) == 1.5
    assert _dataset(case, tmp_path, "3").exists()
    assert _files(tmp_path) == ["deep/file.dat/1/file.dat", "deep/file.dat/2/file.dat"]


@ALL
def test_without_versions_the_file_is_replaced(case: str, tmp_path: Path) -> None:
    make = CASES[case][2]
    dataset = _dataset(case, tmp_path, version=None)
    assert not dataset.exists()
    for value in (1.5, 2.5):
        dataset.save(make(value))
        assert _value(case, dataset) == value
    assert _files(tmp_path) == ["deep/file.dat"]


def _break_saves(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the write raise after the file was opened and half of it written."""

    def half(path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    if case in ("parquet", "ipc", "csv"):
        monkeypatch.setattr(pl.DataFrame, f"write_{case}", lambda self, path, **arguments: half(path))
        return
    from fsspec.implementations.local import LocalFileOpener

    def write(self: Any, *arguments: Any, **more: Any) -> None:
        Path(self.path).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileOpener, "write", write)

    def pandas_half(self: pd.DataFrame, path: Any = None, *, path_or_buf: Any = None, **more: Any) -> None:
        target = path if path is not None else path_or_buf
        half(getattr(target, "name", target))

    for name in ("to_parquet", "to_feather", "to_csv"):
        monkeypatch.setattr(pd.DataFrame, name, pandas_half)


@ALL
def test_a_save_that_fails_half_way_leaves_nothing_but_the_older_version(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = CASES[case][2]

    def fail(version: str) -> None:
        with monkeypatch.context() as broken:
            _break_saves(case, broken)
            with pytest.raises(DatasetError, match=r"(?s)file\.dat.*No space left on device"):
                _dataset(case, tmp_path, version).save(make(2.5))

    fail("1")
    assert not _dataset(case, tmp_path, "2").exists()
    assert list(tmp_path.rglob("*file.dat*")) == []
    _dataset(case, tmp_path, "1").save(make(1.5))
    fail("2")
    assert _value(case, _dataset(case, tmp_path, "3")) == 1.5
    assert _files(tmp_path) == ["deep/file.dat/1/file.dat"]
    _dataset(case, tmp_path, "2").save(make(3.5))  # and the version may be tried again
    assert _value(case, _dataset(case, tmp_path, "3")) == 3.5


def _python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(datasets.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_killed_save_leaves_the_older_version_loadable(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        import polars as pl
        from kedro.io.core import Version
        from embedline.datasets import Bytes, PolarsFrame

        def killed(self, path, **arguments):
            open(path, "wb").write(b"PAR1 half a file")
            os.kill(os.getpid(), signal.SIGKILL)

        folder = sys.argv[1]
        make = lambda version: PolarsFrame(
            filepath=f"{folder}/deep/file.dat", file_format="parquet", version=Version(None, version))
        make("1").save(pl.DataFrame({"a": [1.5]}))
        pl.DataFrame.write_parquet = killed
        make("2").save(pl.DataFrame({"a": [2.5]}))
    """
    finished = _python(script, tmp_path)
    assert finished.returncode == -9, finished.stderr
    assert len(_files(tmp_path)) == 2  # the half file is there, under a name that is no version
    assert _value("parquet", _dataset("parquet", tmp_path, "3")) == 1.5
    _dataset("parquet", tmp_path, "2").save(pl.DataFrame({"a": [3.5]}))
    assert _value("parquet", _dataset("parquet", tmp_path, "3")) == 3.5


def test_a_full_disk_names_the_file_and_leaves_the_earlier_version(tmp_path: Path) -> None:
    script = """
        import resource, sys
        import numpy as np, polars as pl, torch
        from kedro.io.core import DatasetError, Version
        from embedline.datasets import Bundle, Bytes, JSON, PandasParquet, PolarsFrame
        from embedline.training.model_file import ModelBundle

        folder = sys.argv[1]
        noise = np.random.default_rng(0).random(100_000)
        cases = [
            (PolarsFrame, "table.parquet", {"file_format": "parquet"}, lambda n: pl.DataFrame({"a": noise[:n]})),
            (PolarsFrame, "table.ipc", {"file_format": "ipc"}, lambda n: pl.DataFrame({"a": noise[:n]})),
            (PandasParquet, "pandas.parquet", {}, lambda n: pl.DataFrame({"a": noise[:n]}).to_pandas()),
            (JSON, "metrics.json", {}, lambda n: noise[:n].tolist()),
            (Bytes, "raw.csv", {}, lambda n: noise[:n].tobytes()),
            (Bundle, "model.safetensors", {},
             lambda n: ModelBundle("k", {}, {}, {"0.w": torch.from_numpy(noise[:n].copy())})),
        ]
        make = lambda kind, name, more, version: kind(
            filepath=f"{folder}/{name}", version=Version(None, version), **more)
        for kind, name, more, data in cases:
            make(kind, name, more, "1").save(data(10))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        for kind, name, more, data in cases:
            try:
                make(kind, name, more, "2").save(data(100_000))
            except DatasetError as error:
                loaded = make(kind, name, more, "3").load()
                size = len(loaded.weights["0.w"]) if kind is Bundle else len(loaded)
                print(name, name in str(error), "File too large" in str(error), size // (8 if kind is Bytes else 1))
    """
    finished = _python(script, tmp_path)
    assert finished.returncode == 0, finished.stderr
    names = ["table.parquet", "table.ipc", "pandas.parquet", "metrics.json", "raw.csv", "model.safetensors"]
    assert finished.stdout.splitlines() == [f"{name} True True 10" for name in names]
    assert _files(tmp_path) == sorted(f"{name}/1/{name}" for name in names)


def test_remote_saves_pass_through(tmp_path: Path) -> None:
    dataset = datasets.Bytes(filepath="memory://atomic/file.bin", version=Version(None, "1"))
    dataset.save(b"far away")
    assert datasets.Bytes(filepath="memory://atomic/file.bin", version=Version(None, None)).load() == b"far away"
    frame = datasets.PolarsFrame(filepath="memory://atomic/table.parquet", file_format="parquet")
    frame.save(pl.DataFrame({"a": [1]}))
    assert frame.load()["a"].to_list() == [1]


def test_a_corrupt_bundle_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(DatasetError, match=r"model\.safetensors is not a readable model bundle"):
        datasets.Bundle(filepath=(tmp_path / "model.safetensors").as_posix()).load()


@pytest.mark.parametrize("name", ["a[b]", "a?b", "a*b", "a%20b", "a#b"])
def test_versions_below_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "axb/x.parquet/2020/x.parquet").mkdir(parents=True)  # what the pattern of such a name would find
    path = str(tmp_path / name / "x.parquet")
    for version, value in (("2026-01-01", 1), ("2026-01-02", 2)):
        dataset = datasets.PolarsFrame(filepath=path, file_format="parquet", version=Version(None, version))
        dataset.save(pl.DataFrame({"a": [value]}))
    newest = datasets.PolarsFrame(filepath=path, file_format="parquet", version=Version(None, None))
    assert newest.exists() and newest.resolve_load_version() == "2026-01-02"
    assert newest.load()["a"].to_list() == [2]
    rows = tmp_path / name / "rows.csv"
    rows.write_text("a\n3\n")
    assert datasets.PolarsFrame(filepath=str(rows), file_format="csv").load()["a"].to_list() == [3]
    other = str(tmp_path / name / "y.parquet")
    assert not datasets.PolarsFrame(filepath=other, file_format="parquet", version=Version(None, None)).exists()
