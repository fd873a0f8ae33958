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
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from .audit import AUDIT, OWN, SUFFIXES
from .canonical_json import ValueReader, canonical, digest, is_installed

# Names that may lead to any module, or to the text of a source.
DYNAMIC = {"__import__", "runpy", "__subclasses__", "spec_from_file_location", "SourceFileLoader", "entry_points"}
DYNAMIC |= {"load_module", "locate", "get_objects", "get_referrers"}
DOCSTRING_READERS = {"__doc__", "getdoc", "getsource", "getsourcelines", "f_lineno", "co_firstlineno", "lineno"}
DOCSTRING_READERS |= {"tb_lineno"}
IGNORED_LIBRARIES = frozenset({"kedro", "tqdm"})  # they call nodes and show progress, they compute nothing
NODE_HOOKS = {"before_node_work", "before_node_run", "after_node_run", "before_dataset_loaded", "after_dataset_loaded"}
NODE_HOOKS |= {"before_dataset_saved", "after_dataset_saved"}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass
class Source:
    """What the source of one module contains."""

    tree: str  # hash of the syntax tree without docstrings, comments and positions
    text: str  # hash of the bytes
    targets: list[str] = field(default_factory=list)  # dotted names that may be modules, or something in a module
    packages: list[str] = field(default_factory=list)  # imported names: if packages, all their modules are reached
    is_dynamic: bool = False  # any module of the package may be reached
    reads_docstrings: bool = False  # or sources, or line numbers


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
    source.is_dynamic |= not mentioned.isdisjoint(DYNAMIC)
    source.reads_docstrings = not mentioned.isdisjoint(DOCSTRING_READERS)
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
            setattr(node, name, [each for each in statements if not _is_idle(each)])


def _is_idle(statement: ast.stmt) -> bool:
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or isinstance(statement, ast.Pass)


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


class CodeFingerprints:
    """Fingerprints of the project's modules and libraries.

    Args:
        package: the project's top-level package. Others belong to the project if no installed library has them.
        parsed: what is known of sources, by their hash; it may be lost at any time.
    """

    def __init__(self, package: str | None, parsed: dict[str, dict[str, Any]]) -> None:
        self._package, self._parsed = package, parsed
        self._location, self._modules_in = functools.cache(self._find), functools.cache(self._find_inside)
        self._belongs, self._versions = functools.cache(self._is_top_of_project), functools.cache(self._find_versions)
        self._version = functools.cache(_version)  # in this run
        self._sources: dict[str, Source] = {}
        self._reachable: dict[tuple[str, str, int], set[str]] = {}
        self._values: dict[str, tuple[str | None, set[str]]] = {}

    def code(self, modules: Iterable[str], *, after_run: bool = False) -> tuple[dict[str, str], dict[str, str]]:
        """Code that modules reach: hash by module of the project, and version by distribution and of ``python``.

        The values that others have put into a module, but not this run, are under ``values of <module>``.
        """
        todo, seen, names, libraries = list(modules), set[str](), set[str](), set[str]()
        while todo:
            if (name := todo.pop()) in seen:
                continue
            seen.add(name)
            if not self.is_project(name):
                libraries.add(_top(name))
            elif not f"{name}.".startswith(f"{OWN}."):  # the runner computes nothing
                for part in set(self.found(name)) - names:
                    names.add(part)
                    if part not in self._values and not after_run:
                        self._values[part] = AUDIT.changed_values(part)
                    todo.extend(self._reached(part) - seen)
                    todo.extend(self._values.get(part, (None, set[str]()))[1] - seen)
        sources = {name: self.source(name) for name in sorted(names)}
        whole = any(source.reads_docstrings for source in sources.values())
        hashes = {name: source.text if whole else source.tree for name, source in sources.items()}
        values = {f"values of {name}": value for name in sources if (value := self._values.get(name, (None,))[0])}
        return {**hashes, **values}, self._versions(frozenset(libraries))

    def is_project(self, module: str) -> bool:
        """Whether a module belongs to the project."""
        return self._belongs(_top(module))

    def _is_top_of_project(self, top: str) -> bool:
        if not top or top in sys.stdlib_module_names:
            return top == "__main__"
        file, folders = self._location(top)
        path = file or next(iter(folders), "")
        return top in {self._package, "__main__"} or (
            bool(path) and (not is_installed(path) or not _distributions(top))
        )

    def _reached(self, name: str) -> set[str]:
        """Modules, of the project and of libraries, that a module of the project reaches itself."""
        source = self.source(name)
        imported = AUDIT.by_module[name].modules if name in AUDIT.by_module else set()
        known = (name, source.text, len(imported))
        if known not in self._reachable:
            packages = [*source.packages, *([_top(name)] if source.is_dynamic else [])]
            reached = {*source.targets, *filter(self.is_project, imported), name.rpartition(".")[0]} - {""}
            self._reachable[known] = reached.union(*map(self._modules_in, packages))
        return self._reachable[known]

    def _find_inside(self, package: str) -> set[str]:
        """All modules of a package of the project; none for other names."""
        found = set[str]()
        for folder in self._location(package)[1] if self.is_project(package) else ():
            for path in Path(folder).rglob("*"):
                if path.name.endswith(SUFFIXES) and "__pycache__" not in path.parts:
                    parts = [*path.relative_to(folder).parts[:-1], path.name.partition(".")[0]]
                    found.add(".".join([package, *(part for part in parts if part != "__init__")]))
        return found

    def found(self, name: str) -> list[str]:
        """The modules along a dotted name, as far as there are any."""
        parts = itertools.accumulate(name.split("."), "{}.{}".format)
        return list(itertools.takewhile(lambda part: any(self._location(part)), parts))

    def _find(self, name: str) -> tuple[str, tuple[str, ...]]:
        """File of a module, and the folders of a package; empty where there is none."""
        loaded = sys.modules.get(name)
        if file := getattr(loaded, "__file__", None):
            return str(file), tuple(getattr(loaded, "__path__", ()))
        parent = name.rpartition(".")[0]
        around = list(self._location(parent)[1]) if parent else []
        try:
            if parent:
                spec = importlib.machinery.PathFinder.find_spec(name, around)
            else:
                spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # ValueError: ``__main__`` of an interactive session has no spec
            spec = None
        if spec is None:
            return "", ()
        return str(spec.origin) if spec.has_location else "", tuple(spec.submodule_search_locations or ())

    def source(self, name: str) -> Source:
        """The source that was imported, or else that of the file as it is."""
        file, folders = self._location(name)
        if not file:  # a package without ``__init__.py``
            return Source("package", "package")
        imported = AUDIT.source(name)
        content = Path(file).read_bytes() if imported is None else imported
        if not file.endswith(".py"):  # a compiled one does not show what it imports
            return Source(_hash(content), _hash(content), is_dynamic=True)
        key = _hash(f"{name} {bool(folders)} {PYTHON} ".encode() + content)
        if key not in self._sources:
            if len(self._parsed) > 2000:
                self._parsed.clear()
            if key not in self._parsed:
                try:
                    self._parsed[key] = asdict(parse(content, name, is_package=bool(folders)))
                except (SyntaxError, ValueError):  # its import will fail, and name the cause
                    self._parsed[key] = {"tree": key, "text": key}
            self._sources[key] = Source(**self._parsed[key])
        return self._sources[key]

    def modules_of_class(self, cls: type) -> set[str]:
        """Modules of a dataset's class; for a library's class, also what its modules have imported."""
        names = {base.__module__ for base in cls.__mro__}
        for name in [name for name in names if not self.is_project(name) and _top(name) not in IGNORED_LIBRARIES]:
            values = vars(sys.modules[name]).values() if name in sys.modules else ()
            names |= {str(getattr(each, "__module__", getattr(each, "__name__", name))) for each in values}
        return names

    def of_hooks(self, hook_manager: Any) -> tuple[set[str], dict[str, str]]:
        """Modules of the project's hooks around nodes and datasets, and digests of what they hold.

        A hook whose class has ``only_observes = True`` is left out.
        """
        reader, values, acting = ValueReader(strict=False), dict[str, str](), set[str]()
        for plugin in getattr(hook_manager, "get_plugins", list)() or ():  # Kedro's stand-in has none
            module = plugin.__name__ if isinstance(plugin, type(sys)) else type(plugin).__module__
            is_around_nodes = any(hasattr(plugin, name) for name in NODE_HOOKS)
            if is_around_nodes and self.is_project(module) and not getattr(plugin, "only_observes", False):
                acting.add(module)
                name = f"values of the hook {module}.{type(plugin).__qualname__}"
                values[name] = digest(canonical(reader.read(plugin)))
        AUDIT.acting_hooks = acting
        return acting | reader.modules if acting else set(), values

    def _find_versions(self, libraries: frozenset[str]) -> dict[str, str]:
        """Version of each distribution of top-level packages, and of all that these require."""
        outside = libraries - sys.stdlib_module_names - IGNORED_LIBRARIES
        todo, found = set().union(*map(_distributions, outside)), {"python": PYTHON}
        while todo:
            if version := self._version(name := todo.pop()):
                found[name] = version
                todo |= _requirements(name) - found.keys()
        return dict(sorted(found.items()))


def _top(module: str) -> str:
    return module.partition(".")[0]


_packages = functools.cache(importlib.metadata.packages_distributions)


@functools.cache
def _distributions(library: str) -> set[str]:
    """Names of the distributions of a top-level package; several may share one, as ``google``."""
    try:
        found = [importlib.metadata.distribution(library).name]
    except importlib.metadata.PackageNotFoundError:
        found = _packages().get(library, [])
    return {_normal(name) for name in found}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # of another platform, say
        return None


@functools.cache
def _requirements(distribution: str) -> set[str]:
    """Distributions that a distribution requires itself, without those of its extras."""
    lines = [line for line in importlib.metadata.requires(distribution) or [] if "extra ==" not in line]
    return {_normal(name[0]) for line in lines if (name := re.match(r"[\w.-]+", line))} - IGNORED_LIBRARIES
