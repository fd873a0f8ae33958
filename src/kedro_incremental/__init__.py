"""Run only what changed: an incremental runner for Kedro, its manifest, provenance and pruning.

It imports nothing of the project around it and works in any Kedro project, with three lines (see the README).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import audit  # first: what is imported from here on is seen

if TYPE_CHECKING:
    from .manifest import Manifest, RunnerError
    from .report import RunReport
    from .runner import IncrementalRunner, RunInterrupted
    from .session import IncrementalSession, RunManifest

# Imported when they are asked for: a project imports this package before all else, and need not wait for Kedro then.
_MODULES = {
    "IncrementalRunner": "runner",
    "IncrementalSession": "session",
    "Manifest": "manifest",
    "RunInterrupted": "runner",
    "RunManifest": "session",
    "RunReport": "report",
    "RunnerError": "manifest",
}

__all__ = [
    "IncrementalRunner",
    "IncrementalSession",
    "Manifest",
    "RunInterrupted",
    "RunManifest",
    "RunReport",
    "RunnerError",
    "audit",
]


def __getattr__(name: str) -> Any:
    """A class of the package by its name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
