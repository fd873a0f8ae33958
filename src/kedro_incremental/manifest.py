"""The manifest of runs: a record of the last success of each node, the history, and the lock that one run holds."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import filelock
from pydantic import AfterValidator, TypeAdapter

from .canonical_json import differences
from .redaction import redacted
from .storage import (
    FileHashes,
    Unreadable,
    checked_version,
    is_version_folder,
    newest_first,
    read_json,
    remove,
    set_aside,
    version_after,
    write_atomically,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 3
VersionName = Annotated[str, AfterValidator(checked_version)]


class RunnerError(Exception):
    """A run cannot start or go on, for a reason that its user can remove."""


@dataclass(frozen=True)
class Artifact:
    """Content of a dataset as a node read or wrote it."""

    version: VersionName | None  # of Kedro
    digest: str  # hash of the content; of one that is not a file, of the inputs that made it
    path: str = ""  # file or folder; empty for one that is not a file


@dataclass(frozen=True)
class NodeInputs:
    """All that decides the result of a node: equal inputs give equal results."""

    wiring: Any  # the dataset of each argument and output
    # Hash by module that the function, datasets and hooks reach; "values of <module>" where others have set some.
    code: dict[str, str]
    libraries: dict[str, str]  # version by library
    parameters: dict[str, Any]  # values by "params:" name
    files: dict[str, str]  # hash by file or folder that a parameter names
    catalog: dict[str, Any]  # settings by dataset, without paths and credentials
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # that it loads, by dataset
    # Hash by file, or folder (it ends in "/"), outside of the catalog that the node has opened.
    opened: dict[str, str] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)  # modules that the node has imported


def diff(old: NodeInputs, new: NodeInputs, uncertain: Set[str] = frozenset()) -> list[str]:
    """How the inputs of a node differ, in words: parameters, files, datasets, code, libraries, catalog.

    Args:
        old: inputs of one run.
        new: inputs of another.
        uncertain: datasets that are left out of the comparison.
    """
    reasons = _value_diff("parameter", old.parameters, new.parameters)
    reasons += [f"content of {path} changed" for path in _changed(old.files, new.files)]
    reasons += [f"{path}, which it reads, changed" for path in _changed(old.opened, new.opened)]
    before, after = ({name: each.digest for name, each in one.artifacts.items()} for one in (old, new))
    reasons += [f"input {name} changed" for name in _changed(before, after) if name in after and name not in uncertain]
    if old.wiring != new.wiring:
        reasons.append("its inputs or outputs are others")
    for name in sorted(
        _changed(old.code, new.code), key=lambda each: (each not in new.code, each not in old.code, each)
    ):
        change = "is new" if name not in old.code else "changed" if name in new.code else "is no longer used"
        reasons.append(f"{name} {change}" if name.startswith("values of ") else f"code of {name} {change}")
    for name in sorted(_changed(old.libraries, new.libraries)):
        reasons.append(f"library {name} {old.libraries.get(name, 'none')} → {new.libraries.get(name, 'none')}")
    return reasons + _value_diff("catalog entry", old.catalog, new.catalog)


def _changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _value_diff(kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = {**old, **new}
    return [f"{kind} {change}" for name in names for change in differences(old.get(name, {}), new.get(name, {}), name)]


@dataclass(frozen=True)
class NodeRecord:
    """A successful run of a node."""

    node: str
    run_id: VersionName
    key: str  # hash of the inputs
    inputs: NodeInputs
    outputs: dict[str, Artifact]
    seconds: float
    finished: str
    why: str  # it ran

    @cached_property
    def json(self) -> str:
        """The record as text; cached, as each node writes the manifest anew."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Records:
    """Content of ``manifest.json``, and of the history of a run."""

    format: Literal[3]
    nodes: dict[str, NodeRecord]

    def __post_init__(self) -> None:
        if any(name != record.node for name, record in self.nodes.items()):
            raise ValueError("a record stands under the name of another node")


@dataclass(frozen=True)
class Note:
    """What a run writes down in case it is killed: that it holds the lock, and the node that it runs."""

    run_id: VersionName
    pid: int
    command: str = ""  # its command line, without secrets
    killed: list[VersionName] = field(default_factory=list)  # the runs before it that held the lock until then
    node: str = ""
    folders: list[str] = field(default_factory=list)  # versions that the node may leave unfinished


RECORDS, NOTE = TypeAdapter(Records), TypeAdapter(Note)


class Manifest:
    """Folder of the records. ``locked`` gives the right to write there; a record counts once ``finish`` has returned.

    ``manifest.json`` has the last record of each node, ``history/<run>.json`` all records of a run once it has ended,
    ``hashes.json`` hashes of files, ``started.json`` the node that runs, ``holder.json`` the run that holds the lock,
    ``scratch/`` what unfinished nodes keep for their next attempt. The holder of the lock renames a file that cannot be
    read, and goes on as if there were none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed: list[str] = []
        self._lock: filelock.BaseFileLock | None = None
        self._found_old = False

    @cached_property
    def records(self) -> dict[str, NodeRecord]:
        """The last successful record of each node."""
        return self._read(self.folder / "manifest.json")

    @cached_property
    def hashes(self) -> FileHashes:
        """Content hashes of files."""
        return FileHashes(self.folder / "hashes.json")

    def history(self) -> dict[str, dict[str, NodeRecord]]:
        """All records by run and node, oldest run first, without those of a run that has not ended."""
        return {path.stem: self._read(path) for path in sorted((self.folder / "history").glob("[!.]*.json"))}

    def forget(self, run_id: str, nodes: set[str]) -> None:
        """Drop records of a run from the history."""
        path = self._history_path(run_id)
        if kept := {name: record for name, record in self._read(path).items() if name not in nodes}:
            self._write_records(path, kept)
        else:
            path.unlink(missing_ok=True)

    def next_version(self, own: str, stored: Iterable[str] = ()) -> str:
        """Version for a run: its own, or one that comes after all others, since clocks may be wrong.

        Args:
            own: the version that Kedro would take, the time at which the session began.
            stored: newest versions of the datasets that the run may write.

        Raises:
            RunnerError: if ``own`` cannot be a version.
        """
        try:
            checked_version(own)
        except ValueError as error:
            raise RunnerError(f"the run's id {own!r} is {error}") from None
        stored = set(stored)
        recorded = {record.run_id for record in self.records.values()}
        recorded |= {made.version or "" for record in self.records.values() for made in record.outputs.values()}
        newest = next(iter(newest_first(recorded | stored)), "")
        version = version_after(newest, own) if newest else own
        while os.path.lexists(self._history_path(version)):
            version = version_after(version, own)
        if version != own:
            there = max(newest, own)
            level = logging.WARNING if there in stored and there not in recorded else logging.INFO
            logger.log(level, "This run takes the version %s, not %s: the version %s is there", version, own, there)
        return version

    def start(self, run_id: str, node: str, folders: list[str]) -> None:
        """Note that ``node`` runs, and which version folders it may leave unfinished."""
        self._write(
            self.folder / "started.json", json.dumps(asdict(Note(run_id, os.getpid(), node=node, folders=folders)))
        )

    def finish(self, record: NodeRecord) -> None:
        """Keep the record of a node whose outputs are all stored."""
        self._write_records(self.folder / "manifest.json", {**self.records, record.node: record})
        self.records[record.node] = record
        self.save_hashes()
        remove(self.folder / "scratch" / record.node)
        (self.folder / "started.json").unlink(missing_ok=True)

    def save_hashes(self) -> None:
        """Keep the hashes of files; where that fails, on a full disk, they are computed again."""
        try:
            self.hashes.save()
        except OSError as error:
            logger.warning("The hashes of files cannot be kept in %s: %s", self.folder, error.strerror)

    def abandon(self) -> str | None:
        """Remove what the unfinished node has left; its run, or None without such a node."""
        path = self.folder / "started.json"
        note = self._load(path, NOTE)
        if note is None:
            return None
        made = [*self.records.values(), *self._read(self._history_path(note.run_id)).values()]
        stored = {Path(output.path).parent for one in made for output in one.outputs.values() if output.path}
        for folder in map(Path, note.folders):
            if folder in stored or not os.path.lexists(folder):
                continue
            is_around = self.folder.resolve().is_relative_to(folder.resolve())
            if is_around or folder.name != note.run_id or not is_version_folder(folder):
                logger.warning("%s stays: it does not look like a version of the run %s", folder, note.run_id)
            else:
                with _one_line_error(folder):
                    remove(folder)
        with _one_line_error(path):
            path.unlink(missing_ok=True)
        return note.run_id

    def recover(self) -> None:
        """Clear up after a run that was killed."""
        run_id = self.abandon()
        self._complete_history()
        for staged in [*self.folder.glob(".*.json"), *self.folder.glob("history/.*.json")]:
            if staged.is_file():
                staged.unlink()  # half-written by a run that was killed: only the holder of the lock writes here
        if run_id:
            logger.info("The run %s was killed: what it had finished is kept, what it had begun was removed", run_id)

    def scratch(self, node: str, key: str) -> Path:
        """Folder of an unfinished node for exactly these inputs; those for other inputs are removed."""
        folder = self.folder / "scratch" / node
        for other in folder.glob("*"):
            if other.name != key or not other.is_dir():
                remove(other)
        return folder / key

    @contextmanager
    def locked(self, run_id: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the only right to run and write here; the system takes it back from a process that dies.

        Raises:
            RunnerError: if another run holds it and ``wait`` is False, or if nothing can be written here.
        """
        holder = self.folder / "holder.json"
        with self._acquire(holder, wait=wait):
            for name in ("records", "hashes"):  # another run may have written them meanwhile
                vars(self).pop(name, None)
            for name in ("history", "scratch"):
                self._clear_way(self.folder / name, is_right=Path.is_dir)
            # A run that ends by itself removes its note: runs that were killed one after the other add up.
            before = self._load(holder, NOTE)
            self.killed = [*before.killed, before.run_id] if before else []
            note = Note(run_id, os.getpid(), redacted(" ".join(sys.argv)), self.killed)
            self._write(holder, json.dumps(asdict(note)))
            try:
                yield
            finally:
                try:
                    self._complete_history()
                except RunnerError as error:
                    logger.warning("%s: the next run writes it", error)
                holder.unlink(missing_ok=True)

    def _acquire(self, holder: Path, *, wait: bool) -> filelock.AcquireReturnProxy:
        path = self.folder / "lock"
        with _one_line_error(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_way(path, is_right=Path.is_file)
            self._lock = filelock.FileLock(path)
            try:
                return self._lock.acquire(timeout=0)
            except filelock.Timeout:
                message = f"another run writes to {self.folder.parent}: {_describe(holder)}"
                if not wait:
                    raise RunnerError(f"{message}. Wait for its end, or leave out wait=false") from None
                logger.warning("Waiting: %s", message)
                return self._lock.acquire()

    def _clear_way(self, path: Path, is_right: Callable[[Path], bool]) -> None:
        if os.path.lexists(path) and not is_right(path):
            with _one_line_error(path):
                logger.warning("%s is in the way, and kept as %s", path, set_aside(path).name)

    def _history_path(self, run_id: str) -> Path:
        return self.folder / "history" / f"{run_id}.json"

    def _complete_history(self) -> None:
        """Write the history of every run in the manifest that has none: it is written once, not after each node."""
        runs: dict[str, dict[str, NodeRecord]] = {}
        for name, record in self.records.items():
            runs.setdefault(record.run_id, {})[name] = record
        for run_id, records in runs.items():
            if not os.path.lexists(self._history_path(run_id)):
                self._write_records(self._history_path(run_id), records)

    def _read(self, path: Path) -> dict[str, NodeRecord]:
        content = self._load(path, RECORDS)
        return content.nodes if content else {}

    def _load(self, path: Path, shape: TypeAdapter[T]) -> T | None:
        try:
            return read_json(path, shape)
        except Unreadable as error:
            kept = ""
            if self._lock and self._lock.is_locked:
                with _one_line_error(path):
                    kept = f"; it is kept as {set_aside(path).name}"
            is_old = str(error).startswith("format: ")
            if not (is_old and self._found_old):
                what = "of another version of this runner" if is_old else f"unreadable ({error})"
                logger.warning("%s is %s: what it recorded runs again%s", path, what, kept)
            self._found_old |= is_old
            return None

    def _write_records(self, path: Path, records: Mapping[str, NodeRecord]) -> None:
        nodes = ", ".join(f"{json.dumps(name)}: {record.json}" for name, record in records.items())
        self._write(path, f'{{"format": {FORMAT}, "nodes": {{{nodes}}}}}')

    def _write(self, path: Path, text: str) -> None:
        with _one_line_error(path):
            write_atomically(path, text)


@contextmanager
def _one_line_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunnerError(f"cannot write {path}, which remembers the run: {error.strerror or error}") from error


def _describe(holder: Path) -> str:
    try:
        note = read_json(holder, NOTE)
    except Unreadable:  # whoever takes the lock next says so
        note = None
    return f"process {note.pid}, run {note.run_id}, `{note.command}`" if note else "it has just started"


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
