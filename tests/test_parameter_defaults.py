"""A block that a source leaves out has its defaults; one that must be given is asked for by name."""

from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.hooks import parameters
from embedline.hooks.parameters import ParameterCheck, ParameterDefaults


class Report(BaseModel):
    """A block whose every key has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 3


class Columns(BaseModel):
    """A block that must be given."""

    target: str


def use(columns: Columns, report: Report, names: list[str]) -> int:
    """A node's function."""
    return report.size


NODE = Node(use, ["params:columns", "params:report", "params:names"], "out", name="use")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = {"shop": Pipeline([NODE], namespace="shop")}
    monkeypatch.setattr(parameters, "enumerate_pipelines", pipelines.items)


def filled(parameters: dict[str, Any]) -> DataCatalog:
    catalog = DataCatalog.from_config({})
    ParameterDefaults().after_catalog_created(catalog=catalog, parameters={"parameters": parameters})
    return catalog


def test_a_block_that_is_left_out_has_its_defaults(shop: None) -> None:
    catalog = filled({"shop": {"columns": {"target": "price"}}})
    assert catalog.load("params:shop.report") == Report(size=3)
    assert "params:shop.names" not in catalog  # no block of settings: nothing is known of it


def test_a_block_that_must_be_given_is_not_made_up(shop: None) -> None:
    assert "params:shop.columns" not in filled({"shop": {}})


def test_a_block_that_is_given_stays(shop: None) -> None:
    assert "params:shop.report" not in filled({"shop": {"report": {"size": 5}}})  # Kedro itself adds it


def test_a_source_without_parameters_is_left_alone(shop: None) -> None:
    assert "params:shop.report" not in filled({"other": {}})


def test_what_a_run_lacks_is_asked_for_by_name() -> None:
    pipeline, catalog = Pipeline([NODE], namespace="shop"), DataCatalog.from_config({})
    catalog["params:shop.report"] = Report()
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
