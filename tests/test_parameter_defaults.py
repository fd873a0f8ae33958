"""A block that a source leaves out has its defaults, unless it must be given."""

from typing import Any

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from pydantic import BaseModel, ConfigDict

from embedline import parameter_hooks
from embedline.parameter_hooks import ParameterDefaults


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


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(use, ["params:columns", "params:report", "params:names"], "out", name="use")
    pipelines = {"shop": Pipeline([node], namespace="shop")}
    monkeypatch.setattr(parameter_hooks, "enumerate_pipelines", pipelines.items)


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
