"""Mistakes at the command line and in YAML files: each is answered by one line, which names what to do."""

import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from command_line import NEW, invoke, store
from copies import copy_project
from test_init import flats

PARAMETERS, CATALOG, SOURCES = (f"conf/base/{name}.yml" for name in ("parameters/flats", "catalog/flats", "sources"))
# What is typed, and what the line has to name.
TYPED: dict[str, tuple[str, ...]] = {
    # Names of commands, sources, pipelines, nodes, tags, datasets, environments.
    "predct flats new.csv": ("predct", "predict"),
    "run flts": ("flts", "'flats'"),
    "run --pipelines flats_publsh": ("flats_publsh", "'flats_publish'"),
    "publish flts": ("flts", "flats_publish"),
    "run flats --from-nodes trian": ("--from-nodes", "trian", "'flats.train'"),
    "run flats --nodes flats.trian": ("--nodes", "'flats.train'"),
    "run flats --tags plt": ("--tags", "plt", "'plot'"),
    "run flats --namespaces flts": ("--namespaces", "'flats'"),
    "run flats --to-outputs flats.modl": ("--to-outputs", "'flats.model'"),
    "run flats --env bse": ("--env", "'base'"),
    "run flats --runner Sequential": ("--runner", "SequentialRunner"),
    "run flats --forse": ("--forse", "--force"),
    "why flats.modl": ("flats.modl", "'flats.model'"),
    "why flats.metrics": ("flats.metrics", "kedro run"),
    # Parameters.
    "run flats --params flats.training.epoch=3": ("flats.training.epoch", "'epochs'"),
    "run flats --params flts.split.kind=random": ("flts", "'flats'"),
    "run flats --params flats.training.epochs=three": ("flats.training.epochs", "integer", "three"),
    "run flats --params flats.split.kind=randm": ("flats.split.kind", "'random'", "randm"),
    "run flats --params flats.training=3": ("flats.training", "3"),
    "run flats --params flats=3": ("'flats'", "flats.", "block"),
    "run flats --params flats.training.epochs": ("flats.training.epochs", "="),
    # Models that are not there, or not of this kind.
    "predict flts new.csv": ("flts", "'flats'"),
    "predict adult new.csv": ("adult", "kedro run --pipelines adult"),
    "serve adult": ("adult", "kedro run --pipelines adult_publish"),
    "serve flts": ("flts", "'flats'"),
    "generate flats hello": ("flats.language_model", "imdb"),
    "recommend flats 1": ("flats.ranker", "movielens"),
    "predict flats hello": ("flats", "embedline predict flats FILE"),
    # Files.
    "predict flats nowhere.csv": ("nowhere.csv", "No such file"),
    "predict flats short.csv": ("short.csv", "'area'"),
    "predict flats words.csv": ("words.csv", "'area'", "row 1", "big"),
    "predict flats semicolons.csv": ("semicolons.csv", "separated by ';'"),
    "predict flats empty.csv": ("empty.csv",),
    "predict flats bare.csv": ("bare.csv", "no rows"),
    "predict flats flats.xlsx": ("flats.xlsx", ".csv"),
    "predict flats new.csv --output answers.xlsx": ("answers.xlsx", ".csv"),
    "predict flats new.csv --output nowhere/answers.csv": ("nowhere",),
    "init nowhere.csv --target price": ("nowhere.csv",),
    "init flats.csv --target prise --name more": ("prise", "'price'"),
    "init flats.xlsx --target price --name more": ("flats.xlsx", "CSV"),
    "init empty.csv --target price": ("empty.csv",),
    "run rossmann_features --params rossmann.source=nowhere.tgz": ("rossmann.source", "nowhere.tgz"),
    "run rossmann_features --params rossmann.source=broken.tgz": ("broken.tgz", "damaged"),
    "serve flats --port PORT": ("PORT", "in use", "--port 0"),
    "serve flats --port high": ("--port", "high"),
}
# `run flats` after a change of a file: its path, what is replaced by what, and what the line has to name.
WRITTEN: list[tuple[str, str, str, tuple[str, ...]]] = [
    (PARAMETERS, 'target: "price"', "target: prise", ("flats.table", "columns.target", "'price'")),
    (PARAMETERS, '- "street"', "- stret", ("flats.table", "columns.categorical", "'street'")),
    (PARAMETERS, "  columns:", "  colums:", ("flats.colums", "'flats.columns'")),
    (PARAMETERS, "  columns:", "\tcolumns:", ("flats.yml", "line 2")),
    (PARAMETERS, "continuous:", "numeric:", ("flats.columns.numeric", "continuous")),
    (PARAMETERS, 'continuous:\n      - "area"', "continuous: area", ("flats.columns.continuous", "list", "area")),
    (PARAMETERS, "flats:", "flat:", ("'flat'", "'flats'")),
    (CATALOG, "flats.csv", "flots.csv", ("flats.table", "flots.csv")),
    (CATALOG, "flats.csv", "empty.csv", ("flats.table", "empty.csv")),
    (CATALOG, "flats.csv", "semicolons.csv", ("flats.table", "separated by ';'")),
    (CATALOG, "pandas.CSVDataset", "pandas.CSVDatset", ("flats.table", "CSVDatset")),
    (CATALOG, "type:", "typ:", ("flats.table", "type")),
    (CATALOG, "filepath:", "filpath:", ("flats.table", "filpath")),
    (CATALOG, "flats.table:", "flts.table:", ("'flats.table'", "'flts.table'")),
    (SOURCES, "\nflats: {learner:", "\nflats: {lerner:", ("sources.yml", "flats.lerner", "'learner'")),
    (SOURCES, "\nflats: {learner: tabular", "\nflats: {learner: tabula", ("sources.yml", "flats.learner", "tabula")),
    (SOURCES, "\nflats: {learner: tabular}", "\nflats: {learner: tabular", ("sources.yml",)),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project with a source of its own and its model, the working directory of this process."""
    project, rows = copy_project(tmp_path_factory.mktemp("mistakes") / "project"), flats(np.random.default_rng(0))
    rows.to_csv(project / "flats.csv", index=False)
    new = rows.drop(columns="price").head(5)
    new.to_csv(project / "new.csv", index=False)
    new.to_csv(project / "semicolons.csv", index=False, sep=";")
    new.head(0).to_csv(project / "bare.csv", index=False)
    new.drop(columns="area").to_csv(project / "short.csv", index=False)
    new.assign(area="big").to_csv(project / "words.csv", index=False)
    (project / "empty.csv").touch()
    (project / "flats.xlsx").write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00")
    (project / "broken.tgz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("paths", "sources", "commands.init"):
            patch.setattr(importlib.import_module(f"embedline.{module}"), "project_root", lambda: project)
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(project)
        assert invoke("init", "flats.csv", "--target", "price", project=project)
        yield project


@pytest.fixture(scope="module")
def trained(project: Path) -> None:
    """A stored model of the flats; the estimators write the file that pipelines store."""
    from embedline import TabularRegressor

    rows = flats(np.random.default_rng(0), 120).assign(sold=lambda rows: np.datetime64("2020-01-01"))
    roles = {"id": ["flat_id"], "categorical": ["street", "balcony"], "continuous": ["area"], "text": ["remarks"]}
    small = {"epochs": 1, "batch_size": 32, "lr": 0.01, "seeds": [0], "blend": None}
    model = TabularRegressor(columns=roles, network={"layers": [4]}, training=small)
    model.fit(rows.drop(columns=["price", "sold"]), rows["price"])
    model.save(store(project / "data/sample", "06_models/flats/model.safetensors", NEW))


def require_one_line(result: Result, named: tuple[str, ...]) -> None:
    """Check that a command has failed with one line that has all the names; click writes its usage above it."""
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2), result.exception
    assert "Traceback" not in result.output and "pydantic" not in result.output, result.output
    assert [line.startswith("Error: ") for line in lines].index(True) == len(lines) - 1, result.output
    assert all(name in lines[-1] for name in named), lines[-1]


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.usefixtures("trained")
def test_a_mistake_at_the_command_line(project: Path, typed: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        named = tuple(name.replace("PORT", port) for name in TYPED[typed])
        require_one_line(invoke(*typed.replace("PORT", port).split(), status=None, project=project), named)


@pytest.mark.parametrize(("file", "right", "wrong", "named"), WRITTEN)
def test_a_mistake_in_a_file(project: Path, file: str, right: str, wrong: str, named: tuple[str, ...]) -> None:
    path = project / file
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    try:
        result = invoke("run", "flats", status=None, project=project)
    finally:
        path.write_text(text)
    require_one_line(result, named)
