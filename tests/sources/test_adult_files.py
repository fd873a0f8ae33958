"""The two raw Adult files, from archives, folders and the generator."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from embedline.errors import DataError
from embedline.pipelines.adult import files as adult_files
from embedline.pipelines.adult.nodes import acquire
from embedline.pipelines.adult.simulator import GeneratorOptions, generate_files

from .conftest import write_folder, write_tar

SMALL = GeneratorOptions(n_data=30, n_test=20)
NOISE = {"adult.names": b"| This data was extracted", "Index": b"Index of adult", "old.adult.names": b"1"}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(SMALL)


def test_archives_folders_and_the_generator_give_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in (files | NOISE | {"__MACOSX/adult.data": b"\0"}).items():
            archive.writestr(name, data)
    sources = [
        str(tmp_path / "x.zip"),
        write_tar(tmp_path / "x.tgz", {f"uci/adult/{name}": data for name, data in (files | NOISE).items()}),
        write_folder(tmp_path / "folder", files | NOISE),
    ]
    for source in sources:
        assert acquire(source, verify=False, generator=GeneratorOptions()) == files
    assert acquire("generated", verify=True, generator=SMALL) == files


def test_the_originals_are_verified(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "x", files)
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with pytest.raises(DataError) as caught:
        acquire(source, verify=True, generator=SMALL)
    assert str(caught.value) == (
        f"adult.data in {source} is not UCI's file: its sha256 is {found['adult.data']}, "
        "expected df25a4e32ed6f1bd4b3910d21a7bd661a09061eced7cb45555a519d9667cc87b; "
        "to use another version of the data, turn the check off (verify: false)"
    )
    monkeypatch.setitem(adult_files.ORIGINAL_SHA256, "adult.data", found["adult.data"])
    with pytest.raises(DataError, match=r"^adult\.test in .* is not UCI's file: .* expected ceb625d3b5ae"):
        acquire(source, verify=True, generator=SMALL)
    monkeypatch.setitem(adult_files.ORIGINAL_SHA256, "adult.test", found["adult.test"])
    assert acquire(source, verify=True, generator=SMALL) == files


def test_files_that_are_missing_or_there_twice(files: dict[str, bytes], tmp_path: Path) -> None:
    lone = write_tar(tmp_path / "lone.tar", {"adult.data": files["adult.data"], **NOISE}, mode="w")
    with pytest.raises(
        DataError, match=r"lone\.tar has no adult\.test; it holds adult\.data, adult\.names, Index and 1"
    ):
        acquire(lone, verify=False, generator=SMALL)
    twice = write_folder(tmp_path / "twice", files | {"old/adult.test": b"x"})
    with pytest.raises(DataError, match=r"twice holds adult\.test more than once: adult\.test, old/adult\.test$"):
        acquire(twice, verify=False, generator=SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no adult\.data; it holds nothing$"):
        acquire(str(tmp_path / "empty"), verify=False, generator=SMALL)


def test_the_real_archive(real_data: Path) -> None:
    files = acquire(str(real_data / "adult.zip"), verify=True, generator=SMALL)
    assert {name: len(data) for name, data in files.items()} == {"adult.data": 3_974_304, "adult.test": 2_003_152}
