"""The seven tables out of archives and folders; every fault of a file is one message that names it."""

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann.files import (
    ORIGINAL_SHA256,
    TABLE_COLUMNS,
    WEATHER_COLUMNS,
    concat_trends,
    concat_weather,
    read_tables,
)
from embedline.pipelines.rossmann.nodes import acquire
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables

from .conftest import write_folder, write_tar, write_zip


@pytest.fixture
def plain(tables: dict[str, bytes]) -> dict[str, bytes]:
    """The tables as they should come out: `store_states` has lost its carriage returns."""
    assert b"\r\n" in tables["store_states"]
    return tables | {"store_states": tables["store_states"].replace(b"\r\n", b"\n")}


@pytest.mark.parametrize("prefix", ["", "./", "rossmann/", "data/rossmann/"])
def test_an_archive_at_any_level(prefix: str, files: dict[str, bytes], plain: dict[str, bytes], tmp_path: Path) -> None:
    members = {f"{prefix}{name}": data for name, data in files.items()} | {f"{prefix}notes.csv": b"mine"}
    assert read_tables(write_tar(tmp_path / "x.tgz", members), verify=False) == plain


def test_other_sources_of_the_same_tables(files: dict[str, bytes], plain: dict[str, bytes], tmp_path: Path) -> None:
    of_mac = {f"__MACOSX/._{name}": b"\0\5" for name in files}
    windows = {name: b"\xef\xbb\xbf" + re.sub(b"\r?\n", b"\r\n", data) for name, data in files.items()}
    for source in (
        write_zip(tmp_path / "x.zip", files | of_mac),
        write_folder(tmp_path / "folder", files),
        write_folder(tmp_path / "windows", windows),  # a byte order mark and other line ends
    ):
        assert read_tables(source, verify=False) == plain


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"store.csv": None}, r"x has no store\.csv; it holds googletrend\.csv, state_names\.csv, store_states\.csv"),
        ({"store.csv": None, "weather.csv": None}, r"x has no store\.csv, no weather\.csv \(nor a folder weather/"),
        ({"store.csv": b""}, r"store\.csv in .*x is empty"),
        ({"train.csv": b"\xef\xbb\xbf\r\n \n"}, r"train\.csv in .*x is empty"),
        ({"store_states.csv": b"Store,State\r\n"}, r"store_states\.csv in .*x has a header but no rows"),
        ({"store_states.csv": b"Store,Land\n1,HE\n"}, r"store_states\.csv in .*x .*column State; it has Store, Land"),
        ({"googletrend.csv": b"datei,woche,trend\n1,2,3\n"}, r"googletrend\.csv in .*x .*columns file, week; it has"),
        ({"state_names.csv": "Länder,Kürzel\n".encode("latin-1")}, r"state_names\.csv in .*x .*UTF-8.*0xe4"),
        ({"state_names.csv": "StateName,State\n".encode("utf-16")}, r"state_names\.csv in .*x .*UTF-8"),
    ],
)
def test_bad_files(change: Mapping[str, bytes | None], named: str, files: dict[str, bytes], tmp_path: Path) -> None:
    members = {name: data for name, data in (files | change).items() if data is not None}  # type: ignore[operator]
    with pytest.raises(DataError, match=named):
        read_tables(write_folder(tmp_path / "x", members), verify=False)


def test_tables_twice_or_not_at_all(files: dict[str, bytes], tmp_path: Path) -> None:
    twice = {f"{folder}/{name}": data for folder in ("old", "new") for name, data in files.items()}
    with pytest.raises(DataError, match="holds the tables more than once: in the folders new, old"):
        read_tables(write_tar(tmp_path / "x.tgz", twice), verify=False)
    with pytest.raises(DataError, match=r"has no train\.csv, no test\.csv, .*; it holds no table"):
        read_tables(write_tar(tmp_path / "y.tgz", {"u.data": b"1"}), verify=False)


def test_other_data_than_kaggles(files: dict[str, bytes], tables: dict[str, bytes], tmp_path: Path) -> None:
    source, options = write_tar(tmp_path / "x.tgz", files), GeneratorOptions(n_stores=4, seed=3)
    with pytest.raises(DataError) as caught:
        acquire(source, verify=True, generator=options)
    message = str(caught.value)
    assert message.startswith(f"train.csv in {source} is not Kaggle's file")
    assert hashlib.sha256(tables["train"]).hexdigest() in message and ORIGINAL_SHA256["train"] in message
    assert "verify: false" in message
    assert acquire(source, verify=False, generator=options)["train"] == tables["train"]
    generated = acquire("generated", verify=True, generator=options)
    assert list(generated) == list(TABLE_COLUMNS)
    assert generated["train"] == generate_tables(options)["train"]
    assert not any(b"\r" in data for data in generated.values())


def test_the_real_archive(real_data: Path, tables: dict[str, bytes]) -> None:
    real = acquire(str(real_data / "rossmann.tgz"), verify=True, generator=GeneratorOptions())
    n_rows = {name: data.count(b"\n") - 1 for name, data in real.items()}
    assert n_rows == {
        **{"train": 1_017_209, "test": 41_088, "store": 1115, "store_states": 1115},
        **{"state_names": 16, "googletrend": 2072, "weather": 15_840},
    }
    assert {name: hashlib.sha256(real[name]).hexdigest() for name in ORIGINAL_SHA256} == ORIGINAL_SHA256
    assert sum(line.split(b",")[4] == b"" for line in real["test"].splitlines()) == 11
    for name, data in tables.items():  # the generated ones have the same headers
        assert data.splitlines()[0] == real[name].splitlines()[0], name
    assert tables["state_names"] == real["state_names"]


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
