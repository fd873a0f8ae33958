"""The error of a frame names the dataset that it came from, that of a training the block of its parameters."""

from typing import Any

import polars as pl
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from embedline.errors import DataError, TrainingError, about_frame
from embedline.hooks.tracking import DatasetNames


def _fail(table: Any, items: Any = None) -> int:
    del table, items
    with about_frame("table"):
        raise DataError("column 'x' is odd")


def _fail_by_keyword(items: Any, table: Any) -> int:
    return _fail(table, items)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (_fail, "table"),
        (_fail, ["table", "items"]),
        (_fail_by_keyword, ["items", "table"]),
        (_fail, {"items": "items", "table": "table"}),
    ],
)
def test_an_error_names_the_dataset(function: Any, inputs: Any) -> None:
    node = Node(function, inputs, "n", name="fail")
    pipeline = Pipeline([node], namespace="houses", inputs={"table": "deeds.sold"})
    datasets = {name: MemoryDataset(pl.DataFrame()) for name in pipeline.inputs()}
    hooks = _create_hook_manager()
    hooks.register(DatasetNames())
    with pytest.raises(DataError, match=r"^deeds\.sold: column 'x' is odd$"):
        SequentialRunner().run(pipeline, DataCatalog(datasets), hook_manager=hooks)


def _diverge(encoded: Any, training: dict[str, Any]) -> int:
    del encoded
    raise TrainingError("the training diverged in epoch 2 of 3", training["lr"])


@pytest.mark.parametrize("block", ["training", "language_model_training"])
def test_an_error_of_a_training_names_the_block_with_its_rate(block: str) -> None:
    node = Node(_diverge, ["encoded", f"params:{block}"], "model", name="train")
    parameters = {f"params:houses.{block}"}
    pipeline = Pipeline([node], namespace="houses", parameters={f"params:{block}": f"params:houses.{block}"})
    catalog = DataCatalog({name: MemoryDataset({"lr": 100.0}) for name in {*pipeline.inputs(), *parameters}})
    hooks = _create_hook_manager()
    hooks.register(DatasetNames())
    with pytest.raises(DataError, match=rf"epoch 2 of 3.* lr in houses\.{block}, which is 100"):
        SequentialRunner().run(pipeline, catalog, hook_manager=hooks)
