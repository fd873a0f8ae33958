"""Killed runs and full disks, on a small scale; ``kill_runs.py`` and ``crash_points.py`` do the same at length."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fault_outputs import Reference
from full_disks import fill_disks, no_small_disks, small_disk
from kedro_runs import PROJECT, Settings, Site
from kill_runs import Tally, kill_runs

import warm
from copies import copy_files, copy_project, kedro

pytestmark = pytest.mark.slow

SMALL = Settings(stores=6, epochs=3, pipelines="rossmann_forecast", checkpoint_seconds=0.2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Reference]:
    """An undisturbed run, and where it ran."""
    root = tmp_path_factory.mktemp("faults")
    site = Site.make(copy_files(root / "project"), SMALL, root / "reference")
    return site, Reference.make(site)


def test_after_kills_everything_loads_and_the_next_run_makes_the_same(undisturbed, tmp_path) -> None:
    site, reference = undisturbed
    tally = Tally()
    kill_runs(tmp_path, reference, site, kills=6, seed=0, tally=tally)
    assert not tally.failures, tally.report(reference.order)
    assert tally.kills.total() >= 6 and tally.completed == 1 and tally.loads > 0


def test_pictures_survive_kills_as_well(tmp_path: Path) -> None:
    site = Site.make(copy_files(tmp_path / "project"), replace(SMALL, pipelines="pets"), tmp_path / "reference")
    reference, tally = Reference.make(site), Tally()
    kill_runs(tmp_path, reference, site, kills=3, seed=1, tally=tally)
    assert not tally.failures, tally.report(reference.order)
    assert tally.kills.total() >= 3 and tally.completed == 1 and tally.loads > 0


@pytest.mark.skipif(bool(no_small_disks()), reason=no_small_disks())
def test_on_a_full_disk_a_run_says_so_and_the_next_one_goes_on(undisturbed, tmp_path) -> None:
    site, reference = undisturbed
    for disk in fill_disks(tmp_path, reference, site, 2):
        assert not disk.failures, disk
        assert disk.completed


@pytest.mark.skipif(bool(no_small_disks()), reason=no_small_disks())
@pytest.mark.parametrize("root", ["tracking_root", "data_root"])
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_root_that_cannot_be_written_is_one_line(root: str, fault: str, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    with small_disk(tmp_path / "disk", 300_000) as disk:
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        roots = {"tracking_root": tmp_path / "tracking", "data_root": tmp_path / "data", root: disk}
        params = ",".join(f"{name}={path}" for name, path in roots.items())
        said = kedro(project, "run", "--pipelines", "movielens", "--params", params, status=1)
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        assert re.search("^Error: .*(full|No space|Read-only|readonly)", last)
        assert not [path for path in disk.rglob(".*.*") if path.is_file()]


def test_a_run_may_end_at_any_file_operation() -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    run = warm.start("crash_points", "--every", "12", cwd=Path(__file__).parent, env=environment)
    printed, _ = run.communicate()
    assert run.returncode == 0, printed
