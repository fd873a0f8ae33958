"""Per-state files as first published come out as the concatenated tables, byte for byte."""

import csv
import io
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann.files import WEATHER_COLUMNS, concat_trends, concat_weather, read_tables

from .conftest import write_folder, write_tar

HEADER = ";".join(f'"{column}"' for column in WEATHER_COLUMNS)
MONDAY = '2013-01-01;7;1;-5;3;-1;-5;100;88;61;1014;1011;1010;10;9;5;23;6;NA;0;6;"Fog-Rain";240'
TUESDAY = '2013-01-02;4;1;-3;3;1;-3;100;88;75;1031;1024;1014;NA;10;10;19;13;42;0,25;NA;"";253'
TRENDS = "Woche,Dez. 2012 - Sep. 2015\n2012-12-02 - 2012-12-08,77\n2012-12-09 - 2012-12-15,100\n"


def published(table: bytes) -> dict[str, bytes]:
    """Split ``weather.csv`` into the per-state files that it was put together from."""
    header, *rows = csv.reader(io.StringIO(table.decode()))
    numbers = {column for column in header if column not in ("file", "Date", "Events")}
    files: dict[str, list[str]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        line = [
            (value.removesuffix(".0") or "NA") if column in numbers else f'"{value}"' if column == "Events" else value
            for column, value in cells.items()
        ]
        files.setdefault(cells["file"], [HEADER]).append(";".join(line[1:]))
    return {state: ("\n".join(lines) + "\n").encode() for state, lines in files.items()}


def published_trends(table: bytes) -> dict[str, bytes]:
    files: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(table.decode())):
        files.setdefault(row["file"], "Woche,Dez. 2012 - Sep. 2015\n")
        files[row["file"]] += f"{row['week']},{row['trend']}\n"
    return {region: text.rstrip("\n").encode() for region, text in files.items()}


def test_weather_values() -> None:
    files = {"Hessen": f"{HEADER}\n{MONDAY}\n".encode(), "Bayern": f"{HEADER}\n{TUESDAY}\n\n".encode()}
    table = list(csv.DictReader(io.StringIO(concat_weather(files, "x").decode())))
    assert list(table[0]) == ["file", *WEATHER_COLUMNS]
    assert [row["file"] for row in table] == ["Bayern", "Hessen"]
    chosen = ("Date", "Mean_TemperatureC", "Max_VisibilityKm", "Precipitationmm", "CloudCover", "Events")
    assert [[row[column] for column in chosen] for row in table] == [
        ["2013-01-02", "1", "", "0.25", "", ""],
        ["2013-01-01", "1", "10.0", "0.0", "6.0", "Fog-Rain"],
    ]


def test_trend_values() -> None:
    files = {"Rossmann_DE_BY": TRENDS.encode(), "Rossmann_DE": b"Week;rossmann\n2012-12-02 - 2012-12-08;5"}
    assert concat_trends(files, "x").decode().splitlines() == [
        "file,week,trend",
        "Rossmann_DE,2012-12-02 - 2012-12-08,5",
        "Rossmann_DE_BY,2012-12-02 - 2012-12-08,77",
        "Rossmann_DE_BY,2012-12-09 - 2012-12-15,100",
    ]
    # With lines above and sections below:
    export = f"Web-Suchinteresse: rossmann\nDeutschland; 2012\n\n{TRENDS}\n\nTop-Regionen\nBayern,100\n"
    assert concat_trends({"Rossmann_DE": export.encode()}, "x") == concat_trends({"Rossmann_DE": TRENDS.encode()}, "x")


def test_folders_of_generated_tables(tables: dict[str, bytes], files: dict[str, bytes], tmp_path: Path) -> None:
    parts = {
        **{name: data for name, data in files.items() if name not in ("weather.csv", "googletrend.csv")},
        **{f"weather/{state}.csv": data for state, data in published(tables["weather"]).items()},
        **{f"googletrend/{region}.csv": data for region, data in published_trends(tables["googletrend"]).items()},
    }
    windows = {name: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") for name, data in parts.items()}
    archive = write_tar(tmp_path / "x.tgz", {f"rossmann/{name}": data for name, data in parts.items()})
    for source in (archive, write_folder(tmp_path / "folder", windows)):
        found = read_tables(source, verify=False)
        assert found["weather"] == tables["weather"]
        assert found["googletrend"] == tables["googletrend"]


def test_folders_of_the_real_tables(real_data: Path) -> None:
    real = read_tables(str(real_data / "rossmann.tgz"))
    assert concat_weather(published(real["weather"]), "x") == real["weather"]
    assert concat_trends(published_trends(real["googletrend"]), "x") == real["googletrend"]


def test_files_that_are_empty_or_no_text(files: dict[str, bytes], tmp_path: Path) -> None:
    parts = {name: data for name, data in files.items() if name != "weather.csv"}
    for content, fault in ((b"", "empty"), (b"\xfc;\n1;2\n", "not UTF-8 text")):
        with pytest.raises(DataError, match=rf"weather/Bayern\.csv in .* is {fault}"):
            read_tables(write_folder(tmp_path / "x", parts | {"weather/Bayern.csv": content}), verify=False)


WEATHER_FAULTS = [
    (HEADER.replace('"Events";', ""), " in x .*column Events; it has Date, Max_"),
    (HEADER, " in x .*no rows"),
    (f"{HEADER}\n{MONDAY};1", " in x, line 2: 24 fields.*23"),
    (f"{HEADER}\n{MONDAY}\n{TUESDAY.replace(';4;', ';warm;')}", " in x, line 3: column Max_TemperatureC holds 'warm'"),
]
TREND_FAULTS = [
    ("Datum,rossmann\n2012-12-02,5\n", r" in x .*column Week \(or Woche\); its first"),
    ("Woche,rossmann\n", " in x .*no rows"),
    ("Woche,rossmann", " in x .*no rows"),
    (f"{TRENDS}2012-12-16,5\n", " in x, line 4: '2012-12-16,5'"),
    (f"{TRENDS}2012-12-16 - 2012-12-22,viel\n", " in x, line 4: .*viel'"),
]


@pytest.mark.parametrize(("text", "named"), WEATHER_FAULTS)
def test_bad_weather_files(text: str, named: str) -> None:
    with pytest.raises(DataError, match=rf"weather/Bayern\.csv{named}"):
        concat_weather({"Bayern": text.encode()}, "x")


@pytest.mark.parametrize(("text", "named"), TREND_FAULTS)
def test_bad_trend_files(text: str, named: str) -> None:
    with pytest.raises(DataError, match=rf"googletrend/DE\.csv{named}"):
        concat_trends({"DE": text.encode()}, "x")
