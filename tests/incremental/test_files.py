"""Content hashes notice every change and read only what may have changed; datasets tell where their files are."""

import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from kedro.io import CachedDataset, MemoryDataset, Version
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset, SQLTableDataset
from kedro_datasets.partitions import PartitionedDataset
from pydantic import BaseModel

from kedro_incremental import storage as storage_module
from kedro_incremental.storage import FileHashes, Storage, local_paths, storage_of


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content has been read so far."""
    names: list[str] = []
    hash_file = storage_module.hash_file
    monkeypatch.setattr(storage_module, "hash_file", lambda path: names.append(path.name) or hash_file(path))
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are hashed a second after they were written."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 1_000_000_000)


@pytest.fixture
def hashes() -> FileHashes:
    return FileHashes({})


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Hashes of files


def test_the_hash_is_that_of_the_content(tmp_path: Path, hashes: FileHashes) -> None:
    one, same, other = (_write(tmp_path / name, text) for name, text in zip("abc", ("x", "x", "y"), strict=True))
    assert hashes.hash(one) == hashes.hash(same) != hashes.hash(other)
    assert hashes.hash(_write(tmp_path / "empty", "")) not in {None, hashes.hash(one)}
    size = 600_000  # more than is read at a time
    made = {hashes.hash(_write(tmp_path / "large", "x" * at + "y" + "x" * (size - at))) for at in (0, size // 2, size)}
    assert len(made) == 3
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert [hashes.hash(tmp_path / name) for name in ("missing", "a/below", "link")] == [None] * 3


@pytest.mark.usefixtures("later")
def test_what_did_not_change_is_not_read_again(tmp_path: Path, hashes: FileHashes, read: list[str]) -> None:
    path = _write(tmp_path / "folder" / "a", "1")
    first, folder = hashes.hash(path), hashes.hash(path.parent)
    assert FileHashes(json.loads(json.dumps(hashes._known))).hash(path) == first
    assert read == ["a"]
    assert hashes.hash(path, trust=False) == first and hashes.hash(path.parent, trust=False) == folder
    assert read == ["a", "a", "a"]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_change_of_the_same_size_is_noticed(tmp_path, hashes, is_replaced, keeps_time) -> None:
    path = _write(tmp_path / "a", "1")
    before, status = hashes.hash(path), path.stat()
    time.sleep(0.02)  # clocks of file systems tick in 4 to 10 ms
    _write(tmp_path / ("other" if is_replaced else "a"), "2")
    if is_replaced:
        (tmp_path / "other").replace(path)
    if keeps_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes.hash(path) not in {before, None}
    assert hashes.hash(path) == hashes.hash(_write(tmp_path / "b", "2"))


def test_a_file_hashed_right_after_its_change_is_read_again(tmp_path, hashes, read, monkeypatch) -> None:
    path = _write(tmp_path / "old", "1")
    os.utime(path, ns=(1, 1))  # as unpacking an archive does
    assert hashes.hash(path) == hashes.hash(path) is not None
    path = _write(tmp_path / "a", "1")
    ages = itertools.chain([10_000_000], itertools.repeat(storage_module.RACY_NS + 1))
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_mtime_ns + next(ages))
    for _ in range(4):
        hashes.hash(path)
    assert read == ["old", "old", "a", "a"]  # at first, and once it is old enough


# Hashes of folders


def test_a_folder_is_what_is_in_its_files_and_their_names(tmp_path: Path, hashes: FileHashes) -> None:
    folder = tmp_path / "folder"
    a, b, c, hidden = (folder / name for name in ("a", "deep/b", "c", ".hidden"))
    _write(a, "1")
    _write(b, "2")
    seen = [hashes.hash(folder)]
    for change in (
        lambda: _write(b, "3!"),
        lambda: a.rename(c),
        lambda: _write(hidden, ""),
        b.unlink,
        b.parent.rmdir,
        lambda: (c.rename(a), hidden.unlink(), _write(b, "1"), _write(a, "2")),  # the two contents swapped
    ):
        change()
        seen.append(hashes.hash(folder))
        assert seen[-1] not in seen[:-1]
    _write(b, "2")
    _write(a, "1")
    assert hashes.hash(folder) == seen[0]
    (tmp_path / "empty").mkdir()
    assert hashes.hash(tmp_path / "empty") not in {None, hashes.hash(_write(tmp_path / "file", ""))}


@pytest.mark.usefixtures("later")
def test_only_the_changed_file_of_a_folder_is_read_and_what_is_gone_is_forgotten(tmp_path, hashes, read) -> None:
    a, b, c = (_write(tmp_path / "folder" / name, "1") for name in "abc")
    hashes.hash(a.parent)
    _write(b, "22")
    hashes.hash(a.parent)
    assert read == ["a", "b", "c", "b"]
    b.unlink()
    hashes.forget_missing()
    assert hashes._known.keys() == {str(a), str(c)}


# Where datasets keep their content


def _csv(path: object, *, versioned: bool = False) -> CSVDataset:
    return CSVDataset(filepath=str(path), version=Version(None, None) if versioned else None)


def _storage(dataset: Any) -> Storage:
    found = storage_of(dataset)
    assert found is not None
    return found


@pytest.mark.parametrize("path", ["data/a.csv", "/data/a.csv", "file:///data/a.csv"])
@pytest.mark.parametrize("versioned", [False, True])
def test_storage_of_a_local_file(path: str, versioned: bool) -> None:
    expected = Storage(path.removeprefix("file://"), None, versioned)
    dataset = _csv(path, versioned=versioned)
    config = {"type": "pandas.CSVDataset", "filepath": path}
    for stored in (dataset, CachedDataset(dataset), CachedDataset(config, dataset._version)):
        assert storage_of(stored) == expected
    table = SQLTableDataset(table_name="a", credentials={"con": "sqlite://"})
    assert [storage_of(each) for each in (MemoryDataset(1), CachedDataset(MemoryDataset(1)), table)] == [None] * 3


@pytest.mark.parametrize("path", ["{}", "{}/", "file://{}", "file://{}/"])
def test_storage_of_a_folder_of_partitions(tmp_path: Path, hashes: FileHashes, path: str) -> None:
    folder = tmp_path / "parts"
    storage = _storage(PartitionedDataset(path=path.format(folder), dataset="pandas.CSVDataset"))
    assert (storage.filesystem, storage.versioned) == (None, False)
    assert storage.hash(None, hashes) is None
    _write(folder / "a.csv", "1")
    before = storage.hash(None, hashes)
    assert before == hashes.hash(folder)
    _write(folder / "b.csv", "1")
    assert storage.hash(None, hashes) not in {None, before}


def test_versions_are_those_with_a_file_newest_first(tmp_path: Path, hashes: FileHashes) -> None:
    path = tmp_path / "a.csv"
    storage = _storage(_csv(path, versioned=True))
    assert storage.versions() == []
    for version in ("2026-01-02", "2026-01-10", "2025-12-31"):
        _write(path / version / "a.csv", version)
    (path / "2026-02-01").mkdir()
    _write(path / "2026-02-02" / "other.csv", "1")
    _write(path / "2026-02-03", "1")
    assert storage.versions() == ["2026-01-10", "2026-01-02", "2025-12-31"]
    assert storage.version_path("2026-01-02") == f"{path}/2026-01-02/a.csv"
    assert storage.hash("2026-01-02", hashes) == hashes.hash(path / "2026-01-02" / "a.csv") is not None
    assert storage.hash("2026-02-01", hashes) is None
    dataset = JSONDataset(filepath=str(tmp_path / "b.json"), version=Version(None, "1"))
    dataset.save({"a": 1})
    storage = _storage(dataset)
    assert storage.versions() == ["1"]
    assert storage.hash("1", hashes) == hashes.hash(Path(dataset._get_load_path())) is not None
    plain = _write(tmp_path / "c.csv", "1")
    storage = _storage(_csv(plain))
    assert (storage.versions(), storage.version_path(None)) == ([], str(plain))
    assert storage.hash(None, hashes) == hashes.hash(plain)
    assert Storage(str(plain), None, versioned=True).versions() == []  # a file from before it was versioned


# Remote files


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def test_a_remote_file_is_compared_by_what_its_store_says(memory: Any, hashes: FileHashes, read: list[str]) -> None:
    storage = _storage(_csv("memory:///folder/a.csv"))
    assert storage.filesystem is memory
    seen = [storage.hash(None, hashes)]
    for content in (b"1", b"2"):
        memory.pipe("/folder/a.csv", content)
        seen.append(storage.hash(None, hashes))
        assert seen[-1] == storage.hash(None, hashes)
    assert seen[0] is None and len(set(seen)) == 3 and read == []


def test_remote_versions(memory: Any, hashes: FileHashes) -> None:
    storage = _storage(_csv("memory:///folder/a.csv", versioned=True))
    assert storage.versions() == []
    for name in ("1/a.csv", "3/a.csv", "2/a.csv", "4/other.csv"):
        memory.pipe(f"/folder/a.csv/{name}", b"1")
    assert storage.versions() == ["3", "2", "1"]
    assert storage.hash("2", hashes) is not None
    assert storage.hash("4", hashes) is None


def test_a_remote_folder_is_compared_by_its_files(memory: Any, hashes: FileHashes) -> None:
    storage = _storage(PartitionedDataset(path="memory://parts", dataset="pandas.CSVDataset"))
    assert storage.filesystem is not None
    seen = [storage.hash(None, hashes)]
    for name, content in (("a.csv", b"1"), ("deep/b.csv", b"1"), ("a.csv", b"2")):
        memory.pipe(f"/parts/{name}", content)
        seen.append(storage.hash(None, hashes))
        assert seen[-1] == storage.hash(None, hashes)
    assert seen[0] is None and len(set(seen)) == 4


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None: ...


class _Silent(_Quiet):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


@pytest.mark.parametrize("handler", [_Quiet, _Silent])
def test_a_file_of_a_web_server(tmp_path: Path, hashes: FileHashes, handler: type[_Quiet]) -> None:
    path = _write(tmp_path / "web" / "a.csv", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        storage = _storage(_csv(f"{address}/a.csv"))
        before = storage.hash(None, hashes)
        assert _storage(_csv(f"{address}/b.csv")).hash(None, hashes) is None
        if handler is _Silent:
            assert before is None  # its size alone does not tell whether it changed
            return
        assert before is not None and before == storage.hash(None, hashes)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert storage.hash(None, hashes) not in {None, before}
    finally:
        server.shutdown()
        server.server_close()


# Paths in parameters


class _Model(BaseModel):
    path: Path
    name: str = "a"


@dataclass
class _Data:
    path: Path


def test_paths_in_parameters(tmp_path: Path) -> None:
    project = tmp_path / "project"
    inside, outside = _write(project / "conf" / "a.csv", "1"), _write(tmp_path / "b.csv", "1")

    def found(value: Any) -> list[Path]:
        return list(local_paths(value, project))

    assert found("conf/a.csv") == [inside]
    assert found("./conf") == [project / "conf"]
    assert found(str(outside)) == found(f"file://{outside}") == [outside]
    assert found({"a": [{"b": ("conf/a.csv",)}], "c": str(outside)}) == [inside, outside]
    assert found(_Model(path=outside)) == found(_Data(outside)) == found(outside) == [outside]
    assert found({"conf/a.csv": 1}) == []


NO_PATHS = ["conf", "a.csv", "conf/none", "https://host/conf/a.csv", "conf/a.csv\n", "conf/\0", "x/" * 3000, "", "km/h"]
NO_PATHS += ["~nobody-of-this-name/a", "a/" + "b" * 300, "either/or " * 60, "in/[", "[a-z]+/?"]
AROUND = ["/", "./", "../", "//", "file:///"]  # the project: they do not count


def test_texts_that_name_no_file(tmp_path: Path) -> None:
    _write(tmp_path / "conf" / "a.csv", "1")
    assert [text for text in NO_PATHS + AROUND if list(local_paths(text, tmp_path))] == []


def test_paths_with_patterns_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = _write(tmp_path / "in" / "a.csv", "1"), _write(tmp_path / "in" / "deep" / "b.csv", "2")
    named = _write(tmp_path / "a.csv", "1")
    (tmp_path / "in.d").mkdir()
    monkeypatch.setenv("PLACE", "in")
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, found in (
        *(("$PLACE/a.csv", [one]), ("in/*.csv", [one]), ("${PLACE}/**/*.csv", [one, two]), ("~/a.csv", [named])),
        (["a.csv", "in.d", "in"], [named]),  # without a folder: files alone
    ):
        assert list(local_paths(text, tmp_path)) == found
    assert list(local_paths("~/a.csv", tmp_path / "project")) == [named]


def test_a_listing_is_names_and_the_content_of_its_files(tmp_path: Path, hashes: FileHashes) -> None:
    folder = _write(tmp_path / "folder" / "a", "1").parent
    _write(folder / "deep" / "b", "1")
    seen = [hashes.hash_folder(folder, is_listing=True)]
    changes = [("a", "22", True), ("deep/c", "1", False), ("mlflow.db", "1", True), ("mlflow.db", "2", False)]
    for name, text, counts in changes:
        _write(folder / name, text)
        seen.append(hashes.hash_folder(folder, is_listing=True))
        assert (seen[-1] != seen[-2]) == counts, name
    assert hashes.hash_folder(tmp_path / "none", is_listing=True) is None
