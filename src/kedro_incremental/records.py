"""What is remembered of runs: a record for each node, the newest ones in one manifest, and one run at a time."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import filelock
from pydantic import TypeAdapter

from .files import FileHashes, remove, set_aside, sync_folder, write_atomically
from .redaction import shown
from .schemas import NOTE, RECORDS, NodeRecord, Note, Unreadable, read_json
from .versions import checked, is_version_folder, newest_first, version_after

logger = logging.getLogger(__name__)
T = TypeVar("T")


class RunnerError(Exception):
    """A run cannot start or go on, for a reason that its user can mend."""


class Manifest:
    """Folder that remembers runs.

    ``manifest.json`` has the last successful record of every node, ``history/<run>.json`` all records of a run once it
    has ended, ``hashes.json`` content hashes of files, ``started.json`` the node at work, ``holder.json`` the run that
    holds the lock, ``scratch/`` what unfinished nodes keep for their next attempt. A record counts once it stands in
    the manifest; after a kill, :meth:`recover` completes the history and removes what an unfinished node left.

    A file that cannot be read is as good as none. The holder of the lock renames it, so that nothing is lost.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed: list[str] = []
        self._lock: filelock.BaseFileLock | None = None

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
            self._write(path, kept)
        else:
            path.unlink(missing_ok=True)

    def next_version(self, own: str, stored: Iterable[str] = ()) -> str:
        """Version for a run: its own, or one that comes after all that are there, since clocks may be wrong.

        ``own`` is what Kedro would take, the time at which the session began; ``stored`` has the newest versions of
        the datasets that the run may write.

        Raises:
            RunnerError: if ``own`` can be no version.
        """
        try:
            checked(own)
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
        """Note that ``node`` is at work, and which version folders it may leave unfinished."""
        self._note(self.folder / "started.json", Note(run_id, os.getpid(), node=node, folders=folders))

    def finish(self, record: NodeRecord) -> None:
        """Keep the record of a node whose outputs are all stored."""
        # The note of the next node, or the end of the run, has the new name on the disk: each of these waits for it.
        self._write(self.folder / "manifest.json", {**self.records, record.node: record}, named=False)
        self.records[record.node] = record
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
        note = self._load(path, NOTE)
        if note is None:
            return None
        made = [*self.records.values(), *self._read(self._history_path(note.run_id)).values()]
        stored = {Path(output.path).parent for one in made for output in one.outputs.values() if output.path}
        for folder in map(Path, note.folders):
            if folder not in stored and os.path.lexists(folder):
                self._remove_unfinished(folder, note.run_id)
        with _in_one_line(path):
            path.unlink(missing_ok=True)
        return note.run_id

    def _remove_unfinished(self, folder: Path, run_id: str) -> None:
        is_around = self.folder.resolve().is_relative_to(folder.resolve())
        if is_around or folder.name != run_id or not is_version_folder(folder):
            logger.warning("%s stays: nothing shows that it is an unfinished version of the run %s", folder, run_id)
            return
        with _in_one_line(folder):
            remove(folder)

    def recover(self) -> None:
        """Clear up after a run that was killed."""
        run_id = self.give_up()
        self._complete_history()
        for staged in [*self.folder.glob(".*.json"), *self.folder.glob("history/.*.json")]:
            if staged.is_file():
                staged.unlink()  # half-written by a run that was killed: only the holder of the lock writes here
        if run_id:
            logger.info("The run %s was killed: what it had finished is kept, what it had begun was removed", run_id)

    def scratch(self, node: str, key: str) -> Path:
        """Folder of an unfinished node for exactly this work; those of other works of the node are removed."""
        folder = self.folder / "scratch" / node
        for other in folder.glob("*"):
            if other.name != key or not other.is_dir():
                remove(other)
        return folder / key

    def clear_scratch(self, node: str) -> None:
        """Remove what a node kept for another attempt: it has succeeded."""
        remove(self.folder / "scratch" / node)

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
                self._make_way(self.folder / name, is_right=Path.is_dir)
            # The note of a run that ended by itself is gone; runs that were killed one after the other add up.
            before = self._load(holder, NOTE)
            self.killed = [*before.killed, before.run_id] if before else []
            self._note(holder, Note(run_id, os.getpid(), shown(" ".join(sys.argv)), self.killed))
            try:
                yield
            finally:
                try:
                    self._complete_history()
                    with _in_one_line(self.folder):
                        sync_folder(self.folder)
                except RunnerError as error:
                    logger.warning("%s: the next run writes it", error)
                holder.unlink(missing_ok=True)

    def _acquire(self, holder: Path, *, wait: bool) -> filelock.AcquireReturnProxy:
        path = self.folder / "lock"
        with _in_one_line(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_way(path, is_right=Path.is_file)
            self._lock = filelock.FileLock(path)
            try:
                return self._lock.acquire(timeout=0)
            except filelock.Timeout:
                message = f"another run writes to {self.folder.parent}: {_describe(holder)}"
                if not wait:
                    raise RunnerError(f"{message}. Wait for its end, or leave out wait=false") from None
                logger.warning("Waiting: %s", message)
                return self._lock.acquire()

    # Files

    def _make_way(self, path: Path, is_right: Callable[[Path], bool]) -> None:
        if os.path.lexists(path) and not is_right(path):
            with _in_one_line(path):
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
                self._write(self._history_path(run_id), records)

    def _read(self, path: Path) -> dict[str, NodeRecord]:
        content = self._load(path, RECORDS)
        return content.nodes if content else {}

    def _load(self, path: Path, shape: TypeAdapter[T]) -> T | None:
        try:
            return read_json(path, shape)
        except Unreadable as error:
            kept = ""
            if self._lock and self._lock.is_locked:
                with _in_one_line(path):
                    kept = f"; it is kept as {set_aside(path).name}"
            logger.warning("%s is unreadable (%s): what it would say runs again%s", path, error, kept)
            return None

    def _write(self, path: Path, records: Mapping[str, NodeRecord], *, named: bool = True) -> None:
        nodes = ", ".join(f"{json.dumps(name)}: {record.json}" for name, record in records.items())
        self._keep(path, f'{{"format": 2, "nodes": {{{nodes}}}}}', named=named)

    def _note(self, path: Path, note: Note) -> None:
        self._keep(path, json.dumps(asdict(note)))

    def _keep(self, path: Path, text: str, *, named: bool = True) -> None:
        with _in_one_line(path):
            write_atomically(path, text, named=named)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
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
    """The time as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
