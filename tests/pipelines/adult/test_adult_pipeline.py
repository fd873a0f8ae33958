"""The preparation of the Adult data as Kedro runs it, with the project's catalog."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import DataValidationError

from embedline.pipelines.adult.files import read_table
from embedline.pipelines.adult.pipeline import create_pipeline
from embedline.pipelines.adult.simulator import GeneratorOptions, generate_files

PROJECT = Path(__file__).resolve().parents[3]
SMALL = GeneratorOptions(n_data=60, n_test=40)


def catalog_of(root: Path, **parameters: Any) -> DataCatalog:
    """The catalog of conf/base/catalog/adult.yml below another root."""
    text = (PROJECT / "conf/base/catalog/adult.yml").read_text().replace("${_root}", str(root))
    catalog = DataCatalog.from_config(yaml.safe_load(text))
    for name, value in parameters.items():
        catalog[f"params:adult.{name}"] = value
    return catalog


def test_generated_files_become_a_table(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, source="generated", verify=True, generator=SMALL)
    SequentialRunner().run(create_pipeline(), catalog)
    files = generate_files(SMALL)
    for name, content in files.items():
        (raw,) = tmp_path.glob(f"01_raw/adult/{name}/*/{name}")
        assert raw.read_bytes() == content
    (path,) = tmp_path.glob("05_model_input/adult/table.feather/*/table.feather")
    table = pl.read_ipc(path)
    assert table.equals(read_table(files))
    assert table["file"].value_counts().sort("file").rows() == [("data", 60), ("test", 40)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Id": [0, 0]}, r"adult\.table: Id 0 occurs"),
        ({"income": ["<=50K", None]}, r"adult\.table: column 'income' has 1 missing values"),
        ({"file": [None, None]}, r"adult\.table: column 'file' has 2 missing values"),
    ],
)
def test_the_contract_is_checked_on_save(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"Id": [0, 1], "age": [39, None], "income": ["<=50K", ">50K"], "file": ["data", "test"]}
    catalog = catalog_of(tmp_path)
    with pytest.raises(DataValidationError, match=message):
        catalog.save("adult.table", pl.DataFrame({**good, **change}))
    assert not list(tmp_path.rglob("*.feather/*"))
    catalog.save("adult.table", pl.DataFrame(good))
    assert catalog.load("adult.table").rows() == [(0, 39, "<=50K", "data"), (1, None, ">50K", "test")]


def test_nodes_are_named_after_their_source_and_tagged_by_stage() -> None:
    pipeline = create_pipeline()
    assert [(node.name, node.tags) for node in pipeline.nodes] == [
        ("adult.acquire", {"acquire"}),
        ("adult.read_table", {"prepare"}),
    ]
    assert pipeline.inputs() == {f"params:adult.{name}" for name in ("source", "verify", "generator")}
    assert pipeline.outputs() == {"adult.table"}


def test_the_parameters_of_the_project_are_what_the_models_take() -> None:
    block = yaml.safe_load((PROJECT / "conf/base/parameters/adult.yml").read_text())["adult"]
    assert GeneratorOptions.model_validate(block["generator"]) == GeneratorOptions()
    assert block["verify"] is True
    assert block["source"] == "https://archive.ics.uci.edu/static/public/2/adult.zip"
    sample = yaml.safe_load((PROJECT / "conf/sample/parameters/adult.yml").read_text())["adult"]
    assert sample["source"] == "generated"
    assert GeneratorOptions.model_validate({**block["generator"], **sample["generator"]}).n_data == 3000
