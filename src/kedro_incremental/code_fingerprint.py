"""What code a node runs: whole modules of the project, the values that others have put into them, and libraries.

A module counts with its whole source, without comments and docstrings. It reaches what it imports anywhere in its file,
the packages around it, all modules of a package that it imports as such, and what it imported while it was executed. A
module that finds others in a way that its source does not show (``exec``, ``__subclasses__``, ``runpy``, ...) reaches
all modules of its package.
"""

import ast
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import TypeAdapter

from .audit import AUDIT, OWN, SUFFIXES
from .canonical_json import ValueReader, canonical, digest, is_installed
from .storage import Unreadable, read_json, write_atomically

logger = logging.getLogger(__name__)

CACHING = re.compile("cache|memo(?!ry)")  # in names such as ``lru_cache`` and ``memoize``, not in ``MemoryError``
# Names that may lead to any module, or to the text of a source.
DYNAMIC = {"__import__", "runpy", "__subclasses__", "spec_from_file_location", "SourceFileLoader", "entry_points"}
DYNAMIC |= {"load_module", "locate", "get_objects", "get_referrers"}
DOCSTRING_READERS = {"__doc__", "getdoc", "getsource", "getsourcelines", "f_lineno", "co_firstlineno", "lineno"}
DOCSTRING_READERS |= {"tb_lineno"}
IGNORED_LIBRARIES = frozenset({"kedro", "tqdm"})  # they call nodes and show progress, they compute nothing
NODE_HOOKS = ("before_node_work", "before_node_run", "after_node_run", "before_dataset_loaded", "after_dataset_loaded")
NODE_HOOKS += ("before_dataset_saved", "after_dataset_saved")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

Location = tuple[str | None, list[str] | None]  # file of a module, and the folders of a package


@dataclass
class Source:
    """What the source of one module contains."""

    tree: str  # hash of the syntax tree without docstrings, comments and positions
    text: str  # hash of the bytes
    targets: list[str] = field(default_factory=list)  # dotted names that may be modules, or something in a module
    packages: list[str] = field(default_factory=list)  # imported names: if packages, all their modules are reached
    is_dynamic: bool = False  # any module of the package may be reached
    reads_docstrings: bool = False  # or sources, or line numbers
    caches: bool = False  # its functions may keep what they have read, for other nodes too


def parse(content: bytes, name: str, *, is_package: bool) -> Source:
    """Parse the source of the module ``name``. Raises SyntaxError if it is no Python."""
    tree = ast.parse(content)
    for node in ast.walk(tree):
        _strip(node)
    source = Source(_hash(ast.dump(tree, annotate_fields=False).encode(errors="surrogatepass")), _hash(content))
    around = name.split(".") if is_package else name.split(".")[:-1]
    targets, packages, mentioned = set[str](), set[str](), set[str]()
    fixed = set[int]()  # ``sys.modules`` with a constant key
    for node in ast.walk(tree):  # each node before those inside of it
        match node:
            case ast.Import(names=names):
                packages |= {alias.name for alias in names} | {_top(alias.name) for alias in names if not alias.asname}
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = [*(around[: len(around) - level + 1] if level else []), *([module] if module else [])]
                targets.add(base := ".".join(parts))
                packages |= {base if alias.name == "*" else f"{base}.{alias.name}" for alias in names}
            case ast.Subscript(value=value, slice=key) | ast.Call(func=ast.Attribute(value=value), args=[key, *_]):
                if _is_sys_modules(value) and isinstance(key, ast.Constant):
                    fixed.add(id(value))
                    packages.add(str(key.value))
            case ast.Name(id=text):
                mentioned.add(text)
                source.is_dynamic |= text in {"exec", "eval"}  # not ``model.eval()``
            case ast.Attribute(attr=text):
                mentioned.add(text)
                source.is_dynamic |= _is_sys_modules(node) and id(node) not in fixed
            case ast.Constant(value=str(text)):
                mentioned.add(text)
            case ast.Global():
                source.caches = True
    source.is_dynamic |= not mentioned.isdisjoint(DYNAMIC)
    source.reads_docstrings = not mentioned.isdisjoint(DOCSTRING_READERS)
    source.caches |= any(CACHING.search(text.lower()) for text in mentioned if len(text) < 200)
    source.targets, source.packages = sorted(targets | packages), sorted(packages)
    return source


def _is_sys_modules(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "modules" and ast.unparse(node.value) == "sys"


def _strip(node: ast.AST) -> None:
    """Take out what computes nothing: ``pass``, docstrings, and what is for the type checker alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
        node.body = []
    for name in ("body", "orelse", "finalbody"):
        if isinstance(statements := getattr(node, name, None), list):
            strings = [
                each for each in statements if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            ]
            idle = [each for each in statements if isinstance(each, ast.Pass) or each in strings]
            setattr(node, name, [each for each in statements if each not in idle])


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


@dataclass(frozen=True)
class Code:
    """Hash by module of the project, also by ``values of <module>``; version by library, one of them ``python``."""

    modules: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)


class CodeFingerprints:
    """Fingerprints of the project's modules and libraries; each module is read once.

    Args:
        package: the project's top-level package. Others belong to the project if no installed library has them.
        cache: JSON file that keeps the parsed sources; it may be lost at any time.
    """

    def __init__(self, package: str | None, cache: Path) -> None:
        self._package, self._cache = package, cache
        try:
            known = read_json(cache, TypeAdapter(dict[str, Source])) or {}
        except Unreadable as error:
            logger.warning("%s is unreadable (%s): the project's modules are parsed again", cache, error)
            known = {}
        self._parsed, self._parsed_before, self._used = known, len(known), set[str]()
        self._version, self._location = functools.cache(_version), functools.cache(self._find)
        self._belongs, self._modules_in = functools.cache(self._is_top_of_project), functools.cache(self._find_inside)
        self._versions = functools.cache(self._find_versions)
        self._sources: dict[str, tuple[bytes | None, Source]] = {}
        self._reachable: dict[str, tuple[Source, int, set[str]]] = {}
        self._values: dict[str, tuple[str | None, set[str]]] = {}

    def save(self) -> None:
        """Keep the parsed sources; where that fails, on a full disk, the next run parses them again."""
        if len(self._parsed) != self._parsed_before:
            kept = self._used if len(self._parsed) > 2000 else self._parsed.keys()
            text = json.dumps({key: asdict(self._parsed[key]) for key in kept})
            try:
                write_atomically(self._cache, text, durable=False)
            except OSError as error:
                logger.warning("The parsed sources cannot be kept in %s: %s", self._cache, error.strerror)

    def code(self, modules: Iterable[str], *, after_run: bool = False) -> Code:
        """Code that modules reach, with the values that others have put into them, but none put there by this run."""
        names, tops = self._closure(modules)
        values: dict[str, str] = {}
        todo = set(names)
        while todo:
            reached: set[str] = set()
            for name in todo:
                if name not in self._values and not after_run:
                    self._values[name] = AUDIT.changed_values(name)
                changed, others = self._values.get(name, (None, set()))
                if changed:
                    values[f"values of {name}"] = changed
                    reached |= others
            more, others = self._closure(reached - names)
            todo, names, tops = more - names, names | more, tops | others
        sources = {name: self.source(name) for name in sorted(names)}
        whole = any(source.reads_docstrings for source in sources.values())
        hashes = {name: source.text if whole else source.tree for name, source in sources.items()}
        return Code({**hashes, **dict(sorted(values.items()))}, self._versions(frozenset(tops)))

    def is_project(self, module: str) -> bool:
        """Whether a module belongs to the project."""
        return self._belongs(_top(module))

    def _is_top_of_project(self, top: str) -> bool:
        if not top or top in sys.stdlib_module_names or top in sys.builtin_module_names:
            return False
        file, folders = self._location(top) or (None, None)
        path = file or next(iter(folders or ()), "")
        is_outside = bool(path) and (not is_installed(path) or self._version(top) is None)
        return top in {self._package, "__main__"} or is_outside

    def _closure(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Modules of the project that ``names`` reach, with these, and the top-level packages of libraries."""
        todo, found, libraries = list(names), set[str](), set[str]()
        while todo:
            name = todo.pop()
            if f"{name}.".startswith(f"{OWN}."):  # the runner computes nothing
                continue
            if not self.is_project(name):
                libraries.add(_top(name))
                continue
            for part in set(self.found(name)) - found:
                found.add(part)
                todo.extend(self._reached(part) - found)
        return found, libraries

    def _reached(self, name: str) -> set[str]:
        source = self.source(name)
        imported = AUDIT.by_import[name].modules if name in AUDIT.by_import else set()
        known = self._reachable.get(name)
        if known is None or known[0] is not source or known[1] != len(imported):
            packages = [*source.packages, *([_top(name)] if source.is_dynamic else [])]
            reached = {*source.targets, *filter(self.is_project, imported), name.rpartition(".")[0]} - {""}
            known = (source, len(imported), reached.union(*map(self._modules_in, packages)))
            self._reachable[name] = known
        return known[2]

    def _find_inside(self, package: str) -> set[str]:
        """All modules of a package of the project; none for other names."""
        found = set[str]()
        _, folders = (self._location(package) if self.is_project(package) else None) or (None, None)
        for folder in folders or ():
            for path in Path(folder).rglob("*"):
                if path.name.endswith(SUFFIXES) and "__pycache__" not in path.parts:
                    parts = [*path.relative_to(folder).parts[:-1], path.name.partition(".")[0]]
                    found.add(".".join([package, *(part for part in parts if part != "__init__")]))
        return found

    def found(self, name: str) -> list[str]:
        """The modules along a dotted name, as far as there are any."""
        return list(itertools.takewhile(self._location, itertools.accumulate(name.split("."), "{}.{}".format)))

    def _find(self, name: str) -> Location | None:
        loaded = sys.modules.get(name)
        if loaded is not None and (file := getattr(loaded, "__file__", None)):
            return str(file), list(loaded.__path__) if hasattr(loaded, "__path__") else None
        parent = name.rpartition(".")[0]
        _, around = (self._location(parent) if parent else None) or (None, None)
        try:
            find = importlib.util.find_spec if not parent else importlib.machinery.PathFinder.find_spec
            spec = find(name, around) if around or not parent else None  # type: ignore[arg-type]
        except (ImportError, ValueError):  # ValueError: ``__main__`` of an interactive session has no spec
            return None
        folders = spec.submodule_search_locations if spec else None
        return (
            (spec.origin if spec.has_location else None, list(folders) if folders is not None else None)
            if spec
            else None
        )

    def package_folders(self, module: str) -> list[str]:
        """Folders of a module's top-level package."""
        return (self._location(_top(module)) or (None, None))[1] or []

    def source(self, name: str) -> Source:
        """The source that was imported, or else that of the file as it is."""
        imported = AUDIT.source(name)
        known = self._sources.get(name)
        if known is None or known[0] is not imported:
            known = self._sources[name] = (imported, self._read(name, imported))
        return known[1]

    def _read(self, name: str, imported: bytes | None) -> Source:
        file, folders = self._location(name) or (None, None)
        if file is None:  # a package without ``__init__.py``
            return Source("package", "package")
        content = imported if imported is not None else Path(file).read_bytes()
        if not file.endswith(".py"):  # a compiled one does not show what it imports
            return Source(_hash(content), _hash(content), is_dynamic=True)
        key = _hash(f"{name} {folders is None} {PYTHON} ".encode() + content)
        self._used.add(key)
        if key not in self._parsed:
            try:
                self._parsed[key] = parse(content, name, is_package=folders is not None)
            except (SyntaxError, ValueError):  # its import will fail, and name the cause
                self._parsed[key] = Source(key, key)
        return self._parsed[key]

    def modules_of_class(self, cls: type) -> set[str]:
        """Modules of a dataset's class; for a library's class, also the libraries that its module imports."""
        names = {base.__module__ for base in cls.__mro__}
        outside = [name for name in names if not self.is_project(name) and _top(name) not in IGNORED_LIBRARIES]
        return names.union(*map(_libraries_imported_by, outside))

    def of_hooks(self, hook_manager: Any) -> tuple[set[str], dict[str, str]]:
        """Modules of the project's hooks that may change what a node reads or writes, and digests of what they hold.

        A hook whose class has ``only_observes = True`` is left out.
        """
        reader, values, acting = ValueReader(strict=False), dict[str, str](), set[str]()
        for plugin in _plugins(hook_manager):
            module = plugin.__name__ if isinstance(plugin, type(sys)) else type(plugin).__module__
            if self.is_project(module) and not getattr(plugin, "only_observes", False):
                acting.add(module)
                name = f"values of the hook {module}.{type(plugin).__qualname__}"
                values[name] = digest(canonical(reader.read(plugin)))
        AUDIT.acting_hooks = acting
        return acting | reader.modules if acting else set(), values

    def _find_versions(self, tops: frozenset[str]) -> dict[str, str]:
        """Versions of libraries by top-level package, and of all that they require by distribution."""
        outside = {name for name in tops if name not in sys.stdlib_module_names} - IGNORED_LIBRARIES
        names = sorted(outside.union(*map(_requirements, outside)) - IGNORED_LIBRARIES)
        return {**{name: version for name in names if (version := self._version(name))}, "python": PYTHON}


def _plugins(hook_manager: Any) -> list[Any]:
    """Plug-ins that implement a hook around a node or dataset."""
    callers = [getattr(getattr(hook_manager, "hook", None), name, None) for name in NODE_HOOKS]
    found = {id(each.plugin): each.plugin for caller in callers if caller for each in caller.get_hookimpls() or ()}
    return list(found.values())


def _top(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _libraries_imported_by(module: str) -> set[str]:
    """Top-level packages of a library's module and of what it imports."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    body = ast.parse(Path(file).read_bytes()).body if file.endswith(".py") else []
    imported = {alias.name for each in body if isinstance(each, ast.Import) for alias in each.names}
    imported |= {str(each.module) for each in body if isinstance(each, ast.ImportFrom) and not each.level}
    return {_top(module), *map(_top, imported)}


def _version(library: str) -> str | None:
    """Version of the distribution that a top-level package belongs to; None for what is not installed."""
    versions = {name: importlib.metadata.version(name) for name in _distributions(library)}
    # Several distributions may share a package, as ``google``.
    several = ", ".join(f"{name} {version}" for name, version in versions.items())
    return several if len(versions) > 1 else next(iter(versions.values()), None)


def _distributions(library: str) -> list[str]:
    """Names of the distributions of a top-level package, or of a distribution's name."""
    try:
        return [importlib.metadata.distribution(library).name]
    except importlib.metadata.PackageNotFoundError:
        return sorted(_distributions_by_package().get(library, ()))


@functools.cache
def _distributions_by_package() -> dict[str, set[str]]:
    """As :func:`importlib.metadata.packages_distributions`, which parses all metadata and takes ten times as long."""
    found: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        tops = {line.partition("/")[0] for line in (distribution.read_text("RECORD") or "").splitlines()}
        for top in tops | set((distribution.read_text("top_level.txt") or "").split()):
            found.setdefault(top.partition(".py,")[0], set()).add(distribution.name)
    return found


@functools.cache
def _requirements(library: str) -> set[str]:
    """Distributions that a library requires, directly or not."""
    todo, found = _distributions(library), set[str]()
    while todo:
        try:
            lines = importlib.metadata.requires(todo.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in lines:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:  # of an old distribution; its own version counts all the same
                continue
            name = requirement.name.lower().replace("_", "-")
            is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_needed and name not in found | IGNORED_LIBRARIES:
                found.add(name)
                todo.append(name)
    return found
