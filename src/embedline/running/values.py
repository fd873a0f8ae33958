"""Values as JSON that compares type by type and in order, and the difference between two of them.

JSON has no dates, tuples, sets, classes or keys other than texts. Each of these becomes a mapping with one key that
starts with ``!`` and names the type: ``{"!tuple": [1, 2]}``, ``{"!datetime.date": "2015-07-31"}``. So ``1`` differs
from ``"1"`` and from ``1.0``, a date from its text, and ``{"a": 1, "b": 2}`` from ``{"b": 2, "a": 1}``.
"""

import collections
import datetime
import decimal
import enum
import functools
import hashlib
import json
import logging
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits tell the few thousand modules and values of a project apart
BUDGET = 50_000  # objects that a lenient reading looks at
TOLD_BY_REPR = (complex, range, slice, datetime.timedelta, datetime.tzinfo, decimal.Decimal, type(...))
CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, types.MappingProxyType)
SCALARS = (str, int, float, bytes, bytearray)
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
MADE_IN_C = (*CONTAINERS, *SCALARS, collections.OrderedDict, collections.defaultdict, object)


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
        described = _tagged(kind, tell(self, value)) if tell else self._of_instance(value, kind)
        if kind.__flags__ & HEAP_TYPE and not _is_in_its_module(kind):  # made in a function: its source tells too little
            return {**described, "!made": self.of(kind)}
        return described

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
        if hidden := _hidden_state(kind):
            if self._strict:
                raise Uncomparable(f"a {hidden.__name__} keeps what cannot be compared")
            return _tagged(kind, None)
        if kind is object:
            if self._strict:
                raise Uncomparable("an object without a name is another one in each process")
            return _tagged(kind, None)
        names = [name for base in kind.__mro__ for name in _slots(base)]
        state = {name: each for name in names if (each := _attribute(value, name)) is not None}
        given = state.pop("__pydantic_fields_set__", None)
        own = {**(_attribute(value, "__dict__") or {}), **state}
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
        named = _is_in_its_module(function)
        if named and not whole:
            return {"!function": name}
        if self._strict and not named and (why := _untold(function, home)):
            raise Uncomparable(f"{name} {why}")
        held = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        if home == "functools" and hasattr(function, "registry"):  # singledispatch, without what it has found before
            held |= {name: vars(function)[name] for name in ("registry", "__wrapped__")}
        else:
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            held |= {"cells": {captured: _cell(cell) for captured, cell in cells}, "attributes": vars(function)}
        held = {key: self.of(part) for key, part in held.items() if part}
        code = None if named else digest(_code_text(function.__code__, function.__doc__))
        return {"!function": [name, code, held]} if held or not named else {"!function": name}

    def _of_class(self, cls: type) -> Any:
        self.modules.update(base.__module__ for base in (*cls.__mro__, type(cls)))
        name = f"{cls.__module__}.{cls.__qualname__}"
        if _is_in_its_module(cls) or not cls.__flags__ & HEAP_TYPE:
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
        lambda reading, value: _array(value),
    ),
)


def _array(value: Any) -> list[Any]:
    """An array or scalar of NumPy.

    Raises:
        Uncomparable: if it holds objects.
    """
    if value.dtype.hasobject:
        raise Uncomparable("an array of objects cannot be compared")
    return [str(value.dtype), list(value.shape), repr(value.item()) if value.shape == () else _hash(value.tobytes())]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def plain(value: Any, *, strict: bool = True) -> Any:
    """``value`` as JSON types; see :class:`Reading`."""
    return Reading(strict=strict).of(value)


def _tagged(kind: type, content: Any) -> dict[str, Any]:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {f"!{name}": content}


def _is_in_its_module(definition: Any) -> bool:
    """Whether the module has the function or class under the definition's own name: its source tells the rest."""
    found: Any = sys.modules.get(str(definition.__module__))
    for part in definition.__qualname__.split("."):
        found = vars(found).get(part) if isinstance(found, type | types.ModuleType) else None
        found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    return found is definition


def _untold(function: types.FunctionType, home: str) -> str | None:
    """Why the source of a function does not tell what it computes."""
    module = sys.modules.get(home)
    if function.__code__.co_filename.startswith("<") and not function.__code__.co_filename.startswith("<frozen"):
        return "is not defined in a source file"
    if module is None or vars(module) is not function.__globals__:
        return "comes from a module that was loaded again, or removed"
    return None


def _cell(cell: types.CellType) -> Any:
    """What a closure has captured; None for a name that is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _code_text(code: types.CodeType, documentation: str | None = None) -> str:
    """What a code object computes, without its lines and docstring."""
    constants = [_constant(each) for each in code.co_consts if documentation is None or each != documentation]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code_text(value)
    return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)


def _attribute(value: Any, name: str) -> Any:
    """An attribute as it is stored, whatever methods the class has; None for one that is not set."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


def _slots(kind: type) -> list[str]:
    """Slots that a class itself adds, as attributes are spelled."""
    names = vars(kind).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    mangled = kind.__name__.lstrip("_")
    private = (f"_{mangled}{name}" if name.startswith("__") and not name.endswith("__") else name for name in names)
    return [name for name in private if name not in {"__dict__", "__weakref__"}]


def _hidden_state(kind: type) -> type | None:
    """The class whose instances keep something outside of attributes and slots, as those written in C do."""
    for cls in kind.__mro__:
        base = cls.__base__
        if (
            cls in CONTAINERS
            or cls in SCALARS
            or cls in {collections.OrderedDict, collections.defaultdict}
            or base is None
        ):
            return None
        words = len(_slots(cls)) + bool(cls.__dictoffset__) + bool(cls.__weakrefoffset__)
        if cls.__basicsize__ - base.__basicsize__ > 8 * words:
            return cls
    return None


def canonical(value: Any) -> str:
    """One text for each JSON value: its keys are in order."""
    return json.dumps(value, ensure_ascii=False)


def digest(text: str) -> str:
    """Short SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def _untagged(value: Any) -> Any:
    """What a tag is around; the value itself if it has none."""
    if isinstance(value, Mapping) and (tag := next(iter(value), "")).startswith("!") and tag != "!dict":
        return value[tag]
    return value


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted names, starting from ``name``."""
    inner = _untagged(value)
    if isinstance(inner, Mapping) and inner and "!dict" not in inner:
        for key, item in inner.items():
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


def differences(old: Any, new: Any, name: str) -> list[str]:
    """How two values differ, leaf by leaf: ``a.b changed 8 → 10``.

    >>> differences({"epochs": 8, "lr": 0.1}, {"epochs": 10, "lr": 0.1}, "training")
    ['training.epochs changed 8 → 10']
    """
    if canonical(old) == canonical(new):  # in which NaN is NaN, and 1 is neither 1.0 nor True
        return []
    before, after = dict(leaves(old, name)), dict(leaves(new, name))
    changes = []
    for key in {**before, **after}:
        if key not in after:
            changes.append(f"{key} is gone (was {short(before[key])})")
        elif key not in before:
            changes.append(f"{key} is new ({short(after[key])})")
        elif canonical(before[key]) != canonical(after[key]):
            was, now = short(before[key]), short(after[key])
            kinds = "" if was != now else f" ({_kind(before[key])}, now {_kind(after[key])})"
            changes.append(f"{key} changed {was} → {now}{kinds}")
    return changes or [f"{name} changed {short(old)} → {short(new)}"]


def _kind(value: Any) -> str:
    """Type of a JSON value, for two that look alike."""
    tag = next(iter(value), "") if isinstance(value, Mapping) else ""
    return (
        tag[1:]
        if tag.startswith("!")
        else {"str": "a text", "NoneType": "null"}.get(type(value).__name__, type(value).__name__)
    )


def _shown(value: Any) -> Any:
    """A JSON value without tags."""
    value = _untagged(value)
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list) else value


def short(value: Any, limit: int = 60) -> str:
    """``value`` for a message, cut to ``limit`` characters."""
    value = _shown(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
