"""Values compare by what they are, in every process, and their differences are told leaf by leaf."""

import datetime
import decimal
import enum
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
from processes import last_line
from pydantic import BaseModel, ConfigDict, RootModel

from embedline.running.values import canonical, differences, digest, leaves, plain, short, state


class Loss(enum.Enum):
    MSE = "mse"
    MAE = "mae"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Data:
    rate: float
    parts: list["Data"] = field(default_factory=list)


class Base(BaseModel):
    rate: int = 1


class Special(Base):
    more: int = 2


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    base: Base = Base()
    names: set[str] = {"b", "a"}
    day: datetime.date = datetime.date(2015, 5, 8)
    path: Path = Path("data/a.csv")
    loss: Loss = Loss.MSE
    pair: tuple[int, str] | None = None


class Root(RootModel[list[int]]):
    pass


PLAIN = {
    "json": ({"a": [1, 1.5, "x", True, None]}, {"a": [1, 1.5, "x", True, None]}),
    "keys that are no texts": ({1: "a", None: "b", False: "c"}, {"1": "a", "None": "b", "False": "c"}),
    "another mapping": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "tuples": ((1, (2, 3)), [1, [2, 3]]),
    "a named tuple": (Point(1, 2), [1, 2]),
    "sets": ({"a": {3, 1, 2}, "b": frozenset("ba")}, {"a": [1, 2, 3], "b": ["a", "b"]}),
    "a set of all kinds": ({1, "a", None, (2, 3)}, ["a", 1, None, [2, 3]]),
    "dates": (
        [datetime.date(2015, 5, 8), datetime.datetime(2015, 5, 8, 12), datetime.time(12, 30)],
        ["2015-05-08", "2015-05-08T12:00:00", "12:30:00"],
    ),
    "enumerations": ([Loss.MSE, Level.HIGH], ["mse", 3]),
    "paths": ([Path("a/b"), PurePosixPath("/c")], ["a/b", "/c"]),
    "scalars of NumPy": (
        [np.int64(3), np.float32(0.5), np.float64(0.1), np.bool_(True), np.str_("a"), np.array(7)],
        [3, 0.5, 0.1, True, "a", 7],
    ),
    "a date of NumPy": (np.datetime64("2015-05-08"), "2015-05-08"),
    "a dataclass": (Data(0.1, [Data(0.2)]), {"rate": 0.1, "parts": [{"rate": 0.2, "parts": []}]}),
    "a model": (
        Model(pair=(1, "a")),
        {
            "base": {"rate": 1},
            "names": ["a", "b"],
            "day": "2015-05-08",
            "path": "data/a.csv",
            "loss": "mse",
            "pair": [1, "a"],
        },
    ),
    "a model of a list": (Root([1, 2]), {"root": [1, 2]}),
    "bytes, complex, decimal and duration": (
        [b"a", 1 + 2j, decimal.Decimal("1.10"), datetime.timedelta(1), range(3)],
        ["b'a'", "(1+2j)", "Decimal('1.10')", "datetime.timedelta(days=1)", "range(0, 3)"],
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_values_as_json(case: str) -> None:
    value, expected = PLAIN[case]
    for strict in (False, True):
        made = plain(value, strict=strict)
        assert made == expected
        assert repr(made) == repr(expected)  # 1, 1.0 and True are equal


def test_a_value_is_left_as_it_was() -> None:
    value = {"b": [{"c": {2, 1}}], "a": 1}
    plain(value)
    assert value == {"b": [{"c": {2, 1}}], "a": 1} and list(value) == ["b", "a"]


def test_a_model_shows_the_fields_of_its_subclasses_and_extra_ones() -> None:
    model = Model(base=Special(more=5), other=7)  # type: ignore[call-arg]
    assert plain(model)["base"] == {"rate": 1, "more": 5}
    assert plain(model)["other"] == 7


@pytest.mark.parametrize("value", [object(), Model, Data, lambda: 1, [object()], {"a": object()}, np.ones(2), ...])
def test_what_json_does_not_have(value: Any) -> None:
    with pytest.raises(TypeError, match=" is no JSON value"):
        plain(value, strict=True)
    assert "object" in repr(plain([object()]))
    assert plain(Model) == repr(Model)


def test_canonical_is_one_text_for_equal_values() -> None:
    assert canonical({"b": (1, {"y": 1, "x": 2}), "a": "ä"}) == '{"a": "ä", "b": [1, {"x": 2, "y": 1}]}'
    assert canonical(Data(1.0)) == canonical({"parts": [], "rate": 1.0})
    texts = [canonical(value) for value in (1, 1.0, True, "1", None, [1], {"1": 1}, math.nan, math.inf)]
    assert len(set(texts)) == len(texts)
    assert canonical(math.nan) == canonical(float("nan"))


def test_values_are_the_same_in_every_process() -> None:
    script = (
        "from pydantic import BaseModel\nfrom embedline.running.values import canonical\n"
        "class M(BaseModel):\n    names: set[str] = set('abcdefgh')\nprint(canonical([M(), set('uvwxyz')]))"
    )
    made = {last_line(script, seed) for seed in "123"}
    assert made == {'[{"names": ["a", "b", "c", "d", "e", "f", "g", "h"]}, ["u", "v", "w", "x", "y", "z"]]'}


def test_a_digest_is_short_and_fixed() -> None:
    assert digest("") == "e3b0c44298fc1c14"
    assert digest("ä") == digest("ä") != digest("a")


class _Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a = 1


class _Own:
    def __init__(self) -> None:
        self.a, self.cache = 1, object()

    def __getstate__(self) -> dict[str, int]:
        return {"a": self.a}


def test_state_of_an_instance() -> None:
    assert state(Data(0.5)) == {"rate": 0.5, "parts": []}
    assert state(_Slots()) == (None, {"a": 1})
    assert state(_Own()) == {"a": 1}
    for value in (np.ones(2), iter([]), np.random.default_rng(), (each for each in "a")):
        with pytest.raises(TypeError):
            state(value)


def test_leaves_of_nested_mappings() -> None:
    value = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert list(leaves(value, "p")) == [("p.a.b", 1), ("p.a.c.d", [1, {"e": 2}]), ("p.f", {}), ("p.g", None)]
    assert list(leaves(5, "p")) == [("p", 5)]
    assert list(leaves({}, "p")) == [("p", {})]


DIFFERENCES: dict[str, tuple[Any, Any, list[str]]] = {
    "nothing": ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, []),
    "the order of keys": ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}, []),
    "a leaf": ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["p.a.c changed 2 → 3"]),
    "several": ({"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 2, "c": 4}, ["p.a changed 1 → 2", "p.c changed 3 → 4"]),
    "an element of a list": ({"a": [1, 2]}, {"a": [1, 3]}, ["p.a changed [1, 2] → [1, 3]"]),
    "a value without keys": (8, 10, ["p changed 8 → 10"]),
    "one that is new": ({"a": 1}, {"a": 1, "b": {"c": None}}, ["p.b.c is new (null)"]),
    "one that is gone": ({"a": {"b": True, "c": 1}}, {"a": {"c": 1}}, ["p.a.b is gone (was true)"]),
    "a block instead of a value": (
        {"a": 1},
        {"a": {"b": 2, "c": 3}},
        ["p.a is gone (was 1)", "p.a.b is new (2)", "p.a.c is new (3)"],
    ),
    "an empty block": ({"a": {}}, {"a": {"b": 1}}, ["p.a is gone (was {})", "p.a.b is new (1)"]),
    "an integer, then a number": ({"a": 1}, {"a": 1.0}, ["p.a changed 1 → 1.0"]),
    "an integer, then a truth value": ({"a": 1}, {"a": True}, ["p.a changed 1 → true"]),
    "a number, then a text": ({"a": 1}, {"a": "1"}, ["p.a changed 1 → 1"]),
    "in a list": ([0, 1], [0, True], ["p changed [0, 1] → [0, true]"]),
    "not a number, twice": ({"a": math.nan, "b": [math.nan]}, {"a": float("nan"), "b": [float("nan")]}, []),
    "a key with a dot": ({"a.b": 1}, {"a": {"b": 1}}, ['p changed {"a.b": 1} → {"a": {"b": 1}}']),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_differences(case: str) -> None:
    old, new, expected = DIFFERENCES[case]
    assert differences(old, new, "p") == expected
    assert bool(differences(new, old, "p")) == bool(expected) == (canonical(old) != canonical(new))


def test_short() -> None:
    assert short("ä b") == "ä b"
    assert short({"a": [None, "ä"]}) == '{"a": [null, "ä"]}'
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 59 + "…"
    assert short(list(range(9)), limit=10) == "[0, 1, 2,…"
