"""The range tests of the text networks, run by Kedro with the project's catalog and parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

from embedline.pipelines.text.options import (
    ClassifierOptions,
    ClassifierTraining,
    Directions,
    LanguageModelOptions,
    LanguageModelTraining,
    PretrainedOptions,
)
from embedline.pipelines.text.pipeline import (
    create_finder_pipeline,
    create_language_model_pipeline,
    create_pipeline,
    nodes,
)
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.settings import CONFIG_LOADER_ARGS
from embedline.training.options import FinderOptions

PROJECT = Path(__file__).resolve().parents[3]
SPECIALS = ("xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj")
LANGUAGE_MODEL = LanguageModelOptions(embedding_size=6, hidden_size=8, n_layers=1)
SHARED: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}


def parameters_of(source: str) -> dict[str, Any]:
    stages = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}]
    values = {
        "classes": ["neg", "pos"],
        "language_model": LANGUAGE_MODEL,
        "language_model_training": LanguageModelTraining(batch_size=2, epochs=1, lr=0.01, bptt=5, **SHARED),
        "classifier": ClassifierOptions(layers=(4,), bptt=5, max_tokens=10),
        "classifier_training": ClassifierTraining.model_validate({"batch_size": 4, "stages": stages, **SHARED}),
        "pretrained": PretrainedOptions(),
        "finder": FinderOptions(low=1e-4, high=1.0, steps=12),
    }
    return {f"params:{source}.{name}": value for name, value in values.items()}


@pytest.fixture
def vocabulary() -> dict[str, Any]:
    words = {"tokens": [*SPECIALS, "good", "bad", "film"], "specials": list(SPECIALS), "unknown": 0, "padding": 1}
    return {**words, "rules": "ulmfit", "fitted_on": ["train"], "min_freq": 1}


@pytest.fixture
def ids() -> pl.DataFrame:
    numbers = np.random.default_rng(0)
    rows = [
        (f"{part}/{n}", ("neg", "pos")[n % 2], part, [2, *(int(word) for word in numbers.integers(9, 12, 8))])
        for part in ("train", "validation")
        for n in range(12)
    ]
    schema = {"document_id": pl.String, "label": pl.String, "split": pl.String, "ids": pl.List(pl.UInt16)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def configuration(env: str = "sample", **roots: str) -> OmegaConfigLoader:
    settings: dict[str, Any] = CONFIG_LOADER_ARGS | {"default_run_env": env}
    return OmegaConfigLoader(str(PROJECT / "conf"), runtime_params=roots, **settings)


@pytest.mark.parametrize(("source", "language_model"), [("imdb", None), ("tickets", "imdb.language_model")])
def test_it_reads_what_a_run_has_stored_and_leaves_rates_and_plots(
    source: str, language_model: str | None, tmp_path: Path, ids: pl.DataFrame, vocabulary: dict[str, Any]
) -> None:
    roots = dict.fromkeys(("data_root", "tracking_root"), str(tmp_path))
    catalog, parameters = DataCatalog.from_config(configuration(**roots)["catalog"]), parameters_of(source)
    training = parameters[f"params:{source}.language_model_training"]
    tokens, directions = TokenOptions(rules="ulmfit"), Directions()
    bundle, _ = nodes.train_language_model(ids, vocabulary, tokens, LANGUAGE_MODEL, training, directions)
    for name, value in ((f"{source}.ids", ids), (f"{source}.vocabulary", vocabulary)):
        catalog.save(name, value)
    catalog.save(language_model or f"{source}.language_model", bundle)
    for name, value in parameters.items():
        catalog[name] = value
    SequentialRunner().run(create_finder_pipeline(source, language_model=language_model), catalog)
    for network in ("language_model", "classifier"):
        (stored,) = tmp_path.glob(f"06_models/{source}/{network}_rates.parquet/*/{network}_rates.parquet")
        rates = pl.read_parquet(stored)
        assert rates.columns == ["rate", "loss", "suggestion"]
        assert rates["rate"].to_list() == pytest.approx([1e-4 * 1e4 ** (step / 11) for step in range(len(rates))])
        assert rates["suggestion"].n_unique() == 1 and rates["suggestion"][0] in rates["rate"].to_list()
        figure = catalog.load(f"{source}.{network}_rate_plot")
        assert figure.data[1].name == f"suggested: {rates['suggestion'][0]:.1e}"
        assert figure.layout.title.text.startswith("Learning-rate range test of the")


def test_nodes_are_named_after_their_source() -> None:
    pipeline = create_finder_pipeline("imdb")
    assert {(node.name, *node.tags) for node in pipeline.nodes} == {
        ("imdb.acquire_pretrained", "acquire"),
        ("imdb.find_language_model_rate", "train"),
        ("imdb.find_classifier_rate", "train"),
        ("imdb.plot_language_model_rates", "plot"),
        ("imdb.plot_classifier_rates", "plot"),
    }
    data = {name for name in pipeline.inputs() if not name.startswith("params:")}
    assert data == {"imdb.ids", "imdb.vocabulary", "imdb.language_model"} <= create_pipeline("imdb").all_outputs()
    both = {node.name for node in pipeline.nodes} & {node.name for node in create_pipeline("imdb").nodes}
    assert both == {"imdb.acquire_pretrained"}


def test_the_pipeline_of_a_classifier_begins_with_that_of_its_language_model() -> None:
    alone, whole = create_language_model_pipeline("notes"), create_pipeline("notes")
    assert set(alone.nodes) < set(whole.nodes)
    assert {"notes.language_model", "notes.language_model_metrics", "notes.samples"} <= alone.all_outputs()
    assert {name for name in alone.inputs() if not name.startswith("params:")} == {"notes.documents"}
    assert not {name for name in alone.inputs() if "classifier" in name or "baseline" in name}
    from_another = create_pipeline("notes", language_model="imdb.language_model")
    assert "imdb.language_model" in from_another.inputs() and "params:notes.pretrained" not in from_another.inputs()


def test_the_plot_of_an_ensembles_training_goes_from_member_to_member() -> None:
    steps = {"step": [1, 2, 1, 2], "epoch": [0.5, 1.0, 0.5, 1.0], "lr": [0.1] * 4, "train_loss": [3.0, 2.0, 3.5, 1.0]}
    history = pl.DataFrame({"member": [0, 0, 1, 1], "stage": [0] * 4, "direction": ["forward"] * 4, **steps})
    figure = nodes.plot_training(history)
    assert [note.text for note in figure.layout.annotations] == ["member 1", "member 2"]
    both = history.with_columns(direction=pl.Series(["forward"] * 2 + ["backward"] * 2))
    names = [note.text for note in nodes.plot_training(both).layout.annotations]
    assert names == ["forward", "backward"]
    assert [note.text for note in nodes.plot_language_model(both.drop("stage")).layout.annotations] == names
    four = pl.concat([both, both.with_columns(member=pl.col("member") + 2)]).sort(
        pl.col("direction") == "backward", maintain_order=True
    )
    four = four.with_columns(member=pl.Series([0, 0, 1, 1, 2, 2, 3, 3]))
    names = [note.text for note in nodes.plot_training(four).layout.annotations]
    assert names == ["forward 1", "forward 2", "backward 1", "backward 2"]
    assert list(figure.data[0].x) == [0.5, 1.0, 1.5, 2.0]
    one = nodes.plot_training(history.head(2).with_columns(stage=pl.Series([0, 1])))
    assert [note.text for note in one.layout.annotations] == ["stage 1", "stage 2"]
