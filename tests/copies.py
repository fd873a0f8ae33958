"""A copy of the project that a test may change, and `kedro` run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import warm
from shared import tracking_database

PROJECT = Path(__file__).resolve().parents[1]


def copy_project(folder: Path) -> Path:
    """The same as :func:`copy_files`, and MLflow's database."""
    tracking_database(folder)
    return copy_files(folder)


def copy_files(folder: Path, project: Path = PROJECT) -> Path:
    """Copy what a run needs, without personal settings and artifacts; telemetry stays switched off."""
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
        shutil.copytree(project / name, folder / name, ignore=ignored)
    (folder / "conf" / "local").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(project / name, folder / name)
    return folder


def kedro(
    project: Path,
    *arguments: str,
    status: int = 0,
    answer: str = "",
    source: Path | None = None,
    before: str = "",
    cold: bool = False,
    program: str = "kedro",
) -> str:
    """Run `kedro` in a process of its own in a project; what it printed, once the exit status is as expected.

    Args:
        answer: what is typed in.
        source: the project, where ``project`` is a subfolder of it.
        before: code that the process runs first.
        cold: begin with an interpreter of its own, whose sets have another order.
        program: `embedline` instead.
    """
    environment = {**os.environ, "PYTHONPATH": str((source or project) / "src"), "COLUMNS": "200"}
    if cold:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-m", program, *arguments]
        run: Any = subprocess.Popen(command, cwd=project, env=environment, text=True, **pipes)
    else:
        run = warm.start(program, *arguments, cwd=project, env=environment, stdin=answer, before=before)
    printed, _ = run.communicate()
    assert run.returncode == status, printed
    return str(printed)
