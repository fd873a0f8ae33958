"""All versions of a metrics file as one value: what a source's earlier runs reached, and what differed between them."""

import json
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from embedline.errors import DataError
from kedro_incremental.manifest import Manifest, NodeInputs, diff
from kedro_incremental.provenance import Provenance


class MetricsHistory(AbstractDataset[None, list[dict[str, Any]]]):
    """The versions of ``<source>.metrics``, oldest first, with what changed from each to the next.

    Read only. Its content is a folder on this machine, so that the incremental runner notices a new version.

    Args:
        filepath, dataset: those of the metrics' own catalog entry.
        manifest: ``filepath`` of the run manifest, which knows what made each version.
        last: how many of the newest versions are read.
    """

    def __init__(
        self,
        *,
        filepath: str,
        dataset: str,
        manifest: dict[str, str],
        last: int = 12,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.metadata = metadata
        self._filepath, self._dataset, self._last = Path(filepath), dataset, last
        self._manifest = Path(manifest["filepath"])

    def load(self) -> list[dict[str, Any]]:
        """For each version ``version``, ``metrics``, and ``changes`` since the one before: texts, or None without a
        record.

        A file that is no JSON object is a DataError.
        """
        provenance = Provenance.read(Manifest(self._manifest))
        found: list[dict[str, Any]] = []
        before: NodeInputs | None = None
        for version in self._versions()[-self._last :]:
            inputs = self._inputs(version, provenance)
            changes = diff(before, inputs) if before and inputs else None
            found.append({"version": version, "metrics": self._read(version), "changes": changes if found else []})
            before = inputs
        return found

    def _versions(self) -> list[str]:
        name = self._filepath.name
        return sorted(path.parent.name for path in self._filepath.glob(f"*/{name}"))

    def _read(self, version: str) -> dict[str, Any]:
        path = self._filepath / version / self._filepath.name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{path} holds a {type(values).__name__}, not metrics by their names")
        return values

    def _inputs(self, version: str, provenance: Provenance) -> NodeInputs | None:
        """All that decided a version, from the raw files on; None where that is not recorded."""
        record = provenance.records.get((self._dataset, version))
        if record is None:
            return None
        records = [provenance.records.get(key) for key in provenance.ancestors(self._dataset, version)]
        made_from = [record.inputs, *(one.inputs for one in records if one)]
        free = {
            name: artifact
            for inputs in made_from
            for name, artifact in inputs.artifacts.items()
            if (name, artifact.version) not in provenance.records
        }
        merged: dict[str, Any] = {  # their datasets are not compared, only what made them
            kind: {name: value for inputs in made_from for name, value in getattr(inputs, kind).items()}
            for kind in ("code", "libraries", "parameters", "files")
        }
        return NodeInputs(wiring=None, catalog={}, artifacts=free, **merged)

    def save(self, data: None) -> NoReturn:
        """Refused: the versions are those of the metrics."""
        raise DataError(f"{self._dataset} has a history that is read, not written: save {self._dataset} itself")

    def _exists(self) -> bool:
        return bool(self._versions())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "dataset": self._dataset}
