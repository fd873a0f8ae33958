"""Whole runs of the sample environment: figures near the known noise, tracking, single stages, and what goes wrong."""

import functools
import json
from pathlib import Path
from typing import Any

import mlflow
import plotly.io
import polars as pl
import pytest
from kedro.validation.exceptions import ParameterValidationError

from copies import PROJECT, kedro
from embedline.errors import DataError
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables, noise_floor
from shared import tracking_database
from small_runs import run_here, write_archive

SMALL: dict[str, Any] = {"n_stores": 20}
NETWORK = {"layers": [64, 32]}
TRAINING = {"epochs": 12, "batch_size": 128, "lr": 0.004, "seeds": [0], "precision": "fp32"}
TREES = {"lightgbm": {"n_estimators": 60}}
LEARNER: dict[str, Any] = {"network": NETWORK, "training": {**TRAINING, "blend": TREES}}
LEARNER |= {"report": {"importance": {"rows": 200, "repeats": 1}}}
SETTINGS = {
    "rossmann": {"generator": SMALL, **LEARNER},
    "rossmann_notebook": LEARNER,
    "rossmann_forecast": {"network": NETWORK, "training": {**TRAINING, "epochs": 2, "blend": TREES}},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of all that is made of the sales; small_runs.py and `.ci/run` run the other sources."""
    root = tracking_database(tmp_path_factory.mktemp("run")).parent
    run_here(root, "rossmann,rossmann_notebook,rossmann_forecast", **SETTINGS)
    return root


def artifact(root: Path, layer: str, source: str, name: str) -> Path:
    """Newest version of an artifact."""
    return sorted((root / "data" / layer / source / name).glob(f"*/{name}"))[-1]


def test_metrics_are_complete_and_near_the_noise_floor(ran: Path) -> None:
    for source in ("rossmann", "rossmann_notebook"):
        metrics = json.loads(artifact(ran, "08_reporting", source, "metrics.json").read_text())
        assert {"exp_rmspe", "train_rows", "test_rows", "seconds", "rows_per_second", "beaten_by"} <= set(metrics)
        assert set(metrics["baselines"]) == {"constant", "group_mean", "linear", "networks", "trees"}
        # The generated sales have a known law and noise: no model is better than the floor, a good one is near it.
        floor = noise_floor(GeneratorOptions(**SMALL).noise)
        assert floor * 0.95 < metrics["exp_rmspe"] < floor * 1.5, metrics
        assert metrics["ceiling"] == {"exp_rmspe": floor}
        assert metrics["exp_rmspe"] < metrics["baselines"]["group_mean"]["exp_rmspe"]


def test_the_splits_are_those_of_the_parameters(ran: Path) -> None:
    forecast = pl.read_parquet(artifact(ran, "07_model_output", "rossmann", "predictions.parquet"))
    assert str(forecast["Date"].min()) == "2015-06-19" and str(forecast["Date"].max()) == "2015-07-31"
    notebook = pl.read_parquet(artifact(ran, "07_model_output", "rossmann_notebook", "predictions.parquet"))
    assert str(notebook["Date"].min()) == "2014-08-01" and str(notebook["Date"].max()) == "2014-09-17"
    encoded = pl.read_ipc(artifact(ran, "05_model_input", "rossmann", "encoded.feather"))
    assert str(encoded.filter(split="train")["Date"].max()) == "2015-06-18"


def test_submission_has_kaggles_layout(ran: Path) -> None:
    submission = pl.read_csv(artifact(ran, "07_model_output", "rossmann", "submission.csv"))
    test = pl.read_csv(artifact(ran, "01_raw", "rossmann", "test.csv"), infer_schema_length=None)
    assert submission.columns == ["Id", "Sales"]
    assert submission["Id"].to_list() == sorted(test["Id"].to_list())
    rows = submission.join(test, on="Id")
    assert (rows.filter(pl.col("Open") == 0)["Sales"] == 0).all()
    assert (rows.filter(pl.col("Open").is_null() | (pl.col("Open") == 1))["Sales"] > 0).all()
    assert rows["Open"].null_count() > 0


def test_every_learned_embedding_is_there(ran: Path) -> None:
    embeddings = pl.read_parquet(artifact(ran, "07_model_output", "rossmann", "embeddings.parquet"))
    states = embeddings.filter(variable="State")["value"].to_list()
    assert (states[0] == "(missing or unseen)" and "HB,NI" in states) or len(states) > 3
    assert embeddings.filter(variable="DayOfWeek")["embedding"].list.len().unique().to_list() == [4]


def test_plots_load_as_figures(ran: Path) -> None:
    for name in ("training", "learning_rate", "forecast", "error", "embedding"):
        figure = plotly.io.read_json(artifact(ran, "08_reporting", "rossmann", f"{name}_plot.json"))
        assert figure.data and figure.layout.title.text
        # The report draws it below a title of its own, in a panel that may be narrow.
        assert figure.layout.margin.t is None and figure.layout.template.layout.legend.orientation == "h"
        titles = [axis.title.text or "" for axis in figure.select_xaxes()]
        assert all(len(line) <= 42 for title in titles for line in title.split("<br>")), titles


def test_mlflow_has_parameters_metrics_by_epoch_figures_and_the_commit(ran: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{ran}/mlflow.db")
    experiment = client.get_experiment_by_name("embedline")
    runs = {run.data.tags.get("source", ""): run for run in client.search_runs([experiment.experiment_id])}
    command, run, notebook = runs[""], runs["rossmann"], runs["rossmann_notebook"]
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
    assert not command.data.params and not command.data.metrics
    assert run.data.tags["mlflow.parentRunId"] == notebook.data.tags["mlflow.parentRunId"] == command.info.run_id
    assert command.data.tags["kedro_command"].startswith("kedro run ") and "training.epochs" in run.info.run_name
    assert run.data.params["training.epochs"] == "12"
    assert run.data.params["network.layers"] == "[64, 32]"
    assert run.data.tags["env"] == "sample"
    assert len(client.get_metric_history(run.info.run_id, "training.exp_rmspe")) == TRAINING["epochs"]
    assert run.data.metrics["headline"] == run.data.metrics["exp_rmspe"]
    assert run.data.metrics["headline_baseline"] <= run.data.metrics["baselines.group_mean.exp_rmspe"]
    assert "baselines.trees.exp_rmspe" in run.data.metrics
    assert notebook.data.metrics["ceiling.exp_rmspe"] == pytest.approx(0.07987, abs=1e-5)
    if (PROJECT / ".git").exists():
        assert len(run.data.tags["git_sha"]) == 40
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.tags["catalog"] for model in models} >= {"rossmann.model", "rossmann_notebook.model"}
    figures = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "embedding_plot.html" in figures


def test_one_stage_runs_again_from_stored_artifacts(ran: Path) -> None:
    before = len(list((ran / "data/05_model_input/rossmann/encoded.feather").glob("*")))
    run_here(ran, "rossmann", from_nodes=["rossmann.train"], **SETTINGS)
    assert len(list((ran / "data/05_model_input/rossmann/encoded.feather").glob("*"))) == before
    metrics = sorted((ran / "data/08_reporting/rossmann/metrics.json").glob("*/metrics.json"))
    first, second = (json.loads(path.read_text())["exp_rmspe"] for path in metrics)
    assert first == second  # same rows, same seed, same code: the same network to the last bit


@functools.cache
def tables() -> dict[str, bytes]:
    """Small generated tables."""
    return generate_tables(GeneratorOptions(n_stores=4))


def archive(path: Path, **changes: bytes | None) -> Path:
    """A small Rossmann archive; ``changes`` replaces the content of tables, None leaves one out."""
    return write_archive(path, {**tables(), **changes})


def features(root: Path, source: Path | str, **settings: object) -> None:
    """Run the preparation on the tables at ``source`` with artifacts and tracking under ``root``."""
    run_here(root, "rossmann_features", rossmann={"source": str(source), "verify": False, **settings})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished preparation of small good tables."""
    root = tracking_database(tmp_path_factory.mktemp("features")).parent
    features(root, archive(root / "good.tgz"))
    return root


def tables_of(root: Path) -> list[Path]:
    """Every version of the prepared table."""
    return sorted((root / "data/05_model_input/rossmann/table.feather").glob("*/table.feather"))


def replaced(table: str, old: bytes, new: bytes) -> dict[str, bytes | None]:
    """One table of the small archive with the first ``old`` replaced."""
    content = tables()[table]
    assert old in content
    return {table: content.replace(old, new, 1)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (replaced("train", b'"Promo"', b'"Promotion"'), ["train.csv", "Promo"]),
        (replaced("train", b"2015-07-30", b"2015-13-30"), ["train.csv", "Date", "2015-13-30"]),
        (replaced("store", b"\n4,", b"\n5,") | replaced("store_states", b"\n4,", b"\n5,"), ["store.csv", "Store 4"]),
        (replaced("train", b"\n2,5,2015-07-31", b"\n1,5,2015-07-31"), ["train.csv", "Store", "2015-07-31"]),
        ({"weather": b""}, ["weather.csv"]),
        ({"store_states": None}, ["store_states.csv"]),
    ],
    ids=["missing column", "no date", "unknown store", "duplicate row", "empty file", "missing file"],
)
def test_bad_tables_are_one_clear_message_and_nothing_is_lost(
    prepared: Path, tmp_path: Path, changes: dict[str, bytes | None], says: list[str]
) -> None:
    before = tables_of(prepared)
    with pytest.raises(DataError) as caught:
        features(prepared, archive(tmp_path / "bad.tgz", **changes))
    message = str(caught.value)
    assert "\n" not in message and all(words in message for words in says), message
    assert tables_of(prepared) == before
    assert pl.read_ipc(before[-1]).height > 0


def test_a_truncated_archive_is_one_clear_message(prepared: Path, tmp_path: Path) -> None:
    whole = (prepared / "good.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tgz"):
        features(prepared, tmp_path / "cut.tgz")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rossmann": {"training": {"epoch": 3}}}, ["rossmann.training", "epoch"]),
        ({"rossmann": {"training": {"epochs": 0}}}, ["rossmann.training", "epochs", "greater than or equal to 1"]),
        ({"rossmann": {"trainign": {"epochs": 3}}}, ["'rossmann.trainign'", "did you mean 'rossmann.training'"]),
        ({"rosman": {"source": "x"}}, ["no pipeline reads the parameter 'rosman'"]),
    ],
)
def test_a_bad_setting_stops_the_run_before_the_first_node(
    prepared: Path, tmp_path: Path, given: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises((DataError, ParameterValidationError)) as caught:
        run_here(prepared, data=tmp_path / "data", **given)
    assert all(words in str(caught.value) for words in says), caught.value
    assert not (tmp_path / "data").exists()


def test_the_command_line_ends_in_the_message_not_in_a_traceback(prepared: Path, tmp_path: Path) -> None:
    params = f"data_root={tmp_path / 'data'},tracking_root={prepared},rossmann.source={tmp_path / 'nowhere.tgz'}"
    said = kedro(PROJECT, "run", "--pipeline", "rossmann_features", "--params", params, status=1)
    last_line = said.strip().splitlines()[-1]
    assert last_line.startswith("Error: ") and "nowhere.tgz" in last_line
    assert "Traceback" not in said


def test_a_full_disk_stops_the_run_and_leaves_earlier_artifacts_whole(prepared: Path) -> None:
    before = tables_of(prepared)
    # Twenty stores need a table of several megabytes; the tracking database stays below the limit.
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    params = f"data_root={prepared / 'data'},tracking_root={prepared},rossmann.generator.n_stores=20"
    said = kedro(PROJECT, "run", "--pipelines", "rossmann_features", "--params", params, status=1, before=limited)
    assert ".feather" in said.strip().splitlines()[-1], said
    assert tables_of(prepared) == before
    assert pl.read_ipc(before[-1]).height > 0
    assert not list((prepared / "data").rglob(".*.feather")), "a partial file was left behind"
