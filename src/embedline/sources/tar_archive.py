"""The members of a tar archive, header by header."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator

from embedline.errors import DataError
from embedline.sources.members import Names, Unpacked, in_short, not_a_file

MAX_HEADER_BYTES = 1024**2  # of what a tar says of one member beside its header: a name, attributes

_BLOCK = 512


def tar_members(stream: Unpacked, address: str, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files whose name ``select`` keeps.

    Not by `tarfile.TarFile`: before Python 3.11.10 it takes quadratic time for a pax header (CVE-2024-6232), and any
    version reads one of any size into memory, and calls itself once for each.

    Raises:
        DataError: a member is a link, a device or sparse, or its name or size is not accepted.
        tarfile.TarError, EOFError: the archive is damaged or ends too early; at its first header, it may be no tar.
    """
    names = Names(address)
    common: dict[str, str] = {}  # what pax headers say of all members that follow
    special: dict[str, str] = {}  # what they say of the next
    while any(header := stream.read(_BLOCK)):
        member = _member(header)
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
                _require_file(member, known, name, address)
                content = _content(stream, int(known.get("size", member.size)), keep=select(name))
                if content is not None:
                    yield name, content
    # A damaged header may look like the end; a sound archive goes on with nothing but zeros. Reading them also makes
    # gzip compare its checksum.
    if any(block.strip(b"\0") for block in stream.blocks()):
        raise tarfile.ReadError("a damaged header within the archive")


def _member(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(f"a damaged header within the archive ({error})") from error


def _require_file(member: tarfile.TarInfo, known: dict[str, str], name: str, address: str) -> None:
    if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in known):
        raise DataError(f"{address} holds the member {in_short(name)}, which is sparse: pack it without --sparse")
    if not member.isreg():
        raise not_a_file(name, address)


def _header_content(stream: Unpacked, size: int, address: str) -> bytes:
    if size > MAX_HEADER_BYTES:
        raise DataError(f"{address} is corrupt: it holds a header of {size:,} bytes")
    return _content(stream, size, keep=True) or b""


def _content(stream: Unpacked, size: int, *, keep: bool) -> bytes | None:
    """Read ``size`` bytes and what fills up their last block; return the bytes if they are kept."""
    if size < 0:
        raise tarfile.ReadError(f"a member of {size} bytes")
    content = stream.read(size) if keep else None
    if content is None and sum(map(len, stream.blocks(size))) < size:
        raise EOFError("it ends within a member")
    stream.read(-size % _BLOCK)
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
