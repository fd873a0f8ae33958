"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

from browsers import NAMES, Browser, find_browser
from small_runs import small_run

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds the public archives; the test is skipped where there is none."""
    folder = Path(os.environ.get("EMBEDLINE_REAL_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "rossmann.tgz").exists():
        pytest.skip(f"no real data: {folder} has no rossmann.tgz (set EMBEDLINE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the artifacts of small runs; tests may add to them, and change none."""
    return small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """A browser without a window; the test is skipped where there is none."""
    if find_browser() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    return Browser(tmp_path)
