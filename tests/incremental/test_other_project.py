"""The package runs another Kedro project, as its README says, also where it is imported after the project's modules."""

import shutil
from pathlib import Path

import pytest

import kedro_incremental
from copies import kedro

FILES = {
    "pyproject.toml": """
[tool.kedro]
package_name = "other"
project_name = "other"
kedro_init_version = "1.7.0"
source_dir = "src"
""",
    "conf/local/.gitkeep": "",
    "conf/base/parameters.yml": "by: 2",
    "conf/base/catalog.yml": """
run_manifest:
  type: kedro_incremental.RunManifest
  filepath: data/.runs
raw:
  type: json.JSONDataset
  filepath: data/raw.json
scaled:
  type: json.JSONDataset
  filepath: data/scaled.json
  versioned: true
""",
    "data/raw.json": "[1, 2, 3]",
    "src/other/__init__.py": "from . import early\n",
    "src/other/early.py": """
import logging
import threading
import types
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field


def check(value):
    return value


class Options(BaseModel):
    rate: Annotated[float, AfterValidator(check)] = 0.1
    names: set[str] = Field(default_factory=set)


FACTOR = 0
NAMES = {"a", "b", "c", "d", "e"}
LOGGER, LOCK = logging.getLogger("other"), threading.Lock()
CALLED = [lambda: 1, check, Options(names=NAMES)]
HELD = types.SimpleNamespace(check=check, kind=Annotated[float, AfterValidator(check)])
""",
    "src/other/settings.py": """
from other import early

early.FACTOR = 1  # before the package is imported
from kedro_incremental import IncrementalSession

SESSION_CLASS = IncrementalSession
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro_viz", "kedro_telemetry")
""",
    "src/other/cli.py": """
import click
from kedro.framework.cli.project import run as kedro_run

from kedro_incremental.cli import incremental, prune, why


@click.group()
def cli():
    pass


for command in (incremental(kedro_run), why, prune):
    cli.add_command(command)
""",
    "src/other/pipeline_registry.py": """
from kedro.pipeline import Node, Pipeline

from other import early


def scale(raw, by):
    return [value * by * early.FACTOR for value in raw]


def register_pipelines():
    return {"__default__": Pipeline([Node(scale, ["raw", "params:by"], "scaled", name="scale")])}
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kedro_incremental.__file__).parent, tmp_path / "src/kedro_incremental", ignore=ignored)
    return tmp_path


def test_it_runs_another_project(project: Path) -> None:
    assert "1 of 1 nodes ran" in kedro(project, "run")
    assert "all 1 nodes up to date (since " in kedro(project, "run")
    assert "parameter by changed 2 → 3" in kedro(project, "run", "--verbose", "--params", "by=3")
    assert "made by the node scale" in kedro(project, "why", "scaled")
    assert len(list((project / "data/scaled.json").glob("*/scaled.json"))) == 2
    assert "Deleted 1 versions" in kedro(project, "prune", "--keep", "1", "--yes")
    assert len(list((project / "data/scaled.json").glob("*/scaled.json"))) == 1


def test_modules_that_were_loaded_before_it_count_with_their_values(project: Path) -> None:
    assert "1 of 1 nodes ran" in kedro(project, "run")
    for _ in range(2):  # each process has sets in another order, and objects at other addresses
        assert "all 1 nodes up to date" in kedro(project, "run")
    settings = project / "src/other/settings.py"
    settings.write_text(settings.read_text().replace("early.FACTOR = 1", "early.FACTOR = 2"))
    assert "values of other.early changed" in kedro(project, "run", "--verbose")
    assert "all 1 nodes up to date" in kedro(project, "run")
