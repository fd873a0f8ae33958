"""Documents from text files and tables in all layouts, and the message of each error."""

import io
import json
import logging
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.imdb.corpus import SCHEMA, read_documents
from embedline.pipelines.imdb.options import DocumentOptions

Rows = list[tuple[str, str, str | None, str]]


def raw(files: Mapping[str, bytes | str]) -> pl.DataFrame:
    """The frame that `acquire` returns for these files."""
    contents = [data if isinstance(data, bytes) else data.encode() for _, data in sorted(files.items())]
    return pl.DataFrame({"path": sorted(files), "content": contents}, schema=FILES_SCHEMA)


def read(files: Mapping[str, bytes | str], **options: Any) -> Rows:
    documents = read_documents(raw(files), DocumentOptions(**options))
    assert dict(documents.schema) == SCHEMA
    return documents.rows()


REAL: dict[str, bytes | str] = {
    "aclImdb/imdbEr.txt": "0.2",
    "aclImdb/train/urls_pos.txt": "http://x",
    "aclImdb/test/neg/0_2.txt": "Bad.<br /><br />Awful &amp; long.",
    "aclImdb/train/pos/0_9.txt": "\ufeffGood\r\nfilm",
    "aclImdb/train/neg/1_1.txt": "Amélie",
    "aclImdb/train/unsup/0_0.txt": "What?",
}
REAL_ROWS = [
    ("test/neg/0_2", "Bad.<br /><br />Awful &amp; long.", "neg", "test"),
    ("train/neg/1_1", "Amélie", "neg", "train"),
    ("train/pos/0_9", "Good\nfilm", "pos", "train"),
    ("train/unsup/0_0", "What?", None, "unlabelled"),
]


def test_the_real_layout(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "embedline"):
        assert read(REAL) == REAL_ROWS
    assert caplog.messages == ["Read 4 documents: test neg 1, train neg 1, train pos 1, unlabelled 1"]


def test_split_folders_at_the_top_with_other_names(caplog: pytest.LogCaptureFixture) -> None:
    names = ["sport/a", "sport/2004/b.c"]
    files = dict(zip([f"Training/{name}.txt" for name in (*names, "stray")], "126", strict=True))
    files |= {"held/politics/a.txt": "3", "unsup/deep/x.txt": "4", "unlabeled/y.txt": "5", "other/sport/z.txt": "7"}
    assert read(files, splits={"HELD": "test"}) == [
        ("Training/sport/2004/b.c", "2", "sport", "train"),
        ("Training/sport/a", "1", "sport", "train"),
        ("held/politics/a", "3", "politics", "test"),
        ("unlabeled/y", "5", None, "unlabelled"),
        ("unsup/deep/x", "4", None, "unlabelled"),
    ]
    assert "2 files are no documents" in caplog.text and "ignored: Training/stray.txt, other/sport/z.txt" in caplog.text


def test_labels_without_splits_and_bare_files() -> None:
    labels = {"mail/ham/1.txt": "a", "mail/spam/1.txt": "b", "mail/spam/x/2.txt": "c", "mail/nobody/1.txt": "d"}
    assert read(labels, unlabelled=["nobody"]) == [
        ("ham/1", "a", "ham", "train"),
        ("nobody/1", "d", None, "unlabelled"),
        ("spam/1", "b", "spam", "train"),
        ("spam/x/2", "c", "spam", "train"),
    ]
    bare = {"poems/1.txt": "a", "poems/2.txt": "b"}
    assert read(bare) == [("1", "a", None, "unlabelled"), ("2", "b", None, "unlabelled")]
    assert read(bare, layout="labels") == [("poems/1", "a", "poems", "train"), ("poems/2", "b", "poems", "train")]
    assert read({"a/ham/1.txt": "a", "a/unlabelled/1.txt": "b"})[1] == ("unlabelled/1", "b", None, "unlabelled")
    assert read(REAL, layout="bare")[0][0] == "imdbEr"


def test_tables_by_name_of_file() -> None:
    files = {
        "ag/classes.txt": "World",
        "ag/train.csv": 'label,text\npos,"a ""b"",\r\nc"\nneg,d\n,e\nunsup,f\n',
        "ag/test-00000.tsv": "text\tlabel\nx, y\tpos\n",
        "ag/unlabelled/more.jsonl": '{"text": "g", "label": 3}\n{"text": "h"}\n',
    }
    assert read(files) == [
        ("test-00000/1", "x, y", "pos", "test"),
        ("train/1", 'a "b",\nc', "pos", "train"),
        ("train/2", "d", "neg", "train"),
        ("train/3", "e", None, "unlabelled"),
        ("train/4", "f", None, "unlabelled"),
        ("unlabelled/more/1", "g", None, "unlabelled"),
        ("unlabelled/more/2", "h", None, "unlabelled"),
    ]


def test_tables_with_named_columns() -> None:
    table = "Titel;Text;Urteil;neu;Nr\nA;b;1;False;x1\n;c;0;True;x2\nD;;1;false;x3\n;;0;False;x4\n"
    options = {
        **{"text_columns": ["Titel", "Text"], "label_column": "Urteil", "split_column": "neu", "id_column": "Nr"},
        **{"splits": {"False": "train", "True": "test"}, "separator": ";", "encoding": "cp1252"},
    }
    assert read({"r.csv": table.encode("cp1252")}, **options) == [
        ("x1", "xxfld 1 A xxfld 2 b", "1", "train"),
        ("x2", "xxfld 1  xxfld 2 c", "0", "test"),
        ("x3", "xxfld 1 D xxfld 2 ", "1", "train"),
    ]  # x4 has no text and is dropped
    numbered = {"header": False, "label_column": "column_0", "text_columns": ["column_1"]}
    assert read({"test.csv": "3,Wall St.\n"}, **numbered) == [("test/1", "Wall St.", "3", "test")]
    assert read({"r.csv": "text\na\n"}, label_column=None) == [("r/1", "a", None, "unlabelled")]


def test_white_space_of_wrapped_texts_is_a_space() -> None:
    rows = [{"a": "A title\n  in two lines", "b": "  One.  Two\r\n\u00a0three.\n"}, {"a": "\n", "b": None}]
    table = {"r.jsonl": "\n".join(map(json.dumps, rows))}
    options: dict[str, Any] = {"text_columns": ["a", "b"], "label_column": None, "unwrap": True}
    expected = "xxfld 1 A title in two lines xxfld 2 One. Two three."
    assert read(table, **options) == [("r/1", expected, None, "unlabelled")]  # the second has no text
    assert read({"x/1.txt": " a\n b "}, unwrap=True) == [("1", "a b", None, "unlabelled")]
    assert read({"x/1.txt": " a\n b "}) == [("1", " a\n b ", None, "unlabelled")]


def test_a_corpus_without_labels_has_no_test_split() -> None:
    with pytest.raises(DataError, match=r"test_fraction is 0\.2.* split\.validation"):
        read({"r.csv": "text\na\nb\n"}, label_column=None, test_fraction=0.2)


def test_parquet_with_numbers_for_labels() -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"text": ["é", None, "b"], "label": [0, 1, 1]}).write_parquet(buffer)
    files = {"data/test/0.parquet": buffer.getvalue(), "data/train/0.parquet": buffer.getvalue()}
    assert read(files) == [
        *(("test/0/1", "é", "0", "test"), ("test/0/2", "", "1", "test"), ("test/0/3", "b", "1", "test")),
        *(("train/0/1", "é", "0", "train"), ("train/0/3", "b", "1", "train")),
    ]


def test_blank_documents_stay_in_the_test_split_only(caplog: pytest.LogCaptureFixture) -> None:
    blank = {f"aclImdb/train/neg/{number}_1.txt": " \n" for number in range(5, 9)} | {"aclImdb/train/unsup/9_0.txt": ""}
    documents = read(REAL | blank | {"aclImdb/test/pos/4_8.txt": b"\xef\xbb\xbf"})
    assert documents == [REAL_ROWS[0], ("test/pos/4_8", "", "pos", "test"), *REAL_ROWS[1:]]
    assert "5 blank documents: train/neg/5_1, train/neg/6_1, train/neg/7_1 and 2 more" in caplog.messages[0]
    assert caplog.messages[1] == "1 blank documents stay in the test split: test/pos/4_8"
    with pytest.raises(DataError, match=r"^no document has any text: train/a/1"):
        read({"train/a/1.txt": "\t"})


BAD: dict[str, bytes | str] = {
    "aclImdb/train/neg/2_3.txt": b"line\nna\xefve caf\xe9",
    "aclImdb/train/neg/3_3.txt": b"\xff\xfeh\0i\0",
}


def test_bytes_that_are_not_utf8(caplog: pytest.LogCaptureFixture) -> None:
    fault = r"line 2 is not utf-8 \(byte 0xef\), position 7: .*encoding.* on_bad_bytes to replace or latin-1$"
    with pytest.raises(DataError, match=rf"^aclImdb/train/neg/2_3\.txt: {fault}"):
        read(REAL | BAD)
    with pytest.raises(DataError, match=r"^x\.csv: line 2 is not utf-8 \(byte 0xe9\), position 14: "):
        read({"x.csv": "text,label\ncafé,1\n".encode("latin-1")})
    replaced, latin = (read(REAL | BAD, on_bad_bytes=choice) for choice in ("replace", "latin-1"))
    assert [row for row in latin if row[0] in [row[0] for row in REAL_ROWS]] == REAL_ROWS
    assert (replaced[2][1], latin[2][1]) == ("line\nna\ufffdve caf\ufffd", "line\nnaïve café")
    assert "2 files are not utf-8 and were read with on_bad_bytes 'latin-1': aclImdb/train/neg/2_3.txt" in caplog.text


@pytest.mark.parametrize(("text", "encoding"), [("žluť\r\n", "utf-16"), ("žluť", "cp1250"), ("ä", "utf-8-sig")])
def test_other_encodings(text: str, encoding: str) -> None:
    assert read({"train/a/1.txt": text.encode(encoding)}, encoding=encoding)[0][1] == text.replace("\r", "")


def test_a_test_split_is_held_out_by_label() -> None:
    counts = {"a": 20, "b": 10, "c": 1, "d": 2}
    files = {f"{label}/{n}.txt": f"{label} {n}" for label, count in counts.items() for n in range(count)}
    files["unsup/1.txt"] = "u"
    documents = read(files, test_fraction=0.2, seed=3)
    held_out = [(document_id, label) for document_id, _, label, split in documents if split == "test"]
    assert {label: [row[1] for row in held_out].count(label) for label in "abcd"} == {"a": 4, "b": 2, "c": 0, "d": 1}
    assert [row[:3] for row in documents] == [row[:3] for row in read(files)]
    assert documents == read(files, test_fraction=0.2, seed=3) != read(files, test_fraction=0.2, seed=4)
    with pytest.raises(DataError, match=r"^test_fraction is 0\.1, .* test split"):
        read(REAL, test_fraction=0.1)


def test_quotation_marks_of_a_tsv() -> None:
    lines = [f"{'spam' if k % 5 else 'ham'}\tmessage {k}" for k in range(50)]
    lines[20], lines[40] = lines[20].replace("message", '"message'), lines[40] + '"'
    options = {"header": False, "text_columns": ["column_1"], "label_column": "column_0"}
    files = {"messages.tsv": "\n".join(lines)}
    with pytest.raises(DataError, match=r"messages\.tsv .*line 21 .*reading\.quoting"):
        read(files, **options)
    documents = read(files, quoting=False, **options)
    assert len(documents) == 50 and documents[20][1:3] == ('"message 20', "ham")


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.jsonl", "train/a/r.txt"])
def test_a_zero_byte_is_no_text(name: str) -> None:
    content = b'first\n{"text": "a\0b"}\n'
    with pytest.raises(DataError, match=rf"{name}: line 2 .*byte 0x00"):
        read({name: content})
    if name.endswith("txt"):
        assert read({name: content}, on_bad_bytes="replace")[0][1] == 'first\n{"text": "a\ufffdb"}\n'
    with pytest.raises(DataError, match=f"{name}: .*set encoding"):
        read({name: "text,label\na,b\n".encode("utf-16-le")})
    with pytest.raises(DataError, match=f"{name}: .*set encoding"):
        read({name: "text,label\na,b\n".encode("utf-16")})


@pytest.mark.parametrize("line", ["[1]", '{"text": bad}', '{"text": "a"', "x", "1"])
def test_a_line_that_is_no_json_object_is_named(line: str) -> None:
    with pytest.raises(DataError, match=r"^r\.jsonl .*line 3 "):
        read({"r.jsonl": '{"text": "a", "label": "b"}\n\n' + line + '\n{"text": "c", "label": "b"}\n'})


SET = {"split_column": "set", "splits": {"x": "train"}}


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a/train/x/1.txt": "1", "b/train/x/1.txt": "1"}, {}, "holds a corpus more than once: in a, b"),
        ({"train/x/1.txt": "1", "b/test/x/1.txt": "1"}, {}, "holds a corpus more than once: in the top, b"),
        ({"a/1.txt": "1"}, {"layout": "splits"}, r"no text file lies in <split>/<label>/.*; there is a/1\.txt$"),
        ({"a/1.txt": "1"}, {"layout": "table"}, "the source holds no table"),
        ({"1.txt": "1"}, {"layout": "labels"}, r"^no document in the layout 'labels' among the files 1\.txt$"),
        ({"train/x/1.txt": "1", "train/x/1.TXT": "1"}, {}, "^the document 'train/x/1' occurs more than once$"),
        ({"r.csv": "text,label,id\na,1,z\nb,1,z\n"}, {"id_column": "id"}, "^the document 'z' occurs more than once$"),
        ({"r.csv": "text,label,id\na,1,\n"}, {"id_column": "id"}, r"^r\.csv: column 'id' has 1 missing values$"),
        ({"r.csv": "review,label\na,1\n"}, {}, r"^r\.csv has no column 'text'; it has review, label$"),
        ({"r.csv": "text\na\n"}, {}, r"^r\.csv has no column 'label'; it has text$"),
        ({"r.csv": ""}, {}, r"^r\.csv cannot be read as csv: empty CSV"),
        ({"r.csv": "text,label\n"}, {}, r"^no document in the layout 'table' among the files r\.csv$"),
        ({"r.csv": "text,label\na,b,c\n"}, {}, r"^r\.csv cannot be read as csv: found more fields"),
        ({"r.jsonl": '{"text": "a", '}, {}, r"^r\.jsonl cannot be read as jsonl: "),
        ({"r.jsonl": '{"text": ["a"], "label": "b"}'}, {}, r"^r\.jsonl: column 'text' holds List\(String\), not text$"),
        ({"r.parquet": b"PAR1"}, {}, r"^r\.parquet cannot be read as parquet: "),
        ({"test.csv": "text,label\na,1\nb,\nc,\n"}, {}, r"^test\.csv: 2 rows .* no label, .* row 2 "),
        ({"r.csv": "text,label,set\na,1,x\nb,1,dev\n"}, SET, r"^r\.csv: .*'set' .*'dev', .* row 2, .* train, training"),
        ({"r.csv": "text,label,set\na,1,\n"}, SET, r"^r\.csv: .*'set' .*'None', .* row 1,"),
    ],
)
def test_faults(files: dict[str, bytes | str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(files, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-9"}, "unknown encoding: utf-9"),
        ({"encoding": "hex"}, "'hex' is not a text encoding"),
        ({"text_columns": ["a", "b"], "label_column": "a"}, "the column 'a' has more than one role"),
        ({"splits": {"dev": "validation"}}, "Input should be 'train', 'test' or 'unlabelled'"),
        ({"txt_columns": ["a"]}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DocumentOptions(**options)


def test_old_names_of_options_are_refused_with_the_new_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        DocumentOptions.model_validate({"layout": "parts", "parts": {"dev": "test"}, "part_column": "set"})
    (error,) = caught.value.errors()
    for renamed in ("parts is now called splits", "part_column is now called split_column", "layout: splits"):
        assert renamed in error["msg"]
