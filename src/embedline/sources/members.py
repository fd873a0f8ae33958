"""What holds for the members of every archive: sound names, none twice, and limits on what they unpack to."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from embedline.errors import DataError

MAX_BYTES = 2 * 1024**3
"""The most that is downloaded, and that an archive may hold (IMDB, the largest public source, holds 0.2 GB)."""

MAX_RATIO, RATIO_FROM = 200, 32 * 1024**2
"""More than so many times its packed size, from so many bytes on, is a decompression bomb: text packs 3 to 20 times."""

MAX_MEMBERS = 200_000  # twice those of IMDB
MAX_NAME = 4096  # characters of a member's path; no file system takes a longer one
BLOCK = 1024 * 1024

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def checked_name(name: str, address: str) -> str:
    """Return a member's name in normal form, with forward slashes.

    Raises:
        DataError: it is empty, too long, absolute, leads out of the archive or has control characters.
    """
    path = name.replace("\\", "/")
    shown = in_short(name)
    if not path:
        raise DataError(f"{address} holds a member without a name")
    if len(path) > MAX_NAME:
        raise DataError(f"{address} holds the member {shown}, whose name has {len(path):,} characters")
    if _CONTROL.search(path):
        raise DataError(f"{address} holds the member {shown}, whose name has control characters")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise DataError(f"{address} holds the member {shown}, whose path leads out of the archive")
    return posixpath.normpath(path)


def in_short(name: str) -> str:
    """A member's name for a message: quoted, cut to 80 characters."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


class Names:
    """The names of an archive's members: each checked, none twice, not too many."""

    def __init__(self, address: str) -> None:
        self._address, self._seen, self._count = address, set[str](), 0

    def add(self, name: str, *, is_folder: bool) -> str:
        """Return the name in normal form; raise a `DataError` for one that cannot be or was there before.

        A folder may come again.
        """
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise DataError(f"{self._address} has more than {MAX_MEMBERS:,} members; unpack it and give the folder")
        checked = checked_name(name, self._address)
        if is_folder:
            return checked
        if checked == ".":
            raise DataError(
                f"{self._address} holds the member {in_short(name)}, which is a file with the name of a folder"
            )
        if checked in self._seen:
            raise DataError(
                f"{self._address} holds {in_short(checked)} twice; unpack it, keep the right one and pack it again"
            )
        self._seen.add(checked)
        return checked


class Unpacked:
    """What a file holds once it is unpacked, read forwards; a `DataError` where that is too much.

    Args:
        file: at its start; packed by gzip, bzip2 or xz, or as it is.
        address: for messages.
        max_bytes: the most that is read.
    """

    def __init__(self, file: IO[bytes], address: str, max_bytes: int) -> None:
        start = file.read(6)
        file.seek(0)
        unpack = next((opened for magic, opened in _PACKED.items() if start.startswith(magic)), None)
        self._file, self._address, self._max_bytes = file, address, max_bytes
        self._stream: IO[bytes] = unpack(file) if unpack else file
        self._done = 0

    def blocks(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the next ``size`` bytes, all that is left without it, in blocks; at the end of the file fewer."""
        if size is not None and self._done + size > self._max_bytes:  # as declared
            raise too_large(self._address, self._max_bytes)
        while (size is None or size > 0) and (block := self._stream.read(BLOCK if size is None else min(size, BLOCK))):
            self._done += len(block)
            if self._done > self._max_bytes:
                raise too_large(self._address, self._max_bytes)
            if self._done > max(RATIO_FROM, MAX_RATIO * self._file.tell()):
                raise bomb(self._address)
            size = None if size is None else size - len(block)
            yield block

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes; raise an `EOFError` where there are fewer."""
        content = b"".join(self.blocks(size))
        if len(content) < size:
            raise EOFError("it ends too early")
        return content


def too_large(address: str, max_bytes: int) -> DataError:
    """The error of an archive that holds more than the limit."""
    return DataError(
        f"{address} holds more than {max_bytes:,} bytes uncompressed, the most that is read; set `max_bytes:` beside "
        "`source:` to allow more"
    )


def bomb(address: str) -> DataError:
    """The error of an archive that unpacks to far more than it is."""
    return DataError(
        f"{address} unpacks to more than {MAX_RATIO} times its size, as decompression bombs do; if it is sound, unpack "
        "it and give the folder"
    )


def not_a_file(name: str, address: str) -> DataError:
    """The error of a link or device among the members."""
    return DataError(f"{address} holds the member {in_short(name)}, which is a link or a device, not a file")
