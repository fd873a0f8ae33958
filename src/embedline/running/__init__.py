"""Run only what changed: an incremental runner for Kedro, its manifest, provenance and pruning.

This package imports nothing of the project around it: a copy of the folder works in another Kedro project, with three
lines (see the README).
"""

from . import watching  # isort: skip  # first: what is imported from here on is seen
from .records import Manifest, RunnerError
from .report import RunReport
from .runner import IncrementalRunner, RunInterrupted
from .session import IncrementalSession, RunManifest

__all__ = [
    "IncrementalRunner",
    "IncrementalSession",
    "Manifest",
    "RunInterrupted",
    "RunManifest",
    "RunReport",
    "RunnerError",
    "watching",
]
