"""What code a node runs: every definition of the project that its function reaches, and the libraries behind them.

The sources are read, not executed: each module is parsed once, and references are followed from definition to
definition (a function, a class, an assignment) through imports. What is hashed is the syntax tree without docstrings,
so that comments, docstrings and formatting count for nothing.

Seen: names, attributes of imported modules, imports inside functions, decorators, default values, base classes,
annotations, module-level statements with effects (of every module that is reached, and of its packages), closures,
``functools.partial``. Not seen: what is looked up by a string (``getattr(module, name)``, ``importlib``), methods added
to a class of another module from outside, environment variables, and files that the code reads by itself.
"""

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .modules import Module, chains, import_targets, imported_modules, without_docstrings
from .values import canonical, digest

MODULE_BODY = "(module body)"
IGNORED_LIBRARIES = frozenset({"kedro", "fsspec", "tqdm"})  # they carry values and show progress, they compute nothing

Key = tuple[str, str]  # module and definition


class UntraceableCode(Exception):
    """The code of a function cannot be told from its source: what it computes may have changed unnoticed."""


@dataclass(frozen=True)
class Code:
    """What a function reaches.

    Attributes:
        definitions: ``package.module.name`` of each definition, with a hash of its syntax tree.
        libraries: distributions, with their versions; ``python`` is one of them.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: "Code") -> "Code":
        return Code(self.definitions | other.definitions, self.libraries | other.libraries)


class CodeIndex:
    """Sources of a project, parsed as far as they are asked for.

    Args:
        package: the project's own top-level package, wherever it is installed. Other top-level packages belong to the
            project if they lie outside of the installed libraries.
    """

    def __init__(self, package: str | None = None) -> None:
        self._package = package
        self._roots: dict[str, Path | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._direct: dict[Key, tuple[str, frozenset[Key], frozenset[str]]] = {}

    def of_function(self, function: Callable[..., Any]) -> Code:
        """Code that a call of ``function`` reaches.

        Raises:
            UntraceableCode: if it is not defined in a source file, or holds values that cannot be compared.
        """
        if isinstance(function, functools.partial):
            held = {"args": list(function.args), "kwargs": dict(function.keywords)}
            return self.of_function(function.func) | self._of_values(held, f"partial of {function.func}")
        if isinstance(function, types.MethodType):
            return self._of_instance(function.__self__)
        if not hasattr(function, "__qualname__"):
            return self._of_instance(function)
        return self._of_definition(function) | self._of_closure(function)

    def of_class(self, cls: type) -> Code:
        """Code of a class; for a library's class, the library and what its module imports."""
        if self._is_project(cls.__module__):
            return self._of_definition(cls)
        libraries = {cls.__module__}
        source = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if source and source.endswith(".py"):
            tree = ast.parse(Path(source).read_bytes())
            libraries |= {name for node in tree.body for name in imported_modules(node)}
        return Code({}, self._versions({name.partition(".")[0] for name in libraries}))

    def _of_instance(self, instance: Any) -> Code:
        if isinstance(instance, type):
            return self.of_class(instance)
        return self.of_class(type(instance)) | self._of_values(vars(instance), f"instance of {type(instance).__name__}")

    def _of_closure(self, function: Callable[..., Any]) -> Code:
        code = Code()
        function = inspect.unwrap(function)
        names = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
            value = cell.cell_contents
            traceable = isinstance(value, types.FunctionType | type | functools.partial)
            code |= self._of_value(value) if traceable else self._of_values({name: value}, f"closure of {function}")
        return code

    def _of_value(self, value: Any) -> Code:
        return self.of_class(value) if isinstance(value, type) else self.of_function(value)

    def _of_values(self, values: dict[str, Any], what: str) -> Code:
        try:
            return Code({f"values of {what.partition(' at 0x')[0]}": digest(canonical(values, strict=True))})
        except TypeError as error:
            raise UntraceableCode(f"{what} holds a value that cannot be compared: {error}") from error

    def _of_definition(self, definition: Any) -> Code:
        definition = inspect.unwrap(definition)
        name, qualname = definition.__module__ or "builtins", definition.__qualname__
        if not self._is_project(name):
            return Code({}, self._versions({name.partition(".")[0]}))
        module = self._module(name)
        if module is None:
            raise UntraceableCode(f"{name}.{qualname} is not defined in a source file")
        top = qualname.partition(".")[0]
        if top in module.definitions:
            return self._reached({(name, top)})
        # A lambda, or a name that the module builds at run time: everything in the module counts.
        return self._reached({(name, other) for other in module.definitions})

    def _reached(self, start: set[Key]) -> Code:
        definitions: dict[str, str] = {}
        libraries: set[str] = set()
        todo, seen = list(start), set(start)
        while todo:
            key = todo.pop()
            hashed, references, used = self._analyse(key)
            definitions[f"{key[0]}.{key[1]}"] = hashed
            libraries |= used
            bodies = {(module, MODULE_BODY) for module in self._packages(key[0])}
            fresh = (references | bodies) - seen
            seen |= fresh
            todo.extend(fresh)
        return Code(dict(sorted(definitions.items())), self._versions(libraries))

    def _packages(self, module: str) -> Iterator[str]:
        """The module and the packages around it that act when they are imported."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            parsed = self._module(name)
            if parsed and parsed.acting:
                yield name

    def _analyse(self, key: Key) -> tuple[str, frozenset[Key], frozenset[str]]:
        if key not in self._direct:
            module = self._module(key[0])
            assert module is not None
            statements = module.acting if key[1] == MODULE_BODY else module.definitions[key[1]]
            references: set[Key] = set()
            libraries: set[str] = set()
            for statement in statements:
                for chain in chains(statement):
                    self._resolve(module, chain, references, libraries)
                for inner in ast.walk(statement):
                    for target, attribute in import_targets(inner, module):
                        self._resolve_path(target, (attribute,) if attribute else (), references, libraries)
            trees = "\n".join(ast.dump(without_docstrings(statement)) for statement in statements)
            self._direct[key] = (digest(trees), frozenset(references - {key}), frozenset(libraries))
        return self._direct[key]

    def _resolve(self, module: Module, chain: tuple[str, ...], found: set[Key], libraries: set[str]) -> bool:
        """Find what ``a.b.c`` means inside a module; False if the module does not bind ``a``."""
        name = chain[0]
        if name in module.definitions:
            found.add((module.name, name))
            return True
        if name in module.imports:
            target, attribute = module.imports[name]
            rest = (*((attribute,) if attribute else ()), *chain[1:])
            self._resolve_path(target, rest, found, libraries)
            return True
        for star in module.stars:
            other = self._module(star) if self._is_project(star) else None
            if other and self._resolve(other, chain, found, libraries):
                return True
        return False

    def _resolve_path(self, target: str, chain: tuple[str, ...], found: set[Key], libraries: set[str]) -> None:
        """Find what the attributes ``chain`` of the module ``target`` mean."""
        if not self._is_project(target):
            libraries.add(target.partition(".")[0])
            return
        module = self._module(target)
        if module is None:
            return
        if not chain:  # the module is passed around as a value: everything in it may be used
            found.update((target, name) for name in module.definitions)
            return
        if not self._resolve(module, chain, found, libraries):
            submodule = f"{target}.{chain[0]}"
            if self._module(submodule):
                self._resolve_path(submodule, chain[1:], found, libraries)

    def _is_project(self, module: str) -> bool:
        return self._root(module.partition(".")[0]) is not None

    def _root(self, top: str) -> Path | None:
        """Folder (or file) of a top-level package of the project; None for libraries."""
        if top not in self._roots:
            self._roots[top] = self._find_root(top)
        return self._roots[top]

    def _find_root(self, top: str) -> Path | None:
        if top in sys.stdlib_module_names or top == "__main__":
            return None
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        if spec is None or not (spec.submodule_search_locations or (spec.origin or "").endswith(".py")):
            return None
        root = Path(next(iter(spec.submodule_search_locations))) if spec.submodule_search_locations else None
        root = (root or Path(str(spec.origin))).resolve()
        installed = any(root.is_relative_to(folder) for folder in _library_folders())
        return root if top == self._package or not installed else None

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def _parse(self, name: str) -> Module | None:
        top, *parts = name.split(".")
        root = self._root(top)
        if root is None:
            return None
        path = root.joinpath(*parts) if root.is_dir() else root
        candidates = [path / "__init__.py", path.with_name(f"{path.name}.py")] if root.is_dir() else [root]
        source = next((candidate for candidate in candidates if candidate.is_file()), None)
        if source is None:
            return None
        module = Module.parse(name, source)
        for definitions in list(module.definitions.values()):
            module.acting.extend(stmt for stmt in definitions if self._registers(stmt, module))
        return module

    def _registers(self, statement: ast.stmt, module: Module) -> bool:
        """Whether a decorator of the project may put the definition somewhere, to be found without its name."""
        for decorator in getattr(statement, "decorator_list", ()):
            name = next(iter(chains(decorator)), ("",))[0]
            target = module.name if name in module.definitions else module.imports.get(name, ("", None))[0]
            if target and self._is_project(target):
                return True
        return False

    def _versions(self, libraries: Iterable[str]) -> dict[str, str]:
        outside = {name for name in libraries if name not in sys.stdlib_module_names} - IGNORED_LIBRARIES
        found = {name: _version(name) for name in sorted(outside)}
        return {**{name: version for name, version in found.items() if version}, "python": _PYTHON}


_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    return tuple(Path(folder).resolve() for folder in folders)


def _version(library: str) -> str | None:
    """Version of the distribution that a top-level package belongs to; None for what is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        for distribution in _distributions().get(library, ()):
            return importlib.metadata.version(distribution)
    return None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Distributions by top-level package, where the names differ (``sklearn``); it reads every installed one."""
    return dict(importlib.metadata.packages_distributions())
