"""Archives and folders behind an address: read member by member, never unpacked to disk.

zipfile reads zips. The headers of a tar are read here one by one, and only their fields by tarfile: before Python
3.11.10 `tarfile.TarFile` takes quadratic time for a pax header (CVE-2024-6232), and any version reads a header of any
size into memory, and calls itself once for each.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import polars as pl

from embedline.download import access_to, checked_name, fetched, quoted
from embedline.errors import DataError, one_line

MAX_RATIO, RATIO_FROM = 200, 32 * 1024**2
"""More than so many times its packed size, from so many bytes on, is a decompression bomb: text packs 3 to 20 times."""

MAX_MEMBERS = 200_000  # twice those of IMDB
MAX_DIRECTORY_BYTES = 128 * MAX_MEMBERS  # of a zip's list of members, which zipfile reads at once
MAX_HEADER_BYTES = 1024**2  # of what a tar says of one member beside its header: a name, attributes
FILES_SCHEMA = {"path": pl.String, "content": pl.Binary}

_BLOCK, _TAR_BLOCK, _ZIP_HEADER = 1024**2, 512, 30  # bytes; the last at least
_UNPACK: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, struct.error, OverflowError, IndexError),  # zipfile lets these through: damaged fields
    *(RuntimeError, MemoryError),  # an unknown version of zip; a huge dictionary of xz
)

Select = Callable[[str], bool]


class NotAnArchive(DataError):
    """The file is of another kind."""


def iter_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the relative name, with forward slashes, and the content of each file of an archive or folder, in order.

    The content decides on the kind (zip; tar, also packed by gzip, bzip2 or xz), not the name; a folder, with its
    sub-folders, works like an archive.

    Args:
        address: any fsspec address (``https://``, ``s3://``, …), or a path relative to the working directory.
        select: keeps the members for whose name it returns true; all when absent.
        max_bytes: the most that is downloaded, and that the archive may hold uncompressed, skipped members included;
            what `download.set_access` says unless given.

    Raises:
        NotAnArchive: the file is no archive.
        DataError: it cannot be fetched, is truncated, corrupt, encrypted or too large, unpacks to more than `MAX_RATIO`
            times its size or has more than `MAX_MEMBERS` members; or a member has no name, that of another or one that
            leads out (``../x``), or is a link, a device or sparse.
    """
    address, keep = str(address), select or (lambda name: True)
    limit = access_to(address).max_bytes if max_bytes is None else max_bytes
    with _faults_named(address), fetched(address, limit) as path:
        if path.is_dir():
            yield from _folder_members(path, address, keep, limit)
            return
        if not path.is_file():
            raise DataError(f"{address} is neither a file nor a folder")
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if not start:
                raise DataError(f"{address} is an empty file, not an archive")
            if start in (b"PK\x03\x04", b"PK\x05\x06"):
                yield from _zip_members(file, address, keep, limit)
            else:
                yield from _tar_members(_Stream(file, address, limit), address, keep)


def read_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int | None = None
) -> dict[str, bytes]:
    """Return the files of an archive or folder as ``{name: content}``; see `iter_members`."""
    return dict(iter_members(address, select, max_bytes=max_bytes))


def select_members(address: str, select: Select) -> tuple[dict[str, bytes], str]:
    """Return the files that ``select`` keeps, and the first names of all files, for messages."""
    seen: list[str] = []

    def is_wanted(name: str) -> bool:
        seen.append(name)
        return select(name)

    return read_members(address, is_wanted), first_names(seen) or "nothing"


def read_file(path: Path, address: str) -> bytes:
    """Return the content of one file, unpacked where it is packed by gzip, bzip2 or xz; limits as of `iter_members`.

    ``path`` is of the file on this machine (`download.fetched`), ``address`` where it is from, for messages and limits.
    """
    return b"".join(read_blocks(path, address))


def read_blocks(path: Path, address: str) -> Iterator[bytes]:
    """Yield the content of one file in blocks, so that memory does not grow with it; see `read_file`."""
    with _faults_named(address), path.open("rb") as file:
        limit = max(access_to(address).max_bytes, path.stat().st_size)  # what is not packed is no bomb
        yield from _Stream(file, address, limit).blocks()


def files_frame(files: dict[str, bytes]) -> pl.DataFrame:
    """Return files as a frame: ``path`` and ``content``, sorted by path."""
    paths = sorted(files)
    return pl.DataFrame({"path": paths, "content": [files[path] for path in paths]}, schema=FILES_SCHEMA)


def check_sha256(name: str, data: bytes, expected: str, *, source: str, whose: str) -> None:
    """Raise a DataError unless the file ``name`` of ``source`` is the known one of ``whose``."""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} in {source} is not {whose}: its sha256 is {found}, expected {expected}; "
            "to use another version of the data, turn the check off (verify: false)"
        )


def first_names(names: list[str], most: int = 3) -> str:
    """Join the first names for a message: ``a, b, c and 4 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


@contextmanager
def _faults_named(address: str) -> Iterator[None]:
    """Turn what the libraries raise of a damaged archive into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{address} is truncated, corrupt or unreadable: {one_line(error)}") from error


def _too_large(address: str, max_bytes: int) -> DataError:
    return DataError(
        f"{address} holds more than {max_bytes:,} bytes uncompressed, the most that is read; set `max_bytes:` beside "
        "`source:` to allow more"
    )


def _require_no_bomb(address: str, unpacked: int, packed: int) -> None:
    if unpacked > max(RATIO_FROM, MAX_RATIO * packed):
        raise DataError(
            f"{address} unpacks to more than {MAX_RATIO} times its size, as decompression bombs do; if it is sound, "
            "unpack it and give the folder"
        )


def _require_file(is_file: bool, name: str, address: str) -> None:
    if not is_file:
        raise DataError(f"{address} holds the member {quoted(name)}, which is a link or a device, not a file")


class _Names:
    """The names of an archive's members: each checked, no file twice, not too many."""

    def __init__(self, address: str) -> None:
        self._address, self._seen, self._count = address, set[str](), 0

    def add(self, name: str, *, is_folder: bool) -> str:
        """Return the name in normal form; raise a `DataError` for one that cannot be or was there before."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise DataError(f"{self._address} has more than {MAX_MEMBERS:,} members; unpack it and give the folder")
        checked = checked_name(name, self._address)
        if is_folder:  # may come again
            return checked
        if checked == ".":
            raise DataError(f"{self._address} holds the member {quoted(name)}, which is a file named like a folder")
        if checked in self._seen:
            raise DataError(
                f"{self._address} holds {quoted(checked)} twice; unpack it, keep the right one and pack it again"
            )
        self._seen.add(checked)
        return checked


class _Stream:
    """A file, unpacked where it is packed, read forwards once and never beyond the limits."""

    def __init__(self, file: IO[bytes], address: str, max_bytes: int) -> None:
        start = file.read(6)
        file.seek(0)
        unpack = next((opened for magic, opened in _UNPACK.items() if start.startswith(magic)), None)
        self._file, self._address, self._max_bytes = file, address, max_bytes
        self._stream: IO[bytes] = unpack(file) if unpack else file
        self._done = 0

    def blocks(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the next ``size`` bytes, all that is left without it, in blocks; at the end of the file fewer."""
        if size is not None and self._done + size > self._max_bytes:  # as declared
            raise _too_large(self._address, self._max_bytes)
        while (size is None or size > 0) and (
            block := self._stream.read(_BLOCK if size is None else min(size, _BLOCK))
        ):
            self._done += len(block)
            if self._done > self._max_bytes:
                raise _too_large(self._address, self._max_bytes)
            _require_no_bomb(self._address, self._done, self._file.tell())
            size = None if size is None else size - len(block)
            yield block

    def read(self, size: int, *, keep: bool = True) -> bytes:
        """Return the next ``size`` bytes, or pass over them; raise an `EOFError` where there are fewer."""
        kept, left = [], size
        for block in self.blocks(size):
            left -= len(block)
            if keep:
                kept.append(block)
        if left > 0:
            raise EOFError("it ends too early")
        return b"".join(kept)


def _folder_members(folder: Path, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    left = max_bytes
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if select(name) and file.is_file():
            left -= file.stat().st_size
            if left < 0:
                raise _too_large(address, max_bytes)
            yield name, file.read_bytes()


class _ZipFile(io.BufferedReader):
    """A zip on disk; refuses the list of more members than are read, before zipfile makes an object of each."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of members has {size:,} bytes")
        return super().read(size)


def _zip_members(file: io.BufferedReader, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    packed = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(_ZipFile(file.raw)) as bundle:
        infos = bundle.infolist()
        # Members that share their bytes unpack to far more than the file: zipfile notices from Python 3.11.8 on.
        places = [(info.header_offset, info.compress_size) for info in infos] + [(bundle.start_dir, -_ZIP_HEADER)]
        pairs = pairwise(sorted(places))
        if any(offset < 0 or offset + size + _ZIP_HEADER > end for (offset, size), (end, _) in pairs):
            raise DataError(f"{address} is corrupt: its members overlap")
        if (total := sum(info.file_size for info in infos)) > max_bytes:
            raise _too_large(address, max_bytes)
        names, files = _Names(address), {}
        for info in infos:
            given = info.orig_filename  # zipfile cuts `filename` at a NUL
            is_folder = given.endswith(("/", "\\"))
            name = names.add(given, is_folder=is_folder)
            kind = stat.S_IFMT(info.external_attr >> 16)  # of the Unix mode, 0 when the zip was made elsewhere
            _require_file(kind in (0, stat.S_IFREG, stat.S_IFDIR if is_folder else 0), given, address)
            _require_no_bomb(address, info.file_size, info.compress_size)
            if not is_folder:
                files[name] = info
        _require_no_bomb(address, total, packed)
        for name, info in files.items():
            if select(name):
                yield name, _zip_content(bundle, info, name, address)


def _zip_content(bundle: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, address: str) -> bytes:
    what = f"{address} holds the member {quoted(name)}, which is"
    if info.flag_bits & 1:
        raise DataError(f"{what} encrypted: unpack it and give the folder")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise DataError(
            f"{what} packed by another method than deflate ({info.compress_type}): unpack it and give the folder"
        )
    with bundle.open(info) as member:
        content = member.read(info.file_size)  # without a length, it decompresses past a declared size that lies
    if len(content) != info.file_size:
        raise EOFError(f"{quoted(name)} has {len(content):,} of {info.file_size:,} bytes")
    return content


def _tar_members(stream: _Stream, address: str, select: Select) -> Iterator[tuple[str, bytes]]:
    names = _Names(address)
    common: dict[str, str] = {}  # what pax headers say of all members that follow
    special: dict[str, str] = {}  # what they say of the next
    header = _first_tar_header(stream, address)
    while any(header):
        member = _tar_info(header)
        if member.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            special |= _pax_values(_header_content(stream, member.size, address))
        elif member.type == tarfile.XGLTYPE:
            common |= _pax_values(_header_content(stream, member.size, address))
        elif member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if member.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            special[key] = _text(_header_content(stream, member.size, address).rstrip(b"\0"))
        else:
            known, special = {**common, **special}, {}
            given = known.get("path", _text(member.name.encode("utf-8", "surrogateescape")))
            name = names.add(given, is_folder=member.isdir())
            if not member.isdir():  # a folder has no content, whatever size it has
                if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in known):
                    raise DataError(f"{address} holds the sparse member {quoted(name)}: pack it without --sparse")
                _require_file(member.isreg(), name, address)
                size = int(known.get("size", member.size))
                if size < 0:
                    raise tarfile.ReadError(f"a member of {size} bytes")
                wanted = select(name)
                content = stream.read(size, keep=wanted)
                stream.read(-size % _TAR_BLOCK)
                if wanted:
                    yield name, content
        header = stream.read(_TAR_BLOCK)
    # A damaged header may look like the end; a sound archive goes on with nothing but zeros. Reading them also makes
    # gzip compare its checksum.
    if any(block.strip(b"\0") for block in stream.blocks()):
        raise tarfile.ReadError("a damaged header within the archive")


def _first_tar_header(stream: _Stream, address: str) -> bytes:
    """Return the first header, zeros in an empty tar; raise `NotAnArchive` where it is none."""
    start = b""
    try:
        start = stream.read(_TAR_BLOCK)
        if any(start):
            tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except DataError:
        raise
    except _BROKEN as error:
        page = start.lstrip().lower().startswith((b"<!doctype", b"<html"))
        raise NotAnArchive(
            f"{address} is neither a zip nor a tar archive, plain or packed by gzip, bzip2 or xz: it is "
            f"{'a web page' if page else 'of another kind, or damaged'} ({one_line(error)})"
        ) from error
    return start


def _tar_info(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(f"a damaged header within the archive ({error})") from error


def _header_content(stream: _Stream, size: int, address: str) -> bytes:
    if not 0 <= size <= MAX_HEADER_BYTES:
        raise DataError(f"{address} is corrupt: it holds a header of {size:,} bytes")
    content = stream.read(size)
    stream.read(-size % _TAR_BLOCK)
    return content


def _pax_values(records: bytes) -> dict[str, str]:
    """Return the values of a pax header: ``<length of the record> <key>=<value>`` and a line end each."""
    values, place = {}, 0
    while place < len(records) and records[place]:
        length, space, _ = records[place : place + 20].partition(b" ")
        end = place + int(length) if length.isdigit() and space else place
        key, equals, value = records[place + len(length) + 1 : end - 1].partition(b"=")
        if not equals or records[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a damaged pax header")
        values[_text(key)] = _text(value)
        place = end
    return values


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:  # an old archive: each byte a character
        return name.decode("latin-1")
