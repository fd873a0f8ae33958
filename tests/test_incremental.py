"""The incremental runner on the project's own pipelines: each change reruns exactly the nodes that it concerns."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from copies import copy_project, kedro
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables
from kedro_incremental import Manifest
from kedro_incremental.audit import AUDIT
from small_runs import run_here, write_archive

NODES = {"acquire", "type_sales", "type_stores", "type_trends", "type_weather"}
NODES |= {"build_calendar", "build_recency", "join_tables", "build_table"}
RUN = ("run", "--verbose", "--pipelines", "rossmann_features", "--params", "rossmann.generator.n_stores=4")


class Preparation:
    """The pipeline ``rossmann_features`` on an archive of small tables, under a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = generate_tables(GeneratorOptions(n_stores=4))
        write_archive(root / "tables.tgz", self.tables)
        self.settings: dict[str, object] = {}

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.root / "data" / ".runs")

    def ran(self, **options: object) -> set[str]:
        """Run it; the nodes that ran, without their namespace."""
        source = {"source": str(self.root / "tables.tgz"), "verify": False, **self.settings}
        for accesses in AUDIT.by_module.values():  # as in a process whose modules have read nothing yet
            accesses.files.clear()
        run_id = run_here(self.root, "rossmann_features", rossmann=source, **options)
        records = self.manifest.records
        return {record.node.partition(".")[2] for record in records.values() if record.run_id == run_id}

    def file(self, name: str) -> Path:
        """Current file of an artifact."""
        records = self.manifest.records.values()
        return Path(next(record.outputs[name].path for record in records if name in record.outputs))


@pytest.fixture(scope="module")
def preparation(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    """A preparation that has run once."""
    made = Preparation(tmp_path_factory.mktemp("preparation"))
    assert made.ran() == NODES
    return made


@pytest.fixture(autouse=True)
def _nothing_else_changed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, a run without a change runs nothing: no change is found twice."""
    yield
    if "preparation" in request.fixturenames:
        assert request.getfixturevalue("preparation").ran() == set()


def test_a_parameter_reruns_the_node_that_reads_it(preparation: Preparation) -> None:
    preparation.settings["features"] = {"window": 5}
    readers = {"join_tables", "build_calendar", "build_recency", "build_table"}
    assert preparation.ran() == readers
    record = preparation.manifest.records["rossmann.build_calendar"]
    assert record.why == "parameter rossmann.features.window changed 7 → 5"


def test_the_content_of_one_raw_file_reruns_its_own_branch(preparation: Preparation) -> None:
    weather = pl.read_csv(preparation.tables["weather"], infer_schema=False)
    content = weather.with_columns(Mean_TemperatureC=pl.lit("39")).write_csv().encode()
    write_archive(preparation.root / "tables.tgz", {**preparation.tables, "weather": content})
    ran = (
        preparation.ran()
    )  # "build_calendar" is in the module of "acquire", but reads tables that came out as they were
    assert ran >= {"acquire", "type_weather", "join_tables", "build_table"}
    assert "tables.tgz changed" in preparation.manifest.records["rossmann.acquire"].why


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose preparation has run once, with sets in another order than those of later runs."""
    project = copy_project(tmp_path_factory.mktemp("copy") / "project")
    assert set(states(kedro(project, *RUN, cold=True))) == NODES
    return project


def states(printed: str) -> dict[str, str]:
    """State of each node in the table at the end."""
    rows = [line.split() for line in printed.splitlines() if line.startswith("rossmann.")]
    return {row[0].partition(".")[2]: " ".join(row[1:]) for row in rows}


def test_kedro_viz_has_the_status_of_each_node_that_ran(copied: Path) -> None:
    printed = kedro(copied, "run", "--pipelines", "rossmann_features", "--force", *RUN[4:])
    events = json.loads((copied / ".viz/kedro_pipeline_events.json").read_text())
    ran = {event["node"].partition(".")[2] for event in events if event["event"] == "after_node_run"}
    assert ran == NODES and "Workflow tracking" not in printed
    assert "Workflow tracking" not in kedro(copied, *RUN, "--tags", "acquire")


def test_a_comment_reruns_nothing_and_a_helper_its_nodes(copied: Path) -> None:
    path = copied / "src/embedline/frames/days.py"
    source = path.read_text()
    path.write_text(source.replace('"""', '"""Other words. ', 1) + "\n# a comment\n")
    assert all(state.startswith("skipped unchanged") for state in states(kedro(copied, *RUN)).values())

    # A helper two calls away from the nodes: its name is changed, what it computes is not.
    helper = next(line for line in source.splitlines() if line.startswith("def _"))
    name = helper.removeprefix("def ").partition("(")[0]
    path.write_text(source.replace(name, f"{name}_renamed"))
    printed = states(kedro(copied, *RUN))
    assert all(state.startswith("ran code of embedline.frames.days changed") for state in printed.values()), printed

    # Where such an edit does not matter, one says so.
    path.write_text(source)
    nodes = ",".join(f"rossmann.{node}" for node in sorted(NODES - {"build_table"}))
    printed = states(kedro(copied, *RUN, "--touch", nodes))
    assert all(state.startswith("touched touched: code of embedline.frames.days") for state in printed.values())
    printed = states(kedro(copied, *RUN))
    assert {node for node, state in printed.items() if state.startswith("ran")} == {"build_table"}


def test_dry_run_why_and_prune_from_the_command_line(copied: Path) -> None:
    printed = kedro(copied, *RUN[:-1], "rossmann.generator.n_stores=5", "--dry-run")
    assert states(printed)["acquire"] == "would run parameter rossmann.generator.n_stores changed 4 → 5"
    assert "1 of 9 nodes would run, 8 would run if their inputs change, 0 would be skipped" in printed

    kedro(copied, *RUN[:-1], "rossmann.generator.n_stores=5")
    explained = kedro(copied, "why", "rossmann.table")
    assert "made by the node rossmann.build_table" in explained and "rossmann.raw_train" in explained
    assert "did you mean 'rossmann.table'" in kedro(copied, "why", "rossmann.tabel", status=1)

    tables = sorted((copied / "data/sample/05_model_input/rossmann/table.feather").glob("*/table.feather"))
    assert len(tables) >= 2
    asked = kedro(copied, "prune", "--keep", "1", answer="n\n")
    assert tables[0].parent.name in asked and tables[0].exists()
    assert "Deleted" in kedro(copied, "prune", "--keep", "1", "--yes")
    assert not tables[0].parent.exists() and tables[-1].exists()
    assert Manifest(copied / "data/sample/.runs").records
    printed = states(kedro(copied, *RUN[:-1], "rossmann.generator.n_stores=5"))
    assert all(state.startswith("skipped") for state in printed.values())
