"""CSV and TSV as text: what is quoted, where a row begins, and the line of what cannot be read."""

import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.imdb.tables import read_delimited


def rows(text: str, **options: object) -> list[tuple[str | None, ...]]:
    return read_delimited(text, "r.csv", **options).rows()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t,l\na,1\nb,2\n", [("a", "1"), ("b", "2")]),
        ("t,l\r\na,1\r\nb,2", [("a", "1"), ("b", "2")]),
        ("t,l\ra,1\rb,2\r", [("a", "1"), ("b", "2")]),
        ('t,l\n"a, ""b""\nc",1\n', [('a, "b"\nc', "1")]),  # a line break that is meant
        ('t,l\r\n"a\r\nc",1\r\n', [("a\r\nc", "1")]),
        ("t,l\n\na,1\n\n\nb,2\n\n", [("a", "1"), ("b", "2")]),  # blank lines are no rows
        ('t,l\n,1\n"",2\na,\n', [(None, "1"), (None, "2"), ("a", None)]),
        ('t,l\n5" disk,1\n6" disk,2\nit"s,3\n', [('5" disk', "1"), ('6" disk', "2"), ('it"s', "3")]),
        ("t,l\n007,1e5\nNA,null\n", [("007", "1e5"), ("NA", "null")]),  # nothing is interpreted
        ("t,l\nx\u2028y\x0bz,1\n", [("x\u2028y\x0bz", "1")]),  # no line breaks of a file
        (
            'l,t\npos,"Great\nfun, too"\nneg,"Bad\nsad, too\nso, so"\npos,x\n',  # each line has a comma, none a label
            [("pos", "Great\nfun, too"), ("neg", "Bad\nsad, too\nso, so"), ("pos", "x")],
        ),
    ],
)
def test_rows(text: str, expected: list[tuple[str | None, ...]]) -> None:
    assert rows(text) == expected
    assert set(read_delimited(text, "r.csv").dtypes) == {pl.String}


def test_without_a_header_columns_are_numbered() -> None:
    frame = read_delimited("a\t1\nb\t2\n", "r.tsv", separator="\t", header=False)
    assert frame.columns == ["column_0", "column_1"] and frame.rows() == [("a", "1"), ("b", "2")]


def test_a_cell_may_be_longer_than_a_book() -> None:
    assert rows("t,l\n" + "x" * 300_000 + ",1\n")[0][0] == "x" * 300_000


MERGED = 'spam\tone\nham\t"two\nspam\tthree\nham\tfour"\nspam\tfive\n'


def test_quotation_marks_that_are_characters() -> None:
    options = {"separator": "\t", "header": False}
    assert rows(MERGED, **options, quoting=False)[1:4] == [("ham", '"two'), ("spam", "three"), ("ham", 'four"')]
    assert rows(MERGED, **options, quoting=True)[1] == ("ham", "two\nspam\tthree\nham\tfour")
    with pytest.raises(DataError, match=r"line 2 .*3 lines.*quotes") as caught:
        read_delimited(MERGED, "r.tsv", **options, hint="mind the quotes")  # type: ignore[arg-type]
    assert "r.tsv" in str(caught.value)
    with pytest.raises(DataError, match="line 2"):  # only two lines; also with commas, where the labels are known ones
        rows('l,t\nspam,"one\nham,two"\nham,x\nspam,y\n')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("t,l\na,1\nb,2,3\n", "line 3"),
        ("t,l\na,1\nb\n", "line 3"),
        ('t,l\n"a\nb",1\nc\n', "line 4"),  # lines of the file, not rows
        ('t,l\na,1\n"b,2\nc,3\n', "line 3"),  # never closed
        ('t,l\na,1\n"b" c,2\n', "line 3"),
        ('t,l\n"a ""b",1\n"c" d"",2\n', "line 3"),
        ("", "empty"),
        ("\n\n", "empty"),
        ("t,t\na,1\n", "'t'"),
        ("t,,\na,1,2\n", "''"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(text: str, line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        rows(text)
    assert str(caught.value).startswith("r.csv")
