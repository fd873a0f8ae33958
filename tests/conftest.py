"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds the public archives; the test is skipped where there is none."""
    folder = Path(os.environ.get("EMBEDLINE_REAL_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "rossmann.tgz").exists():
        pytest.skip(f"no real data: {folder} has no rossmann.tgz (set EMBEDLINE_REAL_DATA)")
    return folder
