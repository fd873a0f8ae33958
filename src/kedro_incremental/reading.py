"""Any value of Python as JSON that compares, and the modules whose functions and classes it brings along.

JSON has no dates, tuples, sets, classes or keys other than texts. Each of these becomes a mapping with one key that
starts with ``!`` and names the type: ``{"!tuple": [1, 2]}``, ``{"!datetime.date": "2015-07-31"}``. So ``1`` differs
from ``"1"`` and from ``1.0``, a date from its text, and ``{"a": 1, "b": 2}`` from ``{"b": 2, "a": 1}``. What an object
consists of is read from it, whatever its ``__getstate__``, ``__iter__`` and other methods say.
"""

import datetime
import decimal
import enum
import functools
import hashlib
import logging
import re
import types
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any

from .objects import (
    CONTAINERS,
    SCALARS,
    attribute,
    cell,
    code_text,
    hidden_state,
    is_in_its_module,
    is_of_library,
    slots,
    untold,
)
from .values import canonical, digest

BUDGET = 50_000  # objects that a lenient reading looks at
TOLD_BY_REPR = (complex, range, slice, datetime.timedelta, datetime.tzinfo, decimal.Decimal, type(...))
ACCESSORS = (property, staticmethod, classmethod, functools.cached_property)
METHODS = (types.FunctionType, staticmethod, classmethod, property)
HEAP_TYPE = 1 << 9  # flag of a class that is made while Python runs; the others are built into it
CACHED = type(functools.lru_cache(len))
SLOTS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)


class Uncomparable(TypeError):
    """A value cannot be compared with the one of another run."""


class Reading:
    """Values as JSON, and the modules of the classes and functions in them.

    Args:
        strict: refuse what cannot be compared; otherwise its type stands for it.

    Attributes:
        modules: names of the modules that define the functions and classes that were met.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.modules: set[str] = set()
        self._strict = strict
        self._open: list[int] = []
        self._in_library = False
        self._left = BUDGET

    def of(self, value: Any) -> Any:
        """``value`` as JSON types.

        Raises:
            Uncomparable: if ``strict`` and some of it cannot be compared.
        """
        if value is None or type(value) in {bool, int, float, str}:
            return value
        if id(value) in self._open:
            return {"!again": len(self._open) - self._open.index(id(value))}
        self._left -= 1
        if not self._strict and self._left < 0:
            return _tagged(type(value), None)
        self._open.append(id(value))
        try:
            return self._of_object(value)
        except RecursionError as error:
            raise Uncomparable(f"a {type(value).__name__} is nested too deeply") from error
        finally:
            self._open.pop()

    def _of_object(self, value: Any) -> Any:
        kind = type(value)
        for types_, read in _DEFINITIONS:
            if issubclass(kind, types_):
                return read(self, value)
        self.modules.update(base.__module__ for base in kind.__mro__)
        tell = next((tell for fits, tell in _TOLD if fits(kind)), None)
        if tell:
            described = _tagged(kind, tell(self, value))
        elif self._strict or issubclass(kind, (*CONTAINERS, *SCALARS)) or not is_of_library(kind):
            described = self._of_instance(value, kind)
        else:
            described = self._of_library_object(value, kind)
        if kind.__flags__ & HEAP_TYPE and not is_in_its_module(kind):  # made in a function: its source tells too little
            return {**described, "!made": self.of(kind)}
        return described

    def _of_library_object(self, value: Any, kind: type) -> Any:
        """Its own attributes, not those of the objects in it: handlers, sessions and caches differ in each process."""
        if self._in_library:
            return _tagged(kind, None)
        self._in_library = True
        try:
            return self._of_instance(value, kind)
        finally:
            self._in_library = False

    def _of_module(self, module: types.ModuleType) -> Any:
        self.modules.add(module.__name__)
        return {"!module": module.__name__}

    def _of_accessor(self, value: Any) -> Any:
        names = ("fget", "fset", "func", "__func__")
        return _tagged(type(value), [self.of(getattr(value, name)) for name in names if hasattr(value, name)])

    def _of_builtin(self, value: Any) -> Any:
        owner = getattr(value, "__self__", None)
        self.modules.add(value.__module__ or "builtins")
        return {
            "!builtin": [
                value.__module__,
                value.__qualname__,
                None if type(owner) is types.ModuleType else self.of(owner),
            ]
        }

    def _of_instance(self, value: Any, kind: type) -> Any:
        content = self._content(value, kind)
        if kind in (dict, list):
            return content
        if kind in CONTAINERS or kind in SCALARS:
            return _tagged(kind, content)
        if hidden := hidden_state(kind):
            if self._strict:
                raise Uncomparable(f"a {hidden.__name__} keeps what cannot be compared")
            return _tagged(kind, None)
        if kind is object:
            if self._strict:
                raise Uncomparable("an object without a name is another one in each process")
            return _tagged(kind, None)
        names = [name for base in kind.__mro__ for name in slots(base)]
        state = {name: each for name in names if (each := attribute(value, name)) is not None}
        given = state.pop("__pydantic_fields_set__", None)
        own = {**(attribute(value, "__dict__") or {}), **state}
        described = _tagged(kind, self._mapping(own) if content is None else [content, self._mapping(own)])
        return described if given is None else {**described, "!given": sorted(given)}

    def _content(self, value: Any, kind: type) -> Any:
        """What a container or scalar holds, whatever methods its subclass has; None for other objects."""
        base: Any = next((base for base in (*CONTAINERS, *SCALARS) if issubclass(kind, base)), None)
        if base is None:
            return None
        if base in {dict, types.MappingProxyType}:
            return self._mapping(dict(base.items(value)))
        if base in SCALARS:
            return _hash(value) if base in {bytes, bytearray} else repr(base(base.__str__(value)))
        items = [self.of(item) for item in base.__iter__(value)]
        return sorted(items, key=canonical) if base in {set, frozenset} else items

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith("!") for key in value):
            return {key: self.of(item) for key, item in value.items()}
        return {"!dict": [[self.of(key), self.of(item)] for key, item in value.items()]}

    # Functions and classes

    def of_function(self, function: types.FunctionType, *, whole: bool = False) -> Any:
        """A function by its name where its module has it under that name; otherwise with all that it holds.

        Args:
            whole: with what it holds in any case.
        """
        home = str(function.__globals__.get("__name__"))
        self.modules.update({home, str(function.__module__)})
        name = f"{function.__module__}.{function.__qualname__}"
        named = is_in_its_module(function)
        if named and not whole:
            return {"!function": name}
        if self._strict and not named and (why := untold(function, home)):
            raise Uncomparable(f"{name} {why}")
        held = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        if home == "functools" and hasattr(function, "registry"):  # singledispatch, without what it has found before
            held |= {name: vars(function)[name] for name in ("registry", "__wrapped__")}
        else:
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            held |= {"cells": {captured: cell(each) for captured, each in cells}, "attributes": vars(function)}
        held = {key: self.of(part) for key, part in held.items() if part}
        code = None if named else digest(code_text(function.__code__, function.__doc__))
        return {"!function": [name, code, held]} if held or not named else {"!function": name}

    def _of_class(self, cls: type) -> Any:
        self.modules.update(base.__module__ for base in (*cls.__mro__, type(cls)))
        name = f"{cls.__module__}.{cls.__qualname__}"
        if is_in_its_module(cls) or not cls.__flags__ & HEAP_TYPE:
            return {"!class": name}
        bases = [self.of(base) for base in cls.__bases__]
        return {"!class": [name, bases, self.of_attributes(cls)]}

    def of_attributes(self, cls: type, *, own: str | None = None) -> Any:
        """Attributes of a class, without those that Python and pydantic keep for themselves.

        Args:
            own: module whose functions and classes are read with what they hold.
        """
        found = {}
        for name, value in sorted(vars(cls).items()):
            if name.startswith("_abc_") or issubclass(type(value), SLOTS):
                continue
            if name.startswith("__") and name.endswith("__") and not issubclass(type(value), METHODS):
                continue
            described = self.of_member(value, own)
            if described != {"!function": f"{own}.{cls.__qualname__}.{name}"}:
                found[name] = described
        return found

    def of_member(self, value: Any, own: str | None) -> Any:
        """A value that a module or class has; its own functions and classes with what they hold."""
        if own and type(value) is types.FunctionType and value.__module__ == own:
            return self.of_function(value, whole=True)
        if own and issubclass(type(value), type) and value.__module__ == own and id(value) not in self._open:
            self._open.append(id(value))
            try:
                return {"!class": [value.__qualname__, self.of_attributes(value, own=own)]}
            finally:
                self._open.pop()
        return self.of(value)


def _array(reading: Reading, value: Any) -> list[Any]:
    """An array or scalar of NumPy."""
    if value.dtype.hasobject:
        return [str(value.dtype), list(value.shape), reading.of(value.tolist())]
    return [str(value.dtype), list(value.shape), repr(value.item()) if value.shape == () else _hash(value.tobytes())]


_DEFINITIONS: tuple[tuple[Any, Callable[[Reading, Any], Any]], ...] = (
    (type, Reading._of_class),
    (types.FunctionType, Reading.of_function),
    (types.ModuleType, Reading._of_module),
    (types.MethodType, lambda reading, value: {"!method": reading.of([value.__self__, value.__func__])}),
    (functools.partial, lambda reading, value: {"!partial": reading.of([value.func, value.args, value.keywords])}),
    (weakref.ReferenceType, lambda reading, value: {"!weakref": reading.of(value())}),
    (ACCESSORS, Reading._of_accessor),
    ((types.BuiltinFunctionType, types.MethodWrapperType), Reading._of_builtin),
)
_TOLD: tuple[tuple[Callable[[type], bool], Callable[[Reading, Any], Any]], ...] = (
    (lambda kind: issubclass(kind, enum.Enum), lambda reading, value: [value.name, reading.of(value.value)]),
    (lambda kind: issubclass(kind, datetime.date | datetime.time), lambda reading, value: value.isoformat()),
    (lambda kind: issubclass(kind, PurePath), lambda reading, value: str(value)),
    (lambda kind: issubclass(kind, logging.Logger), lambda reading, value: value.name),
    (lambda kind: kind in TOLD_BY_REPR or kind.__module__ in {"typing", "types"}, lambda reading, value: repr(value)),
    (lambda kind: kind is re.Pattern, lambda reading, value: [value.pattern, value.flags]),
    (lambda kind: kind is ContextVar, lambda reading, value: [value.name, reading.of(value.get(None))]),
    # What such a function keeps does not count.
    (lambda kind: kind is CACHED, lambda reading, value: reading.of([value.__wrapped__, value.cache_parameters()])),
    (
        lambda kind: kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "tobytes"),
        _array,
    ),
)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def plain(value: Any, *, strict: bool = True) -> Any:
    """``value`` as JSON types; see :class:`Reading`."""
    return Reading(strict=strict).of(value)


def _tagged(kind: type, content: Any) -> dict[str, Any]:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {f"!{name}": content}
