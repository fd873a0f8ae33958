"""Run only what changed: an incremental runner for Kedro; its README says how to use it in a project."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import audit  # noqa: F401  # first: it records what is imported from here on

if TYPE_CHECKING:
    from .manifest import Manifest, RunnerError
    from .report import RunReport
    from .runner import IncrementalRunner, RunInterrupted
    from .session import IncrementalSession, RunManifest

# Imported when they are asked for: a project imports this package before all else, and need not wait for Kedro then.
_MODULES = {"Manifest": "manifest", "RunnerError": "manifest", "RunReport": "report", "IncrementalRunner": "runner"}
_MODULES |= {"RunInterrupted": "runner", "IncrementalSession": "session", "RunManifest": "session"}

__all__ = ["IncrementalRunner", "IncrementalSession", "Manifest", "RunInterrupted", "RunManifest", "RunReport"]
__all__ += ["RunnerError"]


def __getattr__(name: str) -> Any:
    """A class of the package by its name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
