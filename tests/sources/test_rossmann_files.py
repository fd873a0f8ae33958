"""The seven tables out of archives and folders; every fault of a file is one message that names it."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann.files import ORIGINAL_SHA256, TABLE_COLUMNS, read_tables
from embedline.pipelines.rossmann.nodes import acquire
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables

from .conftest import write_folder, write_tar


@pytest.fixture
def plain(tables: dict[str, bytes]) -> dict[str, bytes]:
    """The tables as they should come out: `store_states` has lost its carriage returns."""
    assert b"\r\n" in tables["store_states"]
    return tables | {"store_states": tables["store_states"].replace(b"\r\n", b"\n")}


@pytest.mark.parametrize("prefix", ["", "./", "rossmann/", "data/rossmann/"])
def test_an_archive_at_any_level(prefix: str, files: dict[str, bytes], plain: dict[str, bytes], tmp_path: Path) -> None:
    members = {f"{prefix}{name}": data for name, data in files.items()} | {f"{prefix}notes.csv": b"mine"}
    assert read_tables(write_tar(tmp_path / "x.tgz", members), verify=False) == plain


def test_a_zip_and_a_folder(files: dict[str, bytes], plain: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
            bundle.writestr(f"__MACOSX/._{name}", b"\0\5")
    assert read_tables(str(tmp_path / "x.zip"), verify=False) == plain
    assert read_tables(write_folder(tmp_path / "folder", files), verify=False) == plain


def test_byte_order_mark_and_line_ends(files: dict[str, bytes], plain: dict[str, bytes], tmp_path: Path) -> None:
    windows = {name: b"\xef\xbb\xbf" + re.sub(b"\r?\n", b"\r\n", data) for name, data in files.items()}
    assert read_tables(write_folder(tmp_path, windows), verify=False) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store.csv": None}, r"x has no store\.csv; it holds googletrend\.csv, state_names\.csv, store_states\.csv"),
        ({"store.csv": None, "weather.csv": None}, r"x has no store\.csv, no weather\.csv \(nor a folder weather/"),
        ({"store.csv": b""}, r"store\.csv in .*x is empty"),
        ({"train.csv": b"\xef\xbb\xbf\r\n \n"}, r"train\.csv in .*x is empty"),
        ({"store_states.csv": b"Store,State\r\n"}, r"store_states\.csv in .*x has a header but no rows"),
        (
            {"store_states.csv": b"Store,Land\n1,HE\n"},
            r"store_states\.csv in .*x lacks the column State; it has Store, Land",
        ),
        (
            {"googletrend.csv": b"datei,woche,trend\n1,2,3\n"},
            r"googletrend\.csv in .*x lacks the columns file, week; it has datei, woche, trend",
        ),
        (
            {"state_names.csv": "Länder,Kürzel\n".encode("latin-1")},
            r"state_names\.csv in .* is not UTF-8 text: .*0xe4",
        ),
        ({"state_names.csv": "StateName,State\n".encode("utf-16")}, r"state_names\.csv in .*x is not UTF-8 text"),
    ],
)
def test_bad_files(change: Mapping[str, bytes | None], message: str, files: dict[str, bytes], tmp_path: Path) -> None:
    members = {name: data for name, data in (files | change).items() if data is not None}  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        read_tables(write_folder(tmp_path / "x", members), verify=False)


def test_tables_twice_or_not_at_all(files: dict[str, bytes], tmp_path: Path) -> None:
    twice = {f"{folder}/{name}": data for folder in ("old", "new") for name, data in files.items()}
    with pytest.raises(DataError, match="holds the tables more than once: in the folders new, old"):
        read_tables(write_tar(tmp_path / "x.tgz", twice), verify=False)
    with pytest.raises(DataError, match=r"has no train\.csv, no test\.csv, .*; it holds no table"):
        read_tables(write_tar(tmp_path / "y.tgz", {"u.data": b"1"}), verify=False)


def test_other_data_than_kaggles(files: dict[str, bytes], tables: dict[str, bytes], tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tgz", files)
    with pytest.raises(DataError) as caught:
        acquire(source, verify=True, generator=GeneratorOptions())
    message = str(caught.value)
    assert message.startswith(f"train.csv in {source} is not Kaggle's file")
    assert hashlib.sha256(tables["train"]).hexdigest() in message and ORIGINAL_SHA256["train"] in message
    assert "verify: false" in message
    assert acquire(source, verify=False, generator=GeneratorOptions())["train"] == tables["train"]


def test_the_generator_is_a_source() -> None:
    options = GeneratorOptions(n_stores=4, seed=3)
    tables = acquire("generated", verify=True, generator=options)
    assert list(tables) == list(TABLE_COLUMNS)
    assert tables["train"] == generate_tables(options)["train"]
    assert not any(b"\r" in data for data in tables.values())


def test_the_real_archive(real_data: Path) -> None:
    tables = acquire(str(real_data / "rossmann.tgz"), verify=True, generator=GeneratorOptions())
    n_rows = {name: data.count(b"\n") - 1 for name, data in tables.items()}
    assert n_rows == {
        **{"train": 1_017_209, "test": 41_088, "store": 1115, "store_states": 1115},
        **{"state_names": 16, "googletrend": 2072, "weather": 15_840},
    }
    assert {name: hashlib.sha256(tables[name]).hexdigest() for name in ORIGINAL_SHA256} == ORIGINAL_SHA256
    assert sum(line.split(b",")[4] == b"" for line in tables["test"].splitlines()) == 11


def test_generated_tables_have_the_real_headers(real_data: Path, tables: dict[str, bytes]) -> None:
    real = read_tables(str(real_data / "rossmann.tgz"))
    for name, data in tables.items():
        assert data.splitlines()[0] == real[name].splitlines()[0], name
    assert tables["state_names"] == real["state_names"]
