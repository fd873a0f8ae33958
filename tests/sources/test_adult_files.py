"""The two raw Adult files, from archives, folders and the generator."""

import hashlib
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.adult import files as adult_files
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
