"""Archives: every kind reads alike; broken and unsafe ones give one message that names the archive and the member."""

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from embedline.archive import fetched, iter_members, read_members
from embedline.errors import DataError

from .conftest import Serve, answer, write_folder, write_tar, write_zip

MEMBERS = {"a.csv": b"x,y\n1,2\n", "deep/ä.txt": b"", "deep/c.bin": random.Random(0).randbytes(30_000)}


@pytest.fixture
def tgz(tmp_path: Path) -> Path:
    return Path(write_tar(tmp_path / "x.tgz", MEMBERS))


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """fsspec's remote filesystem in memory, emptied afterwards."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


KINDS = {"tgz": write_tar, "tar": partial(write_tar, mode="w"), "zip": write_zip, "folder": write_folder}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_told_by_content(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / "named.wrongly", MEMBERS)
    assert read_members(source) == MEMBERS
    assert read_members(source, lambda name: name.endswith(".csv")) == {"a.csv": MEMBERS["a.csv"]}


def test_local_addresses_and_members_one_at_a_time(tgz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tgz.parent)
    for address in ("x.tgz", "./x.tgz", str(tgz), f"file://{tgz}"):
        assert read_members(address) == MEMBERS
        with fetched(address) as path:
            assert path.samefile(tgz)  # read in place
    members = iter_members(write_tar(Path("y.tgz"), {"./a": b"1", "b/./c": b"2"}))  # whose names are normalised
    assert [next(members), next(members), next(members, None)] == [("a", b"1"), ("b/c", b"2"), None]
    source = write_tar(Path("z.tgz"), {f"{number}.txt": str(number).encode() for number in range(3000)})
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


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, "zip"])
def test_a_link_or_device(kind: bytes | str, tmp_path: Path) -> None:
    if kind == "zip":
        link = zipfile.ZipInfo("train.csv")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "x", "w") as bundle:
            bundle.writestr(link, "/etc/passwd")
    else:
        info = tarfile.TarInfo("train.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        with tarfile.open(tmp_path / "x", "w") as archive:
            archive.addfile(info)
    with pytest.raises(DataError, match=r"x holds the member 'train.csv', which is a link or a device"):
        read_members(tmp_path / "x")


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.999])
def test_a_truncated_archive(write: Any, keep: float, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "x", MEMBERS))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=f"^{path} is "):
        read_members(path)


def test_a_damaged_header_inside_a_tar(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "x.tar", MEMBERS, "w"))
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0x55  # the checksum in the second header, which tarfile alone takes for the end
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar is truncated, corrupt or unreadable: a damaged header"):
        read_members(path)


NEITHER = [b"Store,Sales\n1,2\n" * 100, gzip.compress(b"Store,Sales\n1,2\n" * 100), b"<html>not found</html>"]


def test_no_archive_at_all(tmp_path: Path) -> None:
    for content, named in [(b"", "empty"), *((content, "neither a zip nor a tar") for content in NEITHER)]:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=named):
            read_members(tmp_path / "x")
    for address, named in (
        ("/nowhere/x.tgz", "no file or folder at /nowhere/x.tgz"),
        ("memory://nowhere/x.tgz", "no file or folder at memory://nowhere/x.tgz"),
        ("nosuch://x/x.tgz", "nosuch://x/x.tgz cannot be opened: Protocol not known"),
        ("  ", "empty"),
    ):
        with pytest.raises(DataError, match=named):
            read_members(address)


@pytest.mark.parametrize("write", [write_tar, write_zip, write_folder])
def test_a_decompression_bomb(write: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "x", {"zeros": bytes(5_000_000)})
    assert len(read_members(source, max_bytes=6_000_000)["zeros"]) == 5_000_000
    for wanted in (lambda name: True, lambda name: False):
        if write is write_tar or wanted("zeros"):  # of a tar, what is not wanted is unpacked as well
            with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
                read_members(source, wanted, max_bytes=1_000_000)


def test_a_bomb_behind_the_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(bytes(10_240) + bytes(5_000_000)))
    with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
        read_members(tmp_path / "x", max_bytes=1_000_000)


def test_a_remote_archive_and_a_remote_folder(tgz: Path, memory: MemoryFileSystem, scratch: Path) -> None:
    memory.pipe("/data/x.tgz", tgz.read_bytes())
    memory.pipe({f"/folder/{name}": data for name, data in MEMBERS.items()})
    assert read_members("memory://data/x.tgz") == MEMBERS
    assert read_members("memory://folder") == MEMBERS


def test_a_broken_download_leaves_nothing_and_restarts(tgz, memory, scratch, monkeypatch) -> None:
    content = tgz.read_bytes()
    memory.pipe("/data/x.tgz", content)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError("connection reset by peer")
            return super().read(100)

    for opened, reason in (
        (lambda: Broken(content), "connection reset by peer"),
        (lambda: io.BytesIO(content[:1000]), f"1,000 of {len(content):,} bytes arrived"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "_open", lambda self, path, opened=opened, **_: opened())
            with pytest.raises(DataError, match=rf"memory://data/x\.tgz failed: {reason}"):
                read_members("memory://data/x.tgz")
        assert list(scratch.iterdir()) == []
        assert read_members("memory://data/x.tgz") == MEMBERS


def test_http(serve: Serve, tgz: Path, scratch: Path) -> None:
    data = tgz.read_bytes()
    contents, length = {"/x.tgz": data, "/short.tgz": data[:1000]}, {"Content-Length": str(len(data))}

    def respond(handler: BaseHTTPRequestHandler) -> None:
        if handler.path in contents:
            answer(handler, 200, contents[handler.path], **length)
        else:
            answer(handler, 404)

    host = serve(respond)
    assert read_members(f"http://{host}/x.tgz") == MEMBERS
    for name, said in (("404", "no file or folder at"), ("short", "the download of")):
        with pytest.raises(DataError, match=rf"{said} http://.*/{name}\.tgz"):
            read_members(f"http://{host}/{name}.tgz")
