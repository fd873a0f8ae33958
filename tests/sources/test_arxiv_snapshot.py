"""Papers chosen from the snapshot while it is read: categories, the sample, the fields, and the errors."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.arxiv import snapshot
from embedline.pipelines.arxiv.nodes import acquire
from embedline.pipelines.arxiv.simulator import GeneratorOptions, generate_snapshot
from embedline.pipelines.arxiv.snapshot import SelectionOptions, read_snapshot, select_papers
from embedline.pipelines.imdb.corpus import read_documents
from embedline.pipelines.imdb.options import DocumentOptions

LISTED = ("cs.NI cs.DC", "math-ph math.MP", "math.CO", "stat.ML cs.LG", "cs.CSS", "hep-th")


def paper(number: int, categories: str, **changes: Any) -> bytes:
    fields = {"title": f"Title\n  {number}", "comments": None, "abstract": f"  An abstract\nof {number}.\n"}
    return json.dumps({"id": f"0704.{number:04}", "categories": categories, **fields, **changes}).encode()


PAPERS = [paper(number, categories) for number, categories in enumerate(LISTED)]


def chosen(lines: list[bytes], **options: Any) -> list[str]:
    """Numbers of the chosen papers."""
    frame = select_papers(lines, "x.json", SelectionOptions(**options))
    assert dict(frame.schema) == FILES_SCHEMA
    return [json.loads(line)["id"][-4:] for content in frame["content"] for line in content.split(b"\n")]


@pytest.mark.parametrize(
    ("categories", "numbers"),
    [
        ([], "012345"),
        (["cs"], "034"),
        (["cs.DC"], "0"),
        (["cs.CS"], ""),
        (["math"], "12"),
        (["math-ph", "stat"], "13"),
        (["hep-th"], "5"),
    ],
)
def test_a_prefix_is_a_whole_part_of_a_category(categories: list[str], numbers: str) -> None:
    if numbers:
        assert chosen(PAPERS, categories=categories) == [f"000{number}" for number in numbers]
    else:
        with pytest.raises(DataError) as caught:
            chosen(PAPERS, categories=categories)
        assert all(words in str(caught.value) for words in ("x.json", "cs.CS", "math-ph", "hep-th"))


def test_the_sample_is_of_all_papers_in_their_order_and_every_paper_is_as_likely() -> None:
    lines = [paper(number, "cs.NI" if number % 2 else "math.CO") for number in range(40)]
    drawn = [chosen(lines, categories=["cs"], limit=5, seed=seed) for seed in range(400)]
    assert all(one == sorted(one) and len({*one}) == 5 for one in drawn)
    assert drawn[0] == chosen(lines, categories=["cs"], limit=5, seed=0) != drawn[1]
    counts = {f"{number:04}": sum(f"{number:04}" in one for one in drawn) for number in range(1, 40, 2)}
    # Each of the 20 papers is in a fourth of the samples: 100 of 400, with a standard deviation of 8.7.
    assert all(65 < count < 135 for count in counts.values()), counts
    assert chosen(lines, limit=None) == chosen(lines, limit=40) == [f"{number:04}" for number in range(40)]


def test_a_file_is_read_block_by_block_and_may_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = generate_snapshot(GeneratorOptions(n_papers=30))
    (tmp_path / "a.json").write_bytes(content.removesuffix(b"\n"))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"\n" + content))
    expected = acquire("generated", SelectionOptions(), GeneratorOptions(n_papers=30))
    monkeypatch.setattr("embedline.archive._BLOCK", 100)  # bytes, far less than a line
    for name in ("a.json", "b.json.gz"):
        assert acquire(str(tmp_path / name), SelectionOptions(), GeneratorOptions()).equals(expected)
    monkeypatch.setattr(snapshot, "PIECE", 1000)
    pieces = read_snapshot(str(tmp_path / "a.json"), SelectionOptions())
    assert len(pieces) > 5 and pieces["path"].is_sorted()
    assert b"\n".join(pieces["content"]) == b"\n".join(expected["content"])
    assert [*json.loads(expected["content"][0].split(b"\n")[0])] == ["id", "categories", "title", "abstract"]


def test_papers_become_documents_of_three_fields() -> None:
    raw = select_papers([paper(7, "cs.NI cs.DC", title="A long\n  title  of the é")], "x", SelectionOptions())
    columns = ("categories", "title", "abstract")
    reading = {"layout": "table", "text_columns": columns, "label_column": None, "id_column": "id"}
    text = "xxfld 1 cs.NI cs.DC xxfld 2 A long title of the é xxfld 3 An abstract of 7."
    assert read_documents(raw, DocumentOptions(**reading, unwrap=True)).rows() == [
        ("0704.0007", text, None, "unlabelled")
    ]
    kept = read_documents(raw, DocumentOptions(**reading))["text"][0]
    assert kept == "xxfld 1 cs.NI cs.DC xxfld 2 A long\n  title  of the é xxfld 3   An abstract\nof 7.\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (paper(1, "cs.NI") + b'\n\n{"id": 3', ["line 3", "JSON"]),
        (paper(1, "cs.NI") + b"\n[1]", ["line 2", "object"]),
        (b"\xff\xfe{}\n", ["line 1", "JSON"]),
        (paper(1, "cs.NI", title=None), ["line 1", "'title'", "abstract"]),
        (paper(1, "cs.NI").replace(b"categories", b"kinds"), ["line 1", "'categories'", "kinds"]),
        (b"\n \n", ["empty"]),
        (b"PK\x03\x04whatever", ["zip", "unpack"]),
        (b"{" * 3000, ["line", "2,000"]),
    ],
)
def test_each_error_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: list[str]
) -> None:
    monkeypatch.setattr(snapshot, "LONGEST_LINE", 2000)
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_snapshot(str(tmp_path / "bad.json"), SelectionOptions())
    message = str(caught.value)
    assert "\n" not in message and all(words in message for words in ["bad.json", *says]), message


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        read_snapshot(str(tmp_path), SelectionOptions())


@pytest.mark.parametrize("options", [{"categories": ["cs, stat"]}, {"categories": [""]}, {"limit": 0}])
def test_wrong_options_name_their_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        SelectionOptions(**options)


def test_the_pieces_are_one_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PIECE", 300)
    raw = select_papers(PAPERS, "x", SelectionOptions())
    assert isinstance(raw, pl.DataFrame) and len(raw) > 1
    options = DocumentOptions(text_columns=("title",), label_column=None, id_column="id")
    assert read_documents(raw, options)["document_id"].to_list() == [f"0704.{number:04}" for number in range(6)]
