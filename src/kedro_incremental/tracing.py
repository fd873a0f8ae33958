"""Whether a node would make again what it has made: its work now, held against its record."""

import logging
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import VersionNotFoundError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from .files import Place
from .reasons import differences_of_work
from .records import RunnerError
from .redaction import shown
from .schemas import Artifact, NodeRecord, Work
from .work import Works, base_name, data_inputs, is_parameter

logger = logging.getLogger(__name__)


class Trace(Works):
    """The work of every node of a pipeline, and the content of its datasets as far as it is known by now.

    Arguments are those of :class:`Works`.
    """

    def __init__(self, pipeline: Pipeline, *arguments: Any, **options: Any) -> None:
        super().__init__(pipeline, *arguments, **options)
        self._outputs = pipeline.outputs()
        self._pinned = {
            base_name(name): dataset._version.load
            for name, dataset in self._datasets.items()
            if getattr(dataset, "_version", None) and dataset._version.load
        }
        self._find_free_inputs(pipeline)

    # What is there

    def _find_free_inputs(self, pipeline: Pipeline) -> None:
        """Content of what the pipeline reads and does not make; a stored artifact is pinned to its record."""
        makers = {name: record for record in self._manifest.records.values() for name in record.outputs}
        for name in sorted(pipeline.inputs()):
            base = base_name(name)
            if is_parameter(name) or base in self.known:
                continue
            place = self._places[name]
            recorded = makers[base].outputs[base].version if base in makers else None
            if place and place.versioned and recorded and base not in self._pinned:
                newest = next(iter(place.versions()), None)
                if newest and newest > recorded:
                    logger.warning("%s: reading the recorded version %s, not the newer %s", base, recorded, newest)
                if Path(place.of_version(recorded)).exists() or place.filesystem is not None:
                    self.pin(base, recorded)
            self.known[base] = self._free_artifact(name, place)

    def _free_artifact(self, name: str, place: Place | None) -> Artifact | None:
        if place is None:
            return None
        try:
            version = self._datasets[name].resolve_load_version() if place.versioned else None
        except VersionNotFoundError:
            return None  # the load will fail, with Kedro's own message
        return self._artifact(place, version)

    def _artifact(self, place: Place, version: str | None) -> Artifact | None:
        hashed = place.hash(version, self._manifest.hashes, trust=self._trust)
        path = place.of_version(version)
        return Artifact(version, hashed, path if place.filesystem is None else shown(path)) if hashed else None

    def pin(self, base: str, version: str | None) -> None:
        """Make every reader of an artifact in this run read ``version``."""
        for name, dataset in self._datasets.items():
            if base_name(name) == base and getattr(dataset, "_version", None):
                dataset._version = dataset._version._replace(load=version)

    def version_folders(self, node: Node) -> list[str]:
        """Folders on this machine that the node's outputs of this run go to."""
        folders = []
        for name in node.outputs:
            place = self._places[name]
            if place and place.versioned and place.filesystem is None:
                folders.append(f"{place.path}/{self._datasets[name]._version.save}")
        return folders

    def pin_to_this_run(self, node: Node) -> None:
        """Make readers of the node's outputs read what this run is about to write, whatever else turns up."""
        for name in node.outputs:
            version = getattr(self._datasets[name], "_version", None)
            if version and base_name(name) not in self._pinned:
                self.pin(base_name(name), version.save)

    # What to do

    def reasons(self, node: Node, uncertain: Set[str] = frozenset()) -> list[str]:
        """Why the node must run, the most telling first; empty if its record still holds.

        Args:
            uncertain: inputs that are going to be made anew, and may come out as they were: they give no reason.
        """
        always = self._always(node, uncertain)
        record = self._manifest.records.get(node.name)
        if always or record is None:
            return always or ["first run"]
        work = self.work(node)
        return [*differences_of_work(record.work, work, uncertain), *self._output_reasons(node, record)]

    def _always(self, node: Node, uncertain: Set[str]) -> list[str]:
        """Why the node must run whatever its record says."""
        if not node.outputs:
            return ["it has no outputs"]
        unstored = [name for name in node.outputs if not self.is_stored(name) and name in self._outputs]
        if unstored:
            return [f"its output {unstored[0]} is not stored"]
        self.work(node)
        if node.name in self._untraceable:
            return [self._untraceable[node.name]]
        unknown = [name for name in data_inputs(node) if name not in uncertain and self.known.get(name) is None]
        if unknown:
            return [f"input {unknown[0]} is missing or no file: whether it changed cannot be told"]
        return []

    def touched_work(self, node: Node) -> tuple[Work, list[str]]:
        """The node's work of now, and how it differs from the recorded one.

        Raises:
            RunnerError: if the node has to run all the same.
        """
        record = self._manifest.records.get(node.name)
        missing = (
            [*self._always(node, frozenset()), *self._output_reasons(node, record)] if record else ["it never ran"]
        )
        if record is None or missing:
            raise RunnerError(f"--touch: {node.name} has to run: {missing[0]}")
        work = self.work(node)
        return work, differences_of_work(record.work, work, frozenset()) or ["nothing changed"]

    def _output_reasons(self, node: Node, record: NodeRecord) -> Iterable[str]:
        for name in node.outputs:
            base, place = base_name(name), self._places[name]
            if not self.is_stored(name):
                continue
            written = record.outputs.get(base)
            if written is None:
                yield f"output {base} is not recorded"
            elif place is None:
                dataset = self._datasets[name]
                if type(dataset)._exists is not AbstractDataset._exists and not dataset.exists():
                    yield f"output {base} is missing"
            else:
                yield from self._file_reasons(base, place, written)

    def _file_reasons(self, base: str, place: Place, written: Artifact) -> Iterable[str]:
        if place.versioned != (written.version is not None):
            yield f"output {base} is {'now' if place.versioned else 'no longer'} versioned"
            return
        hashed = place.hash(written.version, self._manifest.hashes, trust=self._trust)
        if hashed is None:
            yield f"output {base} is missing"
        elif hashed != written.digest:
            yield f"output {base} is not as it was written"
        elif place.versioned and (newest := place.versions()[0]) > str(written.version):
            yield f"output {base} has a newer version that no recorded run made: {newest}"

    def pinned_outputs(self, node: Node) -> bool:
        """Whether the user pinned the node's outputs with ``--load-versions``.

        Raises:
            RunnerError: if some of them are pinned and others are not.
        """
        stored = [base_name(name) for name in node.outputs if self.is_stored(name)]
        pinned = [name for name in stored if name in self._pinned]
        if pinned and len(pinned) < len(stored):
            missing = next(name for name in stored if name not in self._pinned)
            raise RunnerError(
                f"--load-versions names {pinned[0]} but not {missing}, which {node.name} makes with it: "
                "give both versions or none"
            )
        return bool(pinned)

    # What has happened

    def skip(self, node: Node) -> None:
        """Take the recorded (or pinned) outputs of a node for this run."""
        record = self._manifest.records.get(node.name)
        for name in node.outputs:
            base, place = base_name(name), self._places[name]
            if base in self._pinned and place:
                self.known[base] = self._artifact(place, self._pinned[base])
            elif record and base in record.outputs:
                self.pin(base, record.outputs[base].version)
                self.known[base] = record.outputs[base]
            elif record:
                self.known[base] = Artifact(None, f"made by {record.key}")

    def made(self, node: Node, key: str) -> dict[str, Artifact]:
        """Content of the stored outputs that the node has just made; ``key`` is that of its work."""
        outputs = {}
        for name in node.outputs:
            base, place = base_name(name), self._places[name]
            artifact: Artifact | None = Artifact(None, f"made by {key}")
            if place:
                version = self._datasets[name]._version.save if place.versioned else None
                artifact = self._artifact(place, version)
            self.known[base] = artifact
            if artifact and self.is_stored(name):
                outputs[base] = artifact
        return outputs
