"""The seven tables out of archives and folders; every fault of a file is one message that names it."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann.files import ORIGINAL_SHA256, TABLE_COLUMNS, read_tables
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
