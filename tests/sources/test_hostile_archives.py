"""Hostile archives: each ends in one DataError that names the archive, in little memory, and leaves nothing behind."""

import bz2
import gzip
import io
import itertools
import lzma
import random
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from embedline import archive
from embedline.archive import read_file, read_members
from embedline.download import Access, set_access
from embedline.errors import DataError
from embedline.pipelines.imdb.corpus import read_files

from .conftest import write_tar, write_zip

LARGE = 200 * 1024**2  # what the bombs unpack to; they are refused at 32 MiB


def header(name: str = "x", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(key: str, value: str) -> bytes:
    return record("GNU.sparse.major", "1") + record(f"GNU.sparse.{key}", value)


def entry(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


def record(key: str, value: str) -> bytes:
    """A pax record, which begins with its own length."""
    size = len(f" {key}={value}\n".encode())
    length = next(n for n in range(size, size + 20) if n == size + len(str(n)))
    return f"{length} {key}={value}\n".encode()


END = bytes(1024)
PAX, LONG = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME


def described(kind: bytes, description: bytes, data: bytes = b"1") -> bytes:
    """A tar whose one member is described by a header of a kind of its own."""
    return entry("p", description, kind) + entry("a", data) + END


def zipped(names: list[str], data: bytes = b"1", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as bundle:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, compression  # as it is, also with a NUL
            bundle.writestr(info, data)
    return file.getvalue()


def overlapping() -> bytes:
    """Two entries of the directory that share one member, which unpacks twice."""
    whole = zipped(["a"], b"1" * 1000)
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    directory = whole[start:end]
    other = directory[:46] + b"b" + directory[47:]
    counts = struct.pack("<4H2LH", 0, 0, 2, 2, 2 * len(directory), start, 0)
    return whole[:start] + directory + other + b"PK\x05\x06" + counts


def patched_zip(offset: int, value: bytes, *, in_header: bool = True) -> bytes:
    """A zip of ``train.csv`` with other bytes at an offset of its directory entry, and in the member's header."""
    data = bytearray(zipped(["train.csv"], b"Store,Sales\n" * 100))
    directory = data.index(b"PK\x01\x02")
    data[directory + offset : directory + offset + len(value)] = value
    if in_header:
        data[offset - 2 : offset - 2 + len(value)] = value
    return bytes(data)


def directory_of_a_million() -> bytes:
    directory = (b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x") * 10**6
    return b"PK\x03\x04" + directory + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 9, 9, len(directory), 4, 0)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "zip: no name": lambda: zipped([""]),
    "zip: a name that is a NUL": lambda: zipped(["\0"]),
    "zip: a NUL in a name": lambda: zipped(["train.csv\0.exe"]),
    "zip: a line end in a name": lambda: zipped(["train\n.csv"]),
    "zip: an escape in a name": lambda: zipped(["\x1b[2Jtrain.csv"]),
    "zip: a name of dots": lambda: zipped(["."]),
    "zip: one name twice": lambda: zipped(["train.csv", "train.csv"]),
    "zip: one name twice, spelt otherwise": lambda: zipped(["a/train.csv", "a\\.\\train.csv"]),
    "zip: a name of 60,000 characters": lambda: zipped(["a" * 60_000]),
    "zip: a drive": lambda: zipped(["c:train.csv"]),
    "zip: a path that climbs": lambda: zipped(["a/..\\../train.csv"]),
    "zip: bzip2, which zipfile unpacks without a limit": lambda: zipped(["a"], bytes(10**6), zipfile.ZIP_BZIP2),
    "zip: lzma": lambda: zipped(["a"], bytes(10**6), zipfile.ZIP_LZMA),
    "zip: a method that nobody knows": lambda: patched_zip(10, b"\x63\x00"),
    "zip: encrypted": lambda: patched_zip(8, b"\x01\x00"),
    "zip: a declared size too small": lambda: patched_zip(24, struct.pack("<L", 100)),
    "zip: a declared size too large": lambda: patched_zip(24, struct.pack("<L", 5000)),
    "zip: a declared size of 4 GB": lambda: patched_zip(24, struct.pack("<L", 0xFFFFFFFE)),
    "zip: a wrong checksum": lambda: patched_zip(16, b"1234"),
    "zip: another name in the header": lambda: zipped(["train.csv"]).replace(b"train.csv", b"tr/in.csv", 1),
    "zip: members that overlap": overlapping,
    "zip: a million members": directory_of_a_million,
    "zip: a bomb": lambda: zipped(["a"], bytes(LARGE)),
    "zip: a bomb in many members": lambda: zipped([f"{n}" for n in range(8)], bytes(20 * 1024**2)),
    "tar: no name": lambda: entry("", b"1") + END,
    "tar: one name twice": lambda: entry("a", b"1") + entry("a", b"2") + END,
    "tar: one name twice, spelt otherwise": lambda: entry("a", b"1") + entry("./a", b"2") + END,
    "tar: a pax name that climbs": lambda: described(PAX, record("path", "../../evil")),
    "tar: a long GNU name that is absolute": lambda: described(LONG, b"/etc/" + b"a" * 200 + b"\0"),
    "tar: a long GNU name with a NUL": lambda: described(LONG, b"a\0b\0"),
    "tar: a pax size that lies": lambda: described(PAX, record("size", str(10**15))),
    "tar: a negative pax size": lambda: described(PAX, record("size", "-5")),
    "tar: a pax size that is no number": lambda: described(PAX, record("size", "many")),
    "tar: a pax header of digits": lambda: entry("p", b"1" * 10**6, PAX) + END,
    "tar: pax records of length 0": lambda: described(PAX, b"0 a=b\n" * 100),
    "tar: a value of digits in a pax header, again and again": lambda: (
        entry("p", record("comment", "1" * 60_000), PAX) * 100 + entry("/a", b"1") + END
    ),
    "tar: a pax header of 1.5 GB": lambda: header("p", 1_500_000_000, PAX) + END,
    "tar: a long GNU name of 1.5 GB": lambda: header("p", 1_500_000_000, LONG) + END,
    "tar: 5,000 pax headers on end": lambda: entry("p", record("a", "b"), PAX) * 5000 + END[:512] + b"1",
    "tar: sparse of GNU": lambda: header("a", 512, tarfile.GNUTYPE_SPARSE) + bytes(512) + END,
    "tar: sparse of pax": lambda: described(PAX, sparse("realsize", str(10**12)), b"1" * 512),
    "tar: a sparse map without an end": lambda: described(PAX, sparse("minor", "0"), b"1" * 10**6),
    "tar: a member of 10^18 bytes": lambda: header("a", 10**18) + END,
    "tar: a volume label": lambda: header("a", 0, b"V") + END,
    "tar: an unknown kind": lambda: header("a", 0, b"Q") + END,
    "tar: cut at the border of a member": lambda: entry("a", b"1") + entry("b", b"2"),
    "tar: cut within a member": lambda: entry("a", b"1" * 5000)[:2000],
    "tar: more behind its end": lambda: entry("a", b"1") + END + b"garbage",
    "tgz: garbage behind its end": lambda: gzip.compress(entry("a", b"1") + END) + b"garbage",
    "tgz: a wrong checksum": lambda: gzip.compress(entry("a", b"1") + END)[:-8] + bytes(8),
    "tgz: a bomb": lambda: gzip.compress(entry("a", bytes(LARGE)) + END),
    "tgz: a bomb that is declared small": lambda: gzip.compress(entry("a", b"1") + bytes(LARGE)),
    "tgz: a bomb in many members": lambda: gzip.compress(
        b"".join(entry(f"{n}", bytes(5 * 1024**2)) for n in range(20)) + END
    ),
    "tbz: a bomb": lambda: bz2.compress(entry("a", bytes(100 * 1024**2)) + END),
    "txz: a bomb": lambda: lzma.compress(entry("a", bytes(100 * 1024**2)) + END, preset=0),
    "gzip of gzip": lambda: gzip.compress(gzip.compress(entry("a", b"1") + END)),
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(600),
}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of an archive, written when it is first asked for: the bombs take a while."""
    folder = tmp_path_factory.mktemp("hostile")

    def write(name: str) -> Path:
        path = folder / f"{list(ARCHIVES).index(name)}.archive"
        if not path.exists():
            path.write_bytes(ARCHIVES[name]())
        return path

    return write


@pytest.mark.parametrize("name", ARCHIVES)
def test_one_error_that_names_the_archive(name: str, hostile: Callable[[str], Path]) -> None:
    path = hostile(name)
    others = sorted(path.parent.iterdir())
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(DataError) as caught:
            read_members(path)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) < 500 and message.isprintable()
    if name in ("zip: one name twice", "tar: one name twice", "zip: encrypted"):
        assert "'train.csv'" in message or "'a'" in message
    assert peak < 100e6, f"{peak / 1e6:.0f} MB"
    assert seconds < 10  # most take milliseconds; those of quadratic time took minutes
    assert sorted(path.parent.iterdir()) == others


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_too_many_members(write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x", {f"{n}.txt": b"1" for n in range(101)})
    assert len(read_members(source)) == 101
    monkeypatch.setattr(archive, "MAX_MEMBERS", 100)
    with pytest.raises(DataError, match=r"x has more than 100 members"):
        read_members(source)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_in_a_single_table(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(pack(b"text,label\n" + bytes(50 * 1024**2)))
    for read in (read_files, lambda source: read_file(path, source)):
        with pytest.raises(DataError, match=r"reviews\.csv\.gz unpacks to more than"):
            read(str(path))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sound_tars_of_every_style_are_read(mode: str, style: int, tmp_path: Path) -> None:
    names = ["a.csv", "deep/" * 12 + "b.csv", "grün/ä.txt", "Train.csv", "train.csv", "two words", "-"]
    names += [] if style == tarfile.USTAR_FORMAT else ["long/" * 60 + "c.csv"]
    with tarfile.open(tmp_path / "x", mode, format=style) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path, "folder", filter=lambda info: info if info.isdir() else None)
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = number * 300, {"comment": "ü" * number} if style == tarfile.PAX_FORMAT else {}
            archive.addfile(info, io.BytesIO(b"z" * info.size))
    read = read_members(tmp_path / "x")
    assert {name: len(data) for name, data in read.items()} == {name: n * 300 for n, name in enumerate(names)}
    with tarfile.open(tmp_path / "old", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("März.csv"))
    assert list(read_members(tmp_path / "old")) == ["März.csv"]


def test_what_packs_well_but_is_small_is_no_bomb(tmp_path: Path) -> None:
    zeros = {"zeros": bytes(20 * 1024**2)}
    for write in (write_tar, write_zip):
        assert read_members(write(tmp_path / "x", zeros)) == zeros


def test_the_limit_can_be_set_for_an_address(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tar", {"a": b"1" * 5000}, "w")
    set_access({source: Access(max_bytes=4000)})
    try:
        with pytest.raises(DataError, match=r"x\.tar holds more than 4,000 bytes .*`max_bytes:`"):
            read_members(source)
        assert len(read_members(source, max_bytes=20_000)["a"]) == 5000
    finally:
        set_access({})
    assert len(read_members(source)["a"]) == 5000


def test_the_message_about_another_kind_of_file_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "reviews.json").write_text('[{"text": "good"}]' * 100)
    with pytest.raises(DataError) as caught:
        read_files(str(tmp_path / "reviews.json"))
    assert [part for part in ("reviews.json", ".csv", ".jsonl", ".parquet") if part not in str(caught.value)] == []
    (tmp_path / "x.zip").write_text("<!DOCTYPE html><html>please log in</html>" * 20)
    with pytest.raises(DataError, match=r"x\.zip .*web page"):
        read_members(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "gnu", "large tgz", "large zip"])
def test_damage_anywhere_never_raises_anything_else(kind: str, tmp_path: Path) -> None:
    """Bytes of sound archives are changed: what comes out is right, or there is an error that names the archive."""
    large = {"a.csv": b"x,y\n1,2\n", "deep/ä.txt": b"", "deep/c.bin": random.Random(0).randbytes(30_000)}
    path = tmp_path / "x"
    if kind.startswith("large"):
        data = Path({"large zip": write_zip, "large tgz": write_tar}[kind](path, large)).read_bytes()
        places = [*range(0, len(data), 197), *range(len(data) - 250, len(data))]  # zip has its directory at the end
        flips, right, fewest = [0x55], set(large.values()), 301
    else:
        data = {
            "zip": zipped(["a.csv", "b.csv"], b"1,2\n"),
            "tar": described(PAX, record("path", "a.csv"), b"1,2\n"),
            "gnu": described(LONG, b"a.csv\0", b"1,2\n"),
        }[kind]
        places, flips, fewest = [*range(0, len(data), 1 if len(data) < 1000 else 7)], [0xFF, 0x01, 0x80], 1
        right = {b"1,2\n"} if kind == "zip" else None  # a tar has checksums of its headers alone
    n_refused = 0
    for place, flip in itertools.product(places, flips):
        path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        try:
            assert right is None or set(read_members(path).values()) <= right
        except DataError as error:
            n_refused += 1
            assert str(path) in str(error)
    assert n_refused >= fewest or right is None
