"""What the project's code does is watched: the modules that it imports, the files that it opens, the folders it lists.

Python tells every import, ``open`` and listing of a folder (see "Audit events" in its documentation), whichever library
it goes through. What a module does while it is imported is remembered for the module, what a node does for the node.
"""

import functools
import importlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from .objects import is_installed, library_folders
from .reading import Reading, Uncomparable
from .values import canonical, digest

OWN = str(__package__)
SOURCES = tuple(importlib.machinery.all_suffixes())
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Signature = tuple[int, int, int, int] | None


class Seen:
    """What a module or node has read and brought in.

    Attributes:
        files: state of each file when it was first opened for reading, None for one that was not there.
        folders: folders that were listed.
        written: files that were opened for writing, also under the name that they were given then.
        modules: modules that were imported, or that define classes of unpickled objects.
    """

    def __init__(self) -> None:
        self.files: dict[str, Signature] = {}
        self.folders: set[str] = set()
        self.written: set[str] = set()
        self.modules: set[str] = set()

    def update(self, other: "Seen") -> None:
        """Add what another has read."""
        self.files = {**other.files, **self.files}
        self.folders |= other.folders
        self.modules |= other.modules


class Watch:
    """The one watch of a process.

    Attributes:
        acting: modules of the hooks that may change what a node reads: what they open counts for the node.
    """

    def __init__(self) -> None:
        self.acting: set[str] = set()
        self._sources: dict[str, bytes] = {}
        self._values: dict[str, str | None] = {}
        self._by_module: dict[str, Seen] = {}
        self._for_nodes: dict[str, Seen] = {}
        self._node: Seen | None = None
        self._busy = threading.local()

    # Modules

    def source(self, name: str) -> bytes | None:
        """Source of a loaded module as it was imported; None if it is not loaded, or was loaded in another way."""
        return self._sources.get(name) if name in sys.modules else None

    def brought(self, name: str) -> set[str]:
        """Modules that a module has imported or unpickled in a way that its source need not tell."""
        return set().union(*(seen.modules for seen in self.read_by(name, for_nodes=False)))

    def read_by(self, name: str, *, for_nodes: bool) -> list[Seen]:
        """What a module has read outside of nodes and, if asked for, for the nodes that called it."""
        known = [self._by_module.get(name), self._for_nodes.get(name) if for_nodes else None]
        return [seen for seen in known if seen]

    def changed_values(self, name: str) -> tuple[str | None, set[str]]:
        """Digest of a module's values if others have set some of them since it was imported, and their modules.

        None if they are as its own source made them, or the module is not loaded.
        """
        module = sys.modules.get(name)
        if module is None:
            return None, set()
        made, modules = values_of(module)
        return (None, set()) if made == self._values.get(name, digest(canonical({}))) else (made, modules)

    def importing(self, name: str, source: bytes) -> None:
        """A module of the project is about to be executed."""
        self._sources[name] = source
        for known in (self._by_module, self._for_nodes):  # of an earlier import
            known.pop(name, None)

    def imported(self, module: ModuleType) -> None:
        """A module of the project has just been executed."""
        self._values[module.__name__] = values_of(module)[0]

    # Nodes

    @contextmanager
    def node(self) -> Iterator[Seen]:
        """Watch one node; what happens in other threads counts as well."""
        self._node = seen = Seen()
        try:
            yield seen
        finally:
            self._node = None

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an event. Python calls this for every one, from any thread: it must be quick and not fail."""
        if event not in _HANDLERS or getattr(self._busy, "is_set", False) or sys.is_finalizing():
            return
        self._busy.is_set = True
        try:
            _HANDLERS[event](self, *arguments)
        finally:
            self._busy.is_set = False

    def opened(self, path: Any, mode: str | None, flags: int) -> None:
        """A file is about to be opened."""
        if isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        if name.endswith(".pyc") or name.startswith(library_folders()):
            return
        readers = self._readers(sys._getframe(2), name)
        is_written = bool(isinstance(flags, int) and flags & WRITING)
        for seen in readers:
            if is_written:
                seen.written.add(name)
            is_first = name not in seen.files or (self._node is not None and seen is not self._node)
            if is_first and (not is_written or not flags & (os.O_WRONLY | os.O_TRUNC | os.O_EXCL)):
                if name not in seen.written or is_written:
                    seen.files[name] = signature(name)

    def renamed(self, old: Any, new: Any, *folders: int) -> None:
        """A file is about to get another name, as in the last step of a save that replaces a file at once."""
        if set(folders) <= {-1}:  # else relative to an open folder
            before, name = (os.path.abspath(os.fsdecode(path)) for path in (old, new))
            for seen in self._readers(sys._getframe(2), name):
                if before in seen.written:
                    seen.written.add(name)

    def listed(self, path: Any = None) -> None:
        """A folder is about to be listed."""
        if isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path)) if path is not None else os.getcwd()
        if not f"{name}{os.sep}".startswith(library_folders()):
            for seen in self._readers(sys._getframe(2)):
                seen.folders.add(name)

    def brings(self, module: Any, *_: Any) -> None:
        """A module is imported, or named by an object that is unpickled."""
        top = sys.modules.get(str(module).partition(".")[0])
        file = getattr(top, "__file__", None)
        if top is None or file is None or not is_installed(file):
            for seen in self._readers(sys._getframe(2)):
                seen.modules.add(str(module))

    def _readers(self, frame: FrameType | None, path: str = SOURCES[0]) -> list[Seen]:
        """Whom an event is to be told of: the modules of the project on the stack, and the node at work."""
        names: set[str] = set()
        inner, depth, is_importing = "", 0, False
        while frame is not None:
            kind, name = _kind_of(frame.f_code.co_filename), frame.f_globals.get("__name__")
            if kind == "reader" and depth == 0 and path.endswith(SOURCES):
                return []
            if kind == "own":  # who called the runner has no part in what it does
                break
            if kind == "configuration":  # its values are compared, as parameters and entries of the catalog
                return []
            if kind == "hooks" and self._node is not None and inner not in self.acting:
                return []  # within a hook of a library, or one that only observes
            if kind == "project" and name in self._sources:
                names.add(str(name))
                is_importing |= frame.f_code.co_name == "<module>"
            inner, depth, frame = str(name), depth + 1, frame.f_back
        # What a function has read, a node has from it only through what the module keeps.
        known = self._by_module if is_importing else self._for_nodes
        seen = [known.setdefault(name, Seen()) for name in names]
        return seen if self._node is None else [*seen, self._node]


def signature(path: str) -> Signature:
    """What tells that a file was changed: size, times and inode; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def values_of(module: ModuleType) -> tuple[str, set[str]]:
    """Digest of the values of a module and of its classes and functions, and the modules of what is among them."""
    reading = Reading(strict=False)
    found = {}
    for name, value in sorted(vars(module).items()):
        if name in _MADE_BY_IMPORT or (type(value) is ModuleType and value.__name__ == f"{module.__name__}.{name}"):
            continue
        try:
            described = reading.of_member(value, module.__name__)
        except Uncomparable:
            described = type(value).__name__
        if described not in ({"!function": f"{module.__name__}.{name}"}, {"!class": [name, {}]}):
            found[name] = described
    return digest(canonical(found)), reading.modules


_MADE_BY_IMPORT = {"__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__package__", "__path__"}
_MADE_BY_IMPORT |= {"__spec__", "__name__", "__warningregistry__"}


@functools.cache
def _is_project_file(file: str) -> bool:
    return not file.startswith("<") and not file.startswith(_OWN_FOLDER) and not is_installed(file)


_OWN_FOLDER = f"{Path(__file__).parent}{os.sep}"


# What reads sources for tracebacks, and what looks for installed distributions in every folder of ``sys.path``.
_READERS = ("/linecache.py", "/tokenize.py", "importlib/metadata/__init__.py", "importlib_metadata/__init__.py")


@functools.cache
def _kind_of(file: str) -> str:
    """What a frame of a source file tells: that a source is read, that a hook is called, the project at work."""
    if file.startswith(_OWN_FOLDER):
        return "other" if file == __file__ else "own"
    if file.startswith("<frozen importlib") or file.endswith(_READERS):
        return "reader"
    if file.endswith(os.path.join("kedro", "config", "omegaconf_config.py")):
        return "configuration"
    if file.endswith(f"pluggy{os.sep}_callers.py"):
        return "hooks"
    return "project" if _is_project_file(file) else "other"


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's own loader; it tells the watch what was loaded."""

    def exec_module(self, module: ModuleType) -> None:
        # Before: an edit from now on must not be taken for what was executed.
        WATCH.importing(module.__name__, self.get_data(self.path))
        super().exec_module(module)
        WATCH.imported(module)


class _Finder:
    """What Python's own finder finds; modules of the project get the loader above."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        """As of any finder."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and type(spec.loader) is importlib.machinery.SourceFileLoader and _is_project_file(spec.loader.path):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


WATCH = Watch()
_HANDLERS: dict[str, Callable[..., None]] = {
    "open": Watch.opened,
    "os.rename": Watch.renamed,
    "os.listdir": Watch.listed,
    "os.scandir": Watch.listed,
    "import": Watch.brings,
    "pickle.find_class": Watch.brings,
}


def _install() -> None:
    """Watch this process from now on."""
    finders: list[Any] = sys.meta_path
    finders.insert(finders.index(importlib.machinery.PathFinder), _Finder)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or not os.path.isfile(file):  # torch.ops has no file
            continue
        if _is_project_file(file) and not name.startswith(OWN):
            WATCH._sources[name] = Path(file).read_bytes()
    original = importlib.import_module

    @functools.wraps(original)
    def import_module(name: str, package: str | None = None) -> ModuleType:
        module = original(name, package)  # Python tells nothing of an import of what is loaded already
        WATCH.audit("import", (module.__name__,))
        return module

    importlib.import_module = import_module
    sys.addaudithook(WATCH.audit)


_install()
