"""Parquet bodies: the size of each column is known before anything is decoded.

A page of a few bytes may stand for gigabytes: of run lengths, of zeros, of one long text of a dictionary in each row.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedline.errors import DataError
from embedline.serving.contract import RefusedError, RequestContract
from embedline.serving.parquet_layout import (
    DICTIONARY,
    Chunk,
    Layout,
    Page,
    footer_length,
    read_layout,
    read_pages,
)

_FOOTER = 500_000  # bytes
_PAGES = 10_000  # of all columns
_VALUE = 16  # bytes that a decoded number may take
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
# Of DELTA_BYTE_ARRAY (7) each value repeats the start of the one before: no header says how long it is.
_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 5: "DELTA_BINARY_PACKED", 6: "DELTA_LENGTH_BYTE_ARRAY"} | {
    8: "RLE_DICTIONARY",
    9: "BYTE_STREAM_SPLIT",
}


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
    if _FOOTER < footer_length(body) < len(body):
        raise RefusedError(413, f"the footer of a Parquet file may have {_FOOTER:,} bytes; this one has more")
    layout = read_layout(body)
    names = dict.fromkeys(leaf[0] for leaf in layout.leaves if not _PANDAS_INDEX.fullmatch(leaf[0]))
    chosen = contract.choose(list(names))
    in_dictionaries = _bound_pages(body, layout, chosen, contract)
    source = pa.BufferReader(body)
    metadata = pq.read_metadata(source)
    schema = metadata.schema.to_arrow_schema()
    texts = [name for name in chosen if _is_text(name, schema.field(name).type)]
    file = pq.ParquetFile(
        source, metadata=metadata, read_dictionary=[name for name in texts if name in in_dictionaries]
    )
    table = file.read(columns=chosen, use_threads=False)
    if sum(_characters(table.column(name)) for name in texts) > contract.limits.body:
        raise _too_large(contract)
    found = {}
    for name in chosen:
        try:
            found[name] = _values(table.column(name))
        except (pa.ArrowException, ValueError) as error:  # text that is no UTF-8, a time zone that nobody knows
            raise DataError(f"column {name[:200]!r} of the Parquet file cannot be read: {_one_line(error)}") from error
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _too_large(contract: RequestContract) -> RefusedError:
    return RefusedError(413, f"a Parquet file may hold {contract.limits.body:,} bytes once it is read, not more")


def _is_text(name: str, dtype: pa.DataType) -> bool:
    """Whether the values are text; raise a DataError where they are no single values that JSON or a CSV could have."""
    kind = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    tests = ("null", "boolean", "integer", "floating", "decimal", "date", "timestamp")
    if not any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        raise DataError(f"column {name[:200]!r} has the Parquet type {str(dtype)[:100]}: it must hold text or numbers")
    return False


def _bound_pages(body: bytes, layout: Layout, chosen: Sequence[str], contract: RequestContract) -> set[str]:
    """Refuse a file whose pages hold more rows, values or bytes than the limits allow, whatever the footer says.

    Returns:
        The columns with dictionaries: how often their values stand in rows is not bounded yet.
    """
    contract.check_size(sum(layout.rows), len(chosen))
    paths = [".".join(leaf) for leaf in layout.leaves]
    size = pages = 0
    in_dictionaries = set()
    for name in chosen:
        if (name,) not in layout.leaves:
            raise DataError(f"column {name[:200]!r} of the Parquet file holds lists or structs: a cell is one value")
        if paths.count(name) > 1:  # a nested column may have the path of a flat one with a dot in its name
            raise DataError(f"column {name[:200]!r} is there more than once in the Parquet file")
        for rows, chunks in zip(layout.rows, layout.chunks, strict=True):
            for page in _checked_pages(body, name, chunks[paths.index(name)], rows):
                pages, size = pages + 1, size + page.size
                if page.kind == DICTIONARY:
                    in_dictionaries.add(name)
                if pages > _PAGES or size > contract.limits.body + _VALUE * contract.cells:
                    raise _too_large(contract)
    return in_dictionaries


def _checked_pages(body: bytes, name: str, chunk: Chunk, rows: int) -> Iterator[Page]:
    """The pages of a column chunk; raise a DataError where they do not make ``rows`` single values."""
    values = 0
    for page in read_pages(body, chunk):
        if page.encoding not in _ENCODINGS:
            known = ", ".join(_ENCODINGS.values())
            raise DataError(
                f"column {name[:200]!r} of the Parquet file must be written in one of the encodings {known}"
            )
        if page.kind != DICTIONARY:
            values += page.values
        elif page.values > page.size:
            raise DataError(f"column {name[:200]!r} of the Parquet file has a broken dictionary")
        yield page
    if not rows == chunk.values == values:
        raise DataError(f"column {name[:200]!r} of the Parquet file has {values:,} values in {rows:,} rows")


def _characters(column: Any) -> int:
    """Bytes of a column of text; of dictionaries, each value counts as often as it stands in a row."""
    if not pa.types.is_dictionary(column.type):
        return pc.sum(pc.binary_length(column)).as_py() or 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(length).as_py() or 0 for length in lengths)


def _values(column: Any) -> list[Any]:
    """Python values: dates and times as text in ISO format, decimals as numbers; equal texts may be one object."""
    dtype = column.type
    if pa.types.is_dictionary(dtype):
        values: list[Any] = []
        for chunk in column.chunks:
            known = _values(pa.chunked_array([chunk.dictionary]))
            values += [None if place is None else known[place] for place in chunk.indices.to_pylist()]
        return values
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
