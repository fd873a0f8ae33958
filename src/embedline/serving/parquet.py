"""Parquet bodies, each read in a process of its own.

A page of a few bytes may stand for gigabytes: run lengths, zeros, one long text of a dictionary in each row. And
PyArrow ends its process at some broken footers. So a forked process with little memory and time reads the file, and the
server survives whatever the file does there.
"""

import multiprocessing
import re
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedline.errors import DataError, one_line
from embedline.serving.contract import RefusedError, RequestContract

SECONDS = 20  # of the processor to read a file; twice as many on the clock
ROOM = 256_000_000  # bytes of memory beside the file and its values
_FOOTER = 500_000  # bytes
_VALUE = 64  # bytes that a Python value may take
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")

_processes: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
if sys.platform != "win32":
    _processes.set_forkserver_preload(["__main__", __name__])  # a fork has PyArrow at once


def read_parquet(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    """Read the model's columns; other columns, where they are allowed, are never decoded.

    More rows, values or bytes than the limits allow are a RefusedError; what is no Parquet file, and a column of a type
    that is not taken, a DataError.
    """
    if _FOOTER < int.from_bytes(body[-8:-4], "little") < len(body):
        raise RefusedError(413, f"the footer of a Parquet file may have {_FOOTER:,} bytes; this one has more")
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_answer, args=(sender, body, contract), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(2 * SECONDS):
            raise RefusedError(413, f"the Parquet file could not be read in {2 * SECONDS} s")
        values, status, message = receiver.recv()
    except EOFError as error:
        process.join()
        if process.exitcode is None or process.exitcode >= 0:  # no signal: it could not even begin
            raise RuntimeError(f"the process that reads Parquet files ended with {process.exitcode}") from error
        raise DataError(f"the body is no Parquet file, or {_too_large(contract)}") from error
    finally:
        process.kill()
        process.join()
        receiver.close()
    if status:
        raise RefusedError(status, message)
    found: dict[str, list[Any]] = values
    return found


def _answer(sender: Connection, body: bytes, contract: RequestContract) -> None:
    """Send the values, or the status and the message of a refusal; runs in the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C lets the requests under way end
    try:
        _limit_resources(ROOM + 4 * contract.limits.body + _VALUE * contract.cells)
        sender.send((_read(body, contract), 0, ""))
    except RefusedError as error:
        sender.send((None, error.status, str(error)))
    except MemoryError:  # Arrow's own is one
        sender.send((None, 413, _too_large(contract)))
    except DataError as error:
        sender.send((None, 400, str(error)))
    except (pa.ArrowException, OSError, ValueError, NotImplementedError, OverflowError) as error:
        sender.send((None, 400, f"the body is no Parquet file: {one_line(error, 200)}"))


def _limit_resources(room: int) -> None:
    """Bound the memory of this process to ``room`` more bytes than it has, and its time, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    held = Path("/proc/self/statm")
    if held.exists():
        most = int(held.read_text().split()[0]) * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _read(body: bytes, contract: RequestContract) -> dict[str, list[Any]]:
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve memory that they may never use
    file = pq.ParquetFile(pa.BufferReader(body))
    schema = file.schema_arrow
    chosen = contract.choose([name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)])
    contract.check_size(file.metadata.num_rows, len(chosen))
    texts = [name for name in chosen if _is_text(name, schema.field(name).type)]
    table = file.read(columns=chosen, use_threads=False)
    contract.check_size(table.num_rows, len(chosen))
    if sum(_text_bytes(table.column(name)) for name in texts) > contract.limits.body:
        raise RefusedError(413, _too_large(contract))
    found = {}
    for name in chosen:
        try:
            found[name] = _values(table.column(name))
        except (pa.ArrowException, ValueError) as error:  # text that is no UTF-8, a time zone that nobody knows
            raise DataError(
                f"column {name[:200]!r} of the Parquet file cannot be read: {one_line(error, 200)}"
            ) from error
    return found


def _too_large(contract: RequestContract) -> str:
    return f"a Parquet file may hold {contract.limits.body:,} bytes once it is read, not more"


def _is_text(name: str, dtype: pa.DataType) -> bool:
    """Whether the values are text; raise a DataError where they are no single values that JSON or a CSV could have."""
    kind = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    tests = ("null", "boolean", "integer", "floating", "decimal", "date", "timestamp")
    if not any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        raise DataError(f"column {name[:200]!r} has the Parquet type {str(dtype)[:100]}: it must hold text or numbers")
    return False


def _text_bytes(column: Any) -> int:
    if pa.types.is_dictionary(column.type):
        lengths = [pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
        return sum(pc.sum(length).as_py() or 0 for length in lengths)
    return pc.sum(pc.binary_length(column)).as_py() or 0


def _values(column: Any) -> list[Any]:
    """Python values: dates and times as text in ISO format, decimals as numbers."""
    dtype = column.type
    if pa.types.is_dictionary(dtype):
        return _values(column.cast(dtype.value_type))
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
