"""The raw files of a corpus in a frame, from archives, folders and single tables."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.imdb.corpus import ORIGINAL_COUNTS, read_documents, read_files
from embedline.pipelines.imdb.nodes import acquire
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.simulator import GeneratorOptions, generate_files

from .conftest import write_folder, write_tar

SMALL = GeneratorOptions(n_train=4, n_test=2, n_unlabelled=3)
EXTRA = {
    "aclImdb/README": b"read me",
    "aclImdb/imdb.vocab": b"the",
    "aclImdb/imdbEr.txt": b"0.1",
    "aclImdb/train/labeledBow.feat": b"9 0:9",
    "aclImdb/train/urls_pos.txt": b"http://x",
    "aclImdb/.DS_Store.txt": b"\0",
    "__MACOSX/aclImdb/train/pos/._0_9.txt": b"\0",
}


@pytest.fixture(scope="module")
def reviews() -> dict[str, bytes]:
    return generate_files(SMALL)


def test_an_archive_a_zip_a_folder_and_the_generator_give_one_frame(reviews: dict[str, bytes], tmp_path: Path) -> None:
    wanted = dict(sorted({**reviews, **{n: EXTRA[n] for n in EXTRA if n.endswith(("Er.txt", "urls_pos.txt"))}}.items()))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as bundle:
        for name, content in (reviews | EXTRA).items():
            bundle.writestr(name, content)
    sources = [
        write_tar(tmp_path / "x.tar.gz", reviews | EXTRA),
        write_tar(tmp_path / "x.tar", dict(reversed((reviews | EXTRA).items())), mode="w"),
        str(tmp_path / "x.zip"),
        write_folder(tmp_path / "folder", reviews | EXTRA),
    ]
    for source in sources:
        frame = acquire(source, verify=False, generator=GeneratorOptions())
        assert dict(frame.iter_rows()) == wanted and frame["path"].to_list() == list(wanted)
        assert dict(frame.schema) == FILES_SCHEMA
    generated = acquire("generated", verify=True, generator=SMALL)
    assert dict(generated.iter_rows()) == reviews and generated["path"].is_sorted()


def test_the_number_of_reviews_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {folder: count // 1250 for folder, count in ORIGINAL_COUNTS.items()}
    assert sum(ORIGINAL_COUNTS.values()) == 100_000
    monkeypatch.setattr("embedline.pipelines.imdb.corpus.ORIGINAL_COUNTS", counts)
    members = {f"a/{folder}/{number}_1.txt": b"x" for folder, n in counts.items() for number in range(n)}
    members |= {"a/train/pos.txt": b"not in the folder", "a/train/pos/deeper/0_1.txt": b"nor this"}
    whole = acquire(write_tar(tmp_path / "x.tgz", members), verify=True, generator=GeneratorOptions())
    assert len(whole) == 82
    del members["a/train/pos/7_1.txt"], members["a/test/neg/0_1.txt"]
    source = write_tar(tmp_path / "y.tgz", members)
    with pytest.raises(DataError) as caught:
        acquire(source, verify=True, generator=GeneratorOptions())
    message = str(caught.value)
    assert message.startswith(source) and "verify: false" in message
    assert "train/pos: 9 instead of 10 reviews; test/neg: 9 instead of 10 reviews" in message


def test_one_table_is_a_source_plain_or_gzipped(tmp_path: Path) -> None:
    table = b"text,label\ngood,pos\n"
    (tmp_path / "reviews.csv").write_bytes(table)
    (tmp_path / "more.CSV.gz").write_bytes(gzip.compress(table[:12]) + gzip.compress(table[12:]))
    assert read_files(str(tmp_path / "reviews.csv")).rows() == [("reviews.csv", table)]
    assert read_files(f"file://{tmp_path}/more.CSV.gz").rows() == [("more.CSV", table)]
    whole = gzip.compress(table)
    for bad in (whole[:-6], whole[:12] + b"\xff" * 20):
        (tmp_path / "bad.csv.gz").write_bytes(bad)
        with pytest.raises(DataError, match=r"bad\.csv\.gz is truncated, corrupt or unreadable"):
            read_files(str(tmp_path / "bad.csv.gz"))


def test_sources_without_text(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", {name: b"1" for name in ("a.feat", "b.jpg", "c.pdf", "d.doc")})
    with pytest.raises(DataError, match=r"x holds no file of text \(\.txt, \.csv, .*; it holds .* and 1 more$"):
        read_files(source)
    with pytest.raises(DataError, match=r"no file or folder at .*nowhere\.csv"):
        read_files(str(tmp_path / "nowhere.csv"))
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("t/x.txt"))
    with pytest.raises(DataError, match=r"bad\.tgz holds 't/x\.txt' twice"):
        read_files(str(tmp_path / "bad.tgz"))


@pytest.mark.slow
def test_the_real_archive(real_data: Path) -> None:
    raw = acquire(str(real_data / "aclImdb_v1.tar.gz"), verify=True, generator=GeneratorOptions())
    assert len(raw) == 100_000 and raw["content"].bin.size().sum() == 131_984_547
    documents = read_documents(raw, DocumentOptions())
    counts = documents.group_by("split", "label").len().sort("split", "label").rows()
    assert counts == [
        *(("test", "neg", 12_500), ("test", "pos", 12_500), ("train", "neg", 12_500), ("train", "pos", 12_500)),
        ("unlabelled", None, 50_000),
    ]
    assert documents["document_id"].n_unique() == 100_000
    first = documents.row(by_predicate=pl.col("document_id") == "test/neg/0_2", named=True)
    assert first["text"].startswith("Once again Mr. Costner has dragged out a movie")
    # `wc -w` of the files on end, which joins words over their borders, counts 17,486,314 and 5,686,021.
    words = {"train": 0, "test": 0}
    for document_id, text in documents.select("document_id", "text").iter_rows():
        words[document_id.split("/")[0]] += len(text.split())
    assert words == {"train": 17_566_055, "test": 5_712_457}
