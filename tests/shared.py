"""What is made once for all workers of a test session, and files that need not wait for the disk."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

_folder: list[Path] = []


def share(folder: Path) -> None:
    """Have all workers make and find what they share in a folder."""
    _folder[:] = [folder]


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` has filled, in this process or in that of another worker; nobody may change it."""
    from filelock import FileLock

    folder = _folder[0] / name
    with FileLock(f"{folder}.lock"):
        if not (made := folder.with_name(f"{name}.made")).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def tracking_database(folder: Path) -> Path:
    """Put MLflow's database into a folder, without a run; it costs seconds to make, and a copy nothing."""

    def make(template: Path) -> None:
        from embedline.hooks.tracking import create_database

        create_database(f"sqlite:///{template}/mlflow.db")

    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(made_once("tracking", make) / "mlflow.db", folder / "mlflow.db"))


def forget_power_failures() -> None:
    """Have this process wait for no disk: no test can see whether a file outlives the machine."""
    os.fsync = lambda _: None
    try:
        from sqlalchemy import Engine, event
    except ImportError:  # the tests of a bare machine
        return
    event.listen(Engine, "connect", _leave_syncing_to_the_system)


def _leave_syncing_to_the_system(connection: object, _: object) -> None:
    import sqlite3

    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
