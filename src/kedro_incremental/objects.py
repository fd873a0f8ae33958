"""What objects, functions and classes of Python consist of, whatever methods they have."""

import collections
import functools
import os
import site
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, types.MappingProxyType)
SCALARS = (str, int, float, bytes, bytearray)
MADE_IN_C = (*CONTAINERS, *SCALARS, collections.OrderedDict, collections.defaultdict, object)


def is_in_its_module(definition: Any) -> bool:
    """Whether the module has the function or class under the definition's own name: its source tells the rest."""
    found: Any = sys.modules.get(str(definition.__module__))
    for part in definition.__qualname__.split("."):
        found = vars(found).get(part) if isinstance(found, type | types.ModuleType) else None
        found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    return found is definition


def untold(function: types.FunctionType, home: str) -> str | None:
    """Why the source of a function does not tell what it computes."""
    module = sys.modules.get(home)
    if function.__code__.co_filename.startswith("<") and not function.__code__.co_filename.startswith("<frozen"):
        return "is not defined in a source file"
    if module is None or vars(module) is not function.__globals__:
        return "comes from a module that was loaded again, or removed"
    return None


def cell(cell: types.CellType) -> Any:
    """What a closure has captured; None for a name that is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def code_text(code: types.CodeType, documentation: str | None = None) -> str:
    """What a code object computes, without its lines and docstring."""
    constants = [_constant(each) for each in code.co_consts if documentation is None or each != documentation]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return code_text(value)
    return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)


def attribute(value: Any, name: str) -> Any:
    """An attribute as it is stored, whatever methods the class has; None for one that is not set."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


def slots(kind: type) -> list[str]:
    """Slots that a class itself adds, as attributes are spelled."""
    names = vars(kind).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    mangled = kind.__name__.lstrip("_")
    private = (f"_{mangled}{name}" if name.startswith("__") and not name.endswith("__") else name for name in names)
    return [name for name in private if name not in {"__dict__", "__weakref__"}]


def hidden_state(kind: type) -> type | None:
    """The class whose instances keep something outside of attributes and slots, as those written in C do."""
    for cls in kind.__mro__:
        base = cls.__base__
        if (
            cls in CONTAINERS
            or cls in SCALARS
            or cls in {collections.OrderedDict, collections.defaultdict}
            or base is None
        ):
            return None
        words = len(slots(cls)) + bool(cls.__dictoffset__) + bool(cls.__weakrefoffset__)
        if cls.__basicsize__ - base.__basicsize__ > 8 * words:
            return cls
    return None


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


def is_of_library(cls: type) -> bool:
    """Whether a class belongs to Python or to an installed library."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return cls is not types.SimpleNamespace and cls.__module__ != "__main__" and (file is None or is_installed(file))
