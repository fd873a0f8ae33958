"""A small project for the tests of the runner."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shop import Shop

_names = (f"shop_{number}" for number in itertools.count())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop that never ran."""
    package = next(_names)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Shop(tmp_path, package)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
