"""The modules of a project: which modules a module reaches by imports, and a fingerprint of each one's source.

The sources are parsed, not executed. A module reaches what it imports anywhere in its file, the packages around it, the
modules that it uses as attributes of an imported package, and those that a string in it names. A module that asks for
others in a way that no source tells (``exec``, ``__subclasses__``, ``runpy``, ...) reaches all modules of its package.
"""

import ast
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from .objects import is_installed
from .watching import WATCH

OWN = str(__package__)  # the runner itself, which computes nothing
SUFFIXES = tuple(importlib.machinery.all_suffixes())
DOTTED = re.compile(r"\.*[A-Za-z_]\w*([.:][A-Za-z_]\w*)*")
# What may lead to any module, or to the text of a source.
FILLING = {"append", "extend", "insert", "add", "update", "setdefault", "set", "__setitem__"}
CALLED = {"exec", "eval"}  # by name alone: ``model.eval()`` is another one
DYNAMIC = {"__import__", "runpy", "__subclasses__", "spec_from_file_location", "SourceFileLoader"}
DYNAMIC |= {"entry_points", "load_module", "locate", "get_objects", "get_referrers"}
DOCUMENTED = {"__doc__", "getdoc", "getsource", "getsourcelines", "f_lineno", "co_firstlineno", "lineno", "tb_lineno"}


@dataclass
class Source:
    """What one source file says.

    Attributes:
        tree: hash of the syntax tree without docstrings, comments and positions.
        text: hash of the bytes.
        targets: dotted names that may be modules, or end in something of a module.
        passed: packages that are handed around as values: any of their modules may be used.
        is_dynamic: whether any module of the package may be reached.
        is_read: whether docstrings, sources or line numbers may be read by the code.
        keeps: whether its functions may keep what they have read, for other nodes too.
    """

    tree: str
    text: str
    targets: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    is_dynamic: bool = False
    is_read: bool = False
    keeps: bool = False


class Modules:
    """Modules of a project, read as far as they are asked for.

    Args:
        package: the project's own top-level package, wherever it is installed. Other top-level packages belong to the
            project if they lie outside of the installed libraries.
        known: what was parsed by earlier runs, by content; what is parsed now is added.
        version: version of an installed library by its top-level package; None for a file without one.
    """

    def __init__(self, package: str | None, known: dict[str, Any], version: Callable[[str], str | None]) -> None:
        self._package, self._known, self._version = package, known, version
        self.used: set[str] = set()
        self._roots: dict[str, bool] = {}
        self._places: dict[str, tuple[str | None, list[str] | None] | None] = {}
        self._targets: dict[str, tuple[Source, set[str]]] = {}
        self._contents: dict[str, set[str]] = {}
        self._sources: dict[str, tuple[bytes | None, Source]] = {}

    def is_project(self, module: str | None) -> bool:
        """Whether a module belongs to the project."""
        top = (module or "").partition(".")[0]
        if top not in self._roots:
            self._roots[top] = self._is_root(top)
        return self._roots[top]

    def closure(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Modules of the project that ``names`` reach, with these, and the top-level packages of libraries."""
        todo, found, libraries = list(names), set[str](), set[str]()
        while todo:
            name = todo.pop()
            if not self.is_project(name):
                libraries.add(name.partition(".")[0])
                continue
            for part in self.found(name):
                if part not in found:
                    found.add(part)
                    todo.extend(self._reached(part) - found)
                    todo.extend(name for name in WATCH.brought(part) - found if self.is_project(name))
        return found, libraries

    def named(self, text: str) -> Iterator[str]:
        """Modules of the project's package that a text names, alone or with something of theirs."""
        if self._package and text.lstrip(".").partition(".")[0] == self._package and DOTTED.fullmatch(text):
            yield from self.found(text.replace(":", "."))

    def fingerprints(self, names: Iterable[str]) -> dict[str, str]:
        """Hash by module. Docstrings count only where one of the modules may read them."""
        sources = {name: self.source(name) for name in sorted(names)}
        is_read = any(source.is_read for source in sources.values())
        return {name: source.text if is_read else source.tree for name, source in sources.items()}

    def source(self, name: str) -> Source:
        """What the source of a module says: the one that was imported, or else the file as it is."""
        imported = WATCH.source(name)
        known = self._sources.get(name)
        if known is None or known[0] is not imported:
            known = self._sources[name] = (imported, self._read(name, imported))
        return known[1]

    def _read(self, name: str, imported: bytes | None) -> Source:
        origin, folders = self._place(name) or (None, None)
        if origin is None:  # a package without ``__init__.py``
            return Source("package", "package")
        content = imported if imported is not None else Path(origin).read_bytes()
        if not origin.endswith(".py"):  # compiled: what it imports cannot be told
            hashed = xxhash.xxh3_128_hexdigest(content)
            return Source(hashed, hashed, is_dynamic=True)
        key = xxhash.xxh3_128_hexdigest(f"{name} {folders is None} {sys.version_info[:2]} ".encode() + content)
        self.used.add(key)
        if key not in self._known:
            try:
                self._known[key] = asdict(parse(content, name, is_package=folders is not None))
            except (SyntaxError, ValueError):  # its import will fail, and say why
                self._known[key] = {"tree": key, "text": key}
        return Source(**self._known[key])

    def _reached(self, name: str) -> set[str]:
        """Dotted names that a module reaches by its source."""
        source = self.source(name)
        known = self._targets.get(name)
        if known is None or known[0] is not source:
            targets = {*source.targets, name.rpartition(".")[0]} - {""}
            packages = {*source.passed, *([name.partition(".")[0]] if source.is_dynamic else [])}
            targets.update(*(self._inside(package) for package in packages))
            known = self._targets[name] = (source, targets)
        return known[1]

    def _inside(self, package: str) -> set[str]:
        """All modules of a package of the project but the runner's own."""
        if package not in self._contents:
            found = self._contents[package] = set[str]()
            _, folders = (self._place(package) if self.is_project(package) else None) or (None, None)
            for folder in folders or ():
                for path in Path(folder).rglob("*"):
                    if path.name.endswith(SUFFIXES) and "__pycache__" not in path.parts:
                        parts = [*path.relative_to(folder).parts[:-1], path.name.partition(".")[0]]
                        found.add(".".join([package, *(part for part in parts if part != "__init__")]))
            found -= {name for name in found if f"{name}.".startswith(f"{OWN}.")}
        return self._contents[package]

    def found(self, name: str) -> list[str]:
        """The modules along a dotted name, as far as there are any."""
        parts = name.split(".")
        names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        found = []
        for each in names:
            if self._place(each) is None:
                break
            found.append(each)
        return found

    def _place(self, name: str) -> tuple[str | None, list[str] | None] | None:
        """File of a module and, for a package, the folders of its modules; None if there is no such module."""
        if name not in self._places:
            self._places[name] = self._find(name)
        return self._places[name]

    def _find(self, name: str) -> tuple[str | None, list[str] | None] | None:
        loaded = sys.modules.get(name)
        if loaded is not None and (file := getattr(loaded, "__file__", None)):
            return str(file), list(loaded.__path__) if hasattr(loaded, "__path__") else None
        parent = name.rpartition(".")[0]
        try:
            if not parent:
                spec = importlib.util.find_spec(name)
            else:
                place = self._place(parent)
                spec = importlib.machinery.PathFinder.find_spec(name, place[1]) if place and place[1] else None
        except (ImportError, ValueError):  # ValueError: ``__main__`` of an interactive session has no spec
            return None
        if spec is None:
            return None
        origin = spec.origin if spec.has_location else None
        return origin, list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None

    def _is_root(self, top: str) -> bool:
        if not top or top in sys.stdlib_module_names or top in sys.builtin_module_names:
            return False
        if top in {self._package, "__main__"}:
            return True
        place = self._place(top)
        if place is None:
            return False
        folder = place[0] or next(iter(place[1] or ()), "")
        return bool(folder) and (not is_installed(folder) or self._version(top) is None)


def parse(content: bytes, name: str, *, is_package: bool) -> Source:
    """Read a source file as the module ``name``.

    Raises:
        SyntaxError: if it is no Python.
    """
    tree = ast.parse(content)
    reader = _Reader(name, is_package)
    reader.visit(tree)
    return Source(
        tree=xxhash.xxh3_128_hexdigest(ast.dump(tree, annotate_fields=False).encode(errors="surrogatepass")),
        text=xxhash.xxh3_128_hexdigest(content),
        targets=sorted(reader.targets),
        passed=sorted(reader.passed),
        is_dynamic=reader.is_dynamic,
        is_read=reader.is_read,
        keeps=reader.keeps or bool(reader.filled & reader.made),
    )


class _Reader(ast.NodeVisitor):
    """Collect what a module imports and mentions; take docstrings out of its tree on the way."""

    def __init__(self, module: str, is_package: bool) -> None:
        self._parts = module.split(".") if is_package else module.split(".")[:-1]
        self.targets: set[str] = set()
        self.bound: dict[str, set[str]] = {}
        self.passed: set[str] = set()
        self.is_dynamic = self.is_read = self.keeps = False
        self.made: set[str] = set()  # names that the module itself assigns
        self.filled: set[str] = set()  # names that functions put something into
        self._depth, self._makes = 0, False
        self._chains: set[tuple[str, ...]] = set()

    def visit_Module(self, node: ast.Module) -> None:
        self.generic_visit(node)
        chains = {".".join([target, *chain[1:]]) for chain in self._chains for target in self.bound.get(chain[0], ())}
        self.targets |= chains
        self.passed = chains.union(*(self.bound.get(name, ()) for name in self.passed))

    def generic_visit(self, node: ast.AST) -> None:
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [each for each in statements if not _is_idle(each)])
        super().generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        depth, self._depth = self._depth, self._depth + 1
        self._makes = getattr(node, "name", "") in {"__init__", "__post_init__", "__new__"}
        self.generic_visit(node)
        self._depth, self._makes = depth, False

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_Global(self, node: ast.Global) -> None:
        self.keeps = True

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)) == "TYPE_CHECKING":
            for statement in node.orelse:  # the body is for the type checker alone
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.targets.add(alias.name)
            top = alias.name.partition(".")[0]
            self.bound.setdefault(alias.asname or top, set()).add(alias.name if alias.asname else top)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._parts[: len(self._parts) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        self.targets.add(source)
        for alias in node.names:
            if alias.name == "*":  # may bring the modules that ``__all__`` names
                self.bound.setdefault(f"{source}.*", set()).add(source)
                self.passed.add(f"{source}.*")
            else:
                self.targets.add(f"{source}.{alias.name}")
                self.bound.setdefault(alias.asname or alias.name, set()).add(f"{source}.{alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, inner = [node.attr], node.value
        self.keeps |= isinstance(node.ctx, ast.Store) and self._depth > 0 and not self._makes
        self._mention(node.attr)
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            self._mention(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._chains.add((inner.id, *chain))
            if inner.id == "sys" and chain[0] == "modules":
                self.is_dynamic = True
        else:
            self.visit(inner)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and self._depth:
            self.filled.add(node.value.id)
        if not (_is_loaded_modules(node.value) and _is_known(node.slice)):
            self.visit(node.value)
        self.visit(node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        function, first = node.func, node.args[0] if node.args else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and self._depth:
            self.filled.update({function.value.id} if function.attr in FILLING else ())
        if isinstance(function, ast.Attribute) and _is_loaded_modules(function.value) and _is_known(first):
            for each in (*node.args, *node.keywords):
                self.visit(each)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._mention(node.id)
        self.is_dynamic |= node.id in CALLED
        if isinstance(node.ctx, ast.Store) and not self._depth:
            self.made.add(node.id)
        self.passed.add(node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if isinstance(text, str) and len(text) < 200:
            self._mention(text)
            if DOTTED.fullmatch(text):
                self._name(text.replace(":", "."))

    def _name(self, text: str) -> None:
        """A string that may name a module of the project, absolute or relative."""
        level = len(text) - len(text.lstrip("."))
        if level:
            self.targets.add(".".join([*self._parts[: len(self._parts) - level + 1], text[level:]]))
        elif self._parts and text.partition(".")[0] == self._parts[0]:
            self.targets.add(text)

    def _mention(self, name: str) -> None:
        self.is_dynamic |= name in DYNAMIC
        self.keeps |= "cache" in name.lower() or "memo" in name.lower()
        self.is_read |= name in DOCUMENTED


def _is_idle(node: ast.AST) -> bool:
    """``pass``, or a string that stands alone: a docstring, or one under an attribute."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _is_loaded_modules(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules"


def _is_known(key: ast.AST | None) -> bool:
    return isinstance(key, ast.Constant) or (isinstance(key, ast.Name) and key.id == "__name__")


def _bytes_of(origin: str) -> bytes:
    return Path(origin).read_bytes()
