"""Which artifacts the report reads, also of a source of one's own, and what stands for those that are missing."""

import logging
from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro_datasets.json import JSONDataset

from embedline.hooks.runs import MissingArtifacts
from embedline.pipeline_registry import register_pipelines
from embedline.pipelines.ratings import pipeline as ratings
from embedline.pipelines.report.pipeline import TAG, create_pipeline, reported
from embedline.pipelines.tabular import pipeline as tabular
from embedline.pipelines.text import pipeline as text


def inputs_of(pipeline: Pipeline, name: str) -> set[str]:
    (node,) = [node for node in pipeline.nodes if node.name == name]
    return set(node.inputs)


def test_every_source_of_the_registry_is_reported() -> None:
    pipelines = register_pipelines()
    sources = reported([pipeline for name, pipeline in pipelines.items() if name != "report"])
    named = {"rossmann", "rossmann_notebook", "rossmann_forecast", "imdb", "movielens", "adult", "adult_nine"}
    assert set(sources) == named | {"arxiv", "pets", "paddy", "cifar10"}
    assert {"metrics", "mistakes", "neighbours", "mistakes_plot", "activation_plot", "batch_plot"} <= set(
        sources["pets"]
    )
    assert {"language_model_metrics", "samples", "next_words", "language_model_plot"} == set(sources["arxiv"])
    assert {"metrics", "mistakes", "samples", "confusion_plot", "language_model_rate_plot"} <= set(sources["imdb"])
    assert "folds" in sources["movielens"] and sources["rossmann_forecast"] == ["forecast"]


def test_the_origin_of_the_raw_data_is_found_through_the_pipeline() -> None:
    report = register_pipelines()["report"]
    assert "params:rossmann.source" in inputs_of(report, "report.collect_rossmann_notebook")
    assert "params:adult.source" in inputs_of(report, "report.collect_adult_nine")


def test_a_source_of_ones_own_is_in_the_report() -> None:
    own = {
        "houses": tabular.create_pipeline("houses"),
        "albums": ratings.create_pipeline("albums", items=False),
    }
    own["diary"] = text.create_language_model_pipeline("diary")
    report = create_pipeline(own)
    diary = inputs_of(report, "report.collect_diary")
    assert {"diary.language_model_metrics", "diary.language_model_metrics_history", "diary.samples"} <= diary
    houses = inputs_of(report, "report.collect_houses")
    assert {"houses.metrics", "houses.metrics_history", "houses.forecast_plot", "houses.embedding_plot"} <= houses
    assert not any(name.startswith("params:") for name in houses)  # its table comes from the catalog
    assert {"albums.recommendations", "albums.map_plot"} <= inputs_of(report, "report.collect_albums")
    page = inputs_of(report, "report.write_page")
    assert page == {"params:report", "report.section_houses", "report.section_albums", "report.section_diary"}


def fitting(metrics: dict[str, float]) -> dict[str, float]:
    return metrics


def collecting(**artifacts: object) -> dict[str, object]:
    return artifacts


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    """Stored metrics, and a plot that is not there."""
    entries = {
        "films.metrics": JSONDataset(filepath=str(tmp_path / "metrics.json")),
        "films.error_plot": JSONDataset(filepath=str(tmp_path / "error_plot.json")),
        "films.section": MemoryDataset(),
        "films.fitted": MemoryDataset(),
    }
    catalog = DataCatalog(entries)
    catalog.save("films.metrics", {"rmse": 0.5})
    return catalog


REPORT = Node(collecting, {"metrics": "films.metrics", "plot": "films.error_plot"}, "films.section", tags=TAG)


def test_a_missing_artifact_is_none_and_the_others_are_themselves(
    catalog: DataCatalog, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="embedline"):
        MissingArtifacts().before_pipeline_run(Pipeline([REPORT]), catalog)
    assert catalog.load("films.error_plot") is None
    assert catalog.load("films.metrics") == {"rmse": 0.5}
    assert "left out of the report: films.error_plot" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    catalog["films.metrics"] = MemoryDataset({"rmse": 0.4})
    assert "Replacing dataset 'films.metrics'" in caplog.text  # that of others is no secret


@pytest.mark.parametrize(
    "other",
    [
        Node(fitting, "films.error_plot", "films.fitted"),  # another node needs it: it stays missing
        Node(fitting, "films.metrics", "films.error_plot"),  # the run itself makes it
    ],
)
def test_what_another_node_reads_or_makes_is_not_replaced(catalog: DataCatalog, other: Node) -> None:
    before = catalog["films.error_plot"]
    MissingArtifacts().before_pipeline_run(Pipeline([REPORT, other]), catalog)
    assert catalog["films.error_plot"] is before and not catalog.exists("films.error_plot")
