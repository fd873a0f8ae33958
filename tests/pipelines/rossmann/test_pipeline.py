"""The preparation as Kedro runs it, on generated tables."""

import datetime as dt
from pathlib import Path

import polars as pl
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

from embedline.datasets import Bytes, PolarsFrame
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.pipeline import TABLES, create_pipeline, create_submission_pipeline
from embedline.pipelines.rossmann.simulator import GeneratorOptions
from embedline.pipelines.tabular.columns import Split


def test_generated_tables_become_the_table(tmp_path: Path) -> None:
    datasets = {}
    for name in TABLES:
        path = str(tmp_path / f"{name}.csv")
        datasets[f"rossmann.raw_{name}@bytes"] = Bytes(filepath=path)
        datasets[f"rossmann.raw_{name}@frame"] = PolarsFrame(
            filepath=path, file_format="csv", load_args={"infer_schema": False}
        )
    datasets["rossmann.table"] = PolarsFrame(filepath=str(tmp_path / "table.feather"), file_format="ipc")
    catalog = DataCatalog(datasets)
    catalog["params:rossmann.source"] = "generated"
    catalog["params:rossmann.verify"] = True
    catalog["params:rossmann.features"] = FeatureOptions()
    catalog["params:rossmann.split"] = Split(
        kind="window", column="Date", start=dt.date(2015, 7, 10), end=dt.date(2015, 7, 20)
    )
    catalog["params:rossmann.generator"] = GeneratorOptions(
        n_stores=5, first_day=dt.date(2015, 6, 1), last_day=dt.date(2015, 7, 20), test_last_day=dt.date(2015, 7, 31)
    )
    SequentialRunner().run(create_pipeline(), catalog)
    table = catalog.load("rossmann.table")
    raw = pl.read_csv(tmp_path / "train.csv", schema_overrides={"StateHoliday": pl.String})
    assert len(table.filter(pl.col("Sales").is_not_null())) == len(raw.filter(pl.col("Sales") != 0)) > 0
    assert len(table.filter(pl.col("Sales").is_null())) == len(pl.read_csv(tmp_path / "test.csv")) > 0


def test_nodes_are_named_after_their_source_and_tagged_by_stage() -> None:
    nodes = [*create_pipeline().nodes, *create_submission_pipeline("rossmann_forecast.forecast").nodes]
    assert all(node.name.startswith("rossmann.") for node in nodes)
    assert {tag for node in nodes for tag in node.tags} == {"acquire", "prepare", "predict"}
    assert create_pipeline().outputs() == {"rossmann.table"}
