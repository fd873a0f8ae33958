"""Decode text files: encodings, byte-order marks, invalid bytes."""

from __future__ import annotations

import codecs
import logging

import polars as pl

from embedline.errors import DataError
from embedline.sources.document_options import DocumentOptions
from embedline.sources.imdb_files import named

logger = logging.getLogger(__name__)

_BOM = "\ufeff"


def document_texts(files: pl.DataFrame, options: DocumentOptions) -> pl.Series:
    """Decode files (``path``, ``content``) to a series of String, without byte-order marks, with ``\\n`` as line ends.

    Raises:
        DataError: a file is not in ``options.encoding`` and ``on_bad_bytes`` is ``error``; names file and byte.
    """
    texts = None
    if codecs.lookup(options.encoding).name in ("utf-8", "utf-8-sig"):
        try:
            texts = files["content"].cast(pl.String)  # Polars validates the bytes without copies in Python
            if texts.str.contains("\0", literal=True).any():
                texts = None
        except pl.exceptions.ComputeError:
            logger.debug("Not every file is UTF-8: decoding them one by one")
    if texts is None:
        contents = dict(zip(files["path"].to_list(), files["content"].to_list(), strict=True))
        bad = [name for name, content in contents.items() if not _is_encoded(content, options.encoding)]
        texts = pl.Series([decoded(content, name, options) for name, content in contents.items()], dtype=pl.String)
        if bad:
            logger.warning(
                "%s files are not %s and were read with on_bad_bytes %r: %s",
                *(f"{len(bad):,}", options.encoding, options.on_bad_bytes, named(bad)),
            )
    return texts.str.strip_prefix(_BOM).str.replace_all("\r\n", "\n", literal=True)


def decoded(content: bytes, name: str, options: DocumentOptions) -> str:
    """Return the text of one file without a byte-order mark; raise a DataError that names the first invalid byte.

    A zero byte is invalid, too: it occurs in UTF-16 and in damaged files, not in a text.
    """
    try:
        return _strictly_decoded(content, options.encoding)
    except UnicodeDecodeError as error:
        if options.on_bad_bytes == "latin-1":
            return content.decode("latin-1").replace("\0", "\ufffd")
        if options.on_bad_bytes == "replace":
            return content.decode(options.encoding, "replace").removeprefix(_BOM).replace("\0", "\ufffd")
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} is not {options.encoding}: {error.reason}, byte 0x{content[error.start]:02x} at position "
            f"{error.start} (line {line}); set encoding, or on_bad_bytes to replace or latin-1"
        ) from error


def _strictly_decoded(content: bytes, encoding: str) -> str:
    text = content.decode(encoding)
    if "\0" in text:
        place = len(text[: text.index("\0")].encode(encoding))
        raise UnicodeDecodeError(encoding, content, place, place + 1, "a zero byte, as in UTF-16 or a damaged file")
    return text.removeprefix(_BOM)


def _is_encoded(content: bytes, encoding: str) -> bool:
    try:
        _strictly_decoded(content, encoding)
    except UnicodeDecodeError:
        return False
    return True
