"""Bookkeeping that cannot be read, clocks that are wrong and kills break no run and lose nothing."""

import itertools
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
FILES = ["manifest.db", "lock", "scratch"]


def stale(*statements: str) -> Callable[[Shop], bytes]:
    """The manifest after some statements of SQL."""

    def make(shop: Shop) -> bytes:
        copy = Path(shutil.copy(shop.root / "manifest.kept", shop.root / "copy.db"))
        with closing(sqlite3.connect(copy)) as database, database:
            for statement in statements:
                database.execute(statement)
        content = copy.read_bytes()
        copy.unlink()
        return content

    return make


def record(value: str) -> Callable[[Shop], bytes]:
    """The manifest with another record, by an expression of SQL."""
    return stale(f"UPDATE records SET record = {value} WHERE node = 'add'")


def note(run_id: str, *folders: str) -> Callable[[Shop], bytes]:
    """The manifest with what would pass for a note of the node at work; ``ROOT`` and ``PKG`` are the shop's."""

    def make(shop: Shop) -> bytes:
        content = json.dumps({"run_id": run_id, "node": "x", "folders": folders})
        content = content.replace("ROOT", str(shop.root)).replace("PKG", shop.package).replace("NAME", shop.root.name)
        return stale(f"INSERT INTO state VALUES ('started', '{content}')")(shop)

    return make


def cut(end: int | None, more: bytes = b"") -> Callable[[Shop], bytes]:
    return lambda shop: (shop.root / "manifest.kept").read_bytes()[:end] + more


CONTENTS: dict[str, Callable[[Shop], bytes]] = {
    "empty": lambda shop: b"",
    "text": lambda shop: b"{}",
    "NUL": lambda shop: b"\0" * 8192,
    "half": cut(-5000),
    "the first page": cut(4096),
    "damaged": cut(4096, b"\xff" * 20_000),
    "format of another time": stale("PRAGMA user_version = 99"),
    "no table": stale("DROP TABLE records"),
    "no state": stale("DROP TABLE state"),
    "another column": stale("ALTER TABLE records RENAME COLUMN record TO content"),
    "record that is no JSON": record("'{'"),
    "record that is empty": record("NULL"),
    "record that is a list": record("'[]'"),
    "record that is deep": record(f"'{'[' * 9999}'"),
    "record without a field": stale("UPDATE records SET record = json_remove(record, '$.why')"),
    "wrong type": record("""json_set(record, '$.outputs.total', json('"v001"'))"""),
    "wrong type deep": record("""json_set(record, '$.inputs.code', json('{"a": [1]}'))"""),
    "state that is no JSON": stale("UPDATE state SET content = '{'"),
    "note of another run": note("../../x", "ROOT"),
    "note of nothing": note("", "/", ".", ".."),
    "note of the root": note("/", "/"),
    "note of the project": note("NAME", "ROOT", "ROOT/."),
    "note of a source folder": note("PKG", "ROOT/PKG"),
    "note of the data": note("data", "ROOT/data"),
    "note of a finished version": note("v001", "ROOT/data/text.json/v001"),
    "note of settings": note("local", "ROOT/conf/local"),
    "note that climbs": note("conf", "ROOT/data/../conf"),
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
    shutil.copy(shop.manifest.folder / "manifest.db", shop.root / "manifest.kept")
    return shop


def stored(shop: Shop) -> dict[str, bytes]:
    """Every file but those of the bookkeeping."""
    files = [path for path in shop.root.rglob("*") if path.is_file() and ".runs" not in path.parts]
    return {str(path): path.read_bytes() for path in files}


def delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_the_bookkeeping_runs_complete(kept, name, caplog) -> None:
    path = kept.manifest.folder / name
    for title, content in {**CONTENTS, **PLACED}.items():
        before = stored(kept)
        delete(path)
        if title in PLACED:
            PLACED[title](path)
        else:
            path.write_bytes(content(kept))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            states = kept.run()
        assert kept.error is None, f"{title}: {kept.error!r}"
        assert {state for state, _ in states.values()} <= {"ran", "skipped"}, title
        assert sum(path.name in record.getMessage() for record in caplog.records) <= 2, title
        assert {path: text for path, text in stored(kept).items() if path in before} == before, title
        assert kept.ran() == [], title  # what was set aside is not found again
    folders = [kept for kept in path.parent.glob(f"{path.name}.unreadable-*") if (kept / "kept").exists()]
    assert len(folders) == (name != "scratch")  # what somebody had put there is kept


def test_what_cannot_be_read_is_set_aside_with_one_warning(kept: Shop, caplog: pytest.LogCaptureFixture) -> None:
    path = kept.manifest.folder / "manifest.db"
    path.write_bytes(b"mine")
    _place_folder(path.with_name("manifest.db-journal"))
    with caplog.at_level(logging.WARNING):
        kept.steps(dry_run=True)  # which reads without the lock, and moves nothing
        assert kept.error is None and kept.manifest.records == {}
        assert path.read_bytes() == b"mine" and str(path) in caplog.text
        caplog.clear()
        assert kept.ran() == ALL
        assert kept.ran() == []
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and str(path) in said[0] and "manifest.db.unreadable-1" in said[0]
    assert path.with_name("manifest.db.unreadable-1").read_bytes() == b"mine" and kept.file("text", "v001").exists()
    assert (path.parent / "manifest.db-journal.unreadable-1/kept").read_text() == "mine"
    path.write_bytes(b"again")
    kept.ran()
    assert path.with_name("manifest.db.unreadable-2").read_bytes() == b"again"


def test_a_kill_within_a_write_loses_nothing(kept: Shop) -> None:
    path = kept.manifest.folder / "manifest.db"
    script = "import os, sqlite3, sys; database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    for statement in ("PRAGMA cache_spill = 1", "PRAGMA cache_size = 1", "BEGIN", "DELETE FROM records"):
        script += f"database.execute({statement!r})\n"
    script += "database.execute(\"INSERT INTO state VALUES ('x', randomblob(1000000))\"); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.with_name("manifest.db-journal").exists()
    kept.steps(dry_run=True)
    assert kept.ran() == []
    shutil.rmtree(kept.root / "data")  # a place that cannot be written is one line
    (kept.root / "data").write_text("a file")
    kept.run()
    assert isinstance(kept.error, RunnerError) and ".runs" in str(kept.error) and "\n" not in str(kept.error)


# Kills


def test_an_unfinished_version_is_removed_and_nothing_else(kept: Shop, caplog: pytest.LogCaptureFixture) -> None:
    half, other = (kept.root / "data" / f"{name}.json" / "v900" for name in ("total", "count"))
    for path in (half / ".12.total.json", other / "mine" / "count.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{")
    kept.manifest.start("v900", "add", [str(half), str(other), str(kept.root / "data" / "text.json" / "v001")])
    with caplog.at_level(logging.INFO):
        assert kept.ran() == []
    assert "The run v900 was killed" in caplog.text and kept.manifest.state("started") is None
    assert not half.exists() and (other / "mine").exists() and kept.file("text", "v001").exists()


def test_a_version_is_told_from_other_folders(tmp_path: Path) -> None:
    files = ["a.json/v1/a.json", "a.json/v2/.77.a.json", "b.json/v1/other", "conf/local/.gitkeep", "c.json/v1/c.json"]
    for path in (tmp_path / name for name in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a.json" / "v3").mkdir()
    (tmp_path / "c.json" / "mine.txt").touch()  # nor is one beside a file
    (tmp_path / "link").symlink_to(tmp_path / "a.json" / "v1")
    folders = [*(Path(name).parent for name in files), Path("a.json/v3"), Path("a.json/v4"), Path("link")]
    versions = [str(folder) for folder in folders if is_version_folder(tmp_path / folder)]
    assert versions == ["a.json/v1", "a.json/v2", "a.json/v3"]


def test_notes_of_runs_that_were_killed_add_up(kept: Shop) -> None:
    manifest = kept.manifest
    manifest._write(("INSERT INTO state VALUES ('holder', ?)", (json.dumps({"run_id": "v800", "killed": ["v700"]}),)))
    with manifest.locked("v900"):
        assert manifest.killed == ["v700", "v800"]
    assert manifest.state("holder") is None


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
    assert die_at > 6


def test_records_without_outputs_go_with_a_later_pruning(shop: Shop) -> None:
    for shop.parameters["by"] in (1, 2, 3):
        shop.ran()
    for name in ("cleaned", "text"):  # as a version did that left the records to the end
        shutil.rmtree(shop.file(name, "v001").parent)
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
def test_a_version_from_the_future_runs_its_node_once(shop, foreign, caplog) -> None:
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
    for force in (False, True):
        assert set(run_as(shop, NOW, force=force).values()) == {"ran"}
    assert list(shop.manifest.history()) == [NOW, f"{NOW}_{NOW}"]
    assert {record.run_id for record in shop.manifest.records.values()} == {f"{NOW}_{NOW}"}
    shop.parameters["by"] = 3
    run_as(shop, NOW)
    shop.load_versions = {"total": NOW, "count": NOW}  # pinned versions stay when the version is a later one
    assert run_as(shop, NOW) == {"clean": "skipped", "add": "skipped", "describe": "ran"}
    assert shop.value("text") == "sum: 120 in 3"


def test_runs_that_wait_for_each_other_take_their_versions_in_turn(shop: Shop) -> None:
    shop.ran()
    shop.edit("nodes", "def add(cleaned):\n", "def add(cleaned):\n    import time\n    time.sleep(0.5)\n")
    folder, pipeline = shop.manifest.folder, shop.pipeline()
    catalogs = {version: shop.catalog(version) for version in ("v104", "v103", "v102", "v101")}
    runners = {version: IncrementalRunner(manifest=folder, force=version != "v102") for version in [*catalogs][:3]}

    def run(version: str) -> None:
        runners[version].run(pipeline, catalogs[version], None, version)

    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(run, "v104")]  # the last to begin is the first to run
        while shop.manifest.state("started") is None:
            time.sleep(0.01)
        with pytest.raises(RunnerError, match=r"another run writes to .*data: process \d+, run v104"):
            IncrementalRunner(manifest=folder, wait=False).run(pipeline, catalogs["v101"], None, "v101")
        runs += [threads.submit(run, version) for version in ("v103", "v102")]
    assert [each.result() for each in runs] == [None] * 3
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
