"""The seven tables of the Rossmann data: their names and columns, and how an archive or folder lays them out."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from embedline.archive import check_sha256, read_members
from embedline.errors import DataError

WEATHER_COLUMNS = (
    *("Date", "Max_TemperatureC", "Mean_TemperatureC", "Min_TemperatureC"),
    *("Dew_PointC", "MeanDew_PointC", "Min_DewpointC", "Max_Humidity", "Mean_Humidity", "Min_Humidity"),
    *("Max_Sea_Level_PressurehPa", "Mean_Sea_Level_PressurehPa", "Min_Sea_Level_PressurehPa"),
    *("Max_VisibilityKm", "Mean_VisibilityKm", "Min_VisibilitykM"),
    *("Max_Wind_SpeedKm_h", "Mean_Wind_SpeedKm_h", "Max_Gust_SpeedKm_h"),
    *("Precipitationmm", "CloudCover", "Events", "WindDirDegrees"),
)
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
"""Kaggle's files. The weather, trend and state tables circulate in several equivalent forms and have none."""

_BOM = b"\xef\xbb\xbf"
_TEXT_COLUMNS = ("Date", "Events")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TREND_HEADER = re.compile(r'"?(Woche|Week)"?\s*[,;\t]', re.IGNORECASE)
_TREND_ROW = re.compile(r'"?(\d{4}-\d\d-\d\d - \d{4}-\d\d-\d\d)"?\s*[,;\t]\s*"?(\d*)"?')


def read_tables(source: str, *, verify: bool = True) -> dict[str, bytes]:
    r"""Read the seven tables from an archive or folder in the layout of fast.ai's ``rossmann.tgz``.

    The files stand at the top level or in one sub-folder. Instead of ``weather.csv`` and ``googletrend.csv`` there may
    be folders ``weather/*.csv`` and ``googletrend/*.csv`` with one file a state, as they were first published; these
    are concatenated. ``verify`` compares ``train.csv`` and ``test.csv`` with the sha256 of Kaggle's files.

    Returns:
        CSV bytes (UTF-8, no byte-order mark, ``\n`` line ends, otherwise verbatim), keyed by `TABLE_COLUMNS`.

    Raises:
        DataError: the source cannot be read, or a file is missing, empty, not UTF-8, lacks a column or fails the
            comparison; names the file, and the column or both hashes.
    """
    members = read_members(source, _is_wanted)
    files = _below_root(members, source)
    tables, missing = {}, []
    for name in TABLE_COLUMNS:
        data = files[f"{name}.csv"] if f"{name}.csv" in files else _concat_folder(name, files, source)
        if data is None:
            missing.append(f"{name}.csv (nor a folder {name}/*.csv)" if name in _CONCAT else f"{name}.csv")
        else:
            tables[name] = data
    if missing:
        raise DataError(f"{source} has no {', no '.join(missing)}; it holds {', '.join(sorted(members)) or 'no table'}")
    tables = checked_tables(tables, source)
    if verify:
        for name, expected in ORIGINAL_SHA256.items():
            check_sha256(f"{name}.csv", tables[name], expected, source=source, whose="Kaggle's file")
    return tables


def checked_tables(tables: Mapping[str, bytes], source: str) -> dict[str, bytes]:
    r"""Return the tables without byte-order marks and with ``\n`` line ends.

    A table of ``source`` that is empty, not UTF-8 or lacks a column is a DataError.
    """
    checked = {name: _normal_form(data, f"{name}.csv in {source}") for name, data in tables.items()}
    for name, data in checked.items():
        line, _, rows = data.partition(b"\n")
        header = next(csv.reader([_decode(line, f"{name}.csv in {source}")]))
        _require_columns(TABLE_COLUMNS[name], header, f"{name}.csv in {source}", has_rows=bool(rows.strip()))
    return checked


def concat_weather(files: Mapping[str, bytes], source: str) -> bytes:
    """Concatenate weather files, CSV bytes by state name, to the layout of ``weather.csv``, states in order.

    They have semicolons, quotes and ``NA``, which becomes an empty field; a decimal comma becomes a point. A column
    that is whole numbers throughout stays so; one that has a fraction or a gap anywhere gets ``.0`` throughout, as in
    the published table.

    Raises:
        DataError: a file of ``source`` lacks a column or a row, or a value is not a number; names file, row and column.
    """
    rows = [
        (state, *row)
        for state in sorted(files)
        for row in _weather_rows(files[state], f"weather/{state}.csv in {source}")
    ]
    states, *columns = zip(*rows, strict=True)
    formatted = [
        values if column in _TEXT_COLUMNS else _with_one_format(values)
        for column, values in zip(WEATHER_COLUMNS, columns, strict=True)
    ]
    return _write("weather", zip(states, *formatted, strict=True))


def concat_trends(files: Mapping[str, bytes], source: str) -> bytes:
    """Concatenate search-trend files, CSV bytes by region, to the layout of ``googletrend.csv``, regions in order.

    They have a German header (``Woche,Dez. 2012 - Sep. 2015``) or, straight from the search engine, some lines above it
    and other sections below the weeks.

    Raises:
        DataError: a file of ``source`` has no ``Week`` or ``Woche`` column, no weeks, or a line that is none; names
            file and line.
    """
    rows = (
        (region, week, trend)
        for region in sorted(files)
        for week, trend in _trend_rows(files[region], f"googletrend/{region}.csv in {source}")
    )
    return _write("googletrend", rows)


_CONCAT = {"weather": concat_weather, "googletrend": concat_trends}


def _is_wanted(member: str) -> bool:
    folder, file = posixpath.split(member)
    stem, extension = posixpath.splitext(file)
    if extension != ".csv" or file.startswith("._"):  # "._x.csv": the resource forks that macOS adds to archives
        return False
    return stem in TABLE_COLUMNS or posixpath.basename(folder) in _CONCAT


def _below_root(members: Mapping[str, bytes], source: str) -> dict[str, bytes]:
    """Return the members of the one folder that holds the tables, named relative to it."""
    main = {f"{name}.csv" for name in TABLE_COLUMNS if name not in _CONCAT}
    roots = {posixpath.dirname(member) for member in members if posixpath.basename(member) in main}
    if not roots:
        return dict(members)
    root = min(roots, key=lambda folder: (folder.count("/") if folder else -1, folder))
    rivals = sorted(other for other in roots if other.count("/") == root.count("/") and bool(other) == bool(root))
    if len(rivals) > 1:
        raise DataError(f"{source} holds the tables more than once: in the folders {', '.join(rivals)}")
    prefix = f"{root}/" if root else ""
    return {name.removeprefix(prefix): content for name, content in members.items() if name.startswith(prefix)}


def _concat_folder(name: str, files: Mapping[str, bytes], source: str) -> bytes | None:
    """Return a table from the folder of its files, one a state; None where there is none."""
    parts = {
        posixpath.basename(file).removesuffix(".csv"): _normal_form(data, f"{file} in {source}")
        for file, data in files.items()
        if posixpath.dirname(file) == name
    }
    return _CONCAT[name](parts, source) if name in _CONCAT and parts else None


def _normal_form(data: bytes, file: str) -> bytes:
    """Return CSV bytes without a byte-order mark and with ``\\n`` line ends; raise `DataError` for an empty file."""
    data = data.removeprefix(_BOM)
    if b"\r" in data[: data.find(b"\n") + 1]:
        data = data.replace(b"\r\n", b"\n")
    if not data.strip():
        raise DataError(f"{file} is empty")
    return data


def _require_columns(columns: Iterable[str], header: Sequence[str], file: str, *, has_rows: bool) -> None:
    if missing := [column for column in columns if column not in header]:
        what = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{file} lacks {what} {', '.join(missing)}; it has {', '.join(header)}")
    if not has_rows:
        raise DataError(f"{file} has a header but no rows")


def _weather_rows(data: bytes, file: str) -> list[list[str]]:
    """Return the rows of one state's file, columns in the order of `WEATHER_COLUMNS`."""
    text = _decode(data, file)
    reader = csv.reader(io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ",")
    header = [column.strip() for column in next(reader)]
    lines = [(reader.line_num, fields) for fields in reader if any(fields)]
    _require_columns(WEATHER_COLUMNS, header, file, has_rows=bool(lines))
    places = [(column, header.index(column)) for column in WEATHER_COLUMNS]
    rows = []
    for line, fields in lines:
        if len(fields) != len(header):
            raise DataError(f"{file}, line {line}: {len(fields)} fields where the header has {len(header)}")
        rows.append([_cell(column, fields[place], f"{file}, line {line}") for column, place in places])
    return rows


def _cell(column: str, value: str, where: str) -> str:
    value = value.strip()
    if value in ("", "NA", "NaN"):
        return ""
    if column in _TEXT_COLUMNS:
        return value
    number = value.replace(",", ".")
    if not _NUMBER.fullmatch(number):
        raise DataError(f"{where}: column {column} holds {value!r}, not a number")
    return number


def _with_one_format(values: Sequence[str]) -> Sequence[str]:
    """Return numbers written all as whole numbers, or all with a fraction (``31.0``), gaps left empty."""
    if all(value and "." not in value for value in values):
        return values
    return [value and str(float(value)) for value in values]


def _trend_rows(data: bytes, file: str) -> Iterator[tuple[str, str]]:
    lines = _decode(data, file).split("\n")
    start = next((number for number, line in enumerate(lines) if _TREND_HEADER.match(line)), None)
    if start is None:
        raise DataError(f"{file} lacks the column Week (or Woche); its first line is {lines[0]!r}")
    if not any(line.strip() for line in lines[start + 1 : start + 2]):
        raise DataError(f"{file} has a header but no rows")
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        if not line.strip():
            return  # the search engine's own export goes on with other sections after an empty line
        row = _TREND_ROW.fullmatch(line.strip())
        if row is None:
            raise DataError(f"{file}, line {number}: {line!r} is not a week and a number")
        yield row[1], row[2]


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from error


def _write(table: str, rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS[table])
    writer.writerows(rows)
    return text.getvalue().encode()
