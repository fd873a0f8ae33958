"""Archives: every kind reads alike; broken and unsafe ones give one message that names the archive and the member."""

import gzip
import io
import random
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from embedline.archive import fetched, iter_members, read_members
from embedline.errors import DataError

from .conftest import write_folder, write_tar

MEMBERS = {"a.csv": b"x,y\n1,2\n", "deep/ä.txt": b"", "deep/c.bin": random.Random(0).randbytes(30_000)}


def write_zip(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return str(path)


@pytest.fixture
def tgz(tmp_path: Path) -> Path:
    return Path(write_tar(tmp_path / "x.tgz", MEMBERS))


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """fsspec's remote filesystem in memory, emptied afterwards."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip", "folder"])
def test_kinds_are_told_by_content(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "named.wrongly"
    source = {
        "tgz": lambda: write_tar(path, MEMBERS),
        "tar": lambda: write_tar(path, MEMBERS, "w"),
        "zip": lambda: write_zip(path, MEMBERS),
        "folder": lambda: write_folder(path, MEMBERS),
    }[kind]()
    assert read_members(source) == MEMBERS
    assert read_members(source, lambda name: name.endswith(".csv")) == {"a.csv": MEMBERS["a.csv"]}


def test_local_addresses(tgz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tgz.parent)
    for address in ("x.tgz", "./x.tgz", str(tgz), f"file://{tgz}"):
        assert read_members(address) == MEMBERS
        with fetched(address) as path:
            assert path.samefile(tgz)  # read in place


def test_members_come_one_at_a_time_and_names_are_normalised(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tgz", {"./a": b"1", "b/./c": b"2"})
    members = iter_members(source)
    assert next(members) == ("a", b"1")
    assert next(members) == ("b/c", b"2")
    assert next(members, None) is None


def test_many_members(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tgz", {f"{number}.txt": str(number).encode() for number in range(3000)})
    assert sum(int(data) for _, data in iter_members(source)) == 3000 * 2999 // 2


@pytest.mark.parametrize("name", ["../evil.csv", "ok/../../evil.csv", "/etc/evil.csv", "..\\evil.csv", "C:\\evil.csv"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_path_that_leads_out(name: str, write: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "x", {"fine.csv": b"1", name: b"2"})
    with pytest.raises(DataError) as caught:
        read_members(source, lambda member: member == "fine.csv")
    assert source in str(caught.value) and repr(name) in str(caught.value)
    assert "leads out of the archive" in str(caught.value)
    assert [file.name for file in tmp_path.rglob("*")] == ["x"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("train.csv")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=r"x\.tar holds the member 'train.csv', which is a link or a device"):
        read_members(tmp_path / "x.tar")


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("train.csv")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"x\.zip holds the member 'train.csv', which is a link or a device"):
        read_members(tmp_path / "x.zip")


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.999])
def test_a_truncated_archive(write: Any, keep: float, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "x", MEMBERS))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=f"^{path} is "):
        read_members(path)


def test_a_damaged_archive_never_reads_as_something_else(tgz: Path, tmp_path: Path) -> None:
    """Whatever byte is wrong, what comes out is right or there is a DataError."""
    for source in (tgz, Path(write_zip(tmp_path / "x.zip", MEMBERS))):
        data = source.read_bytes()
        n_refused = 0
        places = [*range(0, len(data), 197), *range(len(data) - 250, len(data))]  # zip has its directory at the end
        for place in places:
            source.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
            try:
                assert set(read_members(source).values()) <= set(MEMBERS.values())
            except DataError as error:
                n_refused += 1
                assert str(source) in str(error)
        assert n_refused > 300


def test_a_damaged_header_inside_a_tar(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "x.tar", MEMBERS, "w"))
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0x55  # the checksum in the second header, which tarfile alone takes for the end
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar is truncated, corrupt or unreadable: a damaged header"):
        read_members(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"Store,Sales\n1,2\n" * 100, "is neither a zip nor a tar archive"),
        (gzip.compress(b"Store,Sales\n1,2\n" * 100), "is neither a zip nor a tar archive"),
        (b"<html>not found</html>", "is neither a zip nor a tar archive"),
    ],
    ids=["nothing", "text", "gzip", "page"],
)
def test_no_archive_at_all(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_members(tmp_path / "x")


@pytest.mark.parametrize("write", [write_tar, write_zip, write_folder])
def test_a_decompression_bomb(write: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "x", {"zeros": bytes(5_000_000)})
    assert len(read_members(source, max_bytes=6_000_000)["zeros"]) == 5_000_000
    with pytest.raises(DataError, match="holds more than 1,000,000 bytes uncompressed"):
        read_members(source, max_bytes=1_000_000)


def test_a_bomb_in_a_member_that_is_not_wanted_or_behind_the_end(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x", {"zeros": bytes(5_000_000)})
    with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
        read_members(source, lambda name: False, max_bytes=1_000_000)
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    (tmp_path / "y").write_bytes(gzip.compress(empty.getvalue() + bytes(5_000_000)))
    with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
        read_members(tmp_path / "y", max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/nowhere/rossmann.tgz", "there is no file or folder at /nowhere/rossmann.tgz"),
        ("memory://nowhere/rossmann.tgz", "there is no file or folder at memory://nowhere/rossmann.tgz"),
        ("nosuch://x/rossmann.tgz", "nosuch://x/rossmann.tgz cannot be opened: Protocol not known"),
        ("  ", "the address of the source is empty"),
    ],
)
def test_addresses_with_nothing_behind(address: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_members(address)


def test_a_remote_archive_and_a_remote_folder(tgz: Path, memory: MemoryFileSystem, scratch: Path) -> None:
    memory.pipe("/data/x.tgz", tgz.read_bytes())
    memory.pipe({f"/folder/{name}": data for name, data in MEMBERS.items()})
    assert read_members("memory://data/x.tgz") == MEMBERS
    assert read_members("memory://folder") == MEMBERS
    assert list(scratch.iterdir()) == []


def test_a_broken_download_leaves_nothing_and_restarts(
    tgz: Path, memory: MemoryFileSystem, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/data/x.tgz", tgz.read_bytes())

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError("connection reset by peer")
            return super().read(100)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "_open", lambda self, path, **_: Broken(self.cat_file(path)[:]))
        patch.setattr(MemoryFileSystem, "cat_file", lambda self, path: tgz.read_bytes())
        with pytest.raises(DataError) as caught:
            read_members("memory://data/x.tgz")
    assert str(caught.value).startswith("the download of memory://data/x.tgz failed: connection reset by peer")
    assert list(scratch.iterdir()) == []
    assert read_members("memory://data/x.tgz") == MEMBERS


def test_a_download_that_ends_early(
    tgz: Path, memory: MemoryFileSystem, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/data/x.tgz", tgz.read_bytes())
    size = len(tgz.read_bytes())
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda self, path, **_: io.BytesIO(tgz.read_bytes()[:1000]))
    with pytest.raises(DataError, match=rf"memory://data/x.tgz failed: 1,000 of {size:,} bytes arrived"):
        read_members("memory://data/x.tgz")
    assert list(scratch.iterdir()) == []


@pytest.fixture
def server(tgz: Path) -> Iterator[str]:
    """An HTTP server on this machine: /x.tgz is whole, /short.tgz ends early, anything else is 404."""
    data = tgz.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_HEAD()
            if self.path in ("/x.tgz", "/short.tgz"):
                self.wfile.write(data if self.path == "/x.tgz" else data[:1000])

        def do_HEAD(self) -> None:
            self.send_response(200 if self.path in ("/x.tgz", "/short.tgz") else 404)
            self.send_header("Content-Length", str(len(data)) if self.path != "/404.tgz" else "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_http(server: str, scratch: Path) -> None:
    assert read_members(f"{server}/x.tgz") == MEMBERS
    with pytest.raises(DataError, match=r"there is no file or folder at http://.*/404\.tgz"):
        read_members(f"{server}/404.tgz")
    with pytest.raises(DataError, match=r"the download of http://.*/short\.tgz failed: "):
        read_members(f"{server}/short.tgz")
    assert list(scratch.iterdir()) == []
