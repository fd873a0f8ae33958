"""Settings of the session, and what is said where Spark cannot run; none of it needs Java."""

import sys
from pathlib import Path

import pytest

from copies import PROJECT, copy_project, kedro
from embedline import spark as session
from embedline.errors import DataError


def test_settings_may_be_nested_and_of_any_plain_type() -> None:
    nested = {"executor": {"memory": "2g", "cores": 2}, "ui": {"enabled": False}}
    settings = {"spark.master": "local[*]", "spark": nested}
    flat = {"spark.executor.memory": "2g", "spark.executor.cores": "2", "spark.ui.enabled": "false"}
    assert session.flatten(settings) == {"spark.master": "local[*]", **flat}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"master": "local[2]"}, "settings of Spark: 'master' does not start with 'spark.'"),
        ({"spark.jars": ["a.jar"]}, r"settings of Spark: spark.jars has to be a text, .* not \['a.jar'\]"),
        ({"spark.sql.ansi.enabled": False}, "settings of Spark: spark.sql.ansi.enabled has to be true, not false"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        session.configure(settings)


def test_missing_pyspark_and_java_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyspark", None)
        with pytest.raises(DataError, match=r'need PySpark: pip install "embedline\[spark\]"'):
            session.require_spark()
    pytest.importorskip("pyspark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"needs Java 17 or newer: JAVA_HOME is {tmp_path}, which has no bin/java"):
        session.require_spark()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs Java 17 or newer: there is no java in the PATH"):
        session.require_spark()


@pytest.mark.slow
def test_a_run_without_java_ends_before_its_first_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    project = copy_project(tmp_path / "project")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    shown = kedro(project, "run", "--env", "spark", "--pipelines", "rossmann_features", status=1)
    assert f"Error: Spark needs Java 17 or newer: JAVA_HOME is {tmp_path}" in shown
    assert "Traceback" not in shown
    assert not (project / "data" / "spark" / "01_raw").exists()
    shown = kedro(project, "run", "--pipelines", "rossmann_features", "--params", "spark.master=local[2]", status=1)
    assert "Error: spark.master is for --env spark: this one has no spark.yml" in shown


def test_spark_differs_from_base_by_its_frames_root_and_session_only() -> None:
    conf = PROJECT / "conf/spark"
    names = sorted(path.relative_to(conf).as_posix() for path in conf.rglob("*.*"))
    assert names == ["catalog/rossmann.yml", "globals.yml", "spark.yml"]
