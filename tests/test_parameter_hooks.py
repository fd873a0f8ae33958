"""Parameters that are left out, that nothing reads and what was meant, and how sources are reached."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from pydantic import BaseModel, ConfigDict

from embedline import paths
from embedline.config_loader import ConfigLoader
from embedline.download import access_to, set_access
from embedline.errors import NO_NAMES, DataError, input_names
from embedline.hooks import parameters
from embedline.hooks.parameters import ParameterCheck, ParameterDefaults, SourceAccess, SourcePaths, _unread


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


def test_a_block_with_its_old_name_is_answered_with_the_new_one() -> None:
    with pytest.raises(DataError) as caught:
        check({"movielens": {"folding": {"factors": 1.0}}})
    assert "'movielens.folding'" in str(caught.value) and "'movielens.fold_in'" in str(caught.value)


def test_what_is_read_passes() -> None:
    check({"rossmann": {"training": {"epochs": 1}}})


READ = {"shop.training", "shop.split", "shop.features.windows", "shop.source", "seed"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"seed": 1, "shop": {"training": {"epochs": 1, "anything": 2}, "split": {}}}, []),
        ({"sead": 1}, ["sead"]),
        ({"shop": {"trainig": {"epochs": 1}, "split": {}}}, ["shop.trainig"]),
        ({"shopp": {"training": {"epochs": 1}}}, ["shopp"]),
        ({"shop": {"features": {"windows": 7, "window": 3}}}, ["shop.features.window"]),
        ({"shop": 3}, ["shop"]),
        ({"shop": {}}, []),
        ({"data_root": "x", "tracking_root": "y", "_template": {"epochs": 1}}, []),
        ({"shop": {"data_root": "x"}}, ["shop.data_root"]),
        ({"shop": {"source": "x", "credentials": "mine", "max_bytes": 3}}, []),  # beside a source these are read
        ({"credentials": "mine", "books": {"max_bytes": 3}}, ["credentials", "books"]),
    ],
)
def test_unread_parameters(parameters: dict[str, Any], expected: list[str]) -> None:
    assert list(_unread(parameters, READ)) == expected


CONFIG = {
    "base/catalog/own.yml": {
        "a.table": {"filepath": "${runtime_params:a_csv, data/a.csv}"},
        "b.table": {"load_args": {"sep": "${runtime_params:reading.sep,${runtime_params:sep, ','}}"}},
    },
    "base/credentials.yml": {"store": {"key": "${runtime_params:key, none}"}},
    "base/mlflow.yml": {"server": {"uri": "${runtime_params:uri, none}"}},
    "base/parameters.yml": {"style": "${runtime_params:how, none}"},
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


class Report(BaseModel):
    """A block whose every key has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 3


class Columns(BaseModel):
    """A block that must be given."""

    target: str


def use(columns: Columns, report: Report, names: list[str], start: Report | None) -> int:
    """A node's function."""
    return report.size


NODE = Node(use, ["params:columns", "params:report", "params:names", "params:start"], "out", name="use")


def test_blocks_that_are_left_out_have_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "enumerate_pipelines", {"shop": Pipeline([NODE], namespace="shop")}.items)

    def filled(given: dict[str, Any]) -> DataCatalog:
        catalog = DataCatalog.from_config({})
        ParameterDefaults().after_catalog_created(catalog=catalog, parameters={"parameters": given})
        return catalog

    catalog = filled({"shop": {"columns": {"target": "price"}}})
    assert catalog.load("params:shop.report") == Report(size=3)
    assert catalog.load("params:shop.start") == Report(size=3)  # null is another value, which YAML may give
    assert "params:shop.start" not in filled({"shop": {"start": None}})
    assert "params:shop.names" not in catalog  # no block of settings: nothing is known of it
    assert "params:shop.columns" not in filled({"shop": {}})  # it must be given
    assert "params:shop.report" not in filled({"shop": {"report": {"size": 5}}})  # Kedro itself adds it
    assert "params:shop.report" not in filled({"other": {}})


def test_what_a_run_lacks_is_asked_for_by_name() -> None:
    pipeline, catalog = Pipeline([NODE], namespace="shop"), DataCatalog.from_config({})
    catalog["params:shop.report"] = catalog["params:shop.start"] = Report()
    with pytest.raises(DataError) as caught:
        ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    assert str(caught.value) == ("the parameters of 'shop' lack 'columns', with target: add it to conf/base/parameters")
    catalog["params:shop.columns"] = Columns(target="price")
    with pytest.raises(DataError, match="the parameters of 'shop' lack 'names': add it"):
        ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    catalog["params:shop.names"] = []
    ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    with_table = Pipeline([Node(len, "table", "n", name="count")], namespace="shop", inputs={"table": "shop.table"})
    with pytest.raises(DataError, match=r"the catalog has no 'shop\.table', which the run reads: add it to conf/base"):
        ParameterCheck().before_pipeline_run(pipeline=with_table, catalog=catalog)


def test_a_dataset_with_its_old_name_in_the_catalog_is_answered_with_the_new_one() -> None:
    pipeline = Pipeline([Node(len, "rows", "service_metrics", name="measure")], namespace="shop")
    catalog = DataCatalog({"shop.rows": MemoryDataset([1]), "shop.service_figures": MemoryDataset()})
    with pytest.raises(DataError) as caught:
        ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    assert "'shop.service_figures'" in str(caught.value) and "'shop.service_metrics'" in str(caught.value)
    catalog["shop.service_metrics"] = MemoryDataset()
    ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)


def credentials_context(folder: Path, **parameters: Any) -> Any:
    """What the hook reads of Kedro's context: parameters, and configuration with credentials in two environments."""
    for env, text in {
        "base": "",
        "sample": "mine: {token: of sample}",
        "local": "mine: {token: x}\nother: {key: k}",
    }.items():
        (folder / env).mkdir(parents=True, exist_ok=True)
        (folder / env / "credentials.yml").write_text(text)
    loader = OmegaConfigLoader(str(folder), base_env="base", default_run_env="sample")
    return SimpleNamespace(params=parameters, config_loader=loader)


def test_a_source_takes_credentials_and_a_limit_that_stand_beside_it(tmp_path: Path) -> None:
    blocks: dict[str, Any] = {
        "a": {"source": "s3://a", "credentials": "other", "max_bytes": 5.0},
        "b": {"deep": {"source": "s3://b", "credentials": "mine"}},
        "c": {"source": "s3://c", "credentials": None},
        "d": {"source": "generated", "credentials": "not there, and not needed"},
    }
    try:
        SourceAccess().after_context_created(credentials_context(tmp_path, **blocks))
        assert (access_to("s3://a").credentials, access_to("s3://a").max_bytes) == ({"key": "k"}, 5)  # of conf/local
        assert access_to("s3://b").credentials == {"token": "of sample"}  # the environment of the run comes first
        assert access_to("s3://c").credentials == {} and access_to("s3://c").max_bytes == 2 * 1024**3
        SourceAccess().after_context_created(credentials_context(tmp_path))
        assert access_to("s3://a").credentials == {}  # of another run in the same process
    finally:
        set_access({})


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"credentials": "nobody"}, ("shop.credentials", "nobody", "credentials.yml", "mine", "other")),
        ({"credentials": {"key": "S3CRET"}}, ("shop.credentials", "credentials.yml")),
        ({"credentials": 3}, ("shop.credentials",)),
        ({"max_bytes": 0}, ("shop.max_bytes", "0")),
        ({"max_bytes": True}, ("shop.max_bytes",)),
        ({"max_bytes": "2 GB"}, ("shop.max_bytes", "2 GB")),
        ({"max_bytes": float("inf")}, ("shop.max_bytes", "inf")),
    ],
)
def test_credentials_that_cannot_be(block: dict[str, Any], named: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        SourceAccess().after_context_created(credentials_context(tmp_path, shop={"source": "s3://a", **block}))
    assert all(text in str(caught.value) for text in named) and "S3CRET" not in str(caught.value)


def test_a_dataset_like_the_missing_one_is_named() -> None:
    pipeline = Pipeline([Node(len, "houses.table", "n", name="count")])
    catalog = DataCatalog.from_config({"house.table": {"type": "pandas.CSVDataset", "filepath": "x.csv"}})
    with pytest.raises(DataError, match=r"'houses\.table'.*'house\.table'"):
        ParameterCheck().before_pipeline_run(pipeline=pipeline, catalog=catalog)
