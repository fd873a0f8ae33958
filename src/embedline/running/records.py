"""What is remembered of runs: a record for each node, the newest ones in one manifest, and one run at a time."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import filelock
from kedro.io import AbstractDataset

from .files import FileHashes, write_atomically

logger = logging.getLogger(__name__)

FORMAT = 2
ENTRY = "run_manifest"  # name of the catalog entry that says where the manifest lives


class RunnerError(Exception):
    """A run cannot start or go on, for a reason that its user can mend."""


@dataclass(frozen=True)
class Artifact:
    """Content of a dataset as a node read or wrote it.

    Attributes:
        version: Kedro version; None for a dataset without versions.
        digest: hash of the content; for one that is not a file, of the work that made it.
        path: file or folder, empty for one that is not a file.
    """

    version: str | None
    digest: str
    path: str = ""


@dataclass(frozen=True)
class Work:
    """All that decides what a node makes; two equal works make the same.

    Attributes:
        wiring: which dataset is which argument, and which output.
        code: hash by module of the project that the node's function, datasets and hooks reach; ``values of <module>``
            where others have set some.
        libraries: version by library.
        parameters: values by ``params:`` name.
        files: content by file or folder that a parameter names.
        datasets: settings of the catalog by dataset, without places and credentials.
        inputs: content by dataset.
        opened: content by file or folder (it ends in ``/``) outside of the catalog that the node was seen to read.
        imported: modules that it was seen to import.
    """

    wiring: Any
    code: dict[str, str]
    libraries: dict[str, str]
    parameters: dict[str, Any]
    files: dict[str, str]
    datasets: dict[str, Any]
    inputs: dict[str, Artifact] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeRecord:
    """A successful run of a node: what went in, what came out, and why it ran."""

    node: str
    run_id: str
    key: str
    work: Work
    outputs: dict[str, Artifact]
    seconds: float
    finished: str
    why: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what :func:`dataclasses.asdict` gave."""
        work = {**values["work"], "inputs": _artifacts(values["work"]["inputs"])}
        return cls(**{**values, "work": Work(**work), "outputs": _artifacts(values["outputs"])})


def _artifacts(values: Mapping[str, Any]) -> dict[str, Artifact]:
    return {name: Artifact(**artifact) for name, artifact in values.items()}


class Manifest:
    """Folder that remembers runs.

    ``manifest.json`` has the last successful record of every node, ``history/<run>.json`` all records of a run,
    ``hashes.json`` content hashes of files, ``started.json`` the node at work, ``scratch/`` what unfinished nodes keep
    for their next attempt. A record counts once it stands in the history; after a kill, :meth:`recover` puts a record
    that did not reach the manifest there, and removes what an unfinished node left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_again()

    def read_again(self) -> None:
        """Take over what another run has written meanwhile."""
        self.records: dict[str, NodeRecord] = self._read(self.folder / "manifest.json")
        self.hashes = FileHashes(self.folder / "hashes.json")
        self._encoded: dict[tuple[str, str], str] = {}
        self._this_run: dict[str, NodeRecord] = {}
        self.killed: list[str] = []

    def _read(self, path: Path) -> dict[str, NodeRecord]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                logger.warning("%s has the format %r, not %r: every node runs again", path, content["format"], FORMAT)
                return {}
            return {name: NodeRecord.from_json(values) for name, values in content["nodes"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is unreadable (%s): its nodes run again", path, error)
            return {}

    def history(self) -> dict[str, dict[str, NodeRecord]]:
        """All records by run and node, oldest run first."""
        return {path.stem: self._read(path) for path in sorted((self.folder / "history").glob("*.json"))}

    def forget(self, run_id: str, nodes: set[str]) -> None:
        """Drop records of a run from the history."""
        path = self._history_path(run_id)
        kept = {name: record for name, record in self._read(path).items() if name not in nodes}
        if kept:
            self._write(path, kept)
        else:
            path.unlink(missing_ok=True)

    def start(self, run_id: str, node: str, folders: list[str]) -> None:
        """Note that ``node`` is at work, and which version folders it may leave unfinished."""
        note = {"run_id": run_id, "node": node, "pid": os.getpid(), "folders": folders}
        self._guarded(self.folder / "started.json", json.dumps(note))

    def finish(self, record: NodeRecord) -> None:
        """Keep the record of a node whose outputs are all stored."""
        self._this_run = {name: other for name, other in self._this_run.items() if other.run_id == record.run_id}
        self._this_run[record.node] = record
        self._write(self._history_path(record.run_id), self._this_run)
        self._promote(record)

    def _promote(self, record: NodeRecord) -> None:
        self.records[record.node] = record
        self._write(self.folder / "manifest.json", self.records)
        self.save_hashes()
        self.clear_scratch(record.node)
        (self.folder / "started.json").unlink(missing_ok=True)

    def save_hashes(self) -> None:
        """Keep what is known of the files' content; where that fails, on a full disk, they are read once more."""
        try:
            self.hashes.save()
        except OSError as error:
            logger.warning("The hashes of files cannot be kept in %s: %s", self.folder, error.strerror)

    def give_up(self) -> str | None:
        """Remove what the node at work has left; the run that it belonged to, or None if there was none."""
        path = self.folder / "started.json"
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        record = self._read(self._history_path(note["run_id"])).get(note["node"])
        if record is not None:
            self._promote(record)
            return str(note["run_id"])
        for folder in map(Path, note["folders"]):
            if folder.name == note["run_id"] and folder.is_dir():  # nothing but this run's own version
                shutil.rmtree(folder)
        path.unlink()
        return str(note["run_id"])

    def recover(self) -> None:
        """Clear up after a run that was killed."""
        run_id = self.give_up()
        for staged in [*self.folder.glob(".*.json"), *self.folder.glob("history/.*.json")]:
            staged.unlink()  # half-written by a run that was killed: only the holder of the lock writes here
        if run_id:
            logger.info("The run %s was killed: what it had finished is kept, what it had begun was removed", run_id)

    def scratch(self, node: str, key: str) -> Path:
        """Folder of an unfinished node for exactly this work; those of other works of the node are removed."""
        folder = self.folder / "scratch" / node
        for other in folder.glob("*"):
            if other.name != key:
                shutil.rmtree(other)
        return folder / key

    def clear_scratch(self, node: str) -> None:
        """Remove what a node kept for another attempt: it has succeeded."""
        folder = self.folder / "scratch" / node
        if folder.exists():
            shutil.rmtree(folder)

    @contextmanager
    def locked(self, run_id: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the only right to run and write here; the system takes it back from a process that dies.

        Raises:
            RunnerError: if another run holds it and ``wait`` is False, or if that one ended with a newer version.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, holder = filelock.FileLock(self.folder / "lock"), self.folder / "holder.json"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            message = f"another run writes to {self.folder.parent}: {_describe(holder)}"
            if not wait:
                raise RunnerError(f"{message}. Wait for its end, or leave out wait=false") from None
            logger.warning("Waiting: %s", message)
            lock.acquire()
            self.read_again()
        try:
            newest = max((record.run_id for record in self.records.values()), default="")
            if newest > run_id:
                raise RunnerError(
                    f"the run {newest} has written newer versions than this run, {run_id}, would: start it again"
                )
            # The note of a run that ended by itself is gone; runs that were killed one after the other add up.
            before = _note(holder)
            self.killed = [*before["killed"], before["run_id"]] if before else []
            note = {"pid": os.getpid(), "run_id": run_id, "command": " ".join(sys.argv), "killed": self.killed}
            self._guarded(holder, json.dumps(note))
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def _history_path(self, run_id: str) -> Path:
        return self.folder / "history" / f"{run_id}.json"

    def _write(self, path: Path, records: Mapping[str, NodeRecord]) -> None:
        nodes = ", ".join(f"{json.dumps(name)}: {self._encode(record)}" for name, record in records.items())
        self._guarded(path, f'{{"format": {FORMAT}, "nodes": {{{nodes}}}}}')

    def _encode(self, record: NodeRecord) -> str:
        """JSON of a record, kept: the manifest is written after each node, and all but one record are as before."""
        key = (record.run_id, record.node)
        if key not in self._encoded:
            self._encoded[key] = json.dumps(asdict(record), ensure_ascii=False)
        return self._encoded[key]

    def _guarded(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, text)
        except OSError as error:
            raise RunnerError(f"cannot write {path}, which remembers the run: {error.strerror}") from error


def _note(holder: Path) -> dict[str, Any] | None:
    """What the run that holds the lock, or died holding it, says of itself."""
    try:
        note: dict[str, Any] = json.loads(holder.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return note


def _describe(holder: Path) -> str:
    note = _note(holder)
    if note is None:
        return "it has just started"
    return f"process {note['pid']}, run {note['run_id']}, `{note['command']}`"


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


def now() -> str:
    """The time as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
