"""The modules of a project: which modules a module reaches by imports, and a fingerprint of each one's source.

A module reaches what it imports anywhere in its file, the packages around it, the modules that it uses as attributes of
an imported package, and those that a string in it names. A module that asks for others in a way that no source tells
(``exec``, ``__subclasses__``, ``runpy``, ...) reaches all modules of its package.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from .objects import is_installed
from .sources import DOTTED, Source, parse
from .watching import WATCH

OWN = str(__package__)  # the runner itself, which computes nothing
SUFFIXES = tuple(importlib.machinery.all_suffixes())


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
                if part not in found and not f"{part}.".startswith(f"{OWN}."):
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
