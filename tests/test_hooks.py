"""A parameter that nobody reads stops the run, and nested values become flat names."""

from typing import Any

import pytest

from embedline.errors import DataError
from embedline.hooks import ParameterCheck, _flatten, _unread

READ = {"shop.training", "shop.split", "shop.features.windows", "seed"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"seed": 1, "shop": {"training": {"epochs": 1, "anything": 2}, "split": {}}}, []),
        ({"sead": 1}, ["sead"]),
        ({"shop": {"trainig": {"epochs": 1}, "split": {}}}, ["shop.trainig"]),
        ({"shopp": {"training": {"epochs": 1}}}, ["shopp"]),
        ({"shop": {"features": {"windows": 7, "window": 3}}}, ["shop.features.window"]),
        ({"shop": 3}, ["shop"]),
        ({"shop": {}}, []),
        ({"data_root": "x", "tracking_root": "y", "_template": {"epochs": 1}}, []),
        ({"shop": {"data_root": "x"}}, ["shop.data_root"]),
    ],
)
def test_unread_parameters(parameters: dict[str, Any], expected: list[str]) -> None:
    assert list(_unread(parameters, READ)) == expected


def test_a_misspelt_block_is_named_with_its_neighbour() -> None:
    message = "no pipeline reads the parameter 'rossmann.trainig': did you mean 'rossmann.training'?"
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"trainig": {"epochs": 1}}}})


def test_a_strange_block_is_answered_with_all_that_are_read() -> None:
    with pytest.raises(DataError, match=r"reads the parameter 'qqq'; these are read: .*rossmann\.columns"):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"qqq": 1}})


def test_what_is_read_passes() -> None:
    ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"training": {"epochs": 1}}}})


def test_flattening_names_every_leaf() -> None:
    nested = {"a": 1, "b": {"c": [2, 3], "d": {"e": None}}, "f": {}}
    assert list(_flatten(nested)) == [(".a", 1), (".b.c", [2, 3]), (".b.d.e", None)]
