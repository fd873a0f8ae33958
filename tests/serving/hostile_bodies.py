"""Small bodies that would grow to gigabytes or take minutes: for tests of the server."""

import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MILLION = 1_000_000

Body = tuple[str, bytes]  # content type and body


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file of Arrow arrays."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **{"compression": "zstd", "store_schema": False, **options})
    return file.getvalue()


def long_texts(n_rows: int, **options: Any) -> bytes:
    """One text of a million characters in each row."""
    return parquet({"user": pa.array(["a" * MILLION] * n_rows), "item": pa.array([1] * n_rows)}, **options)


def dictionary_of_one(n_rows: int) -> bytes:
    """The same, stored once."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array(["a" * MILLION]))
    return parquet({"user": text, "item": pa.array([1] * n_rows)})


def lying_page(size: int) -> bytes:
    """A Parquet file whose first page says that it has ``size`` bytes, and whose footer says little."""
    body = parquet({"user": pa.array(["abc"]), "item": pa.array([1])}, use_dictionary=False, compression="snappy")
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


def records(rows: Any) -> bytes:
    """JSON of rows."""
    return json.dumps({"dataframe_records": rows}, separators=(",", ":")).encode()


BOMBS: dict[str, Callable[[], Body]] = {
    "another key in each row": lambda: (JSON, records([{f"k{row}": 1} for row in range(100_000)])),
    "an object of 500,000 keys": lambda: (JSON, records([{f"k{key}": 1 for key in range(500_000)}])),
    "5 million empty lists": lambda: (JSON, b'{"instances":[' + b"[]," * 5 * MILLION + b"[]]}"),
    "5 million empty objects": lambda: (JSON, b'{"instances":[' + b"{}," * 5 * MILLION + b"{}]}"),
    "8 million numbers": lambda: (JSON, b'{"inputs":{"user":[' + b"1," * 8 * MILLION + b'1],"item":[1]}}'),
    "10 million texts": lambda: (JSON, b'{"inputs":{"user":[' + b'"",' * 10 * MILLION + b'""],"item":[1]}}'),
    "lists in lists": lambda: (JSON, b'{"instances":' + b"[" * 200_000),
    "lists in a cell": lambda: (JSON, b'{"instances":[{"user":' + b"[" * 90_000 + b"]" * 90_000 + b"}]}"),
    "brackets behind escaped quotes": lambda: (JSON, b'{"instances":["\\"",' + b"[]," * 5 * MILLION + b"[]]}"),
    "a number of 30 million digits": lambda: (JSON, b'{"inputs":[{"user":' + b"9" * 30 * MILLION + b',"item":1}]}'),
    "a fraction of 30 million digits": lambda: (JSON, b'{"inputs":[{"user":0.' + b"9" * 30 * MILLION + b',"item":1}]}'),
    "a million column names": lambda: (
        JSON,
        json.dumps({"dataframe_split": {"columns": [f"c{k}" for k in range(MILLION)], "data": []}}).encode(),
    ),
    "a million columns": lambda: (JSON, json.dumps({"inputs": {f"c{k}": [] for k in range(MILLION)}}).encode()),
    "JSON in UTF-16": lambda: (JSON, '{"inputs":[{"user":1,"item":1}]}'.encode("utf-16")),
    "a CSV of 100,000 columns": lambda: (
        CSV,
        (",".join(f"c{k}" for k in range(100_000)) + "\n" + ",".join("1" * 100_000) + "\n").encode(),
    ),
    "a CSV of 5 million empty names": lambda: (CSV, b"," * 900_000 + b"\n"),
    "an endless first line": lambda: (CSV, b"user,item," + b"a" * 20 * MILLION),
    "30 million empty lines": lambda: (CSV, b"user,item\n" + b"\n" * 30 * MILLION),
    "a million rows": lambda: (CSV, b"user,item\n" + b"1,1\n" * MILLION),
    "a row of 10 million cells": lambda: (CSV, b"user,item\n1,1" + b"," * 10 * MILLION),
    "a quote that does not end": lambda: (CSV, b'user,item\n1,"' + b"a\n" * 5 * MILLION),
    "a text in a dictionary, 1,000 times": lambda: (PARQUET, dictionary_of_one(1_000)),
    "50 long texts": lambda: (PARQUET, long_texts(50)),
    "50 long texts, uncompressed pages small": lambda: (
        PARQUET,
        long_texts(50, use_dictionary=False, column_encoding={"user": "DELTA_BYTE_ARRAY", "item": "PLAIN"}),
    ),
    "20 million nulls": lambda: (
        PARQUET,
        parquet({name: pa.nulls(20 * MILLION, pa.int64()) for name in ("user", "item")}),
    ),
    "a page that says 2 GB": lambda: (PARQUET, lying_page(2**31 - 1)),
    "a Parquet file of 20,000 columns": lambda: (
        PARQUET,
        parquet({f"c{k}": pa.array([1]) for k in range(20_000)}, write_statistics=False),
    ),
    "lists in Parquet": lambda: (PARQUET, parquet({"user": pa.array([[1] * MILLION]), "item": pa.array([1])})),
}
