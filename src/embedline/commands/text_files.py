"""Texts from the command line, rows and texts of files, and results into files: whole or not at all."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from embedline.commands.artifacts import SUFFIXES
from embedline.errors import DataError
from embedline.pipelines.imdb.tables import decode_strictly, read_delimited


def texts_frame(texts: Sequence[str], column: str) -> pl.DataFrame:
    """The texts as a frame with one column; each ``-`` stands for the lines of standard input that are not blank."""
    rows = [row for text in texts for row in (_standard_input() if text == "-" else [typed(text)])]
    if not rows:
        raise DataError("standard input holds no text")
    return pl.DataFrame({column: rows}, schema={column: pl.String})


def typed(argument: str) -> str:
    """An argument of the command line as text, which it is not yet where the locale is not UTF-8.

    Raises:
        DataError: if its bytes are not UTF-8.
    """
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError as error:
        raise DataError(f"the argument {argument!a} is not UTF-8: type it in a terminal that is") from error


def _standard_input() -> list[str]:
    text = _decoded(sys.stdin.buffer.read(), "standard input")
    return [line for line in text.splitlines() if line.strip()]


def _decoded(content: bytes, name: str) -> str:
    return decode_strictly(content, name, "UTF-8", "save it in this encoding")


def read_file(path: Path, column: str) -> pl.DataFrame:
    """A file of :func:`read_rows`; raise a DataError if it has no column ``column`` of text, too."""
    frame = _read(path)
    if column not in frame.columns:
        there = ", ".join(map(repr, frame.columns))
        raise DataError(f"{path} has no column {column!r}, only {there}: name the column of the texts with --column")
    _require_rows(frame, path)
    if frame.schema[column] != pl.String:
        raise DataError(f"{path}: column {column!r} holds {frame.schema[column]}, not text")
    return frame


def read_rows(path: Path) -> pl.DataFrame:
    """A CSV file, every column as text, or a Parquet or Feather file.

    Raises:
        DataError: if it cannot be read, is not UTF-8, or has no row.
    """
    frame = _read(path)
    _require_rows(frame, path)
    return frame


def _require_rows(frame: pl.DataFrame, path: Path) -> None:
    if frame.is_empty():
        raise DataError(f"{path} has no rows")


def _read(path: Path) -> pl.DataFrame:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: the name of a file to read must end in {' or '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path, glob=False)
        elif path.suffix == ".feather":
            frame = pl.read_ipc(path)
        else:
            frame = read_delimited(_decoded(path.read_bytes(), str(path)), str(path), quoting=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error
    return frame


def check_output(output: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise a DataError where a file could not be written; called before the work."""
    if output.suffix not in suffixes:
        raise DataError(f"{output}: the name of the output must end in {' or '.join(suffixes)}")
    if output.exists():
        raise DataError(f"{output} exists already: remove it, or give another name")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output}: there is no folder {output.absolute().parent}")


def write(frame: pl.DataFrame, output: Path) -> None:
    """Write a frame as the suffix says."""
    writers: dict[str, Callable[[Path], object]] = {
        ".csv": frame.write_csv,
        ".parquet": frame.write_parquet,
        ".feather": frame.write_ipc,
    }
    _write(output, writers[output.suffix])


def write_bytes(content: bytes, output: Path) -> None:
    """Write a file of ``content``."""
    _write(output, lambda staged: staged.write_bytes(content))


def _write(output: Path, writer: Callable[[Path], object]) -> None:
    """Write beside the target, then rename: a failed write leaves nothing behind."""
    staged = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        writer(staged)
        os.replace(staged, output)
    except (OSError, pl.exceptions.PolarsError) as error:  # such as a list in a CSV file
        raise DataError(f"{output} cannot be written: {_reason(error)}") from error
    finally:
        staged.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
