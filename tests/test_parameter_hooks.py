"""Parameters that nothing reads and what was meant, runtime parameters of the configuration, paths of sources."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from copies import copy_project, kedro
from embedline import paths
from embedline.config_loader import ConfigLoader
from embedline.errors import NO_NAMES, DataError, input_names
from embedline.hooks.parameters import ParameterCheck, SourcePaths


def check(parameters: dict[str, Any], loader: ConfigLoader | None = None) -> None:
    hook = ParameterCheck()
    if loader is not None:
        hook.after_context_created(SimpleNamespace(config_loader=loader))  # type: ignore[arg-type]
    hook.after_catalog_created(parameters={"parameters": parameters})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rossman.training.epochs", "'rossmann'"),
        ("rosmann_notebook.split.kind", "'rossmann_notebook'"),
        ("imbd.classes", "'imdb'"),
        ("movielense.network.factors", "'movielens'"),
        ("adultnine.training.epochs", "'adult_nine'"),
        ("rossmann.trainig.epochs", "'rossmann.training'"),
        ("movielens.rating-range", "'movielens.rating_range'"),
        ("data_rot", "'data_root'"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(name: str, meant: str) -> None:
    value: Any = 3
    for key in reversed(name.split(".")):
        value = {key: value}
    with pytest.raises(DataError) as caught:
        check(value)
    assert meant in str(caught.value) and str(caught.value).count("'") == 4


def test_a_name_like_none_is_answered_with_those_of_its_level() -> None:
    with pytest.raises(DataError, match=r"'rossmann\.zzz'.*rossmann\.network") as caught:
        check({"rossmann": {"zzz": 1}})
    assert "imdb" not in str(caught.value) and "did you mean" not in str(caught.value)
    with pytest.raises(DataError, match=r"'qqq'.*imdb\.classes, "):
        check({"qqq": {"training": 1}})


CONFIG = {
    "base/catalog/own.yml": {
        "a.table": {"filepath": "${runtime_params:a_csv, data/a.csv}"},
        "b.table": {"load_args": {"sep": "${runtime_params:reading.sep,${runtime_params:sep, ','}}"}},
    },
    "base/credentials.yml": {"store": {"key": "${runtime_params:key, none}"}},
    "base/mlflow.yml": {"server": {"uri": "${runtime_params:uri, none}"}},
    "base/parameters.yml": {"report": "${runtime_params:how, none}"},
    "other/catalog.yml": {"c.table": {"filepath": "${runtime_params:c_csv, data/c.csv}"}},
}


@pytest.fixture
def loader(tmp_path: Path) -> ConfigLoader:
    for name, content in CONFIG.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    (tmp_path / "local").mkdir()
    given = {"a_csv": "data/other.csv", "reading": {"sep": ";"}}
    return ConfigLoader(
        str(tmp_path), env="local", base_env="base", default_run_env="local", runtime_params=given,
        config_patterns={"mlflow": ["mlflow*"]},
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a_csv", "reading.sep", "sep", "key", "uri", "how"]
)  # with a default or without, nested, in any file
def test_what_the_configuration_asks_for_may_be_given(loader: ConfigLoader, name: str) -> None:
    catalog, *_ = (loader[kind] for kind in ("catalog", "credentials", "mlflow", "parameters"))
    assert catalog["a.table"]["filepath"] == "data/other.csv" and catalog["b.table"]["load_args"]["sep"] == ";"
    value: Any = "x"
    for key in reversed(name.split(".")):
        value = {key: value}
    check(value, loader)


@pytest.mark.parametrize("name", ["c_csv", "a_cvs", "reading"])  # of another environment, misspelt, of a level above
def test_what_it_does_not_ask_for_is_refused(loader: ConfigLoader, name: str) -> None:
    assert loader["catalog"]
    with pytest.raises(DataError, match=name):
        check({name: {"sap": 1} if name == "reading" else "x"}, loader)


@pytest.mark.parametrize("name", ["conf[1]", "co?f", "co*f", "conf"])
def test_the_name_of_the_folder_is_no_pattern(tmp_path: Path, name: str) -> None:
    for folder, value in ((name, "right"), ("conf1", "wrong"), ("coxf", "wrong")):
        (tmp_path / folder / "base/catalog/deep").mkdir(parents=True)
        (tmp_path / folder / "local").mkdir()
        (tmp_path / folder / "base/parameters.yml").write_text(f"a: {value}")
        (tmp_path / folder / "base/catalog/deep/x.yml").write_text(f"{value}.table: {{filepath: x}}")
    loader = ConfigLoader(str(tmp_path / name), env="local", base_env="base", default_run_env="local")
    assert loader["parameters"] == {"a": "right"} and list(loader["catalog"]) == ["right.table"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with data/a.zip, whose subfolder is the working directory and has b.zip."""
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "sub").mkdir()
    (root / "data/a.zip").touch()
    (root / "sub/b.zip").touch()
    monkeypatch.setattr(paths, "project_root", lambda: root)
    monkeypatch.chdir(root / "sub")
    return root


def read(source: str) -> str:
    """The path that the node ``own.acquire`` reads."""
    input_names.set({"source": "params:own.source"})
    try:
        return paths.find_source(source)
    finally:
        input_names.set(NO_NAMES)


def test_a_source_starts_from_the_project(project: Path) -> None:
    assert read("data/a.zip") == str(project / "data/a.zip")
    assert read("b.zip") == str(project / "sub/b.zip")
    (project / "b.zip").touch()
    assert read("b.zip") == str(project / "b.zip")
    for address in ("generated", "https://example.org/a.zip", "s3://a/b", str(project / "c.zip"), "zip://a::b.zip"):
        assert read(address) == address


def test_a_source_that_is_nowhere_says_where_it_was_looked_for(project: Path) -> None:
    with pytest.raises(DataError) as caught:
        read("data/tickets")
    for said in ("own.source", "'data/tickets'", str(project / "data/tickets"), str(project / "sub/data/tickets")):
        assert said in str(caught.value)


@pytest.mark.parametrize("subject", ["adult", "imdb", "movielens", "rossmann"])
def test_the_node_of_each_source_looks_below_the_project(subject: str, project: Path) -> None:
    nodes = importlib.import_module(f"embedline.pipelines.{subject}.nodes")
    with pytest.raises(DataError) as caught:
        nodes.acquire("data/tickets", False, None)
    assert str(project / "data/tickets") in str(caught.value)
    if subject == "imdb":
        with pytest.raises(DataError) as caught:
            nodes.acquire_corpus("data/tickets")
        assert str(project / "data/tickets") in str(caught.value)


def test_a_typed_path_starts_from_the_working_directory(project: Path) -> None:
    given = {"own": {"source": "b.zip"}, "two": {"source": "data/a.zip"}, "rows": "b.zip", "n": 1, "web": {"source": 5}}
    context = SimpleNamespace(config_loader=SimpleNamespace(runtime_params=given), project_path=project)
    (project / "b.zip").touch()
    SourcePaths().after_context_created(context)  # type: ignore[arg-type]
    here = str(project / "sub/b.zip")
    there = {"own": {"source": here}, "two": {"source": "data/a.zip"}, "rows": here, "n": 1, "web": {"source": 5}}
    assert given == there
    assert read(given["own"]["source"]) == here and read("data/a.zip") == str(project / "data/a.zip")


def test_a_dataset_like_the_missing_one_is_named() -> None:
    pipeline = Pipeline([Node(len, "houses.table", "n", name="count")])
    catalog = DataCatalog.from_config({"house.table": {"type": "pandas.CSVDataset", "filepath": "x.csv"}})
    with pytest.raises(DataError, match=r"'houses\.table'.*'house\.table'"):
        ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)


@pytest.mark.slow
def test_a_run_from_a_subfolder_finds_both(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    registry = project / "src/embedline/pipeline_registry.py"
    line = 'pipelines = {\n        "own": imdb.create_corpus_pipeline("own"),\n'
    registry.write_text(registry.read_text().replace("pipelines = {\n", line, 1))
    yml = {"own": {"source": "data/raw.csv", "classes": [0, 1], "reading": {"test_fraction": 0.5}}}
    (project / "conf/base/parameters/own.yml").write_text(yaml.safe_dump(yml))
    (project / "data").mkdir()
    (project / "sub").mkdir()
    rows = "".join(f"text {k},{k % 2}\n" for k in range(8))
    (project / "data/raw.csv").write_text(f"text,label\n{rows}")
    (project / "sub/mine.csv").write_text(f"text,label\n{rows}more,1\n")
    run = ("run", "--env", "base", "--pipelines", "own")
    assert "Read 8 documents" in kedro(project / "sub", *run, source=project)
    assert re.search(r"own\.acquire +skipped", kedro(project, *run))
    assert "Read 9 documents" in kedro(project / "sub", *run, "--params", "own.source=mine.csv", source=project)
