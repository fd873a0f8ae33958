"""Bookkeeping that cannot be read, clocks that are wrong and kills break no run and lose nothing."""

import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from shop import Shop

from kedro_incremental import IncrementalRunner, RunnerError
from kedro_incremental.provenance import find_removals, remove
from kedro_incremental.storage import is_version_folder, newest_first, version_after

ALL = ["clean", "add", "describe"]
FILES = ["manifest.json", "started.json", "holder.json", "hashes.json", "history/v001.json", "lock"]


def whole(shop: Shop, **changes: Any) -> str:
    """A manifest of the right form but for some fields of one record."""
    content = json.loads((shop.root / "manifest.kept").read_text())
    record = content["nodes"]["add"]
    for path, value in changes.items():
        *groups, last = path.split("__")
        place = record
        for group in groups:
            place = place[group]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(content)


def note(**changes: Any) -> str:
    """What would pass for a note of the node at work, and of the run that holds the lock."""
    fields = {"run_id": "v900", "node": "x", "pid": 1, "command": "kedro run", "killed": [], "folders": []}
    return json.dumps(fields | changes)


CONTENTS: dict[str, bytes | str | Callable[[Shop], str]] = {
    "empty": b"",
    "half": b"{",
    "list": b"[]",
    "null": b"null",
    "text": b'"x"',
    "number": b"12",
    "NaN": b"NaN",
    "deep lists": b"[" * 100_000,
    "deep whole lists": b"[" * 400 + b"]" * 400,
    "deep mappings": b'{"a":' * 600 + b"1" + b"}" * 600,
    "empty mapping": b"{}",
    "format of another time": b'{"format": 99, "nodes": {}}',
    "format that is none": b'{"format": {}, "nodes": {}}',
    "nodes that are a list": b'{"format": 1, "nodes": []}',
    "a node that is a list": b'{"format": 1, "nodes": {"add": []}}',
    "NUL": b"\0" * 4096,
    "no UTF-8": b'{"format": 1, "nodes": {"\xff": 1}}',
    "BOM": b"\xef\xbb\xbf{}",
    "huge number": b'{"pid": ' + b"9" * 5000 + b"}",
    "huge exponent": b'{"pid": 1e999, "format": 1e999}',
    "twice the same key": b'{"format": 1, "format": 1, "nodes": {}, "nodes": {}}',
    "extra keys": lambda shop: whole(shop, new=1, inputs__new=2),
    "missing key": lambda shop: whole(shop, why=...),
    "missing group": lambda shop: whole(shop, inputs=...),
    "wrong type": lambda shop: whole(shop, outputs__total="v001"),
    "wrong type deep": lambda shop: whole(shop, inputs__code={"a": [1]}),
    "name of another node": lambda shop: whole(shop, node="describe"),
    "version with separators": lambda shop: whole(shop, outputs__total__version="../../x"),
    "run with separators": lambda shop: whole(shop, run_id="../../x"),
    "version with NUL": lambda shop: whole(shop, outputs__total__version="a\0b"),
    "half a character": lambda shop: whole(shop, why="\ud800", finished="\udfff"),
    "deep parameter": lambda shop: whole(shop, inputs__parameters={"by": json.loads("[" * 300 + "]" * 300)}),
    "note": lambda shop: note(),
    "note of another run": lambda shop: note(run_id="../../x", folders=[str(shop.root)]),
    "note of nothing": lambda shop: note(run_id="", folders=["/", ".", ".."]),
    "note of the root": lambda shop: note(run_id="/", folders=["/"]),
    "note of the project": lambda shop: note(run_id=shop.root.name, folders=[str(shop.root), f"{shop.root}/."]),
    "note of a source folder": lambda shop: note(run_id=shop.package, folders=[str(shop.root / shop.package)]),
    "note of the data": lambda shop: note(run_id="data", folders=[str(shop.root / "data")]),
    "note of a finished version": lambda shop: note(run_id="v001", folders=[str(shop.file("text", "v001").parent)]),
    "note of settings": lambda shop: note(run_id="local", folders=[str(shop.root / "conf/local")]),
    "note that climbs": lambda shop: note(run_id="conf", folders=[f"{shop.root}/data/../conf"]),
    "note of wrong types": lambda shop: note(folders=5, killed=[[]], pid="x"),
    "note of a text for folders": lambda shop: note(folders=str(shop.root), killed="v1"),
}


def _place_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_text("mine")


PLACED: dict[str, Callable[[Path], None]] = {
    "folder": _place_folder,
    "dangling link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "link loop": lambda path: path.symlink_to(path),
    "named pipe": os.mkfifo,
    "link to a folder": lambda path: path.symlink_to("/"),
    "unreadable file": lambda path: path.touch(0),
}


@pytest.fixture
def kept(shop: Shop) -> Shop:
    """A shop that ran, beside files that nobody may remove."""
    for name in ("conf/local/.gitkeep", "conf/base/catalog.yml", "data/empty/.keep"):
        shop.write(name, "")
    shop.ran()
    shutil.copy(shop.manifest.folder / "manifest.json", shop.root / "manifest.kept")
    return shop


def stored(shop: Shop) -> dict[str, bytes]:
    """Every file but those of the bookkeeping."""
    files = [path for path in shop.root.rglob("*") if path.is_file() and ".runs" not in path.parts]
    return {str(path): path.read_bytes() for path in files}


def delete(path: Path) -> None:
    """Make way for something else."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_the_bookkeeping_runs_complete(
    kept: Shop, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = kept.manifest.folder / name
    for title, content in {**CONTENTS, **PLACED}.items():
        before = stored(kept)
        delete(path)
        if title in PLACED:
            PLACED[title](path)
        else:
            made = content(kept) if callable(content) else content
            path.write_bytes(made.encode() if isinstance(made, str) else made)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            states = kept.run()
        assert kept.error is None, f"{title}: {kept.error!r}"
        assert {state for state, _ in states.values()} <= {"ran", "skipped"}, title
        assert sum(path.name in record.getMessage() for record in caplog.records) <= 2, title
        assert {path: text for path, text in stored(kept).items() if path in before} == before, title
        assert kept.ran() == [], title  # what was set aside is not found again
    if name != "history/v001.json":  # which nothing reads in these runs
        folders = [kept for kept in path.parent.glob(f"{path.name}.unreadable-*") if (kept / "kept").exists()]
        assert len(folders) == 1  # what somebody had put there is kept


def test_what_cannot_be_read_is_set_aside_with_one_warning(kept: Shop, caplog: pytest.LogCaptureFixture) -> None:
    path = kept.manifest.folder / "manifest.json"
    half = path.read_bytes()[:-100]
    path.write_bytes(half)
    with caplog.at_level(logging.WARNING):
        assert kept.ran() == ALL
        assert kept.ran() == []
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and str(path) in said[0] and "manifest.json.unreadable-1" in said[0]
    assert path.with_name("manifest.json.unreadable-1").read_bytes() == half and kept.file("text", "v001").exists()
    path.write_bytes(b"")
    kept.ran()
    assert path.with_name("manifest.json.unreadable-2").read_bytes() == b""


def test_reading_without_the_lock_moves_nothing(kept: Shop, caplog: pytest.LogCaptureFixture) -> None:
    path = kept.manifest.folder / "manifest.json"
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        kept.steps(dry_run=True)
        assert kept.error is None and kept.manifest.records == {}
    assert path.read_text() == "{" and str(path) in caplog.text


def test_the_history_without_the_unreadable_runs(kept: Shop) -> None:
    kept.parameters["by"] = 5
    kept.ran()
    _place_folder(kept.manifest.folder / "history" / "v000.json")
    (kept.manifest.folder / "history" / "v001.json").write_text("[")
    assert [run for run, records in kept.manifest.history().items() if records] == ["v002"]


def test_pruning_sets_the_unreadable_history_aside_and_the_next_run_writes_it(kept: Shop) -> None:
    path = kept.manifest.folder / "history" / "v001.json"
    path.write_text("[")
    manifest = kept.manifest
    with manifest.locked("now"):
        remove(find_removals(kept.catalog("now"), [kept.pipeline()], manifest, 1), manifest)
    assert path.with_name("v001.json.unreadable-1").read_text() == "["
    assert kept.ran() == [] and sorted(kept.manifest.history()["v001"]) == sorted(ALL)


def test_a_folder_for_the_history_that_is_a_file(kept: Shop) -> None:
    for name in ("history", "scratch"):
        delete(kept.manifest.folder / name)
        kept.write(f"data/.runs/{name}", "mine")
    assert kept.ran() == []
    assert (kept.manifest.folder / "history.unreadable-1").read_text() == "mine"
    assert list(kept.manifest.history()) == ["v001"]
    kept.parameters["by"] = 5
    kept.ran()
    (kept.manifest.folder / "history" / "v001.json").write_text("[")
    assert [run for run, records in kept.manifest.history().items() if records] == ["v003"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, shop: Shop) -> None:
    (tmp_path / "data").write_text("a file")
    shop.run()
    assert isinstance(shop.error, RunnerError) and ".runs" in str(shop.error) and "\n" not in str(shop.error)


# Kills


def test_an_unfinished_version_is_removed_and_nothing_else(kept: Shop, caplog: pytest.LogCaptureFixture) -> None:
    half, other = (kept.root / "data" / f"{name}.json" / "v900" for name in ("total", "count"))
    for path in (half / ".12.total.json", other / "mine" / "count.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{")
    kept.manifest.start("v900", "add", [str(half), str(other), str(kept.root / "data" / "text.json" / "v001")])
    with caplog.at_level(logging.INFO):
        assert kept.ran() == []
    assert "The run v900 was killed" in caplog.text and not (kept.manifest.folder / "started.json").exists()
    assert not half.exists() and (other / "mine").exists() and kept.file("text", "v001").exists()


def test_a_version_is_told_from_other_folders(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path.parent

    assert is_version_folder(made("a.json/v1/a.json")) and is_version_folder(made("a.json/v2/.77.a.json"))
    (tmp_path / "a.json" / "v3").mkdir()
    assert is_version_folder(tmp_path / "a.json" / "v3")
    assert not is_version_folder(made("b.json/v1/other"))
    assert not is_version_folder(made("conf/local/.gitkeep"))
    assert not is_version_folder(tmp_path / "a.json" / "v4")
    (tmp_path / "link").symlink_to(tmp_path / "a.json" / "v1")
    assert not is_version_folder(tmp_path / "link")
    (tmp_path / "a.json" / "mine.txt").touch()
    assert not is_version_folder(tmp_path / "a.json" / "v1")


def test_a_kill_before_the_history_is_written_loses_no_record(kept: Shop) -> None:
    kept.parameters["title"] = "all"
    kept.ran()
    for path in (kept.manifest.folder / "history").iterdir():
        path.unlink()
    kept.ran()
    assert {run: sorted(records) for run, records in kept.manifest.history().items()} == {
        "v001": ["add", "clean"],
        "v002": ["describe"],
    }


def test_notes_of_runs_that_were_killed_add_up(kept: Shop) -> None:
    kept.write("data/.runs/holder.json", note(run_id="v800", killed=["v700"]))
    manifest = kept.manifest
    with manifest.locked("v900"):
        assert manifest.killed == ["v700", "v800"]
    assert not (manifest.folder / "holder.json").exists()


def test_a_kill_at_any_step_of_pruning_is_made_good(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dying(function: Any, steps: Any, die_at: int) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            if next(steps) == die_at:
                raise Killed
            return function(*arguments, **more)

        return call

    def prune() -> None:
        manifest = shop.manifest
        remove(find_removals(shop.catalog("now"), [shop.pipeline()], manifest, 1), manifest)

    for by in (1, 2):
        shop.parameters["by"] = by
        shop.ran()
    shutil.copytree(shop.root / "data", shop.root / "before")
    for die_at in itertools.count(1):
        shutil.rmtree(shop.root / "data")
        shutil.copytree(shop.root / "before", shop.root / "data")
        with monkeypatch.context() as patch:
            steps = itertools.count(1)
            for owner, name in ((Path, "rename"), (Path, "unlink"), (os, "replace"), (os, "rmdir"), (os, "unlink")):
                patch.setattr(owner, name, dying(getattr(owner, name), steps, die_at))
            try:
                prune()
                ended = True
            except Killed:
                ended = False
        for records in shop.manifest.history().values():  # no record of what is gone
            assert all(Path(made.path).exists() for one in records.values() for made in one.outputs.values()), die_at
        assert shop.ran() == [], die_at
        prune()
        assert {len(list((shop.root / "data" / f"{name}.json").iterdir())) for name in shop.stored} == {1}, die_at
        if ended:
            break
    assert die_at > 8


def test_records_without_outputs_go_with_a_later_pruning(shop: Shop) -> None:
    for by in (1, 2, 3):
        shop.parameters["by"] = by
        shop.ran()
    shutil.rmtree(shop.file("cleaned", "v001").parent)  # as a version did that left the records to the end
    shutil.rmtree(shop.file("text", "v001").parent)
    remove(find_removals(shop.catalog("now"), [shop.pipeline()], shop.manifest, 2), shop.manifest)
    assert sorted(shop.manifest.history()) == ["v002", "v003"]


# Versions and clocks


AHEAD = "2099-11-29T06.00.00.000Z"
NOW = "2026-11-29T06.00.00.000Z"


@pytest.mark.parametrize(
    "newest",
    [AHEAD, NOW, "9999-12-31T23.59.59.999Z", "2099-1-1T0.0.0.0Z", "2099-13-45T99.99.99.999Z", "final", "zzz_1", "ÿ"],
)
def test_the_version_after_the_newest_is_the_newest_for_kedro(newest: str) -> None:
    versions = [newest]
    for _ in range(4):
        versions.append(version_after(versions[-1], NOW))
    assert newest_first(versions) == versions[::-1] and len(set(versions)) == 5
    assert sorted((f"a/{version}/a" for version in versions), reverse=True)[0] == f"a/{versions[-1]}/a"
    assert version_after("2026-11-29T05.59.59.999Z", NOW) == NOW
    assert version_after(version_after("final", NOW), "2026-11-30T06.00.00.000Z") == "final_2026-11-30T06.00.00.000Z"


def run_as(shop: Shop, version: str, **options: Any) -> dict[str, str]:
    """Run with a clock that says ``version``."""
    runner = IncrementalRunner(manifest=shop.root / "data" / ".runs", **options)
    runner.project = shop.root
    runner.run(shop.pipeline(), shop.catalog(version), None, version)
    return {step.node: step.state for step in runner._report.steps}


def test_after_a_clock_that_was_ahead_runs_go_on(shop: Shop) -> None:
    run_as(shop, AHEAD)
    assert set(run_as(shop, NOW).values()) == {"skipped"}
    shop.parameters["title"] = "all"
    assert run_as(shop, NOW)["describe"] == "ran"
    assert shop.value("text") == "all: 120 in 3"
    assert shop.catalog("now").load("text") == "all: 120 in 3"  # the newest for Kedro, too
    assert set(run_as(shop, NOW, force=True).values()) == {"ran"}
    assert len(shop.manifest.history()) == 3


@pytest.mark.parametrize("foreign", ["2099-01-01T00.00.00.000Z", "final", "v1 of mine", "ÿ"])
def test_a_version_from_the_future_runs_its_node_once(
    shop: Shop, foreign: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_as(shop, NOW)
    (shop.root / "data" / "total.json" / foreign).mkdir()
    shop.file("total", foreign).write_text('{"total": -1}')
    with caplog.at_level(logging.WARNING):
        assert run_as(shop, "2026-11-30T06.00.00.000Z") == {"clean": "skipped", "add": "ran", "describe": "skipped"}
    assert sum(foreign in record.getMessage() for record in caplog.records) == 1
    assert shop.catalog("now").load("total") == {"total": 120}
    for _ in range(2):
        assert set(run_as(shop, "2026-12-01T06.00.00.000Z").values()) == {"skipped"}
    shop.parameters["by"] = 3
    assert run_as(shop, "2026-12-02T06.00.00.000Z")["add"] == "ran"
    assert shop.catalog("now").load("total") == {"total": 180}


def test_two_runs_of_one_moment_take_two_versions(shop: Shop) -> None:
    assert set(run_as(shop, NOW).values()) == {"ran"}
    assert set(run_as(shop, NOW, force=True).values()) == {"ran"}
    assert list(shop.manifest.history()) == [NOW, NOW.replace("000Z", "001Z")]
    assert {record.run_id for record in shop.manifest.records.values()} == {NOW.replace("000Z", "001Z")}


def test_runs_that_wait_for_each_other_take_their_versions_in_turn(shop: Shop) -> None:
    shop.ran()
    shop.edit("nodes", "def add(cleaned):\n", "def add(cleaned):\n    import time\n    time.sleep(0.5)\n")
    folder, pipeline = shop.manifest.folder, shop.pipeline()
    catalogs = {version: shop.catalog(version) for version in ("v104", "v103", "v102", "v101")}
    runners = {
        version: IncrementalRunner(manifest=folder, force=version != "v102") for version in ("v104", "v103", "v102")
    }
    threads = [
        threading.Thread(target=runner.run, args=(pipeline, catalogs[version], None, version))
        for version, runner in runners.items()
    ]
    threads[0].start()  # the last to begin is the first to run
    while not (folder / "started.json").exists():
        time.sleep(0.01)
    with pytest.raises(RunnerError, match=r"another run writes to .*data: process \d+, run v104"):
        IncrementalRunner(manifest=folder, wait=False).run(pipeline, catalogs["v101"], None, "v101")
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    first, second, third = (runner._report for runner in runners.values())
    assert {step.state for step in first.steps + second.steps} == {"ran"}
    assert {step.state for step in third.steps} == {"skipped"}
    assert first.run_id == "v104" < second.run_id
    assert {*shop.manifest.history()} == {"v001", "v104", second.run_id}
    assert {record.run_id for record in shop.manifest.records.values()} == {second.run_id}


def test_a_run_without_an_id_takes_the_version_of_the_catalog(shop: Shop) -> None:
    IncrementalRunner(manifest=shop.root / "data" / ".runs").run(shop.pipeline(), shop.catalog("mine"))
    assert list(shop.manifest.history()) == ["mine"] and shop.file("text", "mine").exists()
    with pytest.raises(RunnerError, match=r"\.\./x"):
        run_as(shop, "../x")


def test_pinned_versions_stay_when_the_version_is_a_later_one(shop: Shop) -> None:
    run_as(shop, AHEAD)
    shop.parameters["by"] = 3
    run_as(shop, NOW)
    shop.load_versions = {"total": AHEAD, "count": AHEAD}
    assert run_as(shop, NOW) == {"clean": "skipped", "add": "skipped", "describe": "ran"}
    assert shop.value("text") == "sum: 120 in 3"


def test_a_remote_version_from_the_future(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe(f"/embedline-versions/out.json/{AHEAD}/out.json", b"0")
    entry = {"type": "json.JSONDataset", "filepath": "memory:///embedline-versions/out.json", "versioned": True}
    try:
        for expected in ("ran", "skipped", "skipped"):
            catalog = DataCatalog.from_config({"out": entry}, save_version=NOW)
            catalog["params:a"] = 7
            runner = IncrementalRunner(manifest=tmp_path / ".runs")
            runner.run(Pipeline([Node(lambda a: a, "params:a", "out", name="make")]), catalog, None, NOW)
            assert [step.state for step in runner._report.steps] == [expected]
        assert DataCatalog.from_config({"out": entry}).load("out") == 7
    finally:
        memory.rm("/embedline-versions", recursive=True)


# What is printed


@pytest.mark.parametrize("value", ["[/INST]", "[a-z]+", "[red]x[/red]", "[", "\\[b]", "[link=x]y[/link]", "\x1b[31m"])
def test_brackets_are_printed_as_they_are(shop: Shop, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    from kedro_incremental.provenance import explain
    from kedro_incremental.report import make_console

    shop.ran()
    shop.parameters["title"] = value
    capsys.readouterr()
    expected = value.replace("\x1b", "\\x1b")
    shop.steps(dry_run=True)
    assert shop.error is None and expected in capsys.readouterr().out
    shop.ran()
    assert expected in capsys.readouterr().out
    make_console().print(explain(shop.manifest, "text"), soft_wrap=True)
    said = capsys.readouterr().out
    assert f"title = {expected}" in said and f"sum → {expected}" in said
