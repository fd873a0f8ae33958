"""Python values as JSON that compares across processes, and the differences of two such values in words.

JSON has no dates, tuples, sets, classes, nor keys other than texts. Each of these becomes a mapping with one key that
starts with ``!`` and names the type: ``{"!tuple": [1, 2]}``, ``{"!datetime.date": "2015-07-31"}``. The state of an
object of the project is read from the object itself, whatever its ``__getstate__``, ``__iter__`` and other methods
return; one of a library is what pickle would keep of it.
"""

import collections
import copyreg
import datetime
import enum
import functools
import hashlib
import json
import logging
import os
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
MAPPINGS = (dict, types.MappingProxyType)
CONTAINERS = (*MAPPINGS, list, tuple, set, frozenset, collections.deque)
ACCESSORS = (property, staticmethod, classmethod, functools.cached_property)
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
CACHED = type(functools.lru_cache(len))
HEAP_TYPE = 1 << 9  # flag of a class that Python code makes; the others are built in
MODULE_FIELDS = {"__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__package__", "__path__"}
MODULE_FIELDS |= {"__spec__", "__name__", "__warningregistry__"}


class NotComparable(TypeError):
    """A value cannot be compared with the one of another run."""


class ValueReader:
    """Reads values as JSON, and collects the modules of their classes and functions in ``modules``.

    Args:
        strict: raise NotComparable for what cannot be compared, and take a function or class of a module by its name.
            Otherwise the type stands for the one, and those of the project are read with what they hold.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.modules: set[str] = set()
        self._strict, self._left = strict, BUDGET
        self._open: list[int] = []  # ids of the objects around the one that is read

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
            return self._read_function(value)
        self.modules.update(base.__module__ for base in kind.__mro__)
        read = next((read for of, read in _CONTENTS.items() if issubclass(kind, of)), None)
        if read:
            described = _tagged(kind, read(self, value))
        elif kind in CONTAINERS or not _is_library(kind.__module__):
            described = self._read_own(value, kind)
        else:
            described = _tagged(kind, self._read_pickled(value, kind))
        if kind.__flags__ & HEAP_TYPE and not is_in_its_module(kind):  # a class made in a function
            return {**described, "!made": self.read(kind)}
        return described

    def _read_own(self, value: Any, kind: type) -> Any:
        """A container, or an object of the project, with its attributes and with what its built-in class holds."""
        # A class of C has a ``__new__`` of its own; that of Python's classes is inherited, or a function.
        base = next(each for each in kind.__mro__ if getattr(each.__new__, "__self__", None) is each)
        if base in MAPPINGS:
            content = self._mapping(dict(base.items(value)))
        elif base in CONTAINERS:
            content = [self.read(item) for item in base.__iter__(value)]
            content = sorted(content, key=canonical) if base in {set, frozenset} else content
        else:
            content = None if base is object else self._read_pickled(value, kind)
        if kind in CONTAINERS:
            return content if kind in (dict, list) else _tagged(kind, content)
        state: Any = object.__getstate__(value)  # the attributes, or these and the slots
        attributes: dict[str, Any] = {}
        for part in state if isinstance(state, tuple) else [state]:
            attributes |= part or {}
        given = attributes.pop("__pydantic_fields_set__", None)
        attributes = {name: each for name, each in attributes.items() if each is not None or name[:2] != "__"}
        described = _tagged(kind, self._mapping(attributes) if base is object else [content, self._mapping(attributes)])
        return described if given is None else {**described, "!given": sorted(given)}

    def _read_pickled(self, value: Any, kind: type) -> Any:
        """An object as pickle would keep it."""
        try:
            if kind is object or hasattr(kind, "__next__"):
                raise NotComparable("an object without a name" if kind is object else f"a {kind.__name__}")
            reduced = copyreg.dispatch_table.get(kind, lambda value: value.__reduce_ex__(4))(value)
            if isinstance(reduced, str):
                # Functions of some C extensions have the module itself there.
                return [self.read(getattr(value, "__module__", None)), reduced]
            return [self.read(list(part) if hasattr(part, "__next__") else part) for part in reduced]
        except Exception as error:
            if not self._strict:
                return None
            what = error if isinstance(error, NotComparable) else f"a {kind.__name__}"
            raise NotComparable(f"{what} holds a state that differs in each process") from error

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith("!") for key in value):
            return {key: self.read(item) for key, item in value.items()}
        return {"!dict": [[self.read(key), self.read(item)] for key, item in value.items()]}

    def _read_function(self, function: types.FunctionType) -> Any:
        """A function: its name where its module has it under that name; otherwise also its code and state."""
        home = str(function.__globals__.get("__name__"))
        self.modules.update({home, str(function.__module__)})
        name, code = f"{function.__module__}.{function.__qualname__}", function.__code__
        is_named = is_in_its_module(function)
        if is_named and (self._strict or _is_library(function.__module__)):
            return {"!function": name}
        if self._strict and code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen"):
            raise NotComparable(f"{name} is not defined in a source file")
        if self._strict and (home not in sys.modules or vars(sys.modules[home]) is not function.__globals__):
            raise NotComparable(f"{name} comes from a module that was loaded again, or removed")
        state: dict[str, Any] = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        if home == "functools" and hasattr(function, "registry"):  # singledispatch, without its cache
            state |= {key: vars(function)[key] for key in ("registry", "__wrapped__")}
        else:
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            state["cells"] = {key: cell.cell_contents for key, cell in cells if cell != types.CellType()}
            state["attributes"] = vars(function)
        state = {key: self.read(part) for key, part in state.items() if part}
        source = None if is_named else digest(_code_text(code, function.__doc__))
        return {"!function": [name, source, state]} if state or source else {"!function": name}

    def _read_class(self, cls: type) -> Any:
        """A class: its name, where its source describes it; otherwise also its bases and attributes."""
        self.modules.update(base.__module__ for base in (*cls.__mro__, type(cls)))
        name = f"{cls.__module__}.{cls.__qualname__}"
        is_named = is_in_its_module(cls) or not cls.__flags__ & HEAP_TYPE
        if is_named and (self._strict or _is_library(cls.__module__)):
            return {"!class": name}
        found = {}
        for key, value in sorted(vars(cls).items()):
            is_method = issubclass(type(value), (types.FunctionType, *ACCESSORS[:3]))
            is_special = key.startswith("__") and key.endswith("__") and not is_method
            if not (is_special or key.startswith("_abc_") or type(value) in DESCRIPTORS):
                found[key] = self.read(value)
        return {"!class": [name, [] if is_named else [self.read(base) for base in cls.__bases__], found]}

    def read_module(self, module: types.ModuleType) -> str:
        """Digest of a module's values, and of what the project's classes and functions among them hold."""
        found = {}
        for name, value in sorted(vars(module).items()):
            is_submodule = type(value) is types.ModuleType and value.__name__ == f"{module.__name__}.{name}"
            if name not in MODULE_FIELDS and not is_submodule:
                try:
                    found[name] = self.read(value)
                except NotComparable:
                    found[name] = type(value).__name__
        return digest(canonical(found))


def _module_name(reader: ValueReader, module: types.ModuleType) -> str:
    reader.modules.add(module.__name__)
    return module.__name__


def _context_value(reader: ValueReader, variable: ContextVar[Any]) -> list[Any]:
    try:
        return [variable.name, reader.read(variable.get())]
    except LookupError:  # it was never set, and has no default
        return [variable.name]


# How a value is read, by a class of it; others as pickle would keep them.
_CONTENTS: dict[type | tuple[type, ...], Callable[[ValueReader, Any], Any]] = {
    types.ModuleType: _module_name,
    ACCESSORS: lambda reader, v: reader.read([getattr(v, key, None) for key in ("fget", "fset", "func", "__func__")]),
    types.MethodType: lambda reader, v: reader.read([v.__self__, v.__func__]),
    weakref.ReferenceType: lambda reader, v: reader.read(v()),
    enum.Enum: lambda reader, v: [v.name, reader.read(v.value)],
    (datetime.date, datetime.time): lambda reader, v: v.isoformat(),
    PurePath: lambda reader, v: str(v),
    logging.Logger: lambda reader, v: v.name,
    bytes: lambda reader, v: hashlib.sha256(v).hexdigest(),
    ContextVar: _context_value,
    CACHED: lambda reader, v: reader.read([v.__wrapped__, v.cache_parameters()]),  # not what it has cached
}


def as_json(value: Any, *, strict: bool = True) -> Any:
    """``value`` as JSON types; see :class:`ValueReader`."""
    return ValueReader(strict=strict).read(value)


def _tagged(kind: type, content: Any) -> dict[str, Any]:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {f"!{name}": content}


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


def _is_library(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return module != "__main__" and (file is None or is_installed(file))


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
