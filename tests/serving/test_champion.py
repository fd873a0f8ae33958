"""The alias of the champion moves to what beats it on the same rows, and to nothing else."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from small_table import CLASSES, SPLIT, Trained

from embedline.datasets import Champion
from embedline.errors import DataError
from embedline.hooks.runs import Publishing
from embedline.pipeline_registry import register_pipelines
from embedline.pipelines.publish.nodes import hold_out_table, measure_service
from embedline.serving.champion import RecordedScore, decide, fingerprint, measure
from embedline.serving.registry import Published, Registry, log_service
from embedline.serving.service import Score, Service
from shared import tracking_database

ERROR = RecordedScore(path=("exp_rmspe",), value=0.10, better="lower", rows=10, evaluation="a")


ACCURACY = RecordedScore(path=("accuracy",), value=0.8, better="higher", rows=10, evaluation="a")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("champion", "value", "wins", "said"),
    [
        (ERROR, 0.09, True, "exp_rmspe 0.09 beats 0.1"),
        (ERROR, 0.10, False, "exp_rmspe 0.1 does not beat 0.1"),
        (ERROR, 0.11, False, "exp_rmspe 0.11 does not beat 0.1"),
        (ERROR, NAN, False, "exp_rmspe nan is no number"),
        (ERROR, -INF, False, "exp_rmspe -inf is no number"),
        (ACCURACY, 0.81, True, "accuracy 0.81 beats 0.8"),  # of accuracies the higher wins
        (ACCURACY, 0.79, False, "accuracy 0.79 does not beat 0.8"),
    ],
)
def test_on_the_same_rows_the_recorded_scores_decide(champion, value, wins, said) -> None:
    challenger = champion.model_copy(update={"value": value})
    decision = decide(challenger, champion, lambda: pytest.fail("the champion need not answer"))
    assert decision.wins is wins and decision.reason.startswith(said)
    assert decide(challenger, None, None).wins is bool(np.isfinite(value))  # without a champion anything finite


@pytest.mark.parametrize(
    ("path", "value", "wins", "said"),
    [
        ("exp_rmspe", 0.6, True, "exp_rmspe 0.5 beats 0.6 of the champion on the new rows"),
        ("exp_rmspe", 0.4, False, "0.4"),
        ("exp_rmspe", NAN, False, ""),
        ("accuracy", 0.4, False, "the champion is measured by accuracy, not by exp_rmspe"),
        ("silent", 0.0, False, "so that it is not beaten: store.csv has no store 7"),
    ],
)
def test_on_other_rows_the_champion_answers_again(path, value, wins, said) -> None:
    def score() -> Score:
        if path == "silent":
            raise DataError("store.csv has no store 7")
        return Score((path,), value, "higher" if path == "accuracy" else "lower")

    decision = decide(ERROR.model_copy(update={"evaluation": "b", "value": 0.5}), ERROR, score)
    assert decision.wins is wins and said in decision.reason


def test_a_fingerprint_tells_values_types_names_and_order() -> None:
    rows = pl.DataFrame({"shop": ["a", "b"], "actual": [1.0, 2.0]})
    others = [rows.reverse(), rows.rename({"shop": "store"}), rows.head(1)]
    others += [
        rows.with_columns(actual=values) for values in (pl.Series([1.0, 2.5]), pl.col("actual").cast(pl.Float32))
    ]
    assert len({fingerprint(rows), *map(fingerprint, others)}) == 1 + len(others)
    assert fingerprint(rows.with_columns(pl.col("shop").cast(pl.Categorical))) == fingerprint(rows)
    assert fingerprint(pl.concat([rows.head(1), rows.tail(1)], rechunk=False)) == fingerprint(rows)


# The registry


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(CLASSES)


@pytest.fixture(scope="module")
def evaluation(trained: Trained) -> pl.DataFrame:
    return hold_out_table(trained.table, CLASSES, SPLIT, trained.encoder)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of its own, for this process as long as the tests last."""
    folder = tmp_path_factory.mktemp("registry")
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tracking_database(folder)}"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("published", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("published")
    with mlflow.start_run():
        yield uri
    mlflow.set_tracking_uri(before)


def changed(packed: Service, change: Callable[[str, Any], Any]) -> Service:
    """The service with other weights."""
    weights = {name: change(name, tensor) for name, tensor in packed.bundle.weights.items()}
    return replace(packed, bundle=replace(packed.bundle, weights=weights))


def noisy(packed: Service) -> Service:
    """The service with weights that are off by so much: a worse one."""
    random = np.random.default_rng(0)
    return changed(packed, lambda _, tensor: tensor + tensor.new_tensor(random.normal(size=tensor.shape)))


def wrong(packed: Service) -> Service:
    """The service with the output layers turned round: right where it was wrong."""
    return changed(packed, lambda name, tensor: -tensor if ".output." in name else tensor)


def score_of(packed: Service, rows: pl.DataFrame) -> RecordedScore:
    found = measure(packed.open(), rows)
    scored = {"path": found.path, "value": found.value, "better": found.better}
    return RecordedScore(**scored, rows=len(rows), evaluation=fingerprint(rows))


@pytest.fixture
def publish(tracking_uri: str, request: pytest.FixtureRequest) -> Callable[..., Published]:
    """Publish a service under a name of the test's own, with the score of its rows."""

    def call(packed: Service, rows: pl.DataFrame) -> Published:
        more = {"evaluation": lambda: rows, "log": lambda service: log_service(service, "grades")}
        return Registry(tracking_uri).publish(request.node.name, packed, score_of(packed, rows), **more)

    return call


def test_a_better_service_takes_the_alias_and_a_worse_or_equal_one_does_not(
    publish, trained, evaluation, tracking_uri, request
) -> None:
    name, registry = request.node.name, Registry(tracking_uri)
    good, bad, worse = trained.packed, noisy(trained.packed), wrong(trained.packed)
    values = [score_of(service, evaluation).value for service in (good, bad, worse)]
    assert values[0] > values[1] > values[2]
    with pytest.raises(DataError, match=r"there is no models:/.*@champion in sqlite"):
        registry.load(name)
    same, equal = replace(bad, metadata={"run": "another"}), replace(bad, settings={**bad.settings, "keys": []})
    for service, number, is_new, is_champion, champion in (
        (bad, "1", True, True, "1"),
        (same, "1", False, True, "1"),
        (worse, "2", True, False, "1"),
        (equal, "3", True, False, "1"),
        (good, "4", True, True, "4"),
        (bad, "1", False, False, "4"),  # known, and beaten
    ):
        made = publish(service, evaluation)
        assert (made.version.number, made.is_new, made.is_champion) == (number, is_new, is_champion)
        assert registry.find(name).number == champion
        assert service is not same or made.reason == "it is the champion already"
    assert [version.number for version in registry.versions(name)] == ["4", "3", "2", "1"]
    assert registry.find(name).score.value == values[0]
    assert registry.load(name).identity == good.identity


def test_the_champion_is_read_whatever_registry_there_is(publish, trained, tracking_uri, tmp_path, request) -> None:
    name = request.node.name  # a version by other means, which is asked for its answers
    other = mlflow.register_model(log_service(trained.packed, "grades"), name)
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", other.version)
    published = publish(noisy(trained.packed), hold_out_table(trained.table, CLASSES, SPLIT, trained.encoder))
    assert not published.is_champion and "of the champion on the new rows" in published.reason
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/another.db")  # as in a command that opens no run
    try:
        assert Registry(tracking_uri).load(name).identity == trained.packed.identity
    finally:
        mlflow.set_tracking_uri(tracking_uri)


def test_on_new_rows_the_champion_is_asked(publish, trained, evaluation, tracking_uri, request) -> None:
    name, registry = request.node.name, Registry(tracking_uri)
    good, bad = trained.packed, noisy(trained.packed)
    publish(good, evaluation)
    easy = evaluation.filter(pl.Series(bad.open().predict(evaluation.to_pandas())["predicted"]) == pl.col("actual"))
    assert score_of(bad, easy).value == 1.0 > score_of(good, evaluation).value
    # Its own figure is higher than what stands recorded, but on other rows, and there the champion is as good or not.
    hard = easy.with_columns(actual=pl.Series(good.open().predict(easy.to_pandas())["predicted"]))
    assert not publish(bad, hard).is_champion
    assert registry.find(name).identity == good.identity
    beaten = publish(bad, easy)
    assert beaten.is_champion == (score_of(good, easy).value < 1.0) is True
    assert not beaten.is_new and registry.find(name).score.evaluation == fingerprint(easy)


def test_the_logged_model_answers_and_says_what_it_takes(trained, tracking_uri, evaluation) -> None:
    packed = replace(trained.packed, metadata={"source": "grades", "value": 0.9})
    uri = log_service(packed, "grades")
    model = mlflow.pyfunc.load_model(uri)
    rows = evaluation.drop("actual").to_pandas()
    assert model.predict(rows)["p_high"].tolist() == packed.open().predict(rows)["p_high"].tolist()
    assert model.metadata.metadata == {"source": "grades", "value": 0.9}
    assert model.metadata.signature.inputs.input_names()[0] == "shop"
    assert model.metadata.signature.outputs.input_names() == ["row", "predicted", "p_high", "p_low"]
    assert model.input_example["year"].tolist() == [row["year"] for row in packed.example]
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"polars=={pl.__version__}" in requirements and f"mlflow=={mlflow.__version__}" in requirements
    assert not list(folder.rglob("*.pkl")) and (folder / "code" / "embedline" / "serving" / "pyfunc.py").exists()
    strange = [("column size", rows.assign(size="x")), ("column 'member', row 1: 'x'", rows.assign(member="x"))]
    for named, bad in [(r"\['shop'\]", rows.drop(columns="shop")), *strange]:
        with pytest.raises(mlflow.MlflowException, match=named) as caught:
            model.predict(bad)
        assert caught.value.get_http_status_code() == 400


# The hook


class Run:
    """A run of ``adult_publish`` as the hook sees it, with artifacts of the small table."""

    def __init__(self, tracking_uri: str, name: str, packed: Service, rows: pl.DataFrame) -> None:
        metrics = measure_service(packed, rows, {"accuracy": measure(packed.open(), rows).value})
        self.champion = Champion(name=name, tracking_uri=tracking_uri)
        stored = {"service_metrics": MemoryDataset(metrics), "evaluation": MemoryDataset(rows)}
        stored |= {"service": MemoryDataset(packed, copy_mode="assign"), "champion": self.champion}
        self.catalog = DataCatalog({f"adult.{name}": dataset for name, dataset in stored.items()})

    def succeed(self, name: str = "adult_publish", **run_params: Any) -> None:
        Publishing().after_pipeline_run({"env": None, **run_params}, register_pipelines()[name], self.catalog)


@pytest.fixture
def run(tracking_uri: str, trained: Trained, evaluation: pl.DataFrame, request: pytest.FixtureRequest) -> Run:
    return Run(tracking_uri, request.node.name, trained.packed, evaluation)


def test_a_whole_run_publishes(run, trained) -> None:
    assert not run.champion.exists()
    run.succeed()
    assert run.champion.exists() and run.champion.load().identity == trained.packed.identity
    known = run.champion.load().metadata
    assert known["source"] == "adult" and known["env"] == "sample" and known["metric"] == "accuracy"
    assert mlflow.active_run() is not None
    tags = mlflow.get_run(mlflow.active_run().info.run_id).data.tags
    assert tags["adult.published"].startswith(f"{run.champion.name} version 1 is the champion: accuracy")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("node_names", ["adult.measure_service"], "--nodes"),
        ("from_nodes", ["adult.pack_service"], "--from-nodes"),
        ("tags", ["evaluate"], "--tags"),
        ("load_versions", {"adult.table": "2026-01-01T00.00.00.000Z"}, "--load-versions"),
        ("only_missing_outputs", True, "--only-missing-outputs"),
    ],
)
def test_a_narrowed_run_does_not_publish(run, option, value, said, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        run.succeed(**{option: value})
    assert not run.champion.exists()
    assert f"Not published: {said} of adult" in caplog.text


def test_a_run_of_another_kind_does_not_publish(run) -> None:
    for name in ("adult", "adult_predict", "__default__", "rossmann"):
        run.succeed(name)
        assert not run.champion.exists()


def test_a_registry_elsewhere_and_a_service_that_answers_otherwise_are_refused(run, trained, evaluation) -> None:
    run.champion.tracking_uri = "sqlite:////elsewhere/mlflow.db"
    with pytest.raises(DataError, match=r"^adult\.champion in the catalog has the tracking_uri sqlite:////elsewhere"):
        run.succeed()
    with pytest.raises(DataError, match=r"accuracy on raw rows is 0\.\d+, and that of the model 0\.100000"):
        measure_service(trained.packed, evaluation, {"accuracy": 0.1})
