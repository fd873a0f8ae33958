"""A copy of the project that a test may change, and `kedro` run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def copy_project(folder: Path) -> Path:
    """Copy what a run needs, without personal settings and artifacts; telemetry stays switched off."""
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    (folder / "conf" / "local").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def kedro(
    project: Path, *arguments: str, status: int = 0, answer: str | None = None, source: Path | None = None
) -> str:
    """Run `kedro` in a project, with ``answer`` typed in; what it printed, once the exit status is as expected.

    ``source`` is the project where ``project`` is a subfolder of it.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str((source or project) / "src"), "COLUMNS": "200"},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == status, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr
