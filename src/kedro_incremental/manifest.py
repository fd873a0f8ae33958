"""The manifest of runs: a record of each success of a node, what is known of files, and the lock that one run holds."""

import json
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import filelock
from pydantic import TypeAdapter

from .canonical_json import differences
from .redaction import redacted
from .storage import FileHashes, is_version_folder, newest_first, remove, version_after

logger = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 4
TABLES = (
    "CREATE TABLE records (number INTEGER PRIMARY KEY, run_id TEXT, node TEXT, record TEXT, UNIQUE (run_id, node))",
    "CREATE TABLE state (name TEXT PRIMARY KEY, content TEXT)",
    f"PRAGMA user_version = {FORMAT}",
)
CACHES = ("files", "sources")  # hashes, and what the parsed modules contain

Statement = tuple[str, tuple[Any, ...]]


class RunnerError(Exception):
    """A run cannot start or go on, for a reason that its user can remove."""


@dataclass(frozen=True)
class Artifact:
    """Content of a dataset as a node read or wrote it."""

    version: str | None  # of Kedro
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
    # Hash by file, or listed folder (it ends in "/"), that a parameter names or that the node has opened.
    files: dict[str, str]
    catalog: dict[str, Any]  # settings by dataset, without paths and credentials
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # that it loads, by dataset
    imported: list[str] = field(default_factory=list)  # modules that the node has imported


def diff(old: NodeInputs, new: NodeInputs, uncertain: Set[str] = frozenset()) -> list[str]:
    """How the inputs ``old`` and ``new`` of a node differ, but for ``uncertain`` datasets, in words: parameters, files,
    ….
    """
    reasons = _value_diff("parameter", old.parameters, new.parameters)
    reasons += [f"content of {path} changed" for path in _changed(old.files, new.files)]
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
    run_id: str
    key: str  # hash of the inputs
    inputs: NodeInputs
    outputs: dict[str, Artifact]
    seconds: float
    finished: str
    why: str  # it ran


RECORD = TypeAdapter(NodeRecord)


class Manifest:
    """Folder of ``manifest.db`` (SQLite), ``lock``, and ``scratch/``, which unfinished nodes keep for the next attempt.

    ``locked`` gives the right to write there. The holder of the lock renames a file that cannot be read, and goes on as
    if there were none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "manifest.db"
        self.killed: list[str] = []
        self._lock: filelock.BaseFileLock | None = None
        self._saved: dict[str, str] = {}

    # Reading

    @cached_property
    def records(self) -> dict[str, NodeRecord]:
        """The last successful record of each node."""
        last = "WHERE number IN (SELECT max(number) FROM records GROUP BY node)"
        return {record.node: record for record in self._records(last)}

    @cached_property
    def cache(self) -> dict[str, dict[str, Any]]:
        """What may be lost at any time, as JSON values by name."""
        return {kind: self.state(kind) or {} for kind in CACHES}

    @cached_property
    def hashes(self) -> FileHashes:
        """Content hashes of files."""
        return FileHashes(self.cache["files"])

    def history(self) -> dict[str, dict[str, NodeRecord]]:
        """All records by run and node, oldest run first."""
        runs: dict[str, dict[str, NodeRecord]] = {}
        for record in self._records("ORDER BY number"):
            runs.setdefault(record.run_id, {})[record.node] = record
        return runs

    def state(self, name: str) -> Any:
        """A cache, the run that is the ``holder`` of the lock, or the node that it has ``started``; None if unset."""
        return next(iter(self._select("content FROM state WHERE name = ?", json.loads, name)), None)

    def _records(self, which: str) -> list[NodeRecord]:
        return self._select(f"record FROM records {which}", lambda text: RECORD.validate_python(json.loads(text)))

    def _select(self, query: str, parse: Callable[[str], T], *values: str) -> list[T]:
        is_file = self._path.is_file()
        if not os.path.lexists(self._path) or (is_file and not self._path.stat().st_size):
            return []  # nothing ran yet, or the first run was killed before it had written anything
        try:
            if not is_file:  # a folder, a link to nothing, or a named pipe, which would wait for a writer for ever
                raise ValueError("not a file")
            with self._database("rw") as database:
                if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                    raise ValueError("of another version of this runner")
                return [parse(row[0]) for row in database.execute(f"SELECT {query}", values)]
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            self._report_unreadable(error)
            return []

    def _report_unreadable(self, error: Exception) -> None:
        kept = ""
        if self._lock and self._lock.is_locked:
            with _one_line_error(self._path):
                kept = f"; it is kept as {_set_aside(self._path).name}"
                for left in self.folder.glob(f"{self._path.name}-*"):  # it must not be taken for one of the next file
                    _set_aside(left)
        reason = str(error).partition("\n")[0]
        logger.warning("%s is unreadable (%s): what it recorded runs again%s", self._path, reason, kept)

    # Writing

    @contextmanager
    def _database(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self._path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=60, isolation_level=None)) as database:
            yield database

    def _write(self, *statements: Statement) -> None:
        with _one_line_error(self._path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._database("rwc") as database:
                database.execute("BEGIN IMMEDIATE")
                if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                    statements = (*((table, ()) for table in TABLES), *statements)
                for statement, values in statements:
                    database.execute(statement, values)
                database.execute("COMMIT")

    def start(self, run_id: str, node: str, folders: list[str]) -> None:
        """Note that ``node`` runs, and which version folders it may leave unfinished."""
        self._write(_keep("started", json.dumps({"run_id": run_id, "node": node, "folders": folders})))

    def finish(self, record: NodeRecord) -> None:
        """Keep the record of a node whose outputs are all stored."""
        values = (record.run_id, record.node, json.dumps(asdict(record)))
        keep = ("INSERT OR REPLACE INTO records (run_id, node, record) VALUES (?, ?, ?)", values)
        self._write(keep, _drop("started"), *self._cache_changes())
        self.records[record.node] = record
        remove(self.folder / "scratch" / record.node)

    def forget(self, run_id: str, nodes: Set[str]) -> None:
        """Drop records of a run from the history."""
        self._write(*(("DELETE FROM records WHERE run_id = ? AND node = ?", (run_id, node)) for node in nodes))

    def save_cache(self) -> None:
        """Keep what the next run can use again; where that fails, on a full disk, it is computed again."""
        self.hashes.forget_missing()
        try:
            self._write(*self._cache_changes())
        except RunnerError as error:
            logger.warning("%s: the next run hashes the files again", error)

    def _cache_changes(self) -> list[Statement]:
        texts = {kind: json.dumps(known) for kind, known in self.cache.items()}
        changes = [_keep(kind, text) for kind, text in texts.items() if self._saved.get(kind) != text]
        self._saved = texts
        return changes

    def next_version(self, own: str, stored: Iterable[str] = ()) -> str:
        """Version for a run: its own, or one that comes after all others, since clocks may be wrong.

        Args:
            own: the version that Kedro would take, the time at which the session began.
            stored: newest versions of the datasets that the run may write.

        Raises:
            RunnerError: if ``own`` cannot be a version.
        """
        if own in {"", ".", ".."} or set(own) & set("/\\\0"):
            raise RunnerError(f"the run's id {own!r} is no name of a version: it must be one part of a path")
        recorded, stored = set(self._select("DISTINCT run_id FROM records", str)), set(stored)
        recorded |= {made.version or "" for record in self.records.values() for made in record.outputs.values()}
        newest = next(iter(newest_first(recorded | stored)), "")
        version = version_after(newest, own) if newest else own
        if version != own:
            there = max(newest, own)
            level = logging.WARNING if there in stored and there not in recorded else logging.INFO
            logger.log(level, "This run takes the version %s, not %s: the version %s is there", version, own, there)
        return version

    # Kills

    def abandon(self) -> str | None:
        """Remove what the unfinished node has left; its run, or None without such a node."""
        if (note := self.state("started")) is None:
            return None
        records = [record for run in self.history().values() for record in run.values()]
        stored = {Path(made.path).parent for record in records for made in record.outputs.values() if made.path}
        for folder in map(Path, note["folders"]):
            if folder in stored or not os.path.lexists(folder):
                continue
            if folder.name == note["run_id"] and is_version_folder(folder):
                with _one_line_error(folder):
                    remove(folder)
            else:
                logger.warning("%s stays: it does not look like a version of the run %s", folder, note["run_id"])
        self._write(_drop("started"))
        return str(note["run_id"])

    def scratch(self, node: str, key: str) -> Path:
        """Folder of an unfinished node for exactly these inputs; those for other inputs are removed."""
        folder = self.folder / "scratch" / node
        for other in folder.glob("*"):
            if other.name != key or not other.is_dir():
                remove(other)
        return folder / key

    @contextmanager
    def locked(self, run_id: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the only right to run and write here, and clear up after a run that was killed.

        The system takes the lock back from a process that dies.

        Raises:
            RunnerError: if another run holds it and ``wait`` is False, or if nothing can be written here.
        """
        with self._acquire(wait=wait):
            for name in ("records", "cache", "hashes"):  # another run may have written them meanwhile
                vars(self).pop(name, None)
            self._select("quick_check FROM pragma_quick_check", _require_whole)
            _clear_way(self.folder / "scratch", is_right=(self.folder / "scratch").is_dir())
            # A run that ends by itself removes its note: runs that were killed one after the other add up.
            before = self.state("holder")
            self.killed = [*before["killed"], before["run_id"]] if before else []
            note = {"run_id": run_id, "pid": os.getpid(), "command": redacted(" ".join(sys.argv))}
            self._write(_keep("holder", json.dumps({**note, "killed": self.killed})))
            if run := self.abandon():
                logger.info("The run %s was killed: what it had finished is kept, what it had begun was removed", run)
            try:
                yield
            finally:
                self._write(_drop("holder"))

    def _acquire(self, *, wait: bool) -> filelock.AcquireReturnProxy:
        path = self.folder / "lock"
        with _one_line_error(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            _clear_way(path, is_right=path.is_file())
            self._lock = filelock.FileLock(path)
            with suppress(filelock.Timeout):
                return self._lock.acquire(timeout=0)
            holder = self.state("holder")
            about = "process {pid}, run {run_id}, `{command}`".format(**holder) if holder else "it has just started"
            message = f"another run writes to {self.folder.parent}: {about}"
            if not wait:
                raise RunnerError(f"{message}. Wait for its end, or leave out wait=false")
            logger.warning("Waiting: %s", message)
            return self._lock.acquire()


def _keep(name: str, content: str) -> Statement:
    return "INSERT OR REPLACE INTO state VALUES (?, ?)", (name, content)


def _drop(name: str) -> Statement:
    return "DELETE FROM state WHERE name = ?", (name,)


def _require_whole(answer: str) -> None:
    if answer != "ok":
        raise ValueError(answer)


def _set_aside(path: Path) -> Path:
    """Rename a file, folder or link to ``<name>.unreadable-<n>``, so that nothing is lost; the new path."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.unreadable-{number}")):
        number += 1
    return path.rename(aside)


def _clear_way(path: Path, *, is_right: bool) -> None:
    if os.path.lexists(path) and not is_right:
        with _one_line_error(path):
            logger.warning("%s is in the way, and kept as %s", path, _set_aside(path).name)


@contextmanager
def _one_line_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunnerError(f"cannot write {path}, which remembers the run: {reason}") from error


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
