"""Small archives and folders in the layout of the Rossmann data."""

import datetime as dt
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables


@pytest.fixture(scope="session")
def tables() -> dict[str, bytes]:
    """Seven generated tables over two months."""
    return generate_tables(
        GeneratorOptions(
            n_stores=5, first_day=dt.date(2015, 6, 1), last_day=dt.date(2015, 7, 20), test_last_day=dt.date(2015, 7, 31)
        )
    )


@pytest.fixture(scope="session")
def files(tables: dict[str, bytes]) -> dict[str, bytes]:
    """The same, keyed by file name."""
    return {f"{name}.csv": data for name, data in tables.items()}


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> str:
    """Write a tar archive, with member names as they are, and return its path as a source."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_folder(folder: Path, members: Mapping[str, bytes]) -> str:
    """Write files below a folder and return its path as a source."""
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)
