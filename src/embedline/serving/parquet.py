"""Parquet bodies: the size of each column is known before anything is decoded.

A page of a few bytes may stand for gigabytes (run lengths, zeros, one long text of a dictionary in each row), and a
footer may be wrong about it. PyArrow shows the footer but not the headers of the pages, by which it takes memory: they
are read here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedline.errors import DataError
from embedline.serving.contract import RefusedError, RequestContract

_FOOTER = 1_000_000  # bytes
_PAGES = 10_000  # of all columns
_VALUE = 16  # bytes that a decoded number may take
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # types of pages
# Of DELTA_BYTE_ARRAY (7) each value repeats the start of the one before: no header says how long it is.
_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 5: "DELTA_BINARY_PACKED", 6: "DELTA_LENGTH_BYTE_ARRAY"} | {
    8: "RLE_DICTIONARY",
    9: "BYTE_STREAM_SPLIT",
}


@dataclass(frozen=True)
class _Page:
    """What the header of a page says: its type, bytes once it is decompressed, number of values, encoding."""

    kind: int
    size: int
    values: int
    encoding: int


def read_parquet(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    """The values of the model's columns; other columns, where they are allowed, are never decoded.

    Raises:
        RefusedError: for more rows, values or bytes than the limits allow.
        DataError: if the body is no Parquet file, or naming the column whose type or encoding is not taken.
    """
    try:
        found = _read(body, contract)
    except (pa.ArrowException, OSError, ValueError, NotImplementedError, MemoryError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the body is no Parquet file: {_one_line(error)}") from error
    finally:
        pa.default_memory_pool().release_unused()
    return found


def _read(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    if len(body) < 12 or body[:4] != b"PAR1" or body[-4:] != b"PAR1":
        raise DataError("the body is no Parquet file: it does not begin and end with PAR1")
    length = int.from_bytes(body[-8:-4], "little")
    if _FOOTER < length < len(body):
        raise RefusedError(413, f"the footer of a Parquet file may have {_FOOTER:,} bytes; this one has more")
    source = pa.BufferReader(body)
    metadata = pq.read_metadata(source)
    schema = metadata.schema.to_arrow_schema()
    names = [name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)]
    chosen = contract.choose(names)
    texts = [name for name in chosen if _check_type(name, schema.field(name).type)]
    _bound_pages(body, metadata, chosen, contract)
    table = pq.ParquetFile(source, metadata=metadata, read_dictionary=texts).read(columns=chosen, use_threads=False)
    if sum(_characters(table.column(name)) for name in texts) > contract.limits.body:
        raise _too_large(contract)
    found = {}
    for name in chosen:
        try:
            found[name] = (_texts if name in texts else _scalars)(table.column(name))
        except (pa.ArrowException, ValueError) as error:  # text that is no UTF-8, a time zone that nobody knows
            raise DataError(f"column {name[:200]!r} of the Parquet file cannot be read: {_one_line(error)}") from error
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _too_large(contract: RequestContract) -> RefusedError:
    return RefusedError(413, f"a Parquet file may hold {contract.limits.body:,} bytes once it is read, not more")


def _check_type(name: str, dtype: pa.DataType) -> bool:
    """Whether the values are text; raise a DataError where they are no single values that JSON or a CSV could have."""
    kind = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    tests = ("null", "boolean", "integer", "floating", "decimal", "date", "timestamp")
    if not any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        raise DataError(f"column {name[:200]!r} has the Parquet type {str(dtype)[:100]}: it must hold text or numbers")
    return False


def _bound_pages(body: bytes, metadata: Any, chosen: Sequence[str], contract: RequestContract) -> None:
    """Refuse a file whose pages hold more rows, values or bytes than the limits allow, whatever the footer says."""
    paths = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if any(group.num_rows < 0 for group in groups):
        raise DataError("the body is no Parquet file: a row group has a negative number of rows")
    contract.check_size(sum(group.num_rows for group in groups), len(chosen))
    size = pages = 0
    for name in chosen:
        if paths.count(name) != 1:  # a nested column may have the same path as a flat one with a dot in its name
            raise DataError(f"column {name[:200]!r} is there more than once in the Parquet file")
        for group in groups:
            for page in _column_pages(body, name, group.column(paths.index(name)), group.num_rows):
                pages, size = pages + 1, size + page.size
                if pages > _PAGES or size > contract.limits.body + _VALUE * contract.cells:
                    raise _too_large(contract)


def _column_pages(body: bytes, name: str, chunk: Any, n_rows: int) -> Iterator[_Page]:
    """The pages of a column chunk; raise a DataError where they are not what ``n_rows`` single values make."""
    values = 0
    for page in _pages(body, chunk):
        if page.encoding not in _ENCODINGS:
            known = ", ".join(_ENCODINGS.values())
            raise DataError(
                f"column {name[:200]!r} of the Parquet file must be written in one of the encodings {known}"
            )
        if page.kind == _DICTIONARY and page.values > page.size:
            raise DataError(f"column {name[:200]!r} of the Parquet file has a broken dictionary")
        values += page.values if page.kind != _DICTIONARY else 0
        yield page
    if not n_rows == chunk.num_values == values:
        raise DataError(f"column {name[:200]!r} of the Parquet file has {values:,} values in {n_rows:,} rows")


def _pages(body: bytes, chunk: Any) -> Iterator[_Page]:
    """The pages of a column chunk."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    if not 0 < start <= end <= len(body):
        raise DataError("the body is no Parquet file: a column lies outside of it")
    while start < end:
        header, start = _Thrift(body, start).read_struct()
        kind, size, length = (_natural(header.get(key)) for key in (1, 2, 3))
        details = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, -1))
        if isinstance(details, dict):
            values, encoding = details.get(1), details.get(4 if kind == _DATA_V2 else 2)
            yield _Page(kind, size, _natural(values), _natural(encoding))
        start += length


def _natural(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise DataError("the body is no Parquet file: the header of a page is broken")
    return number


class _Thrift:
    """Reads a struct of Thrift's compact protocol."""

    def __init__(self, body: bytes, place: int) -> None:
        self._body, self._place = body, place

    def read_struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Values by the numbers of their fields, and where the struct ends."""
        if depth > 4:
            raise DataError("the body is no Parquet file: the header of a page is nested")
        found: dict[int, Any] = {}
        number = 0
        while byte := self._byte():
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            found[number] = self._value(byte & 15, depth)
        return found, self._place

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # a boolean is its type
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (7, 8):  # a double, or bytes
            length = 8 if kind == 7 else self._varint()
            self._place += length
            return None
        if kind == 12:
            return self.read_struct(depth + 1)[0]
        raise DataError("the body is no Parquet file: the header of a page is broken")  # has no lists or maps

    def _byte(self) -> int:
        if self._place >= len(self._body):
            raise DataError("the body is no Parquet file: the header of a page is cut off")
        self._place += 1
        return self._body[self._place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise DataError("the body is no Parquet file: the header of a page is broken")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _characters(column: Any) -> int:
    """Bytes of text in a column of dictionaries: each value counts as often as it stands in a row."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
        total += pc.sum(lengths).as_py() or 0
    return total


def _texts(column: Any) -> list[str | None]:
    """Texts from a column of dictionaries; equal ones are one object."""
    texts: list[str | None] = []
    for chunk in column.chunks:
        known = chunk.dictionary.to_pylist()
        texts += [None if place is None else known[place] for place in chunk.indices.to_pylist()]
    return texts


def _scalars(column: Any) -> list[Any]:
    """Python values: dates and times as text in ISO format, decimals as numbers."""
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    dtype = column.type
    if pa.types.is_decimal(dtype):
        column = column.cast(pa.int64() if dtype.scale == 0 and dtype.precision <= 18 else pa.float64())
    elif pa.types.is_float16(dtype):
        column = column.cast(pa.float32())
    elif pa.types.is_timestamp(dtype):
        days = column.cast(pa.date32(), safe=False)
        is_day = dtype.tz is None and days.cast(dtype).equals(column)
        column = (days if is_day else column).cast(pa.string())
    elif pa.types.is_date(dtype):
        column = column.cast(pa.string())
    return list(column.to_pylist())
