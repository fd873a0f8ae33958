"""Users of every MovieLens layout."""

from pathlib import Path

import polars as pl
import pytest

from embedline.archive import FILES_SCHEMA
from embedline.errors import DataError
from embedline.pipelines.movielens.files import read_ratings
from embedline.pipelines.movielens.nodes import USERS_SCHEMA, acquire, read_users
from embedline.pipelines.movielens.simulator import OCCUPATIONS, GeneratorOptions

GENERATED = GeneratorOptions(n_users=50, n_items=40, n_ratings=1200)


def raw_of(**files: bytes) -> pl.DataFrame:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return pl.DataFrame({"path": list(named), "content": list(named.values())}, schema=FILES_SCHEMA)


def rated(*users: int) -> pl.DataFrame:
    return pl.DataFrame({"user": users}, schema={"user": pl.Int32})


def test_ml_100k_keeps_those_who_rated_by_number() -> None:
    raw = raw_of(u_data=b"", u_user=b"2|53|F|other|94043\n1|24|M|technician|85711\n9|7|M|student|T8H1N\n\n")
    frame = read_users(raw, rated(2, 1, 2, 5))
    assert dict(frame.schema) == USERS_SCHEMA
    assert frame.rows() == [(1, 24, "M", "technician"), (2, 53, "F", "other"), (5, None, None, None)]


def test_ml_1m_has_its_fields_in_another_order() -> None:
    raw = raw_of(ratings_dat=b"", users_dat=b"1::F::1::10::48067\n2::M::56::16::70072\n")
    assert read_users(raw, rated(1, 2)).rows() == [(1, 1, "F", "10"), (2, 56, "M", "16")]


def test_releases_that_say_nothing_of_users_have_their_numbers_alone() -> None:
    for raw in (raw_of(ratings_csv=b"", movies_csv=b""), raw_of(u_data=b"", u_item=b""), raw_of(ratings_dat=b"")):
        frame = read_users(raw, rated(3, 1))
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
        read_users(raw_of(u_data=b"", u_user=b"7|20|F|writer|0\n" + line), rated(7))
    assert str(caught.value) == message


def test_generated_users_have_all_fields() -> None:
    raw = acquire("generated", verify=True, generator=GENERATED)
    frame = read_users(raw, read_ratings(raw))
    assert frame["user"].to_list() == list(range(1, 51))
    assert sum(frame.null_count().row(0)) == 0
    assert set(frame["gender"]) == {"M", "F"} and set(frame["occupation"]) <= set(OCCUPATIONS)
    assert frame["age"].is_between(7, 73).all()


def test_the_real_archive(real_data: Path) -> None:
    raw = acquire(str(real_data / "ml-100k.zip"), verify=True, generator=GENERATED)
    frame = read_users(raw, read_ratings(raw))
    assert len(frame) == 943 and sum(frame.null_count().row(0)) == 0
    assert frame.row(0) == (1, 24, "M", "technician")
    assert frame["gender"].value_counts().sort("gender")["count"].to_list() == [273, 670]
    assert frame["occupation"].n_unique() == 21
