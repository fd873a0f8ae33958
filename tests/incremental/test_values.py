"""Values compare by what they are, in every process, and their differences are told leaf by leaf."""

import datetime
import decimal
import enum
import itertools
import json
import math
import re
import sys
import threading
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from processes import last_line
from pydantic import BaseModel, ConfigDict, RootModel

from kedro_incremental.canonical_json import NotComparable, as_json, canonical, differences, digest, leaves, short


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


class Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a = 1


class Hiding:
    def __init__(self) -> None:
        self.a = 1

    def __getstate__(self) -> dict[str, int]:
        return {}

    def __reduce__(self) -> Any:
        return Hiding, ()


class Root(RootModel[list[int]]):
    pass


PLAIN: dict[str, tuple[Any, Any]] = {
    "json": ({"a": [1, 1.5, "x", True, None]}, {"a": [1, 1.5, "x", True, None]}),
    "keys that are no texts": ({1: "a", None: "b"}, {"!dict": [[1, "a"], [None, "b"]]}),
    "a key that looks like a tag": ({"!a": 1}, {"!dict": [["!a", 1]]}),
    "another mapping": (MappingProxyType({"b": 1, "a": 2}), {"!mappingproxy": {"b": 1, "a": 2}}),
    "tuples": ((1, (2, 3)), {"!tuple": [1, {"!tuple": [2, 3]}]}),
    "sets": ({"a": {3, 1, 2}, "b": frozenset("ba")}, {"a": {"!set": [1, 2, 3]}, "b": {"!frozenset": ["a", "b"]}}),
    "a date": (datetime.date(2015, 5, 8), {"!datetime.date": "2015-05-08"}),
    "a time": (datetime.datetime(2015, 5, 8, 12), {"!datetime.datetime": "2015-05-08T12:00:00"}),
    "a member of an enumeration": (Loss.MSE, {f"!{__name__}.Loss": ["MSE", "mse"]}),
    "a path": (PurePosixPath("/c"), {"!pathlib.PurePosixPath": "/c"}),
    "a dataclass": (Data(0.1), {f"!{__name__}.Data": {"rate": 0.1, "parts": []}}),
    "a model": (Base(rate=2), {f"!{__name__}.Base": {"rate": 2}, "!given": ["rate"]}),
    "a model of a list": (Root([1, 2]), {f"!{__name__}.Root": {"root": [1, 2]}, "!given": ["root"]}),
    "a decimal": (decimal.Decimal("1.10"), {"!decimal.Decimal": [{"!class": "decimal.Decimal"}, {"!tuple": ["1.10"]}]}),
    "a function of the module": (last_line, {"!function": "processes.last_line"}),
    "a class of the module": (Base, {"!class": f"{__name__}.Base"}),
    "a builtin": (len, {"!builtin_function_or_method": ["builtins", "len"]}),
    "a pattern": (re.compile("a"), {"!re.Pattern": [{"!function": "re._compile"}, {"!tuple": ["a", 32]}]}),
    "a slot": (Slots(), {f"!{__name__}.Slots": {"a": 1}}),
    "an object that hides its state": (Hiding(), {f"!{__name__}.Hiding": {"a": 1}}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_values_as_json(case: str) -> None:
    value, expected = PLAIN[case]
    assert canonical(as_json(value)) == canonical(expected)
    if not isinstance(value, type):  # which is read with its attributes then
        assert canonical(as_json(value, strict=False)) == canonical(expected)


def test_a_value_is_left_as_it_was_and_a_model_shows_all_of_its_fields() -> None:
    value = {"b": [{"c": {2, 1}}], "a": 1}
    as_json(value)
    assert value == {"b": [{"c": {2, 1}}], "a": 1} and list(value) == ["b", "a"]
    made = dict(leaves(as_json(Model(base=Special(more=5), other=7)), "p"))  # type: ignore[call-arg]
    assert made["p.base.more"] == 5 and 7 in made.values()
    again: list[Any] = [1]
    again.append(again)
    assert as_json(again) == [1, {"!again": 1}]


UNLIKE = [1, 1.0, True, "1", None, [1], (1,), {"1": 1}, {1: 1}, {True: 1}, {1.0: 1}, math.nan, math.inf, "nan", b"1"]
UNLIKE += [0.0, OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), np.random.default_rng(1), np.random.default_rng(2)]
UNLIKE += [re.compile("a"), re.compile("a", re.I), decimal.Decimal(1), np.float32(1), np.float32(2)]
UNLIKE += [-0.0, {1}, frozenset({1}), [], {}, (), "", {"a": 1, "b": 2}, {"b": 2, "a": 1}, np.int64(1), np.ones(1)]
UNLIKE += [np.ones(1, dtype=int), np.ones((1, 1)), datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)]
UNLIKE += ["2024-01-01", Loss.MSE, "mse", Level.HIGH, 3, Point(1, 2), (1, 2), Path("a"), "a", Base(), Base(rate=1)]
UNLIKE += [Special(), range(1)]


def test_unlike_values_have_unlike_texts() -> None:
    texts = [canonical(as_json(value)) for value in UNLIKE]
    assert len(set(texts)) == len(texts)
    assert canonical(as_json(math.nan)) == canonical(as_json(float("nan")))


UNCOMPARABLE = [object(), threading.Lock(), itertools.count(), (each for each in "ab"), threading.local()]
UNCOMPARABLE += [np.array([object()], dtype=object), {"a": [object()]}]


@pytest.mark.parametrize("value", UNCOMPARABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_compared(value: Any) -> None:
    with pytest.raises(NotComparable):
        as_json(value)
    as_json(value, strict=False)


def test_values_are_the_same_in_every_process() -> None:
    script = (
        "from pydantic import BaseModel\nfrom kedro_incremental.canonical_json import canonical\n"
        "from kedro_incremental.canonical_json import as_json\n"
        "class M(BaseModel):\n    names: set[str] = set('abcdefgh')\nprint(canonical(as_json([M(), set('uvwxyz')])))"
    )
    made = {last_line(script, seed) for seed in "123"}
    assert len(made) == 1 and '["a", "b", "c", "d", "e", "f", "g", "h"]' in made.pop()


def test_digests_leaves_and_short_texts() -> None:
    assert digest("") == "e3b0c44298fc1c14"
    assert digest("ä") == digest("ä") != digest("a")
    value = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert list(leaves(value, "p")) == [("p.a.b", 1), ("p.a.c.d", [1, {"e": 2}]), ("p.f", {}), ("p.g", None)]
    assert list(leaves(5, "p")) == [("p", 5)]
    assert list(leaves({}, "p")) == [("p", {})]
    assert (short("ä b"), short({"a": [None, "ä"]})) == ("ä b", '{"a": [null, "ä"]}')
    assert (short("x" * 60), short("x" * 61)) == ("x" * 60, "x" * 59 + "…")
    assert len(short(list(range(99)))) == 60


DATE = {"!datetime.date": "2024-01-01"}
DIFFERENCES: dict[str, tuple[Any, Any, list[str]]] = {
    "nothing": ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, []),
    "the order of keys": ({"c": 1, "d": 2}, {"d": 2, "c": 1}, ['p changed {"c": 1, "d": 2} → {"d": 2, "c": 1}']),
    "a date, then a text": (DATE, "2024-01-01", ["p changed 2024-01-01 → 2024-01-01 (datetime.date, now a text)"]),
    "a leaf": ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["p.a.c changed 2 → 3"]),
    "several": ({"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 2, "c": 4}, ["p.a changed 1 → 2", "p.c changed 3 → 4"]),
    "an element of a list": ({"a": [1, 2]}, {"a": [1, 3]}, ["p.a changed [1, 2] → [1, 3]"]),
    "a value without keys": (8, 10, ["p changed 8 → 10"]),
    "one that is new": ({"a": 1}, {"a": 1, "b": {"c": None}}, ["p.b.c is new (null)"]),
    "one that is gone": ({"a": {"b": True, "c": 1}}, {"a": {"c": 1}}, ["p.a.b is gone (was true)"]),
    "a block instead of a value": ({"a": 1}, {"a": {"b": 2}}, ["p.a is gone (was 1)", "p.a.b is new (2)"]),
    "an empty block": ({"a": {}}, {"a": {"b": 1}}, ["p.a is gone (was {})", "p.a.b is new (1)"]),
    "an integer, then a number": ({"a": 1}, {"a": 1.0}, ["p.a changed 1 → 1.0"]),
    "an integer, then a truth value": ({"a": 1}, {"a": True}, ["p.a changed 1 → true"]),
    "a number, then a text": ({"a": 1}, {"a": "1"}, ["p.a changed 1 → 1 (int, now a text)"]),
    "in a list": ([0, 1], [0, True], ["p changed [0, 1] → [0, true]"]),
    "not a number, twice": ({"a": math.nan, "b": [math.nan]}, {"a": float("nan"), "b": [float("nan")]}, []),
    "a key with a dot": ({"a.b": 1}, {"a": {"b": 1}}, ['p changed {"a.b": 1} → {"a": {"b": 1}}']),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_differences(case: str) -> None:
    old, new, expected = DIFFERENCES[case]
    assert differences(old, new, "p") == expected
    assert bool(differences(new, old, "p")) == bool(expected) == (canonical(old) != canonical(new))


def test_a_function_of_c_whose_module_is_the_module_itself_has_its_name() -> None:
    """As those of psutil, which a project's module may import by name."""
    psutil = pytest.importorskip("psutil")
    extension = sys.modules[psutil._psplatform.cext.__name__]
    functions = [each for each in vars(extension).values() if isinstance(each, types.BuiltinFunctionType)]
    found = next((each for each in functions if isinstance(each.__module__, types.ModuleType)), None)
    if found is None:
        pytest.skip("this psutil has no such function")
    assert found.__name__ in json.dumps(as_json(found))
