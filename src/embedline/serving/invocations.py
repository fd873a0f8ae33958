"""The body of a request as a checked frame, and predictions as the body of the answer: MLflow's scoring protocol.

The protocol is that of ``mlflow.pyfunc.scoring_server``; what differs is marked ``DIFF(mlflow)``.
"""

import difflib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from embedline.errors import DataError
from embedline.serving.columns import InputColumn
from embedline.serving.values import plain_values

FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
_SCALARS = frozenset({str, int, float, bool, type(None)})
_SHOWN = 200  # characters of what somebody else's parser says
_EXPANSION = 20  # times that a Parquet body may grow when it is read


class RefusedError(Exception):
    """A request that is not answered: an HTTP status between 400 and 499, and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_frame(
    body: bytes, content_type: str | None, columns: Sequence[InputColumn], *, rows: int, strict: bool = True
) -> pd.DataFrame:
    """The rows of a request.

    Args:
        body: what was sent.
        content_type: header of that name; None where there is none.
        columns: of the model.
        rows: most rows of a request.
        strict: refuse a column that the model does not have; else it is left out.

    Raises:
        RefusedError: naming what is wrong with the body, the type, the number of rows, or the column.
    """
    read = _reader(content_type)
    try:
        frame = read(body, columns, rows)
    except DataError as error:
        raise RefusedError(400, str(error)) from error
    if not len(frame):
        raise RefusedError(400, "the request has no rows")
    _check_rows(len(frame), rows)
    _check_names(list(frame.columns), columns, strict)
    for name, dtype in frame.dtypes.items():
        if dtype.kind != "O":
            continue
        for row, value in enumerate(frame[name].tolist(), start=1):
            if type(value) not in _SCALARS:
                kind = "list" if isinstance(value, list) else type(value).__name__
                raise RefusedError(400, f"column {name!r} holds a {kind} in row {row}: a cell is one value")
    return frame


def write_predictions(predictions: pd.DataFrame) -> bytes:
    """``{"predictions": [{column: value, …}, …]}`` as JSON.

    DIFF(mlflow): a missing number is ``null``, not ``NaN``, which JSON does not have; and columns are turned into
    lists as wholes, in place of a call for each number.
    """
    names = list(predictions.columns)
    lists = [plain_values(predictions[name]) for name in names]
    records = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    return json.dumps({"predictions": records}, allow_nan=False).encode()


def _reader(content_type: str | None) -> Callable[[bytes, Sequence[InputColumn], int], pd.DataFrame]:
    """What reads a body of this type; DIFF(mlflow): a request without a type is refused, not a server's error."""
    readers = {JSON: _read_json, CSV: _read_csv, PARQUET: _read_parquet}
    mime, *parameters = [part.strip().lower() for part in (content_type or "").split(";")]
    if mime not in readers:
        given = f"not {mime[:_SHOWN]!r}" if mime else "and the request has none"
        raise RefusedError(415, f"the Content-Type must be one of {', '.join(readers)}, {given}")
    for parameter in filter(None, parameters):
        if parameter.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
            raise RefusedError(415, f"the body must be in UTF-8; the Content-Type says {parameter[:_SHOWN]!r}")
    return readers[mime]


def _read_json(body: bytes, columns: Sequence[InputColumn], rows: int) -> pd.DataFrame:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits, and bad UTF-8
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
        raise DataError(f"the body is no JSON: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"the body must be a JSON object with one of {', '.join(FORMATS)}, not a {_name(content)}")
    given = [key for key in FORMATS if key in content]
    if len(given) != 1:
        had = ", ".join(repr(str(key)[:_SHOWN]) for key in list(content)[:10]) or "no key"
        raise DataError(f"the body must have exactly one of {', '.join(FORMATS)}; it has {had}")
    if content.get("params"):
        raise DataError("the model takes no 'params'")
    if b"\\ud" in body.lower():
        _check_surrogates(content)
    key, value = given[0], content[given[0]]
    if key == "dataframe_split":
        return _from_split(value, rows)
    if key == "inputs" and isinstance(value, dict):
        return _from_columns(value, rows)
    return _from_records(value, key, columns, rows)


def _from_records(value: Any, key: str, columns: Sequence[InputColumn], rows: int) -> pd.DataFrame:
    """A list of objects, a row each; of plain values, where the model has one column."""
    if not isinstance(value, list):
        raise DataError(f"{key} must be a list of rows, not a {_name(value)}")
    _check_rows(len(value), rows)
    if key != "dataframe_records" and len(columns) == 1 and all(type(row) in _SCALARS for row in value):
        return pd.DataFrame({columns[0].name: pd.Series(value, dtype=object)})
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{key}: row {number} must be an object, not a {_name(row)}")
    return pd.DataFrame.from_records(value)


def _from_split(value: Any, rows: int) -> pd.DataFrame:
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        raise DataError("dataframe_split must be an object with 'columns' and 'data'")
    names, data = value["columns"], value["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("dataframe_split: 'columns' must be a list of names")
    if not isinstance(data, list):
        raise DataError(f"dataframe_split: 'data' must be a list of rows, not a {_name(data)}")
    _check_rows(len(data), rows)
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            had = f"{len(row)} values" if isinstance(row, list) else f"a {_name(row)}"
            raise DataError(f"dataframe_split: row {number} must be a list of {len(names)} values, not {had}")
    return pd.DataFrame(data, columns=names)


def _from_columns(value: dict[str, Any], rows: int) -> pd.DataFrame:
    for name, values in value.items():
        if not isinstance(values, list):
            raise DataError(f"inputs: column {name[:_SHOWN]!r} must be a list of values, not a {_name(values)}")
        _check_rows(len(values), rows)
    lengths = {name: len(values) for name, values in value.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"inputs: the columns have different numbers of rows, {sorted(set(lengths.values()))[:5]}")
    return pd.DataFrame(value)


def _read_csv(body: bytes, columns: Sequence[InputColumn], rows: int) -> pd.DataFrame:
    """DIFF(mlflow): an empty field is the only missing value, and a text may be ``NA``."""
    text = {column.name: str for column in columns if column.type in ("string", "any")}
    try:
        frame = pd.read_csv(
            io.BytesIO(body),
            dtype=text,
            keep_default_na=False,
            na_values={column.name: [""] for column in columns if column.name not in text},
            nrows=rows + 1,
            low_memory=False,
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"the body is no CSV: {_one_line(error)}") from error
    return frame


def _read_parquet(body: bytes, columns: Sequence[InputColumn], rows: int) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(body))
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        _check_rows(sum(group.num_rows for group in groups), rows)
        if sum(group.total_byte_size for group in groups) > _EXPANSION * max(len(body), 1_000_000):
            raise DataError(f"the Parquet file holds more than {_EXPANSION} times the bytes of the body")
        frame: pd.DataFrame = file.read().to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the body is no Parquet file: {_one_line(error)}") from error
    return frame.reset_index(drop=True)


def _check_rows(found: int, most: int) -> None:
    if found > most:
        raise RefusedError(413, f"a request may have {most:,} rows; this one has more")


def _check_names(names: list[Any], columns: Sequence[InputColumn], strict: bool) -> None:
    """DIFF(mlflow): a column that the model does not have is refused; MLflow leaves a misspelt one out in silence."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(400, f"column {str(twice)[:_SHOWN]!r} is there more than once")
    known = [column.name for column in columns]
    unknown = [str(name) for name in names if name not in known]
    if strict and unknown:
        absent = {name.lower(): name for name in known if name not in names}
        near = difflib.get_close_matches(unknown[0][:_SHOWN].lower(), absent, n=1)
        hint = f"did you mean {absent[near[0]]!r}?" if near else f"it has {', '.join(map(repr, known))}"
        raise RefusedError(400, f"the model has no column {unknown[0][:_SHOWN]!r}: {hint}")


def _check_surrogates(content: Any) -> None:
    """JSON can spell half of a surrogate pair, which is no text: nothing behind could write it down."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the body holds half of a surrogate pair: {error.reason}") from error


def _name(value: Any) -> str:
    """JSON's name of a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
