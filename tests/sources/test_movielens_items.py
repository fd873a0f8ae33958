"""Films and users of every MovieLens layout."""

import datetime as dt
import logging
from pathlib import Path

import polars as pl
import pytest

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.movielens.files import read_ratings
from embedline.pipelines.movielens.nodes import ITEMS_SCHEMA, USERS_SCHEMA, acquire, read_items, read_users
from embedline.pipelines.movielens.simulator import OCCUPATIONS, GeneratorOptions

FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"
HEADER = "movieId,title,genres\n"
RATINGS = {"u.item": "u.data", "movies.dat": "ratings.dat", "movies.csv": "ratings.csv"}


def raw_of(name: str, data: bytes, **others: bytes) -> pl.DataFrame:
    files = {RATINGS[name]: b"", name: data, **{key.replace("_", "."): value for key, value in others.items()}}
    return pl.DataFrame({"path": list(files), "content": list(files.values())}, schema=FILES_SCHEMA)


def rated(*items: int) -> pl.DataFrame:
    return pl.DataFrame({"item": items}, schema={"item": pl.Int32})


def test_ml_100k() -> None:
    lines = [
        f"1|Toy Story (1995)|01-Jan-1995||http://x|{FLAGS}",
        "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
        f"543|Misérables, Les (1995)|4-Feb-1996|| |{FLAGS}",
        f"9|Third (The Great) Part (1993) (V)|||x|{FLAGS}",
        f"8|No Year|31-Dec-1971||x|{FLAGS}",
    ]
    genres = ["Animation", "Children's", "Comedy"]
    expected = [
        (1, "Toy Story (1995)", genres, 1995, dt.date(1995, 1, 1)),
        (267, "unknown", [], None, None),
        (543, "Misérables, Les (1995)", genres, 1995, dt.date(1996, 2, 4)),
        (9, "Third (The Great) Part (1993) (V)", genres, 1993, None),
        (8, "No Year", genres, 1971, dt.date(1971, 12, 31)),
    ]
    for encoding in ("latin-1", "utf-8"):
        for end in ("\n", "\r\n"):
            frame = read_items(raw_of("u.item", (end.join(lines) + end + end).encode(encoding)), rated(1))
            assert frame.rows() == expected and dict(frame.schema) == ITEMS_SCHEMA


def test_genres_of_ones_own_in_u_genre() -> None:
    genres = b"unknown|0\nSpy|1\nFairy Tale|2\n\n"
    frame = read_items(raw_of("u.item", b"1|A||||0|1|1\n2|B||||1|0|0\n", u_genre=genres), rated(1))
    assert frame["genres"].to_list() == [["Spy", "Fairy Tale"], []]
    with pytest.raises(DataError, match=r"^u\.genre, line 2: 'Spy\|3' is not a genre and the number 1$"):
        read_items(raw_of("u.item", b"", u_genre=b"unknown|0\nSpy|3\n"), rated(1))


def test_the_newer_csv() -> None:
    text = (
        "movieId,title,genres\n"
        '1,"American President, The (1995)",Comedy|Drama|Romance\n'
        '7,"""Great Performances"" Cats (1998)",(no genres listed)\n'
        "5,Misérables (2009\u2013 ),Drama\n"
        "6,Show (2015-2016),Sci-Fi\n"
        "8,Nothing,\n"
        '9,"Two\nlines",A\n'
    )
    expected = [
        (1, "American President, The (1995)", ["Comedy", "Drama", "Romance"], 1995, None),
        (7, '"Great Performances" Cats (1998)', [], 1998, None),
        (5, "Misérables (2009\u2013 )", ["Drama"], 2009, None),
        (6, "Show (2015-2016)", ["Sci-Fi"], 2015, None),
        (8, "Nothing", [], None, None),
        (9, "Two\nlines", ["A"], None, None),
    ]
    for prefix in (b"", b"\xef\xbb\xbf"):
        frame = read_items(raw_of("movies.csv", prefix + text.encode()), rated(1))
        assert frame.rows() == expected and dict(frame.schema) == ITEMS_SCHEMA
    mixed = read_items(raw_of("movies.csv", b"genres,note,title,movieId\nA|B,x,T (1999),3\n\n"), rated(3))
    assert mixed.rows() == [(3, "T (1999)", ["A", "B"], 1999, None)]


def test_colons() -> None:
    for encoding in ("latin-1", "utf-8"):
        data = "1::Toy: Story (1995)::Animation|Children's\n73::Misérables, Les (1995)::Drama\n3::X::\n".encode(
            encoding
        )
        assert read_items(raw_of("movies.dat", data), rated(1)).rows() == [
            (1, "Toy: Story (1995)", ["Animation", "Children's"], 1995, None),
            (73, "Misérables, Les (1995)", ["Drama"], 1995, None),
            (3, "X", [], None, None),
        ]


def test_rated_items_that_are_not_listed_are_added(caplog: pytest.LogCaptureFixture) -> None:
    raw = raw_of("movies.csv", (HEADER + "2,B (1990),X\n1,A,Y\n").encode())
    with caplog.at_level(logging.WARNING):
        assert read_items(raw, rated(1, 2, 1))["item"].to_list() == [2, 1]
        assert not caplog.messages
        frame = read_items(raw, rated(1, 44, 3, 44))
    assert frame.rows()[2:] == [(3, "3", [], None, None), (44, "44", [], None, None)]
    assert dict(frame.schema) == ITEMS_SCHEMA
    assert caplog.messages == ["2 rated items are not in movies.csv: their ids are their titles"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.item", "1|A|||", "u.item, line 1: 5 fields instead of 24 (5 and 19 flags of genres)"),
        (
            "u.item",
            f"1|A||||{FLAGS}\n2|B||||{FLAGS[:-1]}2",
            "u.item, line 2: the flag of Western is '2', neither 0 nor 1",
        ),
        (
            "u.item",
            f"x|A||||{FLAGS}",
            "u.item, line 1: the item is 'x', not a whole number between -2147483648 and 2147483647",
        ),
        (
            "u.item",
            f"2147483648|A||||{FLAGS}",
            "u.item, line 1: the item is '2147483648', not a whole number between -2147483648 and 2147483647",
        ),
        (
            "u.item",
            f"1|A|1995-01-01|||{FLAGS}",
            "u.item, line 1: the release date is '1995-01-01', not a day such as 01-Jan-1995",
        ),
        (
            "u.item",
            f"1|A|30-Feb-1995|||{FLAGS}",
            "u.item, line 1: the release date is '30-Feb-1995', not a day such as 01-Jan-1995",
        ),
        ("u.item", f"\n1|A||||{FLAGS}\n1|B||||{FLAGS}", "u.item, line 3: item 1 stands in line 2 already"),
        ("movies.dat", "1::A\n", "movies.dat, line 1: 2 fields instead of 3 (item, title, genres)"),
        (
            "movies.csv",
            "movieId,name\n1,A\n",
            "movies.csv lacks the columns title, genres; it has movieId, name",
        ),
        ("movies.csv", "", "movies.csv lacks the columns movieId, title, genres; it has nothing"),
        (
            "movies.csv",
            HEADER + "1,A, B,X\n",
            "movies.csv, line 2: 4 fields instead of 3 (movieId, title, genres)",
        ),
        ("movies.csv", HEADER + "1,A,X\n1,B,X\n", "movies.csv, line 3: item 1 stands in line 2 already"),
    ],
)
def test_faults_name_file_line_and_value(name: str, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_items(raw_of(name, text.encode()), rated(1))
    assert str(caught.value) == message


def test_a_csv_that_is_not_utf_8_and_a_missing_file() -> None:
    with pytest.raises(DataError, match=r"^movies\.csv is not UTF-8 text: .* byte 0xe9 in position 23"):
        read_items(raw_of("movies.csv", HEADER.encode() + "1,é,X".encode("latin-1")), rated(1))
    raw = raw_of("u.item", b"").filter(pl.col("path") != "u.item")
    with pytest.raises(DataError, match=r"^the raw files have no u\.item, the items of u\.data$"):
        read_items(raw, rated(1))


def test_the_real_films(real_data: Path) -> None:
    raw = acquire(str(real_data / "ml-100k.zip"), verify=True, generator=GeneratorOptions())
    items = read_items(raw, read_ratings(raw))
    assert items["item"].to_list() == list(range(1, 1683)) and dict(items.schema) == ITEMS_SCHEMA
    by_item = {row[0]: row[1:] for row in items.iter_rows()}
    assert by_item[1] == ("Toy Story (1995)", ["Animation", "Children's", "Comedy"], 1995, dt.date(1995, 1, 1))
    assert by_item[543][0] == "Misérables, Les (1995)" and by_item[1633][0] == "Á köldum klaka (Cold Fever) (1994)"
    assert by_item[1252] == ("Contempt (Mépris, Le) (1963)", ["Drama"], 1963, dt.date(1997, 6, 27))
    assert by_item[267] == ("unknown", [], None, None)
    assert items.filter(pl.col("genres").list.len() == 0)["item"].to_list() == [267, 1373]
    assert items["genres"].list.len().sum() == 2891  # 2,893 flags, two of them "unknown"
    assert items["genres"].explode().value_counts(sort=True).row(0) == ("Drama", 725)
    assert items["year"].null_count() == 1 and (items["year"].min(), items["year"].max()) == (1922, 1998)


PEOPLE = GeneratorOptions(n_users=50, n_items=40, n_ratings=1200)


def files_of(**files: bytes) -> pl.DataFrame:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return pl.DataFrame({"path": list(named), "content": list(named.values())}, schema=FILES_SCHEMA)


def raters(*users: int) -> pl.DataFrame:
    return pl.DataFrame({"user": users}, schema={"user": pl.Int32})


def test_ml_100k_keeps_those_who_rated_by_number() -> None:
    raw = files_of(u_data=b"", u_user=b"2|53|F|other|94043\n1|24|M|technician|85711\n9|7|M|student|T8H1N\n\n")
    frame = read_users(raw, raters(2, 1, 2, 5))
    assert dict(frame.schema) == USERS_SCHEMA
    assert frame.rows() == [(1, 24, "M", "technician"), (2, 53, "F", "other"), (5, None, None, None)]


def test_ml_1m_has_its_fields_in_another_order() -> None:
    raw = files_of(ratings_dat=b"", users_dat=b"1::F::1::10::48067\n2::M::56::16::70072\n")
    assert read_users(raw, raters(1, 2)).rows() == [(1, 1, "F", "10"), (2, 56, "M", "16")]


def test_releases_that_say_nothing_of_users_have_their_numbers_alone() -> None:
    for raw in (files_of(ratings_csv=b"", movies_csv=b""), files_of(u_data=b"", u_item=b""), files_of(ratings_dat=b"")):
        frame = read_users(raw, raters(3, 1))
        assert dict(frame.schema) == USERS_SCHEMA
        assert frame.rows() == [(1, None, None, None), (3, None, None, None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1|24|M\n", "u.user, line 2: 3 fields instead of 4 (user, age, gender, occupation)"),
        (b"x|24|M|other|1\n", "u.user, line 2: the user is 'x', not a whole number from 0 to 2147483647"),
        (b"1|old|M|other|1\n", "u.user, line 2: the age is 'old', not a whole number from 0 to 32767"),
        (b"7|24|M|other|1\n", "u.user, line 2: user 7 stands in line 1 already"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_users(files_of(u_data=b"", u_user=b"7|20|F|writer|0\n" + line), raters(7))
    assert str(caught.value) == message


def test_generated_users_have_all_fields() -> None:
    raw = acquire("generated", verify=True, generator=PEOPLE)
    frame = read_users(raw, read_ratings(raw))
    assert frame["user"].to_list() == list(range(1, 51))
    assert sum(frame.null_count().row(0)) == 0
    assert set(frame["gender"]) == {"M", "F"} and set(frame["occupation"]) <= set(OCCUPATIONS)
    assert frame["age"].is_between(7, 73).all()


def test_the_real_archive(real_data: Path) -> None:
    raw = acquire(str(real_data / "ml-100k.zip"), verify=True, generator=PEOPLE)
    frame = read_users(raw, read_ratings(raw))
    assert len(frame) == 943 and sum(frame.null_count().row(0)) == 0
    assert frame.row(0) == (1, 24, "M", "technician")
    assert frame["gender"].value_counts().sort("gender")["count"].to_list() == [273, 670]
    assert frame["occupation"].n_unique() == 21
