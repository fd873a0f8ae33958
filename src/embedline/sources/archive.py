"""Archives and folders behind an address: read member by member, never unpacked to disk."""

from __future__ import annotations

import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from embedline.errors import DataError
from embedline.sources.download import access_to, fetched
from embedline.sources.members import (
    MAX_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    RATIO_FROM,
    Names,
    Unpacked,
    bomb,
    in_short,
    not_a_file,
    too_large,
)
from embedline.sources.tar_archive import tar_members

MAX_UNCOMPRESSED_BYTES = MAX_BYTES
MAX_DIRECTORY_BYTES = 128 * MAX_MEMBERS  # of a zip's list of members, which zipfile reads at once

_START = 512  # bytes that tell what a file is
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, struct.error, OverflowError, IndexError),  # zipfile lets these through: damaged fields
    *(RuntimeError, MemoryError),  # an unknown version of zip; a huge dictionary of xz
)

Select = Callable[[str], bool]


class NotAnArchive(DataError):
    """The file is of another kind."""


def read_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int | None = None
) -> dict[str, bytes]:
    """Return the files of an archive or folder as ``{name: content}``; see `iter_members`."""
    return dict(iter_members(address, select, max_bytes=max_bytes))


def iter_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive or folder one at a time, in the order in which it stores them.

    The content decides on the kind (zip; tar, also packed by gzip, bzip2 or xz), not the name; a folder, with its
    sub-folders, works like an archive. Nothing is unpacked to disk.

    Args:
        address: ``https://``, ``s3://``, ``file://`` or any other fsspec address, or a path (relative to the working
            directory).
        select: keeps the members for whose name it returns true; all when absent.
        max_bytes: the most that is downloaded, and the most that the whole archive may hold uncompressed, skipped
            members included; `MAX_UNCOMPRESSED_BYTES`, or what `download.set_access` says, unless given.

    Yields:
        The name with forward slashes, relative to the archive or folder, and the content.

    Raises:
        NotAnArchive: the file is no archive.
        DataError: the address cannot be fetched; the archive is truncated, corrupt, encrypted or too large, unpacks to
            more than `MAX_RATIO` times its size or has more than `MAX_MEMBERS` members; two members have one name; or a
            member has no name, a path that is absolute or climbs out (``../x``), or is a link, a device or sparse.
    """
    address = str(address)
    if max_bytes is None:
        max_bytes = access_to(address).max_bytes
    try:
        with fetched(address, max_bytes) as path:
            yield from _members(path, address, select or (lambda name: True), max_bytes)
    except DataError:
        raise
    except _BROKEN as error:
        raise _broken(address, error) from error


def read_file(path: Path, address: str) -> bytes:
    """Return the content of one file, unpacked where it is packed by gzip, bzip2 or xz; limits as of `iter_members`.

    Args:
        path: of the file on this machine, see `download.fetched`.
        address: where it is from, for messages and limits.

    Raises:
        DataError: the file is truncated, corrupt or too large.
    """
    try:
        with path.open("rb") as file:
            limit = max(access_to(address).max_bytes, path.stat().st_size)  # what is not packed is no bomb
            return b"".join(Unpacked(file, address, limit).blocks())
    except DataError:
        raise
    except _BROKEN as error:
        raise _broken(address, error) from error


def _members(path: Path, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from _folder_members(path, address, select, max_bytes)
        return
    if not path.is_file():
        raise DataError(f"{address} is neither a file nor a folder")
    with path.open("rb") as file:
        start = file.read(_START)
        file.seek(0)
        if not start:
            raise DataError(f"{address} is an empty file, not an archive")
        if start.startswith(_ZIP_MAGIC):
            yield from _zip_members(file, path.stat().st_size, address, select, max_bytes)
        else:
            _require_tar(path, address, max_bytes)
            yield from tar_members(Unpacked(file, address, max_bytes), address, select)


def _require_tar(path: Path, address: str, max_bytes: int) -> None:
    """Raise `NotAnArchive` unless the first header is that of a tar, or the mark of an empty one."""
    with path.open("rb") as file:
        start = b""
        try:
            start = Unpacked(file, address, max_bytes).read(_START)
            if any(start):
                tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
        except DataError:
            raise
        except _BROKEN as error:
            page = start.lstrip().lower().startswith((b"<!doctype", b"<html"))
            raise NotAnArchive(
                f"{address} is neither a zip nor a tar archive, plain or packed by gzip, bzip2 or xz: it is "
                f"{'a web page' if page else 'of another kind, or damaged'} ({_reason(error)})"
            ) from error


def _folder_members(folder: Path, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    left = max_bytes
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if select(name) and file.is_file():
            left -= file.stat().st_size
            if left < 0:
                raise too_large(address, max_bytes)
            yield name, file.read_bytes()


class _ZipFile(io.BufferedReader):
    """A zip on disk; refuses the list of more members than are read, before zipfile makes an object of each."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of members has {size:,} bytes")
        return super().read(size)


def _zip_members(
    file: io.BufferedReader, size: int, address: str, select: Select, max_bytes: int
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(_ZipFile(file.raw)) as bundle:
        infos = bundle.infolist()
        _refuse_overlaps([(info.header_offset, info.compress_size) for info in infos], bundle.start_dir, address)
        if (total := sum(info.file_size for info in infos)) > max_bytes:
            raise too_large(address, max_bytes)
        names, files = Names(address), {}
        for info in infos:
            given = info.orig_filename  # zipfile cuts `filename` at a NUL
            is_folder = given.endswith(("/", "\\"))
            name = names.add(given, is_folder=is_folder)
            mode = info.external_attr >> 16  # the Unix mode, 0 when the zip was made elsewhere
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR if is_folder else 0):
                raise not_a_file(given, address)
            if info.file_size > max(RATIO_FROM, MAX_RATIO * info.compress_size):
                raise bomb(address)
            if not is_folder:
                files[name] = info
        if total > max(RATIO_FROM, MAX_RATIO * size):
            raise bomb(address)
        for name, info in files.items():
            if select(name):
                yield name, _zip_content(bundle, info, name, address)


def _refuse_overlaps(places: list[tuple[int, int]], directory: int, address: str) -> None:
    """Members that share their bytes unpack to far more than the file: zipfile notices from Python 3.11.8 on.

    Args:
        places: offset and packed size of each member, in bytes.
        directory: offset of the list of members, which follows them.
    """
    header = 30  # bytes at least
    end = 0
    for offset, packed in sorted([*places, (directory, -header)]):
        if offset < end:
            raise DataError(f"{address} is corrupt: its members overlap")
        end = offset + header + packed


def _zip_content(bundle: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, address: str) -> bytes:
    shown = in_short(name)
    if info.flag_bits & 1:
        raise DataError(f"{address} holds the member {shown}, which is encrypted: unpack it and give the folder")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise DataError(
            f"{address} holds the member {shown}, which is packed by another method than deflate "
            f"({info.compress_type}): unpack it and give the folder"
        )
    with bundle.open(info) as member:
        # Never read() without a length: that decompresses past a declared size that lies.
        content = member.read(info.file_size)
    if len(content) != info.file_size:
        raise DataError(f"{address} is truncated or corrupt: {shown} has {len(content):,} of {info.file_size:,} bytes")
    return content


def _broken(address: str, error: BaseException) -> DataError:
    return DataError(f"{address} is truncated, corrupt or unreadable: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
