"""The raw files of MovieLens releases: their layouts, where they lie, and whether they are the originals."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.movielens import files as movielens_files
from embedline.pipelines.movielens.files import (
    COLONS,
    CSV,
    ML_100K,
    Layout,
    content_of,
    layout_of,
)
from embedline.pipelines.movielens.nodes import acquire
from embedline.pipelines.movielens.simulator import GeneratorOptions, generate_files

from .conftest import write_folder, write_tar

SMALL = GeneratorOptions(n_users=10, n_items=25, n_ratings=220)
NEWER = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,3.5,9\n",
    "movies.csv": b"movieId,title,genres\n2,A,B\n",
}
OLDER = {"ratings.dat": b"1::2::3::9\n", "movies.dat": b"2::A::B\n"}
NOISE = {"README.txt": b"read me", "links.csv": b"movieId,imdbId\n", "u.info": b"943 users\n", "u1.base": b"1\n"}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(SMALL)


def write_zip(path: Path, members: Mapping[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def in_folder(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def test_archives_folders_and_the_generator_give_one_frame(files: dict[str, bytes], tmp_path: Path) -> None:
    sources = [
        write_zip(tmp_path / "x.zip", in_folder("ml-100k", files | NOISE)),
        write_tar(tmp_path / "anything.tgz", in_folder("a/b", files | NOISE)),
        write_folder(tmp_path / "folder", files | NOISE),
        write_zip(
            tmp_path / "mac.zip", in_folder("m", files) | {"__MACOSX/m/u.data": b"\0", "m/deeper/u.data": b"older"}
        ),
    ]
    for source in sources:
        frame = acquire(source, verify=False, generator=GeneratorOptions())
        assert dict(frame.iter_rows()) == files and frame["path"].to_list() == sorted(files), source
        assert dict(frame.schema) == FILES_SCHEMA
    generated = acquire("generated", verify=True, generator=SMALL)
    assert dict(generated.iter_rows()) == files and generated["path"].is_sorted()


@pytest.mark.parametrize(("members", "layout"), [(NEWER, CSV), (OLDER, COLONS), (None, ML_100K)])
def test_layouts_are_told_apart_by_the_files_not_by_the_name_of_the_archive(
    members: dict[str, bytes] | None, layout: Layout, files: dict[str, bytes], tmp_path: Path
) -> None:
    members = members or files
    source = write_zip(tmp_path / "ml-100k.zip", in_folder("ml-1m", members | NOISE))
    raw = acquire(source, verify=False, generator=GeneratorOptions())
    assert layout_of(raw) == layout
    assert content_of(raw, layout.ratings) == members[layout.ratings] and content_of(raw, "README.txt") is None


def test_folds_are_optional(files: dict[str, bytes], tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", {name: files[name] for name in ("u.data", "u.item")})
    assert acquire(source, verify=False, generator=SMALL)["path"].to_list() == ["u.data", "u.item"]


def test_the_originals_are_verified(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "x", files)
    found = hashlib.sha256(files["u.data"]).hexdigest()
    with pytest.raises(DataError) as caught:
        acquire(source, verify=True, generator=SMALL)
    assert str(caught.value) == (
        f"u.data in {source} is not MovieLens 100k's: its sha256 is {found}, "
        "expected 06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490; "
        "to use another version of the data, turn the check off (verify: false)"
    )
    monkeypatch.setitem(movielens_files.ORIGINAL_SHA256, "u.data", found)
    with pytest.raises(DataError, match=r"^u\.item in .* is not MovieLens 100k's: .* expected 553841ebc7de"):
        acquire(source, verify=True, generator=SMALL)
    monkeypatch.setitem(movielens_files.ORIGINAL_SHA256, "u.item", hashlib.sha256(files["u.item"]).hexdigest())
    assert len(acquire(source, verify=True, generator=SMALL)) == len(files)
    newer = write_folder(tmp_path / "newer", NEWER)
    with pytest.raises(DataError, match=r"newer is not MovieLens 100k: it has no u\.data; .*\(verify: false\)$"):
        acquire(newer, verify=True, generator=SMALL)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"a.txt": b"1", "b/c.csv": b"2"},
            r"^{source} holds no ratings \(u\.data, ratings\.dat, ratings\.csv\); it holds a\.txt, b/c\.csv$",
        ),
        ({"x/u.data": b"1"}, r"^{source} has no x/u\.item, the items of x/u\.data$"),
        ({"ratings.csv": b"1", "x/movies.csv": b""}, r"^{source} has no movies\.csv, the items of ratings\.csv$"),
        (
            {"b/u.data": b"1", "a/ratings.csv": b"1"},
            r"^{source} holds ratings more than once: a/ratings\.csv, b/u\.data$",
        ),
        (
            {"u.data": b"1", "u.item": b"1", "ratings.dat": b"1"},
            r"^{source} holds ratings more than once: ratings\.dat, u\.data$",
        ),
    ],
)
def test_sources_that_are_no_release(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", members)
    with pytest.raises(DataError, match=message.replace("{source}", source)):
        acquire(source, verify=False, generator=SMALL)


def test_raw_files_without_ratings() -> None:
    raw = pl.DataFrame({"path": ["a", "b"], "content": [b"1", b"2"]}, schema=FILES_SCHEMA)
    with pytest.raises(DataError, match=r"^the raw files hold no ratings \(u\.data, .*\); they are a, b$"):
        layout_of(raw)


def test_the_real_archive(real_data: Path) -> None:
    raw = acquire(str(real_data / "ml-100k.zip"), verify=True, generator=SMALL)
    assert raw["path"].to_list() == [
        "u.data",
        "u.genre",
        "u.item",
        "u.user",
        *(f"u{fold}.test" for fold in range(1, 6)),
    ]
    assert raw["content"].bin.size().to_list()[:3] == [1_979_173, 202, 236_344]
