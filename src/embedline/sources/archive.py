"""Archives and folders behind an address: fetched through fsspec and read member by member, never unpacked to disk."""

from __future__ import annotations

import gzip
import io
import posixpath
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.callbacks import TqdmCallback
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from embedline.errors import DataError

MAX_UNCOMPRESSED_BYTES = 2 * 1024**3
"""An archive that holds more is taken for a decompression bomb (the largest public source, IMDB, holds 0.2 GB)."""

CONNECT_SECONDS, SILENCE_SECONDS = 30, 60
"""An HTTP server that does not answer, or stops sending, for so long ends the download; its whole length does not."""

_BLOCK = 1024 * 1024
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP_MAGIC = b"\x1f\x8b"
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(UnicodeDecodeError, struct.error),  # zipfile lets these through: a damaged name, a damaged extra field
    *(RuntimeError, NotImplementedError),  # zipfile's errors for an encrypted member and for an unknown compression
)

Select = Callable[[str], bool]


def read_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int = MAX_UNCOMPRESSED_BYTES
) -> dict[str, bytes]:
    """Return the files of an archive or folder as ``{name: content}``; see `iter_members`."""
    return dict(iter_members(address, select, max_bytes=max_bytes))


def iter_members(
    address: str | Path, select: Select | None = None, *, max_bytes: int = MAX_UNCOMPRESSED_BYTES
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive or folder one at a time, in the order in which it stores them.

    The kind (zip, tar, gzipped tar) is told by the content, not by the name; a folder, with its sub-folders, works
    like an archive. Nothing is unpacked to disk.

    Args:
        address: ``https://``, ``s3://``, ``file://`` or any other fsspec address, or a path (relative to the working
            directory).
        select: keeps the members for whose name it returns true; all when absent.
        max_bytes: the most that the whole archive may hold uncompressed, skipped members included.

    Yields:
        The name with forward slashes, relative to the archive or folder, and the content.

    Raises:
        DataError: the address cannot be fetched, the archive is truncated, corrupt, encrypted or too large, or a
            member's path is absolute or climbs out (``../x``), or a member is a link or a device.
    """
    address = str(address)
    try:
        with fetched(address) as path:
            yield from _members(path, address, select or _any_name, max_bytes)
    except _BROKEN as error:
        raise DataError(f"{address} is truncated, corrupt or unreadable: {_reason(error)}") from error


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """Give a local path to what stands at an address, for the length of the ``with`` block.

    A local file or folder is used in place. Anything else is streamed to a temporary folder, with a progress bar on a
    terminal, and removed afterwards: an interrupted download leaves nothing behind and the next one starts afresh.
    """
    filesystem, path = _filesystem(address)
    if isinstance(filesystem, LocalFileSystem):
        if not Path(path).exists():
            raise DataError(f"there is no file or folder at {address}")
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="embedline-") as folder:
        target = Path(folder) / "download"
        _download(filesystem, path, target, address)
        yield target


def _filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec filesystem of an address and the path in it."""
    if not address.strip():
        raise DataError("the address of the source is empty; give an URL, a path of an archive or of a folder")
    options: dict[str, Any] = {}
    try:
        if address.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            # aiohttp ends every transfer after five minutes by default, which a slow line exceeds.
            timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
            # "identity": the declared length is then that of the bytes we get.
            options = {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": {"timeout": timeout}}
        filesystem, path = url_to_fs(address, **options)
    except (ImportError, ValueError) as error:
        raise DataError(f"{address} cannot be opened: {_reason(error)}") from error
    return filesystem, path


def _download(filesystem: AbstractFileSystem, path: str, target: Path, address: str) -> None:
    """Copy a remote file, or every file of a remote folder, to ``target``; raise `DataError` unless it is whole."""
    try:
        info = filesystem.info(path)
        if info.get("type") != "directory":
            _download_file(filesystem, path, target, info.get("size"))
            return
        target.mkdir()
        for file, details in filesystem.find(path, detail=True).items():
            name = _safe_name(posixpath.relpath(file, path), address)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _download_file(filesystem, file, target / name, details.get("size"))
    except FileNotFoundError as error:
        raise DataError(f"there is no file or folder at {address}") from error
    except DataError:
        raise
    except Exception as error:  # every fsspec backend has its own errors: aiohttp, botocore, timeouts, a full disk
        raise DataError(f"the download of {address} failed: {_reason(error)}; run again to restart it") from error


def _download_file(filesystem: AbstractFileSystem, path: str, target: Path, size: int | None) -> None:
    bar = {"desc": posixpath.basename(path), "unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}
    with TqdmCallback(tqdm_kwargs=bar) as callback:
        filesystem.get_file(path, str(target), callback=callback)
    arrived = target.stat().st_size
    if size is not None and arrived != size:
        raise EOFError(f"{arrived:,} of {size:,} bytes arrived")


def _members(path: Path, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from _folder_members(path, address, select, max_bytes)
        return
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if not magic:
            raise DataError(f"{address} is an empty file, not an archive")
        if magic in _ZIP_MAGIC:
            yield from _zip_members(file, address, select, max_bytes)
        elif magic.startswith(_GZIP_MAGIC):
            with gzip.open(file) as unzipped:
                yield from _tar_members(cast(BinaryIO, unzipped), address, select, max_bytes)
        else:
            yield from _tar_members(file, address, select, max_bytes)


def _folder_members(folder: Path, address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    left = max_bytes
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if select(name) and file.is_file():
            left -= file.stat().st_size
            if left < 0:
                raise _too_large(address, max_bytes)
            yield name, file.read_bytes()


def _zip_members(file: IO[bytes], address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as bundle:
        infos = {_safe_name(info.filename, address): info for info in bundle.infolist()}
        infos = {name: info for name, info in infos.items() if not info.is_dir()}
        for info in infos.values():
            mode = info.external_attr >> 16  # the Unix mode, 0 when the zip was made elsewhere
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise _not_a_file(info.filename, address)
        if sum(info.file_size for info in infos.values()) > max_bytes:
            raise _too_large(address, max_bytes)
        for name, info in infos.items():
            if select(name):
                with bundle.open(info) as member:
                    # Never read() without a length: that decompresses past a declared size that lies.
                    yield name, member.read(info.file_size)


def _tar_members(file: IO[bytes], address: str, select: Select, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    stream = _BoundedReader(file, address, max_bytes)
    try:
        archive = tarfile.TarFile(fileobj=stream, mode="r")
    except tarfile.ReadError as error:
        raise DataError(f"{address} is neither a zip nor a tar archive, plain or gzipped: {_reason(error)}") from error
    with archive:
        while (member := archive.next()) is not None:
            # tarfile keeps every header otherwise: 100 MB for a hundred thousand members
            archive.members = []  # type: ignore[attr-defined]
            name = _safe_name(member.name, address)
            if member.isdir():
                continue
            if not member.isreg():
                raise _not_a_file(member.name, address)
            if select(name):
                content = archive.extractfile(member)
                assert content is not None  # a regular file always has content
                yield name, content.read()
        # tarfile takes a damaged header for the end; a sound archive goes on with nothing but zeros. Reading them also
        # makes gzip compare its checksum.
        while block := stream.read(_BLOCK):
            if block.strip(b"\0"):
                raise DataError(f"{address} is truncated, corrupt or unreadable: a damaged header within the archive")


class _BoundedReader(io.BufferedIOBase):
    """A binary stream that refuses to go past ``limit`` bytes, however much its compressed form could unfold to."""

    def __init__(self, stream: IO[bytes], address: str, limit: int) -> None:
        self._stream, self._address, self._limit = stream, address, limit

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._limit - self._stream.tell()
        block = self._stream.read(left + 1 if size is None or size < 0 else min(size, left + 1))
        if len(block) > left:
            raise _too_large(self._address, self._limit)
        return block

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset > self._limit:
            raise _too_large(self._address, self._limit)
        return self._stream.seek(offset, whence)


def _safe_name(name: str, address: str) -> str:
    """Return a member's name in normal form; raise `DataError` where it is absolute or leads out of the archive."""
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise DataError(f"{address} holds the member {name!r}, whose path leads out of the archive")
    return posixpath.normpath(path)


def _not_a_file(name: str, address: str) -> DataError:
    return DataError(f"{address} holds the member {name!r}, which is a link or a device, not a file")


def _too_large(address: str, max_bytes: int) -> DataError:
    return DataError(f"{address} holds more than {max_bytes:,} bytes uncompressed, the most that is read")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _any_name(name: str) -> bool:
    return True
