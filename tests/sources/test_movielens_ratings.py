"""Ratings of every MovieLens layout, and the line that is at fault where one is."""

import logging
from pathlib import Path

import polars as pl
import pytest

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.movielens.files import RATINGS_SCHEMA, read_ratings
from embedline.pipelines.movielens.nodes import acquire
from embedline.pipelines.movielens.simulator import GeneratorOptions

HEADER = b"userId,movieId,rating,timestamp\n"
TABS = b"196\t242\t3\t881250949\n186\t302\t2.5\t891717742\n22\t377\t1\t878887116\n"
ROWS = [(196, 242, 3.0, 881250949, None), (186, 302, 2.5, 891717742, None), (22, 377, 1.0, 878887116, None)]
PAIRS = ("1\t1", "1\t2", "2\t1", "2\t2", "3\t1")  # user and item of the five ratings of `FIVE`
FIVE = "".join(f"{pair}\t{number}\t9\n" for number, pair in enumerate(PAIRS, 1)).encode()


def raw_of(files: dict[str, bytes]) -> pl.DataFrame:
    return pl.DataFrame({"path": list(files), "content": list(files.values())}, schema=FILES_SCHEMA)


def folds_of(pairs: tuple[str, ...]) -> dict[str, bytes]:
    return {f"u{fold}.test": f"{pair}\t3\t9\n".encode() for fold, pair in enumerate(pairs, 1)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("u.data", TABS),
        ("u.data", TABS.rstrip(b"\n")),
        ("u.data", TABS.replace(b"\n", b"\r\n")),
        ("u.data", b"\n" + TABS.replace(b"\n", b"\n\n") + b"\n"),
        ("u.data", b"\xef\xbb\xbf" + TABS),
        ("ratings.dat", TABS.replace(b"\t", b"::")),
        ("ratings.csv", HEADER + TABS.replace(b"\t", b",")),
        ("ratings.csv", b"\xef\xbb\xbf" + (HEADER + TABS.replace(b"\t", b",")).replace(b"\n", b"\r\n")),
        ("ratings.csv", HEADER + b"\n" + TABS.replace(b"\t", b",") + b"\n\n"),
        (
            "ratings.csv",
            b'timestamp,"rating",note,movieId,userId\n881250949,3.0,"a, b",242,196\n'
            b'891717742,"2.5",,302,186\n878887116,1,x,377,22',
        ),
    ],
)
def test_every_layout_gives_one_frame(name: str, data: bytes) -> None:
    frame = read_ratings(raw_of({name: data}))
    assert frame.rows() == ROWS
    assert dict(frame.schema) == RATINGS_SCHEMA


def test_a_csv_without_timestamps() -> None:
    frame = read_ratings(raw_of({"ratings.csv": b"userId,movieId,rating\n1,2,3\n"}))
    assert frame.rows() == [(1, 2, 3.0, None, None)] and dict(frame.schema) == RATINGS_SCHEMA


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1\t2\t3\t4\n1\t3\tx\t4\n", "u.data, line 2: rating is 'x', not a finite number"),
        (b"1\t2\tnan\t4\n", "u.data, line 1: rating is 'nan', not a finite number"),
        (b"1\t2\t1e999\t4\n", "u.data, line 1: rating is '1e999', not a finite number"),
        (b"1\t2\t1_0\t4\n", "u.data, line 1: rating is '1_0', not a finite number"),
        (b"1\t2\t3 \t4\n", "u.data, line 1: rating is '3 ', not a finite number"),
        (b" 1\t2\t 3\t4\nx\t2\t3\t4\n", "u.data, line 2: user is 'x', not a whole number"),
        (b"1\t2\t\xe9\t4\n", "u.data, line 1: rating is '\ufffd', not a finite number"),
        (b"1\t2\t\t4\n", "u.data, line 1: rating is missing"),
        (b"\n1\t2\t3\t4\n\n1\t3\t4\n", "u.data, line 4: 3 fields instead of 4 (user, item, rating, timestamp)"),
        (b"1\t2\t3\t4\n1\t3\t4\t5\t6\n", "u.data, line 2: 5 fields instead of 4 (user, item, rating, timestamp)"),
        (b"1,2,3,4\n", "u.data, line 1: 1 fields instead of 4 (user, item, rating, timestamp)"),
        (b"a\t2\t3\t4\n", "u.data, line 1: user is 'a', not a whole number"),
        (b"1\t2.0\t3\t4\n", "u.data, line 1: item is '2.0', not a whole number"),
        (b"3000000000\t2\t3\t4\n", "u.data, line 1: user is '3000000000', not between -2147483648 and 2147483647"),
        (b"1\t2\t3\t2015-01-01\n", "u.data, line 1: timestamp is '2015-01-01', not a whole number"),
        (b"1\t2\t3\t\n", "u.data, line 1: timestamp is missing"),
        (b"", "u.data holds no ratings"),
        (b"\n\n", "u.data holds no ratings"),
    ],
)
def test_faults_of_a_line_name_it(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_ratings(raw_of({"u.data": data}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("ratings.dat", b"1::2::3::4\n1:x:3::3::4\n", "ratings.dat, line 2: 3 fields instead of 4 (user, item, rat"),
        ("ratings.dat", b"1::2::3::4\n1::3:3::4\n", "ratings.dat, line 2: 3 fields instead of 4 (user, item, rating"),
        ("ratings.dat", b"1::2::9x::4\n", "ratings.dat, line 1: rating is '9x', not a finite number"),
        ("ratings.csv", HEADER + b"1,2,3,4\n,,,\n", "ratings.csv, line 3: userId is missing"),
        ("ratings.csv", HEADER + b"1,2,3,4\n1,x,3,4\n", "ratings.csv, line 3: movieId is 'x', not a whole number"),
        (
            "ratings.csv",
            HEADER + b"1,2,3\n",
            "ratings.csv, line 2: 3 fields instead of 4 (userId, movieId, rating, timestamp)",
        ),
        (
            "ratings.csv",
            b"user,movieId,stars\n1,2,3\n",
            "ratings.csv lacks the columns userId, rating; its first line is 'user,movieId,stars'",
        ),
        (
            "ratings.csv",
            b"1,2,3,4",
            "ratings.csv lacks the columns userId, movieId, rating; its first line is '1,2,3,4'",
        ),
        (
            "ratings.csv",
            b"userId,movieId,rating,rating\n1,2,3,4\n",
            "ratings.csv names a column twice: its first line is 'userId,movieId,rating,rating'",
        ),
        ("ratings.csv", b"", "ratings.csv lacks the columns userId, movieId, rating; its first line is ''"),
        ("ratings.csv", HEADER, "ratings.csv holds no ratings"),
        ("ratings.csv", HEADER.rstrip(), "ratings.csv holds no ratings"),
    ],
)
def test_faults_of_the_other_layouts(name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_ratings(raw_of({name: data}))
    assert str(caught.value).startswith(message)


def test_of_ratings_of_one_pair_the_latest_counts(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["1\t5\t1\t30", "2\t5\t2\t10", "1\t5\t4\t40", "1\t5\t3\t20", "2\t5\t5\t10", "2\t6\t1\t10"]
    with caplog.at_level(logging.WARNING):
        frame = read_ratings(raw_of({"u.data": "\n".join(lines).encode()}))
    assert frame.select("user", "item", "rating", "timestamp").rows() == [(1, 5, 4, 40), (2, 5, 5, 10), (2, 6, 1, 10)]
    assert caplog.messages == ["u.data: 3 ratings were left out for a later one of the same user and item"]


def test_without_times_the_lower_line_counts() -> None:
    frame = read_ratings(raw_of({"ratings.csv": b"userId,movieId,rating\n1,2,3\n4,2,1\n1,2,5\n"}))
    assert frame.select("user", "rating").rows() == [(4, 1.0), (1, 5.0)]


def test_folds(caplog: pytest.LogCaptureFixture) -> None:
    order = (PAIRS[3], PAIRS[0], PAIRS[4], PAIRS[2], PAIRS[1])
    with caplog.at_level(logging.WARNING):
        frame = read_ratings(raw_of({"u.data": FIVE, **folds_of(order)}))
    assert frame["fold"].to_list() == [2, 5, 4, 1, 3] and frame["rating"].to_list() == [1, 2, 3, 4, 5]
    assert frame.schema["fold"] == pl.Int8 and not caplog.messages


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (
            folds_of(PAIRS[:3]),
            "u1.test, u2.test, u3.test are there, but no u4.test, u5.test: the folds are five or none",
        ),
        (
            folds_of((*PAIRS[:4], PAIRS[0])),
            "u1.test, line 1: user 1, item 1 stands in u5.test too",
        ),
        (folds_of((*PAIRS[:4], "7\t1")), "u5.test, line 1: user 7, item 1 has no rating in u.data"),
        (
            folds_of(PAIRS) | {"u4.test": b"2\t2\t3\t9\nx\t2\t3\t9\n"},
            "u4.test, line 2: user is 'x', not a whole number",
        ),
    ],
)
def test_faults_of_folds(folds: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_ratings(raw_of({"u.data": FIVE, **folds}))
    assert str(caught.value) == message


def test_a_rating_in_no_fold() -> None:
    files = {"u.data": FIVE + b"9\t8\t3\t9\n", **folds_of(PAIRS)}
    with pytest.raises(DataError, match=r"^u\.data: the rating of user 9, item 8 is in none of u1\.test, u2\.test, .*"):
        read_ratings(raw_of(files))


def test_the_real_ratings(real_data: Path) -> None:
    frame = read_ratings(acquire(str(real_data / "ml-100k.zip"), verify=True, generator=GeneratorOptions()))
    assert frame.shape == (100_000, 5) and dict(frame.schema) == RATINGS_SCHEMA
    assert frame.n_unique("user") == 943 and frame.n_unique("item") == 1682
    assert frame["rating"].cast(pl.Float64).mean() == pytest.approx(3.52986, abs=1e-9)
    assert frame["rating"].value_counts().sort("rating")["count"].to_list() == [6110, 11370, 27145, 34174, 21201]
    assert frame["fold"].value_counts().sort("fold").rows() == [(fold, 20_000) for fold in range(1, 6)]
    assert frame.row(0) == (196, 242, 3.0, 881250949, 1)
    assert (frame["timestamp"].min(), frame["timestamp"].max()) == (874724710, 893286638)
    assert frame.select("user", "item").n_unique() == 100_000
