"""What code a node runs: every definition of the project that its function reaches, and the libraries behind them.

The sources are read, not executed: each module is parsed once, and references are followed from definition to
definition (a function, a class, an assignment) through imports. What is hashed is the syntax tree without docstrings,
so that comments, docstrings and formatting count for nothing. What a function holds that no source tells (closures,
``functools.partial``, instances) is read from the function itself.

Seen: names, attributes of imported modules (all of a module that is passed around, as in ``getattr(module, name)``),
imports inside functions, decorators, default values, base classes, annotations, and the statements that act in every
module that is imported on the way (a call, ``REGISTRY["a"] = f``, a decorator or a base class that registers).

Not seen: modules and names that are looked up by a string alone (``importlib``, ``globals()``), what an assignment or
a ``return`` does besides its value (``_ = register(f)``), subclasses found by ``__subclasses__``, docstrings that are
used as data, settings of a library's decorator that is applied by hand, values that change at run time
(``module.SETTING = 5`` within a function, environment variables), and files that the code reads by itself.
"""

import ast
import enum
import functools
import importlib.metadata
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from .modules import Reading, imported_modules
from .names import MODULE_BODY, Found, Key, Names
from .values import canonical, digest, plain, state

IGNORED_LIBRARIES = frozenset({"kedro", "fsspec", "tqdm"})  # they carry values and show progress, they compute nothing


class UntraceableCode(Exception):
    """The code of a function cannot be told from its source: what it computes may have changed unnoticed."""


@dataclass(frozen=True)
class Code:
    """What a function reaches.

    Attributes:
        definitions: ``package.module.name`` of each definition, with a hash of its syntax tree.
        libraries: top-level packages, with the versions of their distributions; ``python`` is one of them.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: "Code") -> "Code":
        return Code(self.definitions | other.definitions, self.libraries | other.libraries)


class CodeIndex:
    """Code of functions and classes, read once for each definition.

    Args:
        package: the project's own top-level package, wherever it is installed. Other top-level packages belong to the
            project if they lie outside of the installed libraries.
    """

    def __init__(self, package: str | None = None) -> None:
        self._names = Names(package)
        self._direct: dict[Key, tuple[str | None, Found]] = {}
        self._version = functools.cache(_version)

    def of_function(self, function: Callable[..., Any]) -> Code:
        """Code that a call of ``function`` reaches.

        Raises:
            UntraceableCode: if it is not defined in a source file, or holds values that cannot be compared.
        """
        code: list[Code] = []
        try:
            held = self._held(function, code, set())
        except (TypeError, RecursionError) as error:
            raise UntraceableCode(f"{_name(function)} holds a value that cannot be compared: {error}") from error
        values = {} if isinstance(held, str) else {f"values of {_name(function)}": digest(canonical(held))}
        return functools.reduce(Code.__or__, code, Code(values))

    def of_class(self, cls: type) -> Code:
        """Code of a class; for a library's class, the library and what its module imports.

        For a dataset of the project, the library's dataset that it extends counts as well.

        Raises:
            UntraceableCode: if it is not defined in a source file.
        """
        if self._is_library(cls.__module__):
            return Code({}, self._versions(_imported_by(cls.__module__)))
        bases = {base.__module__ for base in cls.__mro__ if issubclass(base, AbstractDataset)}
        outside = {name for name in bases if self._is_library(name) and _top(name) not in IGNORED_LIBRARIES}
        libraries = {library for name in outside for library in _imported_by(name)}
        return self._of_name(cls.__module__, cls.__qualname__) | Code({}, self._versions(libraries))

    # What a function holds

    def _held(self, value: Any, code: list[Code], seen: set[int]) -> Any:
        """What a value consists of, in JSON types; the code of functions and classes in it is added to ``code``."""
        if _has_name(value):
            return self._held_by_definition(value, code, seen)
        is_ours = self._names.is_project(type(value).__module__)
        if is_ours:
            code.append(self.of_class(type(value)))
        if isinstance(value, functools.partial):
            return [self._held(part, code, seen) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, Mapping):
            return {str(key): self._held(part, code, seen) for key, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            inner = [self._held(part, code, seen) for part in value]
            return sorted(inner, key=canonical) if isinstance(value, set | frozenset) else inner
        if callable(value) or (is_ours and not isinstance(value, enum.Enum)):
            return self._held_by_instance(value, code, seen)
        return plain(value, strict=True)

    def _held_by_definition(self, value: Any, code: list[Code], seen: set[int]) -> Any:
        name = _name(value)
        if isinstance(value, types.FunctionType):
            return self._held_by_function(value, code, seen)
        if isinstance(value, type):
            code.append(self.of_class(value))
        elif isinstance(value, types.MethodType) and not isinstance(value.__self__, type):
            return [name, self._held_by_instance(value.__self__, code, seen)]
        elif isinstance(getattr(value, "__self__", None), types.ModuleType | None):  # of a library written in C
            wrapped = getattr(value, "__wrapped__", None)  # by functools.lru_cache
            if wrapped is not None:
                return self._held(wrapped, code, seen)
            code.append(self._of_name(value.__module__ or "builtins", value.__qualname__))
        else:
            return [name, self._held(value.__self__, code, seen)]
        return name

    def _held_by_instance(self, instance: Any, code: list[Code], seen: set[int]) -> Any:
        if id(instance) not in seen:
            seen.add(id(instance))
            code.append(self.of_class(type(instance)))
            return [_name(type(instance)), self._held(state(instance), code, seen)]
        return _name(type(instance))

    def _held_by_function(self, function: types.FunctionType, code: list[Code], seen: set[int]) -> Any:
        name, original = _name(function), getattr(inspect.unwrap(function), "__code__", function.__code__)
        if original.co_filename.startswith("<") and self._names.is_project(function.__module__):  # made by exec
            raise UntraceableCode(f"{name} is not defined in a source file")
        if id(function) in seen:
            return name
        seen.add(id(function))
        if _is_in_its_module(function):  # the source tells how it came about
            code.append(self._of_name(function.__module__, function.__qualname__))
            return name
        module, qualname = function.__globals__.get("__name__"), function.__code__.co_qualname
        code.append(self._of_name(module, qualname))
        held: dict[str, Any] = {"wrapped": function.__wrapped__} if hasattr(function, "__wrapped__") else {}
        if not held or self._names.is_project(module):  # what else a library's decorator holds is its own affair
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            held |= {captured: _content(cell) for captured, cell in cells}
            if "<locals>" in qualname and (function.__defaults__ or function.__kwdefaults__):
                held |= {"default values": [function.__defaults__, function.__kwdefaults__]}
        return [name, self._held(held, code, seen)] if held else name

    def _of_name(self, module_name: str | None, qualname: str) -> Code:
        """Code of a definition by its name."""
        if module_name and self._is_library(module_name):
            return Code({}, self._versions({_top(module_name)}))
        module, name = self._names.module(module_name or ""), qualname.partition(".")[0]
        if module is None:
            raise UntraceableCode(f"{module_name}.{qualname} is not defined in a source file")
        if name in module.definitions:
            return self._reached({(module.name, name)})
        # A lambda, or a name that the module builds at run time: everything in the module counts.
        return self._reached({*((module.name, other) for other in module.definitions), (module.name, MODULE_BODY)})

    def _is_library(self, module: str) -> bool:
        top = _top(module)
        known = top in sys.stdlib_module_names or top in IGNORED_LIBRARIES or self._version(top)
        return bool(known) and not self._names.is_project(module)

    # What definitions refer to

    def _reached(self, start: set[Key]) -> Code:
        definitions: dict[str, str] = {}
        libraries: set[str] = set()
        todo, seen = list(start), set(start)
        while todo:
            key = todo.pop()
            hashed, found = self._analyse(key)
            if hashed:
                definitions[f"{key[0]}.{key[1]}"] = hashed
            libraries |= found.libraries
            fresh = found.keys - seen
            seen |= fresh
            todo.extend(fresh)
        return Code(dict(sorted(definitions.items())), self._versions(libraries))

    def _analyse(self, key: Key) -> tuple[str | None, Found]:
        """Hash of a definition (None for a module body that does not act) and what it refers to."""
        if key not in self._direct:
            module = self._names.module(key[0])
            assert module is not None
            is_body = key[1] == MODULE_BODY
            statements = [*module.acting, *self._names.registering(module)] if is_body else module.definitions[key[1]]
            reading, found = Reading(statements, module), Found()
            for name in {module.name} | reading.loaded | (module.loaded if is_body else set()):
                found.keys |= self._names.bodies(name)
            for chain in reading.chains:
                self._names.find(module, chain, found)
            for source, taken in reading.targets:
                self._names.follow(source, taken, found)
            self._direct[key] = (digest(reading.text) if statements else None, found)
        return self._direct[key]

    def _versions(self, libraries: Iterable[str]) -> dict[str, str]:
        outside = {name for name in libraries if name and name not in sys.stdlib_module_names} - IGNORED_LIBRARIES
        found = {name: self._version(name) for name in sorted(outside)}
        return {**{name: version for name, version in found.items() if version}, "python": _PYTHON}


_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _top(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _imported_by(module: str) -> frozenset[str]:
    """Top-level packages of a library's module and of what it imports."""
    source = getattr(sys.modules.get(module), "__file__", None)
    statements = ast.parse(Path(source).read_bytes()).body if source and source.endswith(".py") else []
    return frozenset({_top(module)} | {_top(name) for each in statements for name in imported_modules(each)})


def _name(definition: Any) -> str:
    """Name of a function or class; of the class of another object."""
    while isinstance(definition, functools.partial):
        definition = definition.func
    named = definition if _has_name(definition) else type(definition)
    return f"{named.__module__}.{named.__qualname__}"


def _has_name(value: Any) -> bool:
    """Whether it is a function or class, in the widest sense."""
    return callable(value) and hasattr(value, "__qualname__")


def _is_in_its_module(function: types.FunctionType) -> bool:
    """Whether the module has the function under the function's own name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _content(cell: types.CellType) -> Any:
    """What a closure has captured; None for a name that is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _version(library: str) -> str | None:
    """Version of the distribution that a top-level package belongs to; None for what is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        versions = {name: importlib.metadata.version(name) for name in _distributions().get(library, ())}
    if len(versions) > 1:  # one of those that share a name, as ``google`` is
        return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return next(iter(versions.values()), None)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Distributions by top-level package, where the names differ (``sklearn``); it reads every installed one."""
    return dict(importlib.metadata.packages_distributions())
