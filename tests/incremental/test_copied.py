"""The folder `running` works in another Kedro project, as the README says."""

import shutil
from pathlib import Path

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
  type: other.running.RunManifest
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
    "src/other/__init__.py": "",
    "src/other/settings.py": """
from other.running import IncrementalSession

SESSION_CLASS = IncrementalSession
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro_viz", "kedro_telemetry")
""",
    "src/other/cli.py": """
import click
from kedro.framework.cli.project import run as kedro_run

from other.running.cli import incremental, prune, why


@click.group()
def cli():
    pass


for command in (incremental(kedro_run), why, prune):
    cli.add_command(command)
""",
    "src/other/pipeline_registry.py": """
from kedro.pipeline import Node, Pipeline


def scale(raw, by):
    return [value * by for value in raw]


def register_pipelines():
    return {"__default__": Pipeline([Node(scale, ["raw", "params:by"], "scaled", name="scale")])}
""",
}


def test_a_copy_runs_in_another_project(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    source = Path(kedro_incremental.__file__).parent
    shutil.copytree(source, tmp_path / "src/other/running", ignore=shutil.ignore_patterns("__pycache__"))
    assert "1 of 1 nodes ran, 0 were skipped" in kedro(tmp_path, "run")
    assert "0 of 1 nodes ran, 1 were skipped" in kedro(tmp_path, "run")
    assert "parameter by changed 2 → 3" in kedro(tmp_path, "run", "--params", "by=3")
    assert "made by the node scale" in kedro(tmp_path, "why", "scaled")
    assert len(list((tmp_path / "data/scaled.json").glob("*/scaled.json"))) == 2
    assert "Deleted 1 versions" in kedro(tmp_path, "prune", "--keep", "1", "--yes")
    assert len(list((tmp_path / "data/scaled.json").glob("*/scaled.json"))) == 1
