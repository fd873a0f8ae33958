"""A copy of the project in which small runs of three learners have left their artifacts, for tests that read them."""

from pathlib import Path
from typing import Any

import yaml

from copies import copy_project, kedro

SOURCES = ("rossmann", "imdb", "movielens")  # not adult: something has to be missing
SETTINGS: dict[str, dict[str, Any]] = {  # of the environment `sample`, by source; the others stay
    "rossmann": {
        "generator": {"n_stores": 12},
        "network": {"layers": [32]},
        "training": {"epochs": 2, "batch_size": 128, "lr": 0.004, "seeds": [0]},
        "baselines": {"lightgbm": {"n_estimators": 20}},
    },
    "imdb": {"generator": {"n_train": 200, "n_test": 100, "n_unlabelled": 100}},
    "movielens": {"generator": {"n_users": 80, "n_items": 60, "n_ratings": 3000}},
}


def small_run(folder: Path) -> Path:
    """The copy, in ``folder``, once `kedro run` has made rossmann, imdb and movielens there."""
    project = copy_project(folder / "project")
    for source, settings in SETTINGS.items():
        override(project, source, settings)
    kedro(project, "run", "--pipelines", ",".join(SOURCES))
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
