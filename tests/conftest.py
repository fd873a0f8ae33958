"""Fixtures that every test may use."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import shared
from browsers import NAMES, Browser, find_browser
from small_runs import small_run

PROJECT = Path(__file__).resolve().parents[1]

# Files that read and run one small project: one worker has them all.
TOGETHER = ("report/test_report_run.py", "test_notebooks.py", "test_repeatable_plots.py", "test_viz.py")
# Files that take longest: a worker that began one of them at the end would keep the others waiting.
LONGEST = (
    "spark/test_spark_runs.py",
    "faults/test_faults.py",
    "test_own_sources.py",
    "test_incremental.py",
    "test_run.py",
    *TOGETHER,
    "test_interruption.py",
    "test_package.py",
    "serving/test_served_mlflow.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have workers begin with what takes longest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks = {str(PROJECT / "tests" / name): rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, whose tests share fixtures, in the order of :data:`LONGEST`."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = str(super()._split_scope(nodeid))
            return "small project" if path.endswith(TOGETHER) else path

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _share(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers make once what all of them need, and no test waits for a disk."""
    folder = tmp_path_factory.getbasetemp()
    shared.share(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
    shared.forget_power_failures()


@pytest.fixture(autouse=True)
def _hear_all_that_is_logged() -> None:
    """A run of Kedro in this process sets the levels of conf/logging.yml, which would hold for later tests, too."""
    logging.getLogger("embedline").setLevel(logging.NOTSET)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give each test, and the fixtures of its module, one thread: more change the last bits of sums in bfloat16.

    A server that a test has made may have set another number. Small networks gain nothing from several threads.
    """
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds the public archives; the test is skipped where there is none."""
    folder = Path(os.environ.get("EMBEDLINE_REAL_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "rossmann.tgz").exists():
        pytest.skip(f"no real data: {folder} has no rossmann.tgz (set EMBEDLINE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def small_project() -> Path:
    """A copy of the project with the artifacts of small runs; tests may add to them, and change none."""
    return shared.made_once("small", small_run) / "project"


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """A browser without a window; the test is skipped where there is none."""
    if find_browser() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    return Browser(tmp_path)
