"""The two raw Adult files, from archives, folders and the generator."""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.adult import files as adult_files
from embedline.pipelines.adult.files import COLUMNS, NUMERIC, TABLE_SCHEMA, read_table
from embedline.pipelines.adult.nodes import acquire
from embedline.pipelines.adult.simulator import GeneratorOptions, generate_files

from .conftest import write_folder, write_tar, write_zip

SMALL = GeneratorOptions(n_data=30, n_test=20)
NOISE = {"adult.names": b"| This data was extracted", "Index": b"Index of adult", "old.adult.names": b"1"}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(SMALL)


def test_archives_folders_and_the_generator_give_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    sources = [
        write_zip(tmp_path / "x.zip", files | NOISE | {"__MACOSX/adult.data": b"\0"}),
        write_tar(tmp_path / "x.tgz", {f"uci/adult/{name}": data for name, data in (files | NOISE).items()}),
        write_folder(tmp_path / "folder", files | NOISE),
    ]
    for source in sources:
        assert acquire(source, verify=False, generator=GeneratorOptions()) == files
    assert acquire("generated", verify=True, generator=SMALL) == files


def test_the_originals_are_verified(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "x", files)
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, original in (("adult.data", "df25a4e32ed6"), ("adult.test", "ceb625d3b5ae")):
        with pytest.raises(DataError) as caught:
            acquire(source, verify=True, generator=SMALL)
        named = (f"{name} in {source} is not UCI's", found[name], original, "verify: false")
        assert [each for each in named if each not in str(caught.value)] == []
        monkeypatch.setitem(adult_files.ORIGINAL_SHA256, name, found[name])
    assert acquire(source, verify=True, generator=SMALL) == files


def test_files_that_are_missing_or_there_twice(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, named in (
        (
            write_tar(tmp_path / "lone", {"adult.data": files["adult.data"], **NOISE}, "w"),
            r"no adult\.test; .* Index and 1",
        ),
        (write_folder(tmp_path / "twice", files | {"old/adult.test": b"x"}), ".*once: adult.test, old/adult.test$"),
        (str(tmp_path / "empty"), r"no adult\.data; it holds nothing$"),
    ):
        with pytest.raises(DataError, match=f"{Path(source).name} .*{named}"):
            acquire(source, verify=False, generator=SMALL)


def test_the_real_archive(real_data: Path) -> None:
    files = acquire(str(real_data / "adult.zip"), verify=True, generator=SMALL)
    assert {name: len(data) for name, data in files.items()} == {"adult.data": 3_974_304, "adult.test": 2_003_152}


LINE = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, Peru, "
)
VALUES = (39, "State-gov", 77516, "Bachelors", 13, "Never-married", "Adm-clerical", "Not-in-family", "White", "Male")
VALUES += (2174, 0, 40, "Peru")
DATA = (LINE + "<=50K\n" + LINE.replace("State-gov", "?").replace("Peru", "?") + ">50K\n\n").encode()
TEST = ("|1x3 Cross validator\n" + LINE + "<=50K.\n" + LINE + ">50K.\n\n").encode()


def test_both_files_become_one_table() -> None:
    table = read_table({"adult.data": DATA, "adult.test": TEST})
    second = [None if value in ("State-gov", "Peru") else value for value in VALUES]
    rows = [(VALUES, "<=50K", "data"), (second, ">50K", "data"), (VALUES, "<=50K", "test"), (VALUES, ">50K", "test")]
    assert table.rows() == [(number, *values, *more) for number, (values, *more) in enumerate(rows)]
    assert dict(table.schema) == TABLE_SCHEMA
    assert table.columns == ["Id", *COLUMNS, "file"]
    numbers = [name for name, dtype in table.schema.items() if dtype == pl.Int64]
    assert numbers == ["Id", *(column for column in COLUMNS if column in NUMERIC)]


def test_line_ends_blank_lines_and_separators_do_not_matter() -> None:
    expected = read_table({"adult.data": DATA, "adult.test": TEST})
    others = [DATA.rstrip(), DATA.replace(b"\n", b"\r\n"), b"\n" + DATA + b"\n \n", DATA.replace(b", ", b",")]
    for data in (*others, b"\xef\xbb\xbf" + DATA):
        assert read_table({"adult.data": data, "adult.test": TEST}).equals(expected)
    missing = DATA.replace(b"77516", b"?", 1).replace(b"2174", b"", 1)  # a missing number is missing
    found = read_table({"adult.data": missing, "adult.test": TEST}).row(0, named=True)
    assert found == {**expected.row(0, named=True), "fnlwgt": None, "capital_gain": None}


@pytest.mark.parametrize(
    ("file", "data", "named"),
    [
        (
            "data",
            DATA + b"1, 2\n",
            ", line 4: 2 fields instead of 15 (age, workclass, fnlwgt, education, education_num",
        ),
        ("data", (LINE + "<=50K, x").encode(), ", line 1: 16 fields instead of 15 (age, "),
        ("test", TEST.replace(b"39, ", b"39.5, "), ", line 2: age is '39.5'"),
        ("test", TEST.replace(b"2174", b"1" * 19), f", line 2: capital_gain is '{'1' * 19}'"),
        ("test", TEST.replace(b">50K.", b"50K."), ", line 3: income is '50K.'"),
        ("data", (LINE + "?").encode(), ", line 1: income is '?'"),
        ("data", b"|nothing\n\n", " holds no rows"),
        ("test", b"", " holds no rows"),
        ("data", "é".encode("latin-1"), " is not UTF-8 text: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_faults_name_file_line_and_value(file: str, data: bytes, named: str) -> None:
    with pytest.raises(DataError) as caught:
        read_table({"adult.data": DATA, "adult.test": TEST, f"adult.{file}": data})
    assert str(caught.value).startswith(f"adult.{file}{named}")


def test_the_real_table(real_data: Path) -> None:
    table = read_table(acquire(str(real_data / "adult.zip"), verify=True, generator=GeneratorOptions()))
    assert table["Id"].to_list() == list(range(48_842)) and dict(table.schema) == TABLE_SCHEMA
    data, test = (table.filter(pl.col("file") == file) for file in ("data", "test"))
    assert (len(data), len(test)) == (32_561, 16_281)
    missing = {"workclass": 1836, "occupation": 1843, "native_country": 583}
    assert {name: count for name, count in data.null_count().row(0, named=True).items() if count} == missing
    missing = {"workclass": 963, "occupation": 966, "native_country": 274}
    assert {name: count for name, count in test.null_count().row(0, named=True).items() if count} == missing
    assert (data["income"] == ">50K").sum() == 7841 and (test["income"] == ">50K").sum() == 3846
    assert (data["income"] == ">50K").mean() == pytest.approx(0.2408, abs=1e-4)
    assert table["income"].unique().sort().to_list() == ["<=50K", ">50K"]
    assert data["age"].mean() == pytest.approx(38.5816, abs=1e-4)
    assert data["capital_gain"].max() == 99_999 and data["education"].n_unique() == 16
    assert table.row(0)[1:5] == (39, "State-gov", 77516, "Bachelors")
    assert table.row(32_561)[:4] == (32_561, 25, "Private", 226_802)
