"""Which nodes run: each change reruns exactly the nodes that it reaches, and says why."""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from shop import Shop

from kedro_incremental import IncrementalRunner, RunInterrupted, RunnerError, code_fingerprint

ALL = ["clean", "add", "describe"]
TRANSCODED = {"pandas": "pandas.CSVDataset", "text": "text.TextDataset"}


def test_a_second_run_runs_nothing_and_keeps_the_versions(shop: Shop) -> None:
    assert shop.ran() == ALL
    assert shop.value("text") == "sum: 120 in 3"
    first = shop.version
    assert shop.ran() == []
    assert shop.file("text") == shop.file("text", first) and not shop.file("text", shop.version).exists()
    assert shop.outputs["text"].load() == "sum: 120 in 3"
    assert set(shop.run(force=True).values()) == {("ran", "asked for by --force")}
    assert shop.run(shop.pipeline().only_nodes("add"), asked_by="--nodes") == {"add": ("ran", "asked for by --nodes")}


def test_a_parameter_reruns_its_readers_and_what_follows(shop: Shop) -> None:
    shop.parameters["title"] = {"text": {"big": "x", "small": "y"}, "n": [1, 2]}
    shop.ran()
    shop.parameters["title"] = {"text": {"big": "x", "small": "all"}, "n": [1, 2]}
    assert shop.run()["describe"] == ("ran", "parameter title.text.small changed y → all")
    shop.parameters["title"] = "all"
    shop.ran()
    shop.parameters["by"] = 3
    states = shop.run()
    assert states["clean"] == ("ran", "parameter by changed 2 → 3")
    assert states["add"] == ("ran", "input cleaned changed")
    # The count of the values is what it was, their total is not.
    assert states["describe"] == ("ran", "input total changed")
    assert shop.value("text") == "all: 180 in 3"


def test_the_content_of_a_raw_file_counts_and_its_date_does_not(shop: Shop) -> None:
    shop.ran()
    os.utime(shop.root / "raw.json", (1, 1))
    assert shop.ran() == []
    shop.write("raw.json", "[1, 2,   3]")
    states = shop.run()
    assert states["clean"] == ("ran", "input raw changed")
    assert states["add"] == states["describe"] == ("skipped", "its inputs came out as they were")
    shop.write("raw.json", "[1, 2, 4]")
    assert shop.ran() == ALL and shop.value("text") == "sum: 140 in 3"
    shop.write("raw.json", "[4, 2, 1]")  # the total comes out as it was
    assert shop.ran() == ["clean", "add"]


def test_a_deleted_or_damaged_intermediate_is_made_again_and_nothing_else(shop: Shop) -> None:
    shop.ran()
    shutil.rmtree(shop.file("cleaned").parent)
    states = shop.run()
    assert states["clean"] == ("ran", "output cleaned is missing")
    assert states["add"][0] == states["describe"][0] == "skipped"
    path = shop.file("total")
    path.write_text(path.read_text()[:-1])
    states = shop.run()
    assert states["add"] == ("ran", "output total is not as it was written")
    assert states["clean"][0] == states["describe"][0] == "skipped"
    path, status = shop.file("total"), shop.file("total").stat()
    path.write_text(path.read_text().replace("120", "121"))  # size and date stay
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shop.ran() == ["add"]
    assert shop.value("total") == {"total": 120} and shop.ran() == []


def test_verify_reads_what_the_clock_hides(shop: Shop) -> None:
    shop.ran()
    path = shop.file("total")
    path.write_text(path.read_text().replace("120", "121"))
    # As after bit rot: the cache has the new file's times with the old content's hash.
    manifest, now = shop.manifest, path.stat()
    times = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, time.time_ns() + 10**9]
    manifest.cache["files"][str(path)][:5] = times
    manifest.save_cache()
    assert shop.ran() == []
    assert shop.ran(verify=True) == ["add"]


def test_a_library_version_reruns_what_uses_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.edit("helpers", "def factor():\n", "import numpy as np\n\n\ndef factor():\n    np.ones(1)\n")
    shop.ran()
    version, newer = code_fingerprint._version, {"numpy": "99.0"}
    monkeypatch.setattr(code_fingerprint, "_version", lambda name: newer.get(name) or version(name))
    state, why = shop.run()["clean"]
    assert state == "ran" and why.startswith("library numpy ") and why.endswith("→ 99.0")
    assert shop.ran() == []


def test_catalog_settings_files_that_parameters_name_and_wiring_count(shop: Shop) -> None:
    shop.write("inputs/notes.txt", "one")
    shop.parameters["title"] = "inputs/notes.txt"
    shop.ran()
    shop.settings["total"] = {"save_args": {"indent": 2}}
    states = shop.run()
    assert states["add"][1] == "catalog entry total.save_args.indent is new (2)"
    assert [states[name][0] for name in ALL] == ["skipped", "ran", "ran"]
    shop.write("inputs/notes.txt", "two")
    assert shop.run()["describe"] == ("ran", "content of inputs/notes.txt changed")
    nodes = {node.name: node for node in shop.pipeline().nodes}
    turned = Node(shop.nodes.describe, ["total", "count", "params:by"], "text", name="describe")
    assert shop.ran(Pipeline([nodes["clean"], nodes["add"], turned])) == ["describe"]


def test_unstored_outputs_are_made_when_a_reader_needs_them(shop: Shop) -> None:
    shop.stored = ["total", "count", "text"]
    assert shop.ran() == ALL
    assert shop.ran() == []  # cleaned is in no file, and nobody needs it
    shop.parameters["title"] = "all"
    assert shop.ran() == ["describe"]
    shutil.rmtree(shop.file("total").parent)
    states = shop.run()
    assert states["clean"] == ("ran", "its output cleaned is not stored, and add reads it")
    assert states["add"] == ("ran", "output total is missing")
    assert states["describe"][0] == "skipped"


def test_a_result_in_memory_and_a_node_without_outputs_are_always_made(shop: Shop) -> None:
    seen: list[Any] = []
    watched = Pipeline([*shop.pipeline().nodes, Node(seen.append, "text", None, name="watch")])
    shop.ran(watched)
    assert shop.ran(watched) == ["watch"] and len(seen) == 2
    shop.stored = ["cleaned", "total", "count"]
    shop.ran()
    assert shop.run()["describe"] == ("ran", "its output text is not stored")
    assert shop.outputs["text"].load() == "sum: 120 in 3"


def test_code_that_cannot_be_compared_always_runs(shop: Shop) -> None:
    held, nodes = object(), {node.name: node for node in shop.pipeline().nodes}
    describe = Node(lambda *_: type(held).__name__, nodes["describe"].inputs, "text", name="describe")
    changed = Pipeline([nodes["clean"], nodes["add"], describe])
    shop.ran(changed)
    state, why = shop.run(changed)["describe"]
    assert state == "ran" and why.startswith("its function cannot be compared: an object without a name")


def test_a_touched_node_is_recorded_as_unchanged(shop: Shop) -> None:
    def refused(names: str) -> str:
        shop.steps(touch=names)
        assert isinstance(shop.error, RunnerError)
        return str(shop.error)

    assert "clean has to run: it never ran" in refused("clean")
    shop.ran()
    assert "no node 'claen'" in (text := refused("claen")) and "did you mean 'clean'" in text
    shop.edit("helpers", "FACTOR = 10", "FACTOR = 5 + 5")
    touched = ("touched", f"touched: code of {shop.package}.helpers changed")
    assert shop.run(touch="clean, add") == {"clean": touched, "add": touched}
    first = min(shop.manifest.history())
    assert shop.value("cleaned") == [20, 40, 60] and shop.file("cleaned") == shop.file("cleaned", first)
    assert shop.manifest.records["clean"].why.startswith("touched: ")
    assert shop.ran() == ["describe"]
    assert shop.ran() == []
    shop.parameters["by"] = 3  # a later change counts
    shop.file("cleaned").unlink()
    assert "clean has to run: output cleaned is missing" in refused("add,clean")
    assert shop.run()["clean"][0] == "ran"  # nothing was recorded


def test_only_missing_outputs_keeps_its_meaning(shop: Shop) -> None:
    shop.ran()
    shop.parameters["by"] = 5  # Kedro's option looks at existence alone
    shutil.rmtree(shop.file("text").parent)
    assert shop.run(missing=True) == {"describe": ("ran", "asked for by --only-missing-outputs")}


def test_a_partial_run_reads_the_recorded_versions(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.ran()
    stray = shop.file("total", "v999")
    stray.parent.mkdir()
    stray.write_text('{"total": -1}')
    with caplog.at_level(logging.WARNING):
        shop.ran(shop.pipeline().only_nodes("describe"), asked_by="--nodes")
    assert shop.value("text") == "sum: 120 in 3"
    assert "total: reading the recorded version v001, not the newer v999" in caplog.text


def test_pinned_versions_stand_for_the_node_that_makes_them(shop: Shop) -> None:
    shop.ran()
    shop.parameters["by"] = 3
    shop.ran()
    assert shop.value("text") == "sum: 180 in 3"
    shop.load_versions = {"total": "v001", "count": "v001"}
    states = shop.run()
    assert states["add"] == ("skipped", "its outputs are those of --load-versions")
    assert states["describe"] == ("ran", "input total changed")
    assert shop.value("text") == "sum: 120 in 3"
    shop.load_versions = {}
    assert shop.ran() == ["describe"] and shop.value("text") == "sum: 180 in 3"
    shop.load_versions = {"total": "v001"}
    with pytest.raises(RunnerError, match="names total but not count, which add makes with it"):
        shop.ran()


def test_transcoded_datasets_are_one_artifact(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    table, length = {"filepath": str(shop.root / "data/table.csv"), "versioned": True}, shop.root / "data/length.json"
    config = {f"table@{kind}": {"type": name, **table} for kind, name in TRANSCODED.items()}
    config["length"] = {"type": "json.JSONDataset", "filepath": str(length)}
    monkeypatch.setattr(shop, "catalog", lambda version: DataCatalog.from_config(config, save_version=version))
    make = Node(lambda: pd.DataFrame({"a": [1, 2]}), None, "table@pandas", name="make")
    pipeline = Pipeline([make, Node(lambda text: {"n": len(text)}, "table@text", "length", name="measure")])
    assert shop.ran(pipeline) == ["make", "measure"]
    assert shop.ran(pipeline) == []
    length.unlink()
    assert shop.ran(pipeline) == ["measure"]


def test_a_failed_node_leaves_nothing_and_the_next_run_goes_on(shop: Shop) -> None:
    shop.settings["count"] = {"save_args": {"indent": object()}}  # fails after total was saved
    states = shop.run()
    assert [states[name][0] for name in ALL] == ["ran", "failed", "planned"]
    assert shop.error is not None
    assert not list((shop.root / "data" / "total.json").glob("*/*"))
    shop.settings = {}
    assert shop.ran() == ["add", "describe"]


def test_ctrl_c_keeps_what_is_finished(shop: Shop) -> None:
    shop.edit("nodes", "def add(cleaned):\n", "def add(cleaned):\n    raise KeyboardInterrupt\n")
    states = shop.run()
    assert isinstance(shop.error, RunInterrupted)
    assert [states[name][0] for name in ALL] == ["ran", "interrupted", "planned"]
    assert shop.ran(shop.pipeline().only_nodes("clean")) == []  # it is kept
    shop.edit("nodes", "    raise KeyboardInterrupt\n", "")
    assert shop.ran() == ALL
    shop.manifest.start(shop.version, "describe", [str(shop.file("text").parent)])  # killed after its record
    assert shop.ran() == []
    assert shop.file("text").exists() and shop.manifest.state("started") is None


def test_a_dry_run_touches_nothing_and_a_run_shows_every_node(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.ran()
    shop.parameters["by"] = 7
    before = {path: path.stat().st_mtime_ns for path in shop.root.rglob("*") if path.is_file()}
    shop.steps(dry_run=True)
    said = capsys.readouterr().out
    assert "parameter by changed 2 → 7" in said and "input cleaned comes out changed" in said
    assert "1 of 3 nodes would run, 2 would run if their inputs change, 0 would be skipped" in said
    assert {path: path.stat().st_mtime_ns for path in shop.root.rglob("*") if path.is_file()} == before
    shop.parameters |= {"by": 2, "title": "all"}
    shop.ran(verbosity="verbose")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["clean", "skipped", "unchanged", "since", "v001"] in lines
    assert any(line[:8] == "describe ran parameter title changed sum → all".split() for line in lines)
    assert any(line[:6] == "1 of 3 nodes ran in".split() for line in lines)


def test_free_inputs_in_memory_always_run_their_readers(shop: Shop) -> None:
    for version in ("v1", "v2"):
        catalog = shop.catalog(version)
        catalog["raw"] = MemoryDataset([1, 2])
        runner = IncrementalRunner(manifest=Path(shop.root) / "data" / ".runs")
        runner.run(shop.pipeline(), catalog, None, version)
    states = {step.node: (step.state, step.why) for step in runner._report.steps}
    assert states["clean"] == ("ran", "input raw is missing or no file: a change cannot be detected")
    assert states["add"] == ("skipped", "its inputs came out as they were")
    with pytest.raises(RunnerError, match=r"the catalog has no 'run_manifest'.*RunManifest"):
        IncrementalRunner().run(shop.pipeline(), shop.catalog("v3"), None, "v3")


def test_scratch_belongs_to_one_work_and_ends_with_it(shop: Shop) -> None:
    kept = shop.manifest.scratch("add", "aaa")
    kept.mkdir(parents=True)
    assert shop.manifest.scratch("add", "aaa") == kept and kept.exists()
    other = shop.manifest.scratch("add", "bbb")
    assert not kept.exists() and other != kept
    other.mkdir()
    shop.ran()
    assert not other.exists()
