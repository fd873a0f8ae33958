"""Python values as JSON that compares across processes, and the differences of two such values in words.

JSON has no dates, tuples, sets, classes, nor keys other than texts. Each of these becomes a mapping with one key that
starts with ``!`` and names the type: ``{"!tuple": [1, 2]}``, ``{"!datetime.date": "2015-07-31"}``. The state of an
object is read from the object itself, whatever its ``__getstate__``, ``__iter__`` and other methods return.
"""

import collections
import datetime
import decimal
import enum
import functools
import hashlib
import json
import logging
import os
import re
import site
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Any

from .redaction import redacted

BUDGET = 50_000  # objects that a lenient reader looks at
CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, types.MappingProxyType)
SCALARS = (str, int, float, bytes, bytearray)
ACCESSORS = (property, staticmethod, classmethod, functools.cached_property)
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
DESCRIPTORS += (types.MethodDescriptorType, types.ClassMethodDescriptorType)
CACHED = type(functools.lru_cache(len))
HEAP_TYPE = 1 << 9  # flag of a class that Python code makes; the others are built in
MODULE_FIELDS = {"__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__package__", "__path__"}
MODULE_FIELDS |= {"__spec__", "__name__", "__warningregistry__"}


class NotComparable(TypeError):
    """A value cannot be compared with the one of another run."""


class ValueReader:
    """Reads values as JSON, and collects the modules of their classes and functions in ``modules``.

    Args:
        strict: raise NotComparable for what cannot be compared; otherwise its type stands for it.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.modules: set[str] = set()
        self._strict, self._left = strict, BUDGET
        self._open: list[int] = []  # ids of the objects around the one that is read
        self._in_library = False

    def read(self, value: Any) -> Any:
        """``value`` as JSON types. Raises NotComparable if ``strict``."""
        if value is None or type(value) in {bool, int, float, str}:
            return value
        if id(value) in self._open:
            return {"!again": len(self._open) - self._open.index(id(value))}
        self._left -= 1
        if not self._strict and self._left < 0:
            return _tagged(type(value), None)
        self._open.append(id(value))
        try:
            return self._read_object(value, type(value))
        except RecursionError as error:
            raise NotComparable(f"a {type(value).__name__} is nested too deeply") from error
        finally:
            self._open.pop()

    def _read_object(self, value: Any, kind: type) -> Any:
        if issubclass(kind, type):
            return self._read_class(value)
        if issubclass(kind, types.FunctionType):
            return self.read_function(value)
        self.modules.update(base.__module__ for base in kind.__mro__)
        if content := _content_reader(kind):
            described = _tagged(kind, content(self, value))
        elif self._strict or issubclass(kind, (*CONTAINERS, *SCALARS)) or not _is_library_class(kind):
            described = self._read_instance(value, kind)
        elif self._in_library:  # handlers, sessions and caches of a library's object differ in each process
            described = _tagged(kind, None)
        else:
            self._in_library = True
            try:
                described = self._read_instance(value, kind)
            finally:
                self._in_library = False
        if kind.__flags__ & HEAP_TYPE and not is_in_its_module(kind):  # a class made in a function
            return {**described, "!made": self.read(kind)}
        return described

    def _read_instance(self, value: Any, kind: type) -> Any:
        base: Any = next((base for base in (*CONTAINERS, *SCALARS) if issubclass(kind, base)), None)
        content: Any = None
        if base in SCALARS:
            content = _sha256(value) if base in {bytes, bytearray} else repr(base(base.__str__(value)))
        elif base in {dict, types.MappingProxyType}:
            content = self._mapping(dict(base.items(value)))
        elif base:
            content = [self.read(item) for item in base.__iter__(value)]
            content = sorted(content, key=canonical) if base in {set, frozenset} else content
        if kind in (dict, list):
            return content
        if kind in CONTAINERS or kind in SCALARS:
            return _tagged(kind, content)
        if kind is object or (hidden := _hidden_state(kind)):
            if self._strict:
                what = "an object without a name" if kind is object else f"a {hidden.__name__}"
                raise NotComparable(f"{what} holds a state that differs in each process")
            return _tagged(kind, None)
        names = [name for base in kind.__mro__ for name in _slots(base)]
        state = {name: each for name in names if (each := _attribute(value, name)) is not None}
        given = state.pop("__pydantic_fields_set__", None)
        own = self._mapping({**(_attribute(value, "__dict__") or {}), **state})
        described = _tagged(kind, own if content is None else [content, own])
        return described if given is None else {**described, "!given": sorted(given)}

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith("!") for key in value):
            return {key: self.read(item) for key, item in value.items()}
        return {"!dict": [[self.read(key), self.read(item)] for key, item in value.items()]}

    def read_function(self, function: types.FunctionType, *, with_state: bool = False) -> Any:
        """A function: its name where its module has it under that name; otherwise also its code and state."""
        home = str(function.__globals__.get("__name__"))
        self.modules.update({home, str(function.__module__)})
        name, code = f"{function.__module__}.{function.__qualname__}", function.__code__
        is_named = is_in_its_module(function)
        if is_named and not with_state:
            return {"!function": name}
        if self._strict and not is_named:
            if code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen"):
                raise NotComparable(f"{name} is not defined in a source file")
            if home not in sys.modules or vars(sys.modules[home]) is not function.__globals__:
                raise NotComparable(f"{name} comes from a module that was loaded again, or removed")
        state: dict[str, Any] = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        if home == "functools" and hasattr(function, "registry"):  # singledispatch, without its cache
            state |= {key: vars(function)[key] for key in ("registry", "__wrapped__")}
        else:
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            state["cells"] = {key: _attribute(each, "cell_contents", ValueError) for key, each in cells}
            state["attributes"] = vars(function)
        state = {key: self.read(part) for key, part in state.items() if part}
        source = None if is_named else digest(_code_text(code, function.__doc__))
        return {"!function": [name, source, state]} if state or not is_named else {"!function": name}

    def _read_class(self, cls: type) -> Any:
        self.modules.update(base.__module__ for base in (*cls.__mro__, type(cls)))
        name = f"{cls.__module__}.{cls.__qualname__}"
        if is_in_its_module(cls) or not cls.__flags__ & HEAP_TYPE:
            return {"!class": name}
        return {"!class": [name, [self.read(base) for base in cls.__bases__], self._class_attributes(cls, None)]}

    def _class_attributes(self, cls: type, own: str | None) -> Any:
        """Attributes of a class without those that Python and pydantic add; those of the module ``own`` with state."""
        found = {}
        for name, value in sorted(vars(cls).items()):
            is_method = issubclass(type(value), (types.FunctionType, *ACCESSORS[:3]))
            is_special = name.startswith("__") and name.endswith("__") and not is_method
            if not (is_special or name.startswith("_abc_") or issubclass(type(value), DESCRIPTORS)):
                described = self._read_member(value, own)
                if described != {"!function": f"{own}.{cls.__qualname__}.{name}"}:
                    found[name] = described
        return found

    def _read_member(self, value: Any, own: str | None) -> Any:
        """A value of a module or class; functions and classes of the module ``own`` with their state."""
        if own and type(value) is types.FunctionType and value.__module__ == own:
            return self.read_function(value, with_state=True)
        if own and issubclass(type(value), type) and value.__module__ == own and id(value) not in self._open:
            self._open.append(id(value))
            try:
                return {"!class": [value.__qualname__, self._class_attributes(value, own)]}
            finally:
                self._open.pop()
        return self.read(value)

    def read_module(self, module: types.ModuleType) -> str:
        """Digest of a module's values, and of what its own classes and functions hold."""
        found = {}
        for name, value in sorted(vars(module).items()):
            is_submodule = type(value) is types.ModuleType and value.__name__ == f"{module.__name__}.{name}"
            if name in MODULE_FIELDS or is_submodule:
                continue
            try:
                described = self._read_member(value, module.__name__)
            except NotComparable:
                described = type(value).__name__
            if described not in ({"!function": f"{module.__name__}.{name}"}, {"!class": [name, {}]}):
                found[name] = described
        return digest(canonical(found))


def _builtin(reader: ValueReader, value: Any) -> list[Any]:
    owner = getattr(value, "__self__", None)
    reader.modules.add(value.__module__ or "builtins")
    return [value.__module__, value.__qualname__, None if type(owner) is types.ModuleType else reader.read(owner)]


def _array(reader: ValueReader, value: Any) -> list[Any]:  # of NumPy, or a scalar
    if value.dtype.hasobject:
        return [str(value.dtype), list(value.shape), reader.read(value.tolist())]
    return [str(value.dtype), list(value.shape), repr(value.item()) if value.shape == () else _sha256(value.tobytes())]


_AS_REPR = {complex, range, slice, datetime.timedelta, decimal.Decimal, type(...)}
_DATES = (datetime.date, datetime.time)
# How a value is read, by a class of it or by a condition on its type.
_CONTENTS: tuple[tuple[type | tuple[type, ...] | Callable[[type], bool], Callable[[ValueReader, Any], Any]], ...] = (
    (types.ModuleType, lambda reader, v: [reader.modules.add(v.__name__), v.__name__][1]),
    (
        ACCESSORS,
        lambda reader, v: [reader.read(getattr(v, name, None)) for name in ("fget", "fset", "func", "__func__")],
    ),
    ((types.BuiltinFunctionType, types.MethodWrapperType), _builtin),
    (types.MethodType, lambda reader, v: reader.read([v.__self__, v.__func__])),
    (functools.partial, lambda reader, v: reader.read([v.func, v.args, v.keywords])),
    (weakref.ReferenceType, lambda reader, v: reader.read(v())),
    (enum.Enum, lambda reader, v: [v.name, reader.read(v.value)]),
    (_DATES, lambda reader, v: v.isoformat()),
    (PurePath, lambda reader, v: str(v)),
    (logging.Logger, lambda reader, v: v.name),
    (types.SimpleNamespace, lambda reader, v: reader.read(vars(v))),
    (re.Pattern, lambda reader, v: [v.pattern, v.flags]),
    (ContextVar, lambda reader, v: [v.name, reader.read(v.get(None))]),
    (CACHED, lambda reader, v: reader.read([v.__wrapped__, v.cache_parameters()])),  # not what it has cached
    (lambda kind: kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "tobytes"), _array),
    (
        lambda kind: kind in _AS_REPR or issubclass(kind, datetime.tzinfo) or kind.__module__ in {"typing", "types"},
        lambda reader, v: re.sub(r" at 0x[0-9a-f]+", "", repr(v)),  # addresses differ in each process
    ),
)


def _content_reader(kind: type) -> Callable[[ValueReader, Any], Any] | None:
    for of, read in _CONTENTS:
        if issubclass(kind, of) if isinstance(of, type | tuple) else of(kind):  # type: ignore[arg-type]
            return read
    return None


def as_json(value: Any, *, strict: bool = True) -> Any:
    """``value`` as JSON types; see :class:`ValueReader`."""
    return ValueReader(strict=strict).read(value)


def _tagged(kind: type, content: Any) -> dict[str, Any]:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {f"!{name}": content}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_in_its_module(definition: Any) -> bool:
    """Whether the module has the function or class under the definition's own name, so that its source describes it."""
    found: Any = sys.modules.get(str(definition.__module__))
    for part in definition.__qualname__.split("."):
        found = vars(found).get(part) if isinstance(found, type | types.ModuleType) else None
        found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    return found is definition


def _code_text(code: types.CodeType, docstring: str | None = None) -> str:
    """What a code object computes, without its line numbers and docstring."""
    constants = []
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            constants.append(_code_text(each))
        elif docstring is None or each != docstring:
            constants.append(repr(sorted(each, key=repr) if isinstance(each, frozenset) else each))
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _attribute(value: Any, name: str, error: type[Exception] = AttributeError) -> Any:
    """An attribute as it is stored, whatever methods the class has; None for one that is not set."""
    try:
        return object.__getattribute__(value, name)
    except error:
        return None


def _slots(kind: type) -> list[str]:
    """Slots that a class itself adds, under the names of the attributes."""
    names = vars(kind).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    private = f"_{kind.__name__.lstrip('_')}"
    names = [f"{private}{name}" if name.startswith("__") and not name.endswith("__") else name for name in names]
    return [name for name in names if name not in {"__dict__", "__weakref__"}]


def _hidden_state(kind: type) -> type | None:
    """The class whose instances keep state outside of attributes and slots, as classes written in C do."""
    for cls in kind.__mro__:
        base = cls.__base__
        if base is None or cls in {*CONTAINERS, *SCALARS, collections.OrderedDict, collections.defaultdict}:
            return None
        words = len(_slots(cls)) + bool(cls.__dictoffset__) + bool(cls.__weakrefoffset__)
        if cls.__basicsize__ - base.__basicsize__ > 8 * words:
            return cls
    return None


@functools.cache
def library_folders() -> tuple[str, ...]:
    """Folders of Python and of the installed libraries."""
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    return tuple(f"{Path(folder).resolve()}{os.sep}" for folder in folders)


@functools.cache
def is_installed(path: str) -> bool:
    """Whether a file or folder belongs to Python or to an installed library."""
    folders = library_folders()
    return path.startswith(folders) or f"{Path(path).resolve()}{os.sep}".startswith(folders)


def _is_library_class(cls: type) -> bool:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return cls.__module__ != "__main__" and (file is None or is_installed(file))


# Texts, digests and differences


def canonical(value: Any) -> str:
    """One text for each value of JSON types, which keeps the order of keys."""
    return json.dumps(value, ensure_ascii=False)


def digest(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _untagged(value: Any) -> Any:
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


def texts_in(value: Any) -> Iterator[str]:
    """Texts among the values of JSON types in ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def differences(old: Any, new: Any, name: str) -> list[str]:
    """How two values differ, leaf by leaf.

    >>> differences({"epochs": 8, "lr": 0.1}, {"epochs": 10, "lr": 0.1}, "training")
    ['training.epochs changed 8 → 10']
    """
    if canonical(old) == canonical(new):  # NaN equals NaN, and 1 differs from 1.0 and True
        return []
    before, after = dict(leaves(old, name)), dict(leaves(new, name))
    changes = []
    for key in {**before, **after}:
        was, now = short(before.get(key)), short(after.get(key))
        if key not in after:
            changes.append(f"{key} is gone (was {was})")
        elif key not in before:
            changes.append(f"{key} is new ({now})")
        elif canonical(before[key]) != canonical(after[key]):
            kinds = "" if was != now else f" ({_kind(before[key])}, now {_kind(after[key])})"
            changes.append(f"{key} changed {was} → {now}{kinds}")
    return changes or [f"{name} changed {short(old)} → {short(new)}"]


def _kind(value: Any) -> str:
    tag = next(iter(value), "") if isinstance(value, Mapping) else ""
    kind = type(value).__name__
    return tag[1:] if tag.startswith("!") else {"str": "a text", "NoneType": "null"}.get(kind, kind)


def _without_tags(value: Any) -> Any:
    value = _untagged(value)
    if isinstance(value, Mapping):
        return {key: _without_tags(item) for key, item in value.items()}
    return [_without_tags(item) for item in value] if isinstance(value, list) else value


def short(value: Any) -> str:
    """``value`` for a message, without secrets and cut to 60 characters."""
    value = redacted(_without_tags(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
