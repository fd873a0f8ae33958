"""`kedro run --env spark` on this machine and on a cluster of two workers: the table is Polars' row for row."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from clusters import LOOPBACK, standalone_cluster

from copies import copy_project, kedro
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.pipeline import TABLES
from pipelines.rossmann.conftest import prepare

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.usefixtures("spark_there")]

# As the small session of conftest.py; the tables have all days of the real ones, so that every feature has its values.
SMALL = {
    "rossmann.source": "generated",
    "rossmann.generator.n_stores": "5",
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.memory": "512m",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.sql.shuffle.partitions": "3",
}


def run_features(project: Path, root: Path, master: str, **more: str) -> str:
    """Run the preparation in the environment ``spark``, its artifacts under ``root``; what it printed."""
    settings = {**SMALL, "data_root": str(root), "tracking_root": str(root), "spark.master": master, **more}
    params = ",".join(f"{key}={value}" for key, value in settings.items())
    return kedro(project, "run", "--env", "spark", "--pipelines", "rossmann_features", "--params", params)


def newest(root: Path, pattern: str) -> Path:
    """The newest version of an artifact."""
    return sorted(root.glob(pattern))[-1]


def spark_table(root: Path) -> pl.DataFrame:
    """``rossmann.table`` as the learners read it: the files in their order."""
    folder = newest(root, "05_model_input/rossmann/table.parquet/*/table.parquet")
    assert not [path.name for path in folder.iterdir() if not path.name.startswith("part-0")]
    return pl.read_parquet(sorted(folder.iterdir()))


def polars_table(root: Path, **features: Any) -> pl.DataFrame:
    """What the same functions make of the same raw files on Polars."""
    raw: dict[str, Any] = {
        name: pl.read_csv(newest(root, f"01_raw/rossmann/{name}.csv/*/{name}.csv"), infer_schema=False)
        for name in TABLES
    }
    table: pl.DataFrame = prepare(raw, lambda frame: frame, FeatureOptions(**features))
    return table


def assert_equal(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert len(expected) > 4_000
    assert found.schema == expected.schema
    differing = [name for name in expected.columns if not found[name].equals(expected[name])]
    assert differing == []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("spark"))


def test_on_a_cluster_and_on_this_machine_the_table_is_that_of_polars_and_only_what_changed_runs_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with monkeypatch.context() as patch, standalone_cluster(tmp_path, n_workers=2) as master:
        patch.setenv("SPARK_LOCAL_IP", LOOPBACK)
        assert "9 of 9 nodes ran" in run_features(project, data, master, **{"spark.driver.host": LOOPBACK})
    for number in range(2):
        assert "Asked to launch executor app-" in (tmp_path / f"worker{number}.log").read_text()
    expected = polars_table(data)
    assert_equal(spark_table(data), expected)
    assert expected["Sales"].null_count() > 0  # test rows are there, too
    # The nodes that read the options run, on the folders of the first run; the results do not depend on the cluster.
    shown = run_features(project, data, "local[2]", **{"rossmann.features.promo2_weeks_cap": "20"})
    assert "4 of 9 nodes ran" in shown and "5 were up to date" in shown
    assert_equal(spark_table(data), polars_table(data, promo2_weeks_cap=20))


def test_a_master_that_does_not_answer_is_named(project: Path, tmp_path: Path) -> None:
    settings = f"data_root={tmp_path},tracking_root={tmp_path},rossmann.source=generated,spark.master=sparks://nowhere"
    shown = kedro(project, "run", "--env", "spark", "--pipelines", "rossmann_features", "--params", settings, status=1)
    assert "Spark does not start with the master sparks://nowhere" in shown
    assert "Traceback" not in shown
