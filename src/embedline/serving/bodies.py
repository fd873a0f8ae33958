"""The body of a request as a checked frame, and predictions as the body of the answer: MLflow's scoring protocol.

The protocol is that of ``mlflow.pyfunc.scoring_server``; what differs is marked ``DIFF(mlflow)``. What a body may grow
to is bounded before it is decoded, see :class:`embedline.serving.contract.RequestContract`.
"""

import csv
import datetime
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from embedline.errors import DataError, one_line
from embedline.serving.columns import plain_values
from embedline.serving.contract import SCALARS, RefusedError, RequestContract

FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
_SHOWN = 200  # characters of what somebody else's parser says
_HEADER = 1_000_000  # bytes of a CSV's first line
_COMMAS = 500_000  # in one line of CSV: each may begin a cell, which takes up to 60 bytes
_PIECE = 1_000_000  # bytes of JSON that are looked at together
_DEPTH = 20  # lists and objects inside of each other; a request needs four
_NESTING = np.zeros(256, dtype=np.int8)
_NESTING[[ord("["), ord("{")]], _NESTING[[ord("]"), ord("}")]] = 1, -1
_LARGEST_FIELD = 2**31 - 1  # characters of a CSV cell: the body is bounded already, and the library's 131,072 too few


def read_frame(body: bytes, content_type: str | None, contract: RequestContract) -> pd.DataFrame:
    """The rows of a request: the columns of the model that it has, in the model's order.

    ``content_type`` is the header of that name, or None. A RefusedError names what is wrong with the body, the type,
    the number of rows, or column and row.
    """
    read = _reader(content_type)
    try:
        return contract.frame(read(body, contract))
    except DataError as error:
        raise RefusedError(400, str(error)) from error


def write_predictions(predictions: pd.DataFrame) -> bytes:
    """``{"predictions": [{column: value, …}, …]}`` as JSON; dates in ISO format.

    DIFF(mlflow): a missing number is ``null``, not ``NaN``, which JSON does not have; and columns are turned into
    lists as wholes, in place of a call for each number.
    """
    names = list(predictions.columns)
    lists = [plain_values(predictions[name]) for name in names]
    records = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    return json.dumps({"predictions": records}, allow_nan=False, default=_iso).encode()


def _iso(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date, too
        return value.isoformat()
    raise TypeError(f"a prediction holds a {type(value).__name__}, which JSON does not have")


def _reader(content_type: str | None) -> Callable[[bytes, RequestContract], Mapping[str, Any]]:
    """The reader of a body of this type; DIFF(mlflow): a request without a type is refused, not a server's error."""
    readers: dict[str, Callable[[bytes, RequestContract], Mapping[str, Any]]] = {
        JSON: _read_json,
        CSV: _read_csv,
        PARQUET: _read_parquet,
    }
    mime, *parameters = [part.strip().lower() for part in (content_type or "").split(";")]
    if mime not in readers:
        given = f"not {mime[:_SHOWN]!r}" if mime else "and the request has none"
        raise RefusedError(415, f"the Content-Type must be one of {', '.join(readers)}, {given}")
    for parameter in filter(None, parameters):
        if parameter.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
            raise RefusedError(415, f"the body must be in UTF-8; the Content-Type says {parameter[:_SHOWN]!r}")
    return readers[mime]


def _read_json(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    _bound_json(body, contract)
    try:
        content = json.loads(body.decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits, and bad UTF-8
        if isinstance(error, DataError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error, _SHOWN)
        raise DataError(f"the body is no JSON: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"the body must be a JSON object with one of {', '.join(FORMATS)}, not a {_name(content)}")
    given = [key for key in FORMATS if key in content]
    if len(given) != 1:
        had = ", ".join(repr(str(key)[:_SHOWN]) for key in list(content)[:10]) or "no key"
        raise DataError(f"the body must have exactly one of {', '.join(FORMATS)}; it has {had}")
    if content.get("params"):
        raise DataError("the model takes no 'params'")
    if b"\\ud" in body.lower():  # JSON can spell half of a surrogate pair, which is no text: nobody could write it
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the body holds half of a surrogate pair: {error.reason}") from error
    key, value = given[0], content[given[0]]
    if key == "dataframe_split":
        return _from_split(value, contract)
    if key == "inputs" and isinstance(value, dict):
        return _from_columns(value, contract)
    return _from_records(value, key, contract)


def _bound_json(body: bytes, contract: RequestContract) -> None:
    """Refuse a body of more lists, objects and values than a request may have: a list takes 28 times its two bytes."""
    lists, values = contract.limits.rows + 100, contract.cells + contract.limits.rows + 1_000
    if body.count(b"[") + body.count(b"{") <= lists and body.count(b",") <= values:
        return
    if b"\\" in body:  # an escaped quote ends no string
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    found, inside, depth = np.zeros(256, dtype=np.int64), False, 0  # what stands in strings does not count
    for start in range(0, len(body), _PIECE):
        piece = np.frombuffer(body, np.uint8, min(_PIECE, len(body) - start), start)
        in_text = (np.cumsum(piece == ord('"'), dtype=np.uint8) & 1).astype(bool) ^ inside
        signs = piece[~in_text]
        found += np.bincount(signs, minlength=256)
        depths = depth + np.cumsum(_NESTING[signs], dtype=np.int64)
        if depths.max(initial=0) > _DEPTH:
            raise DataError("the body is no JSON: it is nested too deeply")
        inside, depth = bool(in_text[-1]), int(depths[-1]) if len(depths) else depth
    if found[ord("[")] + found[ord("{")] > lists:
        contract.check_size(lists)
    if found[ord(",")] > values:
        contract.check_size(1, values)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the key {twice[:_SHOWN]!r} is there more than once in one object of the body")
    return found


def _from_records(value: Any, key: str, contract: RequestContract) -> dict[str, list[Any]]:
    """A list of objects, a row each; of plain values, where the model has one column."""
    if not isinstance(value, list):
        raise DataError(f"{key} must be a list of rows, not a {_name(value)}")
    contract.check_size(len(value))
    columns = contract.columns
    if value and key != "dataframe_records" and len(columns) == 1 and all(type(row) in SCALARS for row in value):
        return {columns[0].name: value}
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{key}: row {number} must be an object, not a {_name(row)}")
    if not value:
        return {}
    names = dict.fromkeys(itertools.chain.from_iterable(value))
    contract.check_size(len(value), sum(map(len, value)) // len(value))
    return {name: [row.get(name) for row in value] for name in contract.choose(list(names))}


def _from_split(value: Any, contract: RequestContract) -> dict[str, list[Any]]:
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        raise DataError("dataframe_split must be an object with 'columns' and 'data'")
    names, data = value["columns"], value["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("dataframe_split: 'columns' must be a list of names")
    if not isinstance(data, list):
        raise DataError(f"dataframe_split: 'data' must be a list of rows, not a {_name(data)}")
    contract.check_size(len(data), len(names))
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            had = f"{len(row)} values" if isinstance(row, list) else f"a {_name(row)}"
            raise DataError(f"dataframe_split: row {number} must be a list of {len(names)} values, not {had}")
    chosen = contract.choose(names)
    places = {name: place for place, name in enumerate(names)}
    return {name: [row[places[name]] for row in data] for name in chosen}


def _from_columns(value: dict[str, Any], contract: RequestContract) -> dict[str, list[Any]]:
    for name, values in value.items():
        if not isinstance(values, list):
            raise DataError(f"inputs: column {name[:_SHOWN]!r} must be a list of values, not a {_name(values)}")
        contract.check_size(len(values), len(value))
    lengths = {len(values) for values in value.values()}
    if len(lengths) > 1:
        raise DataError(f"inputs: the columns have different numbers of rows, {sorted(lengths)[:5]}")
    return {name: value[name] for name in contract.choose(list(value))}


def _read_csv(body: bytes, contract: RequestContract) -> dict[str, pl.Series]:
    """DIFF(mlflow): a text may be ``NA``, and a row of too few cells is refused. Lines without a cell are skipped."""
    if len(body) > _HEADER and body.find(b"\n", 0, _HEADER) < 0 and body.find(b"\r", 0, _HEADER) < 0:
        raise DataError(f"the CSV's first line has more than {_HEADER:,} bytes: it must name the columns")
    csv.field_size_limit(_LARGEST_FIELD)
    lines = csv.reader(_bounded_lines(body, contract), strict=True)
    try:
        names = next(lines, None)
        if not names:
            raise DataError("the CSV has no first line with the names of the columns")
        chosen = contract.choose(names)
        places = [names.index(name) for name in chosen]
        if len(places) < len(names):
            rows = [[row[place] for place in places] for row in _csv_rows(lines, names, contract)]
        else:
            rows = list(_csv_rows(lines, names, contract))
            chosen = names
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"the body is no CSV: {one_line(error, _SHOWN)}") from error
    columns = zip(*rows, strict=True) if rows else ((),) * len(chosen)
    return {name: pl.Series(name, cells, dtype=pl.String) for name, cells in zip(chosen, columns, strict=True)}


def _bounded_lines(body: bytes, contract: RequestContract) -> Iterator[str]:
    lines = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
    return lines if body.count(b",") <= _COMMAS else _without_long_lines(lines, contract)


def _without_long_lines(lines: Iterator[str], contract: RequestContract) -> Iterator[str]:
    for line in lines:
        if len(line) > _COMMAS and (commas := line.count(",")) > _COMMAS:
            contract.check_size(1, commas)
        yield line


def _csv_rows(lines: Iterator[list[str]], names: list[str], contract: RequestContract) -> Iterator[list[str]]:
    rows = empty = 0
    most = min(contract.limits.rows, contract.cells // len(names))
    for row in lines:
        if not row:
            empty += 1
            if empty > contract.limits.rows + 1:
                raise RefusedError(413, f"the CSV has more than {contract.limits.rows:,} empty lines")
            continue
        rows += 1
        if rows > most:
            contract.check_size(rows, len(names))
        if len(row) != len(names):
            raise DataError(f"the CSV: row {rows} has {len(row)} values, and the first line names {len(names)} columns")
        yield row


def _read_parquet(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    from embedline.serving.parquet import read_parquet  # PyArrow takes a while to import

    return read_parquet(body, contract)


def _name(value: Any) -> str:
    """JSON's name of a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
