"""The seven tables of the Rossmann data: their names and columns, and how an archive or folder lays them out."""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Mapping

from embedline.errors import DataError
from embedline.sources.archive import read_members
from embedline.sources.checksums import check_sha256
from embedline.sources.rossmann_folders import WEATHER_COLUMNS, concat_trends, concat_weather

TABLE_COLUMNS: dict[str, tuple[str, ...]] = {
    "train": (
        *("Store", "DayOfWeek", "Date", "Sales", "Customers"),
        *("Open", "Promo", "StateHoliday", "SchoolHoliday"),
    ),
    "test": ("Id", "Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday"),
    "store": (
        *("Store", "StoreType", "Assortment"),
        *("CompetitionDistance", "CompetitionOpenSinceMonth", "CompetitionOpenSinceYear"),
        *("Promo2", "Promo2SinceWeek", "Promo2SinceYear", "PromoInterval"),
    ),
    "store_states": ("Store", "State"),
    "state_names": ("StateName", "State"),
    "googletrend": ("file", "week", "trend"),
    "weather": ("file", *WEATHER_COLUMNS),
}
"""The columns of each table, in the order of the originals."""

ORIGINAL_SHA256 = {
    "train": "f6e4597c142d7d909a13d53b68a8e85c00b9a4c7b5ff40adbb37d6829cc1f4cc",
    "test": "e75f79972de046d88c2fd55da19df627f5ca654aaf418090d4d30c60ea7dbe26",
}
"""Of Kaggle's files. The weather, trend and state tables circulate in several equivalent forms and have none."""

_RAW_FOLDERS = {"weather": concat_weather, "googletrend": concat_trends}
_BOM = b"\xef\xbb\xbf"


def read_tables(source: str, *, verify: bool = True) -> dict[str, bytes]:
    """Read the seven tables from an archive or folder in the layout of fast.ai's ``rossmann.tgz``.

    The files stand at the top level or in one sub-folder. Instead of ``weather.csv`` and ``googletrend.csv`` there may
    be folders ``weather/*.csv`` and ``googletrend/*.csv`` with one file a state, as they were first published; these
    are concatenated.

    Args:
        source: an address or path, see `embedline.sources.archive.iter_members`.
        verify: compare ``train.csv`` and ``test.csv`` with the sha256 of Kaggle's files. Turn it off for another
            version of the data.

    Returns:
        CSV bytes (UTF-8, no byte-order mark, ``\\n`` line ends, otherwise verbatim), keyed by `TABLE_COLUMNS`.

    Raises:
        DataError: the source cannot be read, or a file is missing, empty, not UTF-8, lacks a column or fails the
            comparison; the message names the file, and the column or both hashes.
    """
    members = read_members(source, _is_wanted)
    files = _below_root(members, source)
    contents = {name: _content(name, files, source) for name in TABLE_COLUMNS}
    missing = [_expected_file(name) for name, content in contents.items() if content is None]
    if missing:
        raise DataError(f"{source} has no {', no '.join(missing)}; it holds {', '.join(sorted(members)) or 'no table'}")
    tables = checked_tables({name: content for name, content in contents.items() if content is not None}, source)
    if verify:
        for name, expected in ORIGINAL_SHA256.items():
            check_sha256(f"{name}.csv", tables[name], expected, source=source, whose="Kaggle's file")
    return tables


def checked_tables(tables: Mapping[str, bytes], source: str) -> dict[str, bytes]:
    """Return the tables without byte-order marks and with ``\\n`` line ends.

    Raises:
        DataError: a table is empty, not UTF-8 or lacks a column; ``source`` says in the message where it is from.
    """
    checked = {name: _normal_form(data, f"{name}.csv in {source}") for name, data in tables.items()}
    for name, data in checked.items():
        _check_columns(name, data, source)
    return checked


def _is_wanted(member: str) -> bool:
    folder, file = posixpath.split(member)
    stem, extension = posixpath.splitext(file)
    if extension != ".csv" or file.startswith("._"):  # "._x.csv": the resource forks that macOS adds to archives
        return False
    return stem in TABLE_COLUMNS or posixpath.basename(folder) in _RAW_FOLDERS


def _below_root(members: Mapping[str, bytes], source: str) -> dict[str, bytes]:
    """Return the members of the one folder that holds the tables, named relative to it."""
    roots = {posixpath.dirname(member) for member in members if _is_main_table(member)}
    if not roots:
        return dict(members)
    root = min(roots, key=lambda folder: (folder.count("/") if folder else -1, folder))
    rivals = sorted(other for other in roots if other.count("/") == root.count("/") and bool(other) == bool(root))
    if len(rivals) > 1:
        raise DataError(f"{source} holds the tables more than once: in the folders {', '.join(rivals)}")
    prefix = f"{root}/" if root else ""
    return {name.removeprefix(prefix): content for name, content in members.items() if name.startswith(prefix)}


def _is_main_table(member: str) -> bool:
    stem = posixpath.basename(member).removesuffix(".csv")
    return stem in TABLE_COLUMNS and stem not in _RAW_FOLDERS


def _content(name: str, files: Mapping[str, bytes], source: str) -> bytes | None:
    """Return one table's bytes, None when the source lacks it."""
    if (data := files.get(f"{name}.csv")) is not None:
        return data
    folder_files = {
        posixpath.basename(file).removesuffix(".csv"): _normal_form(data, f"{file} in {source}")
        for file, data in files.items()
        if posixpath.dirname(file) == name
    }
    if name not in _RAW_FOLDERS or not folder_files:
        return None
    return _RAW_FOLDERS[name](folder_files, source)


def _expected_file(name: str) -> str:
    return f"{name}.csv (nor a folder {name}/*.csv)" if name in _RAW_FOLDERS else f"{name}.csv"


def _normal_form(data: bytes, file: str) -> bytes:
    """Return CSV bytes without a byte-order mark and with ``\\n`` line ends; raise `DataError` for an empty file."""
    data = data.removeprefix(_BOM)
    if b"\r" in data[: data.find(b"\n") + 1]:
        data = data.replace(b"\r\n", b"\n")
    if not data.strip():
        raise DataError(f"{file} is empty")
    return data


def _check_columns(name: str, data: bytes, source: str) -> None:
    """Raise `DataError` unless the first line names every column of the table and a row follows."""
    line, _, rows = data.partition(b"\n")
    try:
        header = next(csv.reader([line.decode("utf-8")]))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}.csv in {source} is not UTF-8 text: {error}") from error
    missing = [column for column in TABLE_COLUMNS[name] if column not in header]
    if missing:
        columns = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{name}.csv in {source} lacks {columns} {', '.join(missing)}; it has {', '.join(header)}")
    if not rows.strip():
        raise DataError(f"{name}.csv in {source} has a header but no rows")
