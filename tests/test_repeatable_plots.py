"""The same artifacts are drawn as the same plots, to the last bit: a plot that differs would be a new version."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.pipeline import Node
from kedro.validation.type_extractor import TypeExtractor

from embedline import settings
from embedline.pipeline_registry import register_pipelines
from embedline.pipelines.ratings.plots import plot_error as rating_errors
from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.plots import plot_errors, plot_forecast
from small_runs import SOURCES

MANY, CALLS = 40_000, 15  # rows enough for Polars to share them out, calls enough to see two orders of summation


@pytest.fixture
def predictions() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(3, 1, MANY) for name in ("predicted", "damped_bias")}
    counts = {name: rng.integers(0, 300, MANY) for name in ("user_ratings", "item_ratings", "time")}
    kind = pl.Series(rng.choice(["a", "b", "c"], MANY), dtype=pl.Categorical)
    return pl.DataFrame({"actual": rng.integers(1, 6, MANY).astype(float), **numbers, **counts, "kind": kind})


def drawn(figure: go.Figure) -> str:
    text: str = figure.to_json()
    return text


def test_means_of_many_rows_are_the_same_at_every_call(predictions: pl.DataFrame) -> None:
    report = ReportOptions(error_by=["kind", "time"])
    assert len({drawn(rating_errors(predictions, "errors")) for _ in range(CALLS)}) == 1
    assert len({drawn(plot_errors(predictions, report, "errors")) for _ in range(CALLS)}) == 1
    assert len({drawn(plot_forecast(predictions, "time", report, "forecast")) for _ in range(CALLS)}) == 1


@pytest.mark.slow
def test_all_plots_of_the_sample_are_the_same_at_every_call(small_project: Path) -> None:
    loader = OmegaConfigLoader(
        str(small_project / "conf"), env="sample", runtime_params={}, **settings.CONFIG_LOADER_ARGS
    )
    entries = loader["catalog"]
    for entry in entries.values():
        if "filepath" in entry:
            entry["filepath"] = str(small_project / entry["filepath"])
    catalog = DataCatalog.from_config(entries)
    pipelines = {source: register_pipelines()[source] for source in SOURCES}
    models = TypeExtractor(pipelines).extract_types_from_pipelines()

    def value(name: str) -> Any:
        if not name.startswith("params:"):
            return catalog.load(name)
        key = name.removeprefix("params:")
        source, block = key.split(".", 1)
        given = loader["parameters"][source].get(block, {})
        return models[key].model_validate(given) if hasattr(models.get(key), "model_validate") else given

    nodes: list[Node] = [node for one in pipelines.values() for node in one.only_nodes_with_tags("plot").nodes]
    assert len(nodes) > 15
    for node in nodes:
        inputs = {name: value(name) for name in node.inputs}
        first, second = (node.run(dict(inputs)) for _ in range(2))
        assert {name: drawn(plot) for name, plot in first.items()} == {name: drawn(p) for name, p in second.items()}
