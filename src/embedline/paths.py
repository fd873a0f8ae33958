"""Paths that start from the project, whatever the working directory is."""

import os
from pathlib import Path
from typing import Any, TypeGuard

from embedline.errors import DataError, input_name

GENERATED = "generated"  # a source that is no address


def project_root() -> Path:
    """Folder of the project: the checkout, or the working directory when the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "conf").is_dir() else Path.cwd()


def project_path(relative: str = "") -> str:
    """``${project:mlflow.db}`` in YAML: a path that does not depend on the working directory."""
    return (project_root() / relative).as_posix()


def sqlite_url(path: str) -> str:
    """``${sqlite:/folder/mlflow.db}`` in YAML: the URL of a database, in whose path ``?`` and ``%`` may stand."""
    quoted = path.replace("%", "%25").replace("?", "%3F")
    # With the driver's name, as MLflow makes the folder of what follows `sqlite:///`, and does not unquote it.
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def is_relative_source(source: Any) -> TypeGuard[str]:
    """Whether a parameter ``source`` is a relative path: neither an address nor an absolute path."""
    if not isinstance(source, str) or not source.strip() or source == GENERATED or "://" in source or "::" in source:
        return False
    return not os.path.isabs(os.path.expanduser(source))


def source_candidates(source: str) -> list[str]:
    """The paths at which a relative ``source`` is looked for, below the project and the working directory."""
    if not is_relative_source(source):
        return [source]
    paths = (folder / os.path.expanduser(source) for folder in (project_root(), Path.cwd()))
    return list(dict.fromkeys(path.as_posix() for path in paths))


def find_source(source: str, key: str | None = None) -> str:
    """The absolute path of a relative ``source``; an address, an absolute path and ``generated`` stay as they are.

    Args:
        key: the YAML key that gives it; None: that of the running node's argument ``source``.

    Raises:
        DataError: if nothing is there; names the YAML key and the paths.
    """
    candidates = source_candidates(source)
    if not is_relative_source(source):
        return source
    found = next((path for path in candidates if Path(path).exists()), None)
    if found is None:
        name, places = key or input_name("source"), " nor at ".join(candidates)
        raise DataError(f"{name}: there is no file or folder {source!r}, neither at {places}")
    return found
