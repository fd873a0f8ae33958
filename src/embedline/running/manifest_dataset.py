"""The catalog entry that says where runs are remembered."""

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from .records import Manifest, RunnerError

ENTRY = "run_manifest"  # its name


def manifest_of(catalog: Any) -> Manifest:
    """The manifest that a catalog names.

    Raises:
        RunnerError: if it names none.
    """
    if ENTRY not in catalog:
        raise RunnerError(
            f"the catalog has no {ENTRY!r}, which remembers what ran: add it with the type "
            f"{__package__}.RunManifest and a filepath, or run with --runner SequentialRunner"
        )
    manifest = catalog.load(ENTRY)
    assert isinstance(manifest, Manifest)
    return manifest


class RunManifest(AbstractDataset[None, Manifest]):
    """Catalog entry of the manifest: where the runs of an environment are remembered.

    Args:
        filepath: folder on this machine; one for each root of artifacts.
        metadata: of other tools.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        if "://" in filepath and not filepath.startswith("file://"):
            raise RunnerError(f"{ENTRY}.filepath must be a folder of this machine, not {filepath}")
        self._folder = Path(filepath.removeprefix("file://"))

    def load(self) -> Manifest:
        """Read the manifest; an empty one if nothing ran yet."""
        return Manifest(self._folder)

    def save(self, data: None) -> NoReturn:
        """Refused: only the runner writes it, record by record."""
        raise RunnerError(f"{ENTRY} is written by the runner alone")

    def _exists(self) -> bool:
        return (self._folder / "manifest.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
