"""Versions of artifacts: their names, their order, and the one that a run takes."""

import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kedro.io.core import VERSION_FORMAT, generate_timestamp

LONGEST = 225  # bytes of a version's name: file systems allow 255, and a successor needs some


def checked(name: str) -> str:
    """``name`` if it can be a version; ValueError otherwise: Kedro takes one part of a path."""
    if name in {"", ".", ".."} or set(name) & set("/\\\0"):
        raise ValueError("no name of a version: it must be one part of a path")
    return name


def newest_first(names: Iterable[str]) -> list[str]:
    """Versions in the order in which Kedro takes them, which sorts whole paths: ``a`` comes after ``a.1``.

    Hidden names are none, nor are those with no room for a successor.
    """
    versions = (name for name in names if name[:1] not in {"", "."} and len(os.fsencode(name)) <= LONGEST)
    return sorted(versions, key="{}/".format, reverse=True)


def version_after(newest: str, own: str) -> str:
    """``own`` if that comes after ``newest``, otherwise a version that does: clocks may be wrong, names foreign.

    >>> version_after("2099-11-29T06.00.00.000Z", "2026-11-29T06.00.00.000Z")
    '2099-11-29T06.00.00.001Z'
    >>> version_after("final", "2026-11-29T06.00.00.000Z")
    'final_2026-11-29T06.00.00.000Z'
    """
    earlier, separator, _ = newest.rpartition("_")
    try:
        later = datetime.strptime(newest, VERSION_FORMAT) + timedelta(milliseconds=1)
        next_time = f"{later:%Y-%m-%dT%H.%M.%S}.{later.microsecond // 1000:03}Z"
    except (ValueError, OverflowError):  # no version of Kedro's
        next_time = ""
    candidates = (own, f"{earlier}{separator}{own}", next_time)
    return next((name for name in candidates if f"{name}/" > f"{newest}/"), f"{newest}_{own}")


def is_version_folder(folder: Path) -> bool:
    """Whether a folder is what Kedro makes for a version, ``<name>/<version>/``, with nothing but ``<name>`` in it.

    Saves in progress give their files longer names. The folders beside it must be of this kind, too.
    """
    if ".." in folder.parts or folder.is_symlink() or not folder.is_dir():
        return False
    return all(
        beside.is_dir() and all(folder.parent.name in entry.name for entry in beside.iterdir())
        for beside in folder.parent.iterdir()
        if beside == folder or beside.name[0] != "."
    )


def save_version_of(datasets: Iterable[Any]) -> str | None:
    """The version that a catalog would save to; None if nothing in it has versions."""
    versions = (getattr(innermost(dataset), "_version", None) for dataset in datasets)
    return next((version.save or generate_timestamp() for version in versions if version), None)


def set_save_version(catalog: Any, datasets: Iterable[Any], version: str) -> None:
    """Have every dataset save to ``version``, also those that the catalog has not made yet."""
    for dataset in map(innermost, [*datasets, *getattr(catalog, "_datasets", {}).values()]):
        if getattr(dataset, "_version", None):
            dataset._version = dataset._version._replace(save=version)
    if hasattr(catalog, "_save_version"):
        catalog._save_version = version
    for lazy in getattr(catalog, "_lazy_datasets", {}).values():
        lazy.save_version = version


def innermost(dataset: Any) -> Any:
    """The dataset that keeps the content: the one in a ``CachedDataset``, or itself."""
    inner = getattr(dataset, "_dataset", None)
    return innermost(inner) if hasattr(inner, "load") else dataset
