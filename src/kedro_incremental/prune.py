"""Delete old versions, never one that something kept was made from."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from . import files
from .provenance import Makers
from .records import Manifest, RunnerError
from .schemas import Artifact
from .work import base_name, is_parameter

PRUNED = ".pruned"  # ends the hidden name of a version that is being deleted


@dataclass(frozen=True)
class Removal:
    """A version of a dataset to delete: its folder, and the bytes in it."""

    dataset: str
    version: str
    folder: Path
    size: int


def find_removals(catalog: Any, pipelines: Iterable[Pipeline], manifest: Manifest, keep: int) -> list[Removal]:
    """Versions beyond the newest ``keep`` of each dataset that nothing kept needs, oldest first.

    Kept are: the newest ``keep`` versions of each dataset, those that the manifest points to, and every version that
    one of these was made from, directly or not. Only versions on this machine are looked at.

    Raises:
        RunnerError: if ``keep`` is less than one.
    """
    if keep < 1:
        raise RunnerError(f"keep must be at least 1, got {keep}")
    names = {name for pipeline in pipelines for name in pipeline.datasets() if not is_parameter(name)}
    found = {base_name(name): files.place_of(catalog.get(name)) for name in sorted(names) if name in catalog}
    places = {name: place for name, place in found.items() if place and place.versioned and place.filesystem is None}
    versions = {name: place.versions() for name, place in places.items()}
    makers = Makers.read(manifest)
    kept: set[tuple[str, str | None]] = set(makers.current.items())
    kept |= {(name, version) for name, there in versions.items() for version in there[:keep]}
    for name, kept_version in list(kept):
        kept |= makers.ancestors(name, kept_version)
    removals = []
    for name, place in places.items():
        renamed = [each.name for each in Path(place.path).glob(f".*{PRUNED}") if each.is_dir()]  # by a killed call
        for version in [*versions[name], *renamed]:
            if (name, version) not in kept:
                folder = Path(place.path, version)
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                removals.append(Removal(name, version, folder, size))
    return sorted(removals, key=lambda removal: (removal.version, removal.dataset))


def remove(removals: Iterable[Removal], manifest: Manifest) -> None:
    """Delete the versions, and the records that have no output left.

    The records go first, and each folder is renamed before it is emptied: a kill at any point leaves no record of what
    is gone and no half a version, and the next call deletes the rest.

    Raises:
        RunnerError: if a folder cannot be deleted.
    """
    todo = list(removals)
    going = {(removal.dataset, removal.version) for removal in todo}
    current = {(record.node, record.run_id) for record in manifest.records.values()}
    for run_id, records in manifest.history().items():
        stale = {
            record.node
            for record in records.values()
            if record.outputs and (record.node, record.run_id) not in current
            if all((name, made.version) in going or _is_gone(made) for name, made in record.outputs.items())
        }
        if stale:
            manifest.forget(run_id, stale)
    for removal in todo:
        folder = removal.folder
        try:
            if not folder.name.endswith(PRUNED):
                folder = folder.rename(folder.with_name(f".{folder.name}{PRUNED}"))
            files.remove(folder)
        except OSError as error:
            raise RunnerError(f"cannot delete {folder}: {error.strerror or error}") from error


def _is_gone(made: Artifact) -> bool:
    """Whether a version was deleted: its dataset is still in the place that the record names, without it."""
    path = Path(made.path)
    return bool(made.path and made.version) and path.parent.parent.is_dir() and not os.path.lexists(path)
