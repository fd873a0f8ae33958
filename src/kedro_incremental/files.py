"""What is in files: content hashes with a cache, and where a Kedro dataset keeps its files."""

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import xxhash
from pydantic import StringConstraints, TypeAdapter

from .reading import plain
from .schemas import Unreadable, read_json
from .values import canonical, digest
from .versions import innermost, newest_first

logger = logging.getLogger(__name__)

RACY_NS = 100_000_000  # a file that changed less than this before it was hashed may change again within one clock tick
TELLS_NOTHING = {"name", "size", "type", "url", "mimetype", "partial"}  # what a store may say without telling changes


def set_aside(path: Path) -> Path:
    """Rename a file, folder or link to ``<name>.unreadable-<n>``, so that nothing is lost; the new path."""
    aside = next(place for n in count(1) if not os.path.lexists(place := path.with_name(f"{path.name}.unreadable-{n}")))
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, *, durable: bool = True, named: bool = True) -> None:
    """Write a small text file, and its folder, so that a reader sees the old one or the new one, also after a kill.

    Args:
        path: file to write; its folder is made.
        text: content.
        durable: have it on the disk before it gets its name: a power failure leaves no empty file either.
        named: have the name on the disk as well; False if :func:`sync_folder` is called soon.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if durable and named:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; systems that cannot open a folder keep them themselves."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """XXH3 (128 bits) of a file's content: it tells changes and damage, not attacks, at the speed of memory."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
# By path: size, times of the content and of the entry, inode, when it was hashed, and the hash.
_Known = dict[str, tuple[int, int, int, int, int, _Hash]]
HASHES: TypeAdapter[_Known] = TypeAdapter(_Known)


class FileHashes:
    """Content hashes of files and folders, read again only where size, times or inode have changed.

    Args:
        path: JSON file that keeps the hashes; it may be lost at any time, the files are then read once more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = self._unreadable = False
        self._known: _Known = {}
        try:
            self._known = read_json(path, HASHES) or {}
        except Unreadable as error:
            self._changed = self._unreadable = True
            logger.warning("%s is unreadable (%s): all files are hashed again", path, error)

    def of(self, path: Path, *, trust: bool = True) -> str | None:
        """Hash of a file, or of a folder with all it holds; None if there is nothing. ``trust``: in the cache."""
        try:
            if path.is_dir():
                return self._of_folder(path, trust=trust)
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        signature = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        known = self._known.get(str(path))
        if trust and known and known[:-2] == signature and max(signature[1:3]) < known[-2] - RACY_NS:
            return known[-1]
        began = time.time_ns()
        self._known[str(path)] = known = (*signature, began, hash_file(path))
        self._changed = True
        return known[-1]

    def _of_folder(self, folder: Path, *, trust: bool) -> str:
        content: list[list[Any]] = []
        seen: set[str] = set()
        for place, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            if (real := os.path.realpath(place)) in seen:  # a link to a folder around it
                folders.clear()
                continue
            seen.add(real)
            inner = Path(place).relative_to(folder).as_posix()
            content += [[f"{inner}/{name}", self.of(Path(place, name), trust=trust)] for name in sorted(names)]
            content.append([f"{inner}/", None])  # also one that is empty
        return xxhash.xxh3_128_hexdigest(json.dumps(sorted(content, key=str)).encode())

    def of_listing(self, folder: Path, *, trust: bool = True) -> str | None:
        """Hash of what a folder has in it: names, and the content of the files directly in it; None without one."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        content = [
            [
                each.name,
                self.of(Path(each), trust=trust) if each.is_file() and not _is_journal(each) else None,
            ]
            for each in entries
            if each.name != "__pycache__"
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(content).encode())

    def save(self) -> None:
        """Keep the hashes for the next run, without those of files that are gone."""
        if self._changed:
            self._known = {name: known for name, known in self._known.items() if os.path.exists(name)}
            if self._unreadable:
                set_aside(self._path)
                self._unreadable = False
            write_atomically(self._path, json.dumps(self._known), durable=False)
            self._changed = False


@dataclass(frozen=True)
class Place:
    """Where a dataset keeps its content."""

    path: str  # the file or folder, without the version
    filesystem: Any | None  # that of fsspec for a remote one
    versioned: bool  # by Kedro: ``<path>/<version>/<name>``

    def of_version(self, version: str | None) -> str:
        """Path of one version, or of an unversioned dataset."""
        return f"{self.path}/{version}/{self.path.rsplit('/', 1)[-1]}" if self.versioned else self.path

    def hash(self, version: str | None, hashes: FileHashes, *, trust: bool = True) -> str | None:
        """Hash of the content, or of what the store of a remote file says of it (an ETag, or its time and size).

        None if there is nothing, or if the store says too little to notice a change.
        """
        path = self.of_version(version)
        if self.filesystem is None:
            return hashes.of(Path(path), trust=trust)
        return _remote_hash(self.filesystem, path) if self.filesystem.exists(path) else None

    def versions(self) -> list[str]:
        """Versions that have a file, newest first; without names that Kedro takes for no version."""
        if not self.versioned:
            return []
        name = self.path.rsplit("/", 1)[-1]
        if self.filesystem is not None:
            return newest_first(path.split("/")[-2] for path in self.filesystem.glob(f"{self.path}/*/{name}"))
        try:
            folders = [entry.name for entry in os.scandir(self.path) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return newest_first(folder for folder in folders if Path(self.path, folder, name).exists())


def _remote_hash(filesystem: Any, path: str) -> str | None:
    about = filesystem.info(path)
    if about["type"] == "directory":
        content = [[name, _remote_hash(filesystem, name)] for name in sorted(filesystem.find(path))]
        return f"remote:{digest(canonical(content))}" if all(hashed for _, hashed in content) else None
    return f"remote:{filesystem.checksum(path)}" if set(about) - TELLS_NOTHING else None


def place_of(dataset: Any) -> Place | None:
    """Where ``dataset`` keeps its content; None for one that is not a file (a table of a database, a value)."""
    dataset = innermost(dataset)
    path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    if path is None or getattr(dataset, "_EPHEMERAL", False):
        return None
    protocol = getattr(dataset, "_protocol", None)
    local = protocol in {"file", "local", "", None}
    filesystem = None if local else getattr(dataset, "_fs", None) or getattr(dataset, "_filesystem", None)
    if not local and filesystem is None:
        return None
    text = f"{protocol}://{path}" if protocol in {"http", "https"} and "://" not in str(path) else str(path)
    return Place(text.removeprefix("file://"), filesystem, versioned=bool(getattr(dataset, "_version", None)))


def local_paths(value: Any, project: Path) -> Iterator[tuple[str, Path]]:
    """Texts within a parameter that name files or folders of this machine, with the path; of a pattern, each that fits.

    Only what looks like a path (it has a separator, or is the name of a file with a suffix) and exists; relative ones
    start from the project, ``~`` and ``$VARIABLES`` are replaced. A folder around the project does not count.
    """
    for text in _texts(plain(value, strict=False)):
        for name, path in _existing(text, project):
            if not project.resolve().is_relative_to(path.resolve()):
                yield name, path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _existing(name: str, project: Path) -> Iterator[tuple[str, Path]]:
    text = name.removeprefix("file://")
    if "://" in text or "\n" in text or "\0" in text or not 0 < len(text) < 4096:
        return
    path = project / os.path.expandvars(os.path.expanduser(text))
    is_path = "/" in text or os.sep in text
    try:
        if os.path.exists(path):
            if is_path or (path.suffix and path.is_file()):
                yield name, path
        elif glob.has_magic(str(path)) and (is_path or path.suffix):
            for found in sorted(glob.glob(str(path), recursive=True, include_hidden=True)):
                yield f"{name}: {os.path.relpath(found, project)}", Path(found)
    except (ValueError, re.error):  # what looks like a pattern, and is none
        return


def _is_journal(entry: os.DirEntry[str]) -> bool:
    """Whether a file is a database or log, which grows while nodes run."""
    return entry.name.endswith((".db", ".sqlite", ".sqlite3", ".log", "-journal", "-wal", "-shm"))
