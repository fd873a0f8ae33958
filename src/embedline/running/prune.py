"""Delete old versions, never one that something kept was made from."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from .files import Place, place_of
from .provenance import Makers
from .records import Manifest, RunnerError
from .tracing import base_name, is_parameter


@dataclass(frozen=True)
class Removal:
    """A version to delete.

    Attributes:
        dataset: name without transcoding.
        version: Kedro version.
        folder: what is deleted.
        size: bytes in it.
    """

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
    places = _places(catalog, pipelines)
    versions = {name: place.versions() for name, place in places.items()}
    makers = Makers.read(manifest)
    kept: set[tuple[str, str | None]] = set(makers.current.items())
    kept |= {(name, version) for name, found in versions.items() for version in found[:keep]}
    for name, kept_version in list(kept):
        kept |= makers.ancestors(name, kept_version)
    removals = [
        _removal(name, version, Path(places[name].path, version))
        for name, found in versions.items()
        for version in found
        if (name, version) not in kept
    ]
    return sorted(removals, key=lambda removal: (removal.version, removal.dataset))


def remove(removals: Iterable[Removal], manifest: Manifest) -> None:
    """Delete the versions, and the records that have no output left."""
    gone = set()
    for removal in removals:
        shutil.rmtree(removal.folder)
        gone.add((removal.dataset, removal.version))
    for run_id, records in manifest.history().items():
        stale = {
            record.node
            for record in records.values()
            if record.outputs and all((name, made.version) in gone for name, made in record.outputs.items())
        }
        if stale:
            manifest.forget(run_id, stale)


def _places(catalog: Any, pipelines: Iterable[Pipeline]) -> dict[str, Place]:
    names = {name for pipeline in pipelines for name in pipeline.datasets() if not is_parameter(name)}
    found = {base_name(name): place_of(catalog.get(name)) for name in sorted(names) if name in catalog}
    return {name: place for name, place in found.items() if place and place.versioned and place.filesystem is None}


def _removal(dataset: str, version: str, folder: Path) -> Removal:
    return Removal(dataset, version, folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
