"""Small bodies that would grow to gigabytes or take minutes: for tests of the server."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from small_services import CSV, JSON, PARQUET, parquet

MILLION = 1_000_000


def long_texts(n_rows: int, **options: Any) -> bytes:
    """One text of a million characters in each row."""
    return parquet({"listener": pa.array(["a" * MILLION] * n_rows), "album": pa.array([1] * n_rows)}, **options)


def dictionary_of_one(n_rows: int) -> bytes:
    """The same, stored once."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array(["a" * MILLION]))
    return parquet({"listener": text, "album": pa.array([1] * n_rows)})


def lying_page(size: int) -> bytes:
    """A Parquet file whose first page says that it has ``size`` bytes, and whose footer says little."""
    body = parquet({"listener": pa.array(["abc"]), "album": pa.array([1])}, use_dictionary=False, compression="snappy")
    said, place = 0, 7  # behind PAR1, the page's type, and the mark of the field
    assert body[4:7] == b"\x15\x00\x15"
    while body[place + said] & 128:
        said += 1
    return body[:place] + varint(2 * size) + body[place + said + 1 :]


def varint(value: int) -> bytes:
    """A number as Thrift writes it."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def empty_footer(n_elements: int) -> bytes:
    """A Parquet file with nothing but a schema of elements that say nothing."""
    footer = b"\x15\x02\x19\xfc" + varint(n_elements) + b"\x00" * n_elements + b"\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def records(rows: Any) -> bytes:
    return json.dumps({"dataframe_records": rows}, separators=(",", ":")).encode()


def inputs(values: bytes) -> bytes:
    return b'{"inputs":{"album":' + values + b"}}"


def split(columns: list[str], layout: str = "dataframe_split") -> bytes:
    """JSON of columns without rows."""
    empty = {"columns": columns, "data": []} if layout == "dataframe_split" else {name: [] for name in columns}
    return json.dumps({layout: empty}).encode()


def cell(listener: bytes, album: bytes) -> bytes:
    return b'{"inputs":[{"listener":%b,"album":%b}]}' % (listener, album)


def instances(start: bytes, repeated: bytes) -> bytes:
    """JSON of five million empty rows behind a start."""
    return b'{"instances":[' + start + repeated * 5 * MILLION + repeated[:-1] + b"]}"


def names(count: int) -> list[str]:
    return [f"c{k}" for k in range(count)]


DELTA = {"use_dictionary": False, "column_encoding": {"listener": "DELTA_BYTE_ARRAY", "album": "PLAIN"}}
LARGE, PAIR = "32,000,000 bytes", ("listener", "album")

# What a server of pairs of "listener" and "album" has to say to each: the status, and what the message names.
Bombs = dict[str, tuple[int, str, Callable[[], bytes]]]
JSON_BOMBS: Bombs = {
    "another key in each row": (400, "'k0'", lambda: records([{f"k{row}": 1} for row in range(100_000)])),
    "an object of 500,000 keys": (413, "200,000 values", lambda: records([dict.fromkeys(names(500_000), 1)])),
    "5 million empty lists": (413, "100,000 rows", lambda: instances(b"", b"[],")),
    "5 million empty objects": (413, "100,000 rows", lambda: instances(b"", b"{},")),
    "8 million numbers": (413, "200,000 values", lambda: inputs(b"[" + b"1," * 8 * MILLION + b"1]")),
    "10 million texts": (413, "200,000 values", lambda: inputs(b"[" + b'"",' * 10 * MILLION + b'""]')),
    "lists in lists": (400, "nested", lambda: b'{"instances":' + b"[" * 200_000),
    "lists in a cell": (400, "nested", lambda: b'{"instances":[{"album":' + b"[" * 90_000 + b"]" * 90_000 + b"}]}"),
    "brackets behind an escaped quote": (413, "100,000 rows", lambda: instances(b'"\\\\\\"",', b"[],")),
    "a number of 30 million digits": (400, "digits", lambda: cell(b"9" * 30 * MILLION, b"1")),
    "30 million digits of a fraction": (400, "'album', row 1", lambda: cell(b"1", b"0." + b"7" * 30 * MILLION)),
    "a million column names": (413, "200,000 values", lambda: split(names(MILLION))),
    "150,000 columns": (413, "100,000 rows", lambda: split(names(150_000), layout="inputs")),
    "JSON in UTF-16": (400, "utf-8", lambda: cell(b"1", b"1").decode().encode("utf-16")),
}
CSV_BOMBS: Bombs = {
    "a CSV of 100,000 columns": (
        400,
        "'c0'",
        lambda: ",".join(names(100_000)).encode() + b"\n1" + b",1" * 99_999,
    ),
    "a CSV of 900,000 empty names": (413, "200,000 values", lambda: b"," * 900_000 + b"\n"),
    "an endless first line": (400, "first line", lambda: b"listener,album," + b"a" * 20 * MILLION),
    "30 million empty lines": (413, "empty lines", lambda: b"listener,album\n" + b"\n" * 30 * MILLION),
    "a million rows": (413, "100,000 rows", lambda: b"listener,album\n" + b"1,1\n" * MILLION),
    "a row of 10 million cells": (413, "200,000 values", lambda: b"listener,album\n1,1" + b"," * 10 * MILLION),
    "a quote that does not end": (400, "no CSV", lambda: b'listener,album\n1,"' + b"a\n" * MILLION),
}
PARQUET_BOMBS: Bombs = {
    "a text in a dictionary, 1,000 times": (413, LARGE, lambda: dictionary_of_one(1_000)),
    "50 long texts": (413, LARGE, lambda: long_texts(50)),
    "50 long texts that repeat each other": (413, LARGE, lambda: long_texts(50, **DELTA)),
    "20 million nulls": (413, "100,000 rows", lambda: parquet(dict.fromkeys(PAIR, pa.nulls(20 * MILLION, pa.int64())))),
    "a page that says 2 GB": (400, "no Parquet file", lambda: lying_page(2**31 - 1)),
    "a Parquet file of 20,000 columns": (
        *(413, "footer"),
        lambda: parquet(dict.fromkeys(names(20_000), pa.array([1])), write_statistics=False),
    ),
    "a footer of 480,000 empty elements": (400, "no Parquet file", lambda: empty_footer(480_000)),
    "lists in Parquet": (400, "'listener'", lambda: parquet(dict.fromkeys(PAIR, pa.array([[1] * MILLION])))),
}
KINDS = {JSON: JSON_BOMBS, CSV: CSV_BOMBS, PARQUET: PARQUET_BOMBS}
BOMBS = {name: (kind, *bomb) for kind, bombs in KINDS.items() for name, bomb in bombs.items()}
