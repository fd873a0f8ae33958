"""Small runs: of three learners in a copy of the project, for tests that read their artifacts, and in this process."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.startup import bootstrap_project

from copies import PROJECT, copy_project, kedro

SOURCES = ("rossmann", "imdb", "movielens")  # not adult: something has to be missing
SAID = "said.txt"  # what the small run printed
SETTINGS: dict[str, dict[str, Any]] = {  # of the environment `sample`, by source; the others stay
    "rossmann": {
        "generator": {"n_stores": 12},
        "network": {"layers": [32]},
        "training": {
            **{"epochs": 2, "batch_size": 128, "lr": 0.004, "seeds": [0]},
            "blend": {"lightgbm": {"n_estimators": 20}},
        },
    },
    "imdb": {"generator": {"n_train": 200, "n_test": 100, "n_unlabelled": 100}},
    "movielens": {"generator": {"n_users": 80, "n_items": 60, "n_ratings": 3000}},
}


def small_run(folder: Path) -> Path:
    """The copy, in ``folder``, once `kedro run` has made the three sources there; what it printed is in a file."""
    project = copy_project(folder / "project")
    for source, settings in SETTINGS.items():
        override(project, source, settings)
    (project / SAID).write_text(kedro(project, "run", "--pipelines", ",".join(SOURCES)))
    return project


def override(project: Path, source: str, settings: dict[str, Any]) -> None:
    """Put settings of a source into the environment `sample` of a copy; blocks keep the keys that are not named."""
    path = project / "conf/sample/parameters" / f"{source}.yml"
    values = yaml.safe_load(path.read_text())
    for block, given in settings.items():
        before = values[source].get(block)
        values[source][block] = {**before, **given} if isinstance(before, dict) else given
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def newest(project: Path, artifact: str) -> Path:
    """Newest version of an artifact, named by its path below data/sample."""
    return sorted((project / "data/sample" / artifact).glob(f"*/{Path(artifact).name}"))[-1]


def run_here(root: Path, pipeline: str | None = None, *, data: Path | None = None, **settings: Any) -> str:
    """Run a pipeline of the project in this process, all without a name; the id of the run.

    Args:
        root: folder of MLflow's database, and of the artifacts unless ``data`` is one.
        settings: runtime parameters by source, and options of the run, such as ``from_nodes``.
    """
    from kedro_incremental import IncrementalSession

    options = {name: settings.pop(name) for name in ("tags", "from_nodes", "to_outputs") if name in settings}
    given = {"data_root": str(data or root / "data"), "tracking_root": str(root), **settings}
    bootstrap_project(PROJECT)
    with IncrementalSession.create(project_path=PROJECT, runtime_params=given) as session:
        session.run(**({"pipeline_names": pipeline.split(",")} if pipeline else {}), **options)
        return str(session.session_id)


def write_archive(path: Path, tables: Mapping[str, bytes | None]) -> Path:
    """Rossmann tables as the course's archive has them; a table that is None is left out."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in tables.items():
            if content is not None:
                member = tarfile.TarInfo(f"{name}.csv")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path
