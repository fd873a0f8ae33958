"""The weather and search-trend files as first published, one a state, concatenated to the two public tables.

The weather files have semicolons, quotes and ``NA``; the trend files a German header (``Woche,Dez. 2012 - Sep. 2015``)
or, straight from the search engine, some lines above it and other sections below the weeks.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from embedline.errors import DataError

WEATHER_COLUMNS = (
    *("Date", "Max_TemperatureC", "Mean_TemperatureC", "Min_TemperatureC"),
    *("Dew_PointC", "MeanDew_PointC", "Min_DewpointC", "Max_Humidity", "Mean_Humidity", "Min_Humidity"),
    *("Max_Sea_Level_PressurehPa", "Mean_Sea_Level_PressurehPa", "Min_Sea_Level_PressurehPa"),
    *("Max_VisibilityKm", "Mean_VisibilityKm", "Min_VisibilitykM"),
    *("Max_Wind_SpeedKm_h", "Mean_Wind_SpeedKm_h", "Max_Gust_SpeedKm_h"),
    *("Precipitationmm", "CloudCover", "Events", "WindDirDegrees"),
)
"""The columns of a state's weather file, in the order of the originals."""

_TEXT_COLUMNS = ("Date", "Events")
_MISSING = ("", "NA", "NaN")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TREND_HEADER = re.compile(r'"?(Woche|Week)"?\s*[,;\t]', re.IGNORECASE)
_TREND_ROW = re.compile(r'"?(\d{4}-\d\d-\d\d - \d{4}-\d\d-\d\d)"?\s*[,;\t]\s*"?(\d*)"?')


def concat_weather(files: Mapping[str, bytes], source: str) -> bytes:
    """Concatenate weather files, one a state, to the layout of ``weather.csv``.

    ``NA`` becomes an empty field and a decimal comma a point. A column that is whole numbers throughout stays so; one
    that has a fraction or a gap anywhere gets ``.0`` throughout, as in the published table.

    Args:
        files: CSV bytes by state name, e.g. ``{"Bayern": b'"Date";"Max_TemperatureC";...'}``.
        source: where they come from, for messages.

    Returns:
        CSV bytes: column ``file`` (the state name), then the weather columns; states in alphabetical order.

    Raises:
        DataError: a file lacks a column or a row, or a value is not a number; names file, row and column.
    """
    states = [
        (state, row)
        for state in sorted(files)
        for row in _weather_rows(files[state], f"weather/{state}.csv in {source}")
    ]
    columns = list(zip(*(row for _, row in states), strict=True))
    formatted = [
        values if column in _TEXT_COLUMNS else _with_one_format(values)
        for column, values in zip(WEATHER_COLUMNS, columns, strict=True)
    ]
    return _write(("file", *WEATHER_COLUMNS), zip((state for state, _ in states), *formatted, strict=True))


def concat_trends(files: Mapping[str, bytes], source: str) -> bytes:
    """Concatenate search-trend files, one a region, to the layout of ``googletrend.csv``.

    Args:
        files: CSV bytes by region, e.g. ``{"Rossmann_DE_BY": b"Woche,...\\n2012-12-02 - 2012-12-08,85\\n..."}``.
        source: where they come from, for messages.

    Returns:
        CSV bytes with the columns ``file`` (the region), ``week`` and ``trend``; regions in alphabetical order.

    Raises:
        DataError: a file has no ``Week`` or ``Woche`` column, no weeks, or a line that is none; names file and line.
    """
    rows = (
        (region, week, trend)
        for region in sorted(files)
        for week, trend in _trend_rows(files[region], f"googletrend/{region}.csv in {source}")
    )
    return _write(("file", "week", "trend"), rows)


def _weather_rows(data: bytes, file: str) -> list[list[str]]:
    """Return the rows of one state's file, columns in the order of `WEATHER_COLUMNS`."""
    text = _decode(data, file)
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [column.strip() for column in next(reader)]
    missing = [column for column in WEATHER_COLUMNS if column not in header]
    if missing:
        columns = "the column" if len(missing) == 1 else "the columns"
        raise DataError(f"{file} lacks {columns} {', '.join(missing)}; it has {', '.join(header)}")
    places = [(column, header.index(column)) for column in WEATHER_COLUMNS]
    rows = []
    for fields in reader:
        if not any(fields):
            continue
        if len(fields) != len(header):
            raise DataError(f"{file}, line {reader.line_num}: {len(fields)} fields where the header has {len(header)}")
        rows.append([_cell(column, fields[place], f"{file}, line {reader.line_num}") for column, place in places])
    if not rows:
        raise DataError(f"{file} has a header but no rows")
    return rows


def _cell(column: str, value: str, where: str) -> str:
    value = value.strip()
    if value in _MISSING:
        return ""
    if column in _TEXT_COLUMNS:
        return value
    number = value.replace(",", ".")
    if not _NUMBER.fullmatch(number):
        raise DataError(f"{where}: column {column} holds {value!r}, not a number")
    return number


def _with_one_format(values: Sequence[str]) -> list[str]:
    """Return numbers written all as whole numbers, or all with a fraction (``31.0``), gaps left empty."""
    if all(value and "." not in value for value in values):
        return list(values)
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


def _write(header: Sequence[str], rows: Iterator[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
