"""Where datasets keep their content: files, their hashes, and the names of their versions."""

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import xxhash
from kedro.io.core import VERSION_FORMAT, generate_timestamp
from pydantic import StringConstraints, TypeAdapter, ValidationError

from .canonical_json import as_json, canonical, digest, texts_in

logger = logging.getLogger(__name__)
T = TypeVar("T")

RACY_NS = 100_000_000  # a file that changed less than this before it was hashed may change again within one clock tick
UNTELLING = {"name", "size", "type", "url", "mimetype", "partial"}  # fields of a store that do not show a change
LONGEST = 225  # bytes of a version's name: file systems allow 255, and a successor needs some
DEEPEST = 150  # nesting of JSON files; what compares them recurses, and Python allows a thousand calls
JOURNALS = (".db", ".sqlite", ".sqlite3", ".log", "-journal", "-wal", "-shm")  # files that grow while nodes run


# Reading and writing small files


class Unreadable(ValueError):
    """A file does not hold what this package writes."""


def read_json(path: Path, shape: TypeAdapter[T]) -> T | None:
    """Read a JSON file and check its types; None if there is none.

    Raises:
        Unreadable: if it is no regular file, cannot be opened, is no JSON, or has other types; the reason in one line.
    """
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():  # a folder, a link to nothing, or a named pipe, which would wait for a writer for ever
            raise Unreadable("not a file")
        content = json.loads(path.read_bytes())
        if _is_deeper(content, DEEPEST):
            raise Unreadable("nested too deeply")
        return shape.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Unreadable(f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(str(getattr(error, "strerror", error)).partition("\n")[0]) from error


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(item, levels - 1) for item in inner)


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file, and its folder, so that a reader sees the old one or the new one, also after a kill.

    ``durable`` has it on the disk before it gets its name, so that a power failure leaves no empty file.
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
    if durable and hasattr(os, "O_DIRECTORY"):  # the name, too; other systems do so themselves
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a file, folder or link to ``<name>.unreadable-<n>``, so that nothing is lost; the new path."""
    aside = next(new for n in count(1) if not os.path.lexists(new := path.with_name(f"{path.name}.unreadable-{n}")))
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# Hashes


def hash_file(path: Path) -> str:
    """XXH3 (128 bits) of a file's content: it shows changes and damage, not attacks, at the speed of memory."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


# By path: size, times of the content and of the entry, inode, when it was hashed, and the hash.
_Known = dict[str, tuple[int, int, int, int, int, Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]]]


class FileHashes:
    """Content hashes of files and folders, read again only where size, times or inode have changed.

    Args:
        path: JSON file that keeps the hashes; it may be lost at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._changed, self._unreadable = path, False, False
        self._known: _Known = {}
        try:
            self._known = read_json(path, TypeAdapter(_Known)) or {}
        except Unreadable as error:
            self._changed = self._unreadable = True
            logger.warning("%s is unreadable (%s): all files are hashed again", path, error)

    def hash(self, path: Path, *, trust: bool = True) -> str | None:
        """Hash of a file, or of a folder with its content; None if there is nothing.

        Args:
            path: the file or folder.
            trust: take the hash of an earlier call where size, times and inode are the same.
        """
        try:
            if path.is_dir():
                return self._hash_folder(path, trust=trust)
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

    def _hash_folder(self, folder: Path, *, trust: bool) -> str:
        content: list[list[Any]] = []
        seen: set[str] = set()
        for place, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            if (real := os.path.realpath(place)) in seen:  # a link to a folder around it
                folders.clear()
                continue
            seen.add(real)
            inner = Path(place).relative_to(folder).as_posix()
            content += [[f"{inner}/{name}", self.hash(Path(place, name), trust=trust)] for name in sorted(names)]
            content.append([f"{inner}/", None])  # also one that is empty
        return xxhash.xxh3_128_hexdigest(json.dumps(sorted(content, key=str)).encode())

    def hash_listing(self, folder: Path, *, trust: bool = True) -> str | None:
        """Hash of the names in a folder, and of the content of the files directly in it; None without a folder."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        content: list[list[Any]] = []
        for each in entries:
            if each.name == "__pycache__":
                continue
            is_read = each.is_file() and not each.name.endswith(JOURNALS)
            content.append([each.name, self.hash(Path(each), trust=trust) if is_read else None])
        return xxhash.xxh3_128_hexdigest(json.dumps(content).encode())

    def save(self) -> None:
        """Keep the hashes for the next run, without those of files that are gone."""
        if self._changed:
            self._known = {name: known for name, known in self._known.items() if os.path.exists(name)}
            if self._unreadable:
                set_aside(self._path)
            write_atomically(self._path, json.dumps(self._known), durable=False)
            self._changed = self._unreadable = False


# Datasets


@dataclass(frozen=True)
class Storage:
    """Where a dataset keeps its content."""

    path: str  # the file or folder, without the version
    filesystem: Any | None  # that of fsspec for a remote one
    versioned: bool  # by Kedro: ``<path>/<version>/<name>``

    def version_path(self, version: str | None) -> str:
        """Path of one version, or of an unversioned dataset."""
        return f"{self.path}/{version}/{self.path.rsplit('/', 1)[-1]}" if self.versioned else self.path

    def hash(self, version: str | None, hashes: FileHashes, *, trust: bool = True) -> str | None:
        """Hash of the content; of a remote file, of its ETag, or its time and size.

        None if there is nothing, or if the store does not show whether a file has changed.
        """
        path = self.version_path(version)
        if self.filesystem is None:
            return hashes.hash(Path(path), trust=trust)
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
    return f"remote:{filesystem.checksum(path)}" if set(about) - UNTELLING else None


def storage_of(dataset: Any) -> Storage | None:
    """Where ``dataset`` keeps its content; None for one that is not a file (a table of a database, a value)."""
    dataset = innermost(dataset)
    path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    if path is None or getattr(dataset, "_EPHEMERAL", False):
        return None
    protocol = getattr(dataset, "_protocol", None)
    is_local = protocol in {"file", "local", "", None}
    filesystem = None if is_local else getattr(dataset, "_fs", None) or getattr(dataset, "_filesystem", None)
    if not is_local and filesystem is None:
        return None
    text = f"{protocol}://{path}" if protocol in {"http", "https"} and "://" not in str(path) else str(path)
    return Storage(text.removeprefix("file://"), filesystem, versioned=bool(getattr(dataset, "_version", None)))


def innermost(dataset: Any) -> Any:
    """The dataset that keeps the content: the one in a ``CachedDataset``, or itself."""
    inner = getattr(dataset, "_dataset", None)
    return innermost(inner) if hasattr(inner, "load") else dataset


def local_paths(value: Any, project: Path) -> Iterator[tuple[str, Path]]:
    """Texts within a parameter that name local files or folders, with the path; of a pattern, each match.

    Only texts that look like a path (with a separator, or the name of a file with a suffix) and exist. Relative ones
    start from the project, ``~`` and ``$VARIABLES`` are replaced. A folder around the project does not count.
    """
    for name in texts_in(as_json(value, strict=False)):
        text = name.removeprefix("file://")
        if "://" in text or "\n" in text or "\0" in text or not 0 < len(text) < 4096:
            continue
        path = project / os.path.expandvars(os.path.expanduser(text))
        is_path, found = "/" in text or os.sep in text, dict[str, Path]()
        try:
            if os.path.exists(path):
                found = {name: path} if is_path or (path.suffix and path.is_file()) else {}
            elif glob.has_magic(str(path)) and (is_path or path.suffix):
                matches = sorted(glob.glob(str(path), recursive=True, include_hidden=True))
                found = {f"{name}: {os.path.relpath(match, project)}": Path(match) for match in matches}
        except (ValueError, re.error):  # a text that looks like a pattern, and is none
            continue
        yield from ((key, path) for key, path in found.items() if not project.resolve().is_relative_to(path.resolve()))


# Versions


def checked_version(name: str) -> str:
    """``name`` if it can be a version. Raises ValueError otherwise: Kedro takes one part of a path."""
    if name in {"", ".", ".."} or set(name) & set("/\\\0"):
        raise ValueError("no name of a version: it must be one part of a path")
    return name


def newest_first(names: Iterable[str]) -> list[str]:
    """Versions in Kedro's order, which sorts paths; without hidden names and those with no room for a successor."""
    versions = (name for name in names if name[:1] not in {"", "."} and len(os.fsencode(name)) <= LONGEST)
    return sorted(versions, key="{}/".format, reverse=True)


def version_after(newest: str, own: str) -> str:
    """``own`` if that comes after ``newest``, otherwise a version that does: clocks may be wrong, names foreign.

    >>> version_after("2099-11-29T06.00.00.000Z", "2026-11-29T06.00.00.000Z")
    '2099-11-29T06.00.00.001Z'
    >>> version_after("final", "2026-11-29T06.00.00.000Z")
    'final_2026-11-29T06.00.00.000Z'
    """
    earlier, separator, _ = newest.rpartition("_")
    try:
        later = datetime.strptime(newest, VERSION_FORMAT) + timedelta(milliseconds=1)
        next_time = f"{later:%Y-%m-%dT%H.%M.%S}.{later.microsecond // 1000:03}Z"
    except (ValueError, OverflowError):  # no version of Kedro's
        next_time = ""
    candidates = (own, f"{earlier}{separator}{own}", next_time)
    return next((name for name in candidates if f"{name}/" > f"{newest}/"), f"{newest}_{own}")


def is_version_folder(folder: Path) -> bool:
    """Whether a folder is one that Kedro makes, ``<name>/<version>/``, with nothing but ``<name>`` in it.

    Saves in progress give their files longer names. The folders beside it must be of this kind, too.
    """
    if ".." in folder.parts or folder.is_symlink() or not folder.is_dir():
        return False
    return all(
        beside.is_dir() and all(folder.parent.name in entry.name for entry in beside.iterdir())
        for beside in folder.parent.iterdir()
        if beside == folder or beside.name[0] != "."
    )


def save_version_of(datasets: Iterable[Any]) -> str | None:
    """The version that datasets save to; None if none of them has versions."""
    versions = (getattr(innermost(dataset), "_version", None) for dataset in datasets)
    return next((version.save or generate_timestamp() for version in versions if version), None)


def set_save_version(catalog: Any, datasets: Iterable[Any], version: str) -> None:
    """Have every dataset save to ``version``, also those that the catalog has not made yet."""
    for dataset in map(innermost, [*datasets, *getattr(catalog, "_datasets", {}).values()]):
        if getattr(dataset, "_version", None):
            dataset._version = dataset._version._replace(save=version)
    if hasattr(catalog, "_save_version"):
        catalog._save_version = version
    for lazy in getattr(catalog, "_lazy_datasets", {}).values():
        lazy.save_version = version
