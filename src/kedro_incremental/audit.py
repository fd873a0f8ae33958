"""Records what modules and nodes import, open and list, from Python's audit events.

Python reports every import, ``open`` and listing of a folder, whichever library makes it. What a module does while it
is imported is recorded for the module, what a node does for the node.
"""

import functools
import importlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from .canonical_json import ValueReader, is_installed, library_folders

OWN = str(__package__)
OWN_FOLDER = f"{Path(__file__).parent}{os.sep}"
SUFFIXES = tuple(importlib.machinery.all_suffixes())
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# These read sources for tracebacks, and look for installed distributions in every folder of ``sys.path``.
SOURCE_READERS = ("/linecache.py", "/tokenize.py", "importlib/metadata/__init__.py", "importlib_metadata/__init__.py")

Signature = tuple[int, int, int, int] | None


@dataclass
class Accesses:
    """What a module or node has read."""

    files: dict[str, Signature] = field(default_factory=dict)  # as at the first opening; None: the file was not there
    folders: set[str] = field(default_factory=set)  # that were listed
    written: set[str] = field(default_factory=set)  # opened for writing, also under a name that was given later
    modules: set[str] = field(default_factory=set)  # imported, or named by an unpickled object


class Audit:
    """The audit of this process; there is one, :data:`AUDIT`.

    Attributes:
        acting_hooks: modules of the hooks whose accesses count for the node.
        by_module: accesses while a module was executed or its functions were called, by all nodes of this process.
    """

    def __init__(self) -> None:
        self.acting_hooks: set[str] = set()
        self.by_module: dict[str, Accesses] = {}
        self._sources: dict[str, bytes] = {}
        self._values: dict[str, str] = {}
        self._node: Accesses | None = None
        self._busy = threading.local()

    def source(self, module: str) -> bytes | None:
        """Source of a loaded module as it was imported; None if Python did not load it from a source."""
        return self._sources.get(module) if module in sys.modules else None

    def changed_values(self, name: str) -> tuple[str | None, set[str]]:
        """Digest of a module's values, and their modules, if code outside of the module has set some of them.

        A module that was loaded before this package counts with all its values. The digest is None if nothing changed.
        """
        reader = ValueReader(strict=False)
        now = reader.read_module(sys.modules[name]) if name in sys.modules else None
        return (None, set()) if now == self._values.get(name) else (now, reader.modules)

    def execute(self, module: ModuleType, source: bytes, run: Callable[[ModuleType], None]) -> None:
        """Execute a module of the project; ``source`` was read before, so that a later edit is not taken for it."""
        name = module.__name__
        self._sources[name] = source
        self.by_module.pop(name, None)  # of an earlier import
        run(module)
        self._values[name] = ValueReader(strict=False).read_module(module)

    @contextmanager
    def node(self) -> Iterator[Accesses]:
        """Record the accesses of one node, also in other threads."""
        self._node = accesses = Accesses()
        try:
            yield accesses
        finally:
            self._node = None

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python calls this for every audit event, from any thread: it must be fast and must not fail."""
        if event not in _EVENTS or getattr(self._busy, "is_set", False) or sys.is_finalizing():
            return
        self._busy.is_set = True
        try:
            _EVENTS[event](self, *arguments)
        finally:
            self._busy.is_set = False

    def _on_open(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        if name.endswith(".pyc") or name.startswith(library_folders()):
            return
        is_written = bool(isinstance(flags, int) and flags & WRITING)
        is_read = not is_written or not flags & (os.O_WRONLY | os.O_TRUNC | os.O_EXCL)
        for accesses in self._accesses(sys._getframe(2), name):
            if is_read and name not in accesses.files and (is_written or name not in accesses.written):
                accesses.files[name] = signature(name)
            if is_written:
                accesses.written.add(name)

    def _on_rename(self, old: Any, new: Any, *folders: int) -> None:
        if set(folders) <= {-1}:  # else relative to an open folder
            before, name = (os.path.abspath(os.fsdecode(path)) for path in (old, new))
            for accesses in self._accesses(sys._getframe(2), name):
                if before in accesses.written:
                    accesses.written.add(name)

    def _on_list(self, path: Any = None) -> None:
        if not isinstance(path, int):
            name = os.path.abspath(os.fsdecode(path)) if path is not None else os.getcwd()
            if not f"{name}{os.sep}".startswith(library_folders()):
                for accesses in self._accesses(sys._getframe(2)):
                    accesses.folders.add(name)

    def _on_import(self, module: Any, *_: Any) -> None:
        """A module is imported, or named by an object that is unpickled."""
        file = getattr(sys.modules.get(str(module).partition(".")[0]), "__file__", None)
        if file is None or not is_installed(file):
            for accesses in self._accesses(sys._getframe(2)):
                accesses.modules.add(str(module))

    def _accesses(self, frame: FrameType | None, path: str = SUFFIXES[0]) -> list[Accesses]:
        """Where an event is recorded: for the modules of the project on the stack, and for the node."""
        names: set[str] = set()
        inner, depth = "", 0
        while frame is not None:
            kind, name = _frame_kind(frame.f_code.co_filename), str(frame.f_globals.get("__name__"))
            if kind == "source reader" and depth == 0 and path.endswith(SUFFIXES):
                return []
            if kind == "runner":  # its callers have no part in it
                break
            if kind == "configuration":  # its values are compared, as parameters and catalog entries
                return []
            if kind == "hooks" and self._node is not None and inner not in self.acting_hooks:
                return []
            if kind == "project" and name in self._sources:
                names.add(name)
            inner, depth, frame = name, depth + 1, frame.f_back
        found = [self.by_module.setdefault(name, Accesses()) for name in names]
        return found if self._node is None else [*found, self._node]


def signature(path: str) -> Signature:
    """Size, times and inode of a file, which change with it; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.cache
def _frame_kind(file: str) -> str:
    """Whose code a frame of a source file runs."""
    if file.startswith(OWN_FOLDER):
        return "other" if file == __file__ else "runner"
    if file.startswith("<frozen importlib") or file.endswith(SOURCE_READERS):
        return "source reader"
    if file.endswith(os.path.join("kedro", "config", "omegaconf_config.py")):
        return "configuration"
    if file.endswith(f"pluggy{os.sep}_callers.py"):
        return "hooks"
    return "other" if file.startswith("<") or is_installed(file) else "project"


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's loader; it reports the modules of the project to the audit."""

    def exec_module(self, module: ModuleType) -> None:
        AUDIT.execute(module, self.get_data(self.path), super().exec_module)


class _Finder:
    """Finds what Python's finder finds; modules of the project get the loader above."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        """As of any finder."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and type(spec.loader) is importlib.machinery.SourceFileLoader:
            if _frame_kind(spec.loader.path) == "project":
                spec.loader = _Loader(fullname, spec.loader.path)
        return spec


AUDIT = Audit()
_EVENTS: dict[str, Callable[..., None]] = {
    "open": Audit._on_open,
    "os.rename": Audit._on_rename,
    "os.listdir": Audit._on_list,
    "os.scandir": Audit._on_list,
    "import": Audit._on_import,
    "pickle.find_class": Audit._on_import,
}


def _install() -> None:
    """Audit this process from now on."""
    finders: list[Any] = sys.meta_path
    finders.insert(finders.index(importlib.machinery.PathFinder), _Finder)
    for name, module in list(sys.modules.items()):  # loaded before this package
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and os.path.isfile(file) and _frame_kind(file) == "project":
            AUDIT._sources[name] = Path(file).read_bytes()
    original = importlib.import_module

    @functools.wraps(original)
    def import_module(name: str, package: str | None = None) -> ModuleType:
        module = original(name, package)  # Python reports no import of a module that is loaded already
        AUDIT.hook("import", (module.__name__,))
        return module

    importlib.import_module = import_module
    for name in AUDIT._sources:  # ``from importlib import import_module`` in a module that was loaded before
        for key in [key for key, value in vars(sys.modules[name]).items() if value is original]:
            setattr(sys.modules[name], key, import_module)
    sys.addaudithook(AUDIT.hook)


_install()
