"""Commands of the project at the command line, and the places of the artifacts that they read."""

from pathlib import Path

from click.testing import CliRunner, Result
from kedro.framework.startup import bootstrap_project

from copies import PROJECT

OLD, NEW = "2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z"  # versions


def store(root: Path, name: str, version: str) -> Path:
    """Where a version of an artifact lies, in a folder that is there."""
    path = root / name / version / Path(name).name
    path.parent.mkdir(parents=True)
    return path


def invoke(*arguments: str, status: int | None = 0, stdin: bytes | None = None, project: Path = PROJECT) -> Result:
    """Run a command of a project; its result, once the exit status is as expected (None: any)."""
    bootstrap_project(project)
    from embedline.cli import cli

    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments, input=stdin)
    assert status is None or result.exit_code == status, (result.output, result.exception)
    return result
