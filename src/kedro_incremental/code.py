"""What code a node runs: whole modules of the project, what its objects hold, and the libraries behind them.

A module counts with its whole source, without comments and docstrings: rather too much than too little. These
modules count: what the node's own module imports (:mod:`.modules`), those of the objects that its function holds and of
the values that others have set on a module (:mod:`.reading`), and those that the node was seen to import
(:mod:`.watching`).
"""

import ast
import functools
import importlib.metadata
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import TypeAdapter

from .files import write_atomically
from .modules import OWN, Modules
from .reading import Reading
from .schemas import Unreadable, read_json
from .sources import Source
from .values import canonical, digest
from .watching import WATCH

logger = logging.getLogger(__name__)

PARSED = TypeAdapter(dict[str, Source])
LARGE = 2000  # parsed modules: from then on only those of this run are kept
IGNORED_LIBRARIES = frozenset({"kedro", "tqdm"})  # they call nodes and show progress, they compute nothing
ACTING_HOOKS = (
    "before_node_work",
    "before_node_run",
    "after_node_run",
    "before_dataset_loaded",
    "after_dataset_loaded",
    "before_dataset_saved",
    "after_dataset_saved",
)


@dataclass(frozen=True)
class Code:
    """What a node runs.

    Attributes:
        modules: hash by module of the project, and ``values of <module>`` where others have set some.
        libraries: version by library; ``python`` is one of them.
    """

    modules: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)


class CodeIndex:
    """Code of nodes; each module is read once.

    Args:
        package: the project's own top-level package.
        cache: JSON file that keeps what was parsed; it may be lost at any time.
    """

    def __init__(self, package: str | None, cache: Path | None = None) -> None:
        self._cache = cache
        self._known = _read_cache(cache) if cache else {}
        self._parsed_before = len(self._known)
        self._version = functools.cache(_version)
        self.modules = Modules(package, self._known, self._version)
        self._codes: dict[frozenset[str], Code] = {}
        self._libraries: dict[frozenset[str], dict[str, str]] = {}
        self._values: dict[str, tuple[str | None, set[str]]] = {}
        self._hooks: tuple[set[str], dict[str, str]] | None = None

    def save(self) -> None:
        """Keep what was parsed for the next run; where that fails, on a full disk, it is parsed once more."""
        if self._cache and len(self._known) != self._parsed_before:
            used = self.modules.used if len(self._known) > LARGE else self._known
            try:
                write_atomically(self._cache, json.dumps({key: self._known[key] for key in used}), durable=False)
            except OSError as error:
                logger.warning("What was parsed cannot be kept in %s: %s", self._cache, error.strerror)

    def of(self, modules: Iterable[str], *, again: bool = False) -> Code:
        """Code that modules reach, with the values that others have put into them.

        Args:
            again: after the node has run: what it has changed in modules by itself does not count.
        """
        key = frozenset(modules)
        if key in self._codes and not again:
            return self._codes[key]
        names, tops = self.modules.closure(key)
        values: dict[str, str] = {}
        todo = set(names)
        while todo:
            brought: set[str] = set()
            for name in todo:
                if name not in self._values and not again and not name.startswith(OWN):
                    self._values[name] = WATCH.changed_values(name)
                changed, others = self._values.get(name, (None, set()))
                if changed:
                    values[f"values of {name}"] = changed
                    brought |= others
            more, others = self.modules.closure(brought - names)
            todo, names, tops = more - names, names | more, tops | others
        code = Code({**self.modules.fingerprints(names), **dict(sorted(values.items()))}, self._versions(tops))
        return code if again else self._codes.setdefault(key, code)

    def named_in(self, value: Any) -> Iterator[str]:
        """Modules of the project that texts in a value of JSON types name."""
        if isinstance(value, str):
            yield from self.modules.named(value)
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from self.named_in(item)

    def of_class(self, cls: type) -> set[str]:
        """Modules of a dataset's class; for a library's class, what its module imports as well."""
        names = {base.__module__ for base in cls.__mro__}
        outside = (name for name in names if not self.modules.is_project(name) and _top(name) not in IGNORED_LIBRARIES)
        return names.union(*(_imported_by(name) for name in outside))

    def of_hooks(self, hook_manager: Any) -> tuple[set[str], dict[str, str]]:
        """Modules of the project's hooks that may change what a node reads or writes, and digests of what they hold.

        A hook whose class says ``only_observes = True`` is left out.
        """
        if self._hooks is None:
            reading, states = Reading(strict=False), dict[str, str]()
            acting: set[str] = set()
            for plugin in _plugins(hook_manager):
                module = plugin.__name__ if isinstance(plugin, type(sys)) else type(plugin).__module__
                if self.modules.is_project(module) and not getattr(plugin, "only_observes", False):
                    acting.add(module)
                    states[f"values of the hook {module}.{type(plugin).__qualname__}"] = digest(
                        canonical(reading.of(plugin))
                    )
            WATCH.acting = acting
            self._hooks = (acting | reading.modules if acting else set(), states)
        return self._hooks

    def _versions(self, tops: Iterable[str]) -> dict[str, str]:
        """Versions of libraries by top-level package, and of all that they need by distribution."""
        outside = frozenset(name for name in tops if name not in sys.stdlib_module_names) - IGNORED_LIBRARIES
        if outside not in self._libraries:
            needed = outside.union(*(_needed(name) for name in outside)) - IGNORED_LIBRARIES
            found = {name: self._version(name) for name in sorted(needed)}
            self._libraries[outside] = {name: version for name, version in found.items() if version}
        return {**self._libraries[outside], "python": _PYTHON}


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        known = read_json(path, PARSED) or {}
    except Unreadable as error:
        logger.warning("%s is unreadable (%s): the project's modules are parsed again", path, error)
        return {}
    return {key: asdict(source) for key, source in known.items()}


def _plugins(hook_manager: Any) -> list[Any]:
    """Plug-ins that implement a hook around a node or dataset."""
    found = {}
    for name in ACTING_HOOKS:
        caller: Any = getattr(getattr(hook_manager, "hook", None), name, None)
        for implementation in caller.get_hookimpls() or () if caller is not None else ():  # None: Kedro's own stand-in
            found[id(implementation.plugin)] = implementation.plugin
    return list(found.values())


def _top(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _imported_by(module: str) -> frozenset[str]:
    """Top-level packages of a library's module and of what it imports."""
    source = getattr(sys.modules.get(module), "__file__", None)
    statements = ast.parse(Path(source).read_bytes()).body if source and source.endswith(".py") else []
    names = {_top(module)}
    for each in statements:
        if isinstance(each, ast.Import):
            names |= {_top(alias.name) for alias in each.names}
        elif isinstance(each, ast.ImportFrom) and not each.level:
            names.add(_top(str(each.module)))
    return frozenset(names)


_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _version(library: str) -> str | None:
    """Version of the distribution that a top-level package belongs to; None for what is not installed."""
    versions = {name: importlib.metadata.version(name) for name in _distributions_of(library)}
    if len(versions) > 1:  # some share a name, as ``google`` is
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    return next(iter(versions.values()), None)


@functools.cache
def _needed(library: str) -> frozenset[str]:
    """Distributions that a library needs, directly or not."""
    todo, found = _distributions_of(library), set[str]()
    while todo:
        for name in _requirements(todo.pop()) - found - IGNORED_LIBRARIES:
            found.add(name)
            todo.append(name)
    return frozenset(found)


def _distributions_of(library: str) -> list[str]:
    """Names of the distributions that a top-level package, or a distribution's name, stands for."""
    try:
        return [importlib.metadata.distribution(library).name]
    except importlib.metadata.PackageNotFoundError:
        return sorted({each.name for each in _distributions().get(library, ())})


@functools.cache
def _requirements(distribution: str) -> frozenset[str]:
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return frozenset()
    found = set()
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of an old distribution; its own version counts all the same
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.add(requirement.name.lower().replace("_", "-"))
    return frozenset(found)


@functools.cache
def _distributions() -> dict[str, list[importlib.metadata.Distribution]]:
    """Distributions by top-level package, where the names differ (``sklearn``).

    Their lists of files tell; :func:`importlib.metadata.packages_distributions` parses all metadata as well, which
    takes three times as long.
    """
    found: dict[str, list[importlib.metadata.Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        lines = (distribution.read_text("RECORD") or "").splitlines()
        tops = {line.partition("/")[0] for line in lines} | set((distribution.read_text("top_level.txt") or "").split())
        for top in tops:
            found.setdefault(top.partition(".py,")[0], []).append(distribution)
    return found
