"""Where datasets keep their content: files, their hashes, and the names of their versions."""

import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from kedro.io.core import generate_timestamp

from .canonical_json import as_json, canonical, digest, texts_in

RACY_NS = 100_000_000  # a file that changed less than this before it was hashed may change again within one clock tick
UNTELLING = {"name", "size", "type", "url", "mimetype", "partial"}  # fields of a store that do not show a change
LONGEST = 225  # bytes of a version's name: file systems allow 255, and a successor needs some
JOURNALS = (".db", ".sqlite", ".sqlite3", ".log", "-journal", "-wal", "-shm")  # files that grow while nodes run


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """XXH3 (128 bits) of a file's content: it shows changes and damage, not attacks, at the speed of memory."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


class FileHashes:
    """Content hashes of files and folders, read again only where size, times or inode have changed.

    Args:
        known: by path: size, times of the content and of the entry, inode, when it was hashed, and the hash.
    """

    def __init__(self, known: dict[str, list[Any]]) -> None:
        self._known = known

    def hash(self, path: Path, *, trust: bool = True) -> str | None:
        """Hash of a file, or of a folder with its content; None if there is nothing.

        ``trust`` takes the hash of an earlier call where size, times and inode are the same.
        """
        try:
            if path.is_dir():
                return self.hash_folder(path, trust=trust)
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        signature = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._known.get(str(path))
        if trust and known and known[:-2] == signature and max(signature[1:3]) < known[-2] - RACY_NS:
            return str(known[-1])
        began = time.time_ns()
        self._known[str(path)] = [*signature, began, hashed := hash_file(path)]
        return hashed

    def hash_folder(self, folder: Path, *, is_listing: bool = False, trust: bool = True) -> str | None:
        """Hash of a folder with its content; of its listing: names, and the content of the files directly in it."""
        content: list[list[Any]] = []
        seen: set[str] = set()
        for place, folders, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:  # a link to a folder around it
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            inner = Path(place).relative_to(folder).as_posix()
            content.append([f"{inner}/", None])  # also one that is empty
            for path in (Path(place, name) for name in sorted(names)):
                is_read = path.is_file() and not (is_listing and path.name.endswith(JOURNALS))
                content.append([f"{inner}/{path.name}", self.hash(path, trust=trust) if is_read else None])
            if is_listing:
                content += [[f"{name}/", None] for name in folders if name != "__pycache__"]
                break
        return xxhash.xxh3_128_hexdigest(json.dumps(sorted(content, key=str)).encode()) if content else None

    def forget_missing(self) -> None:
        """Drop the hashes of files that are gone."""
        for name in [name for name in self._known if not os.path.exists(name)]:
            del self._known[name]


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


def local_paths(value: Any, project: Path) -> Iterator[Path]:
    """Files and folders that texts within a parameter name; of a pattern, each match.

    Only texts that look like a path (with a separator, or the name of a file with a suffix) and exist. Relative ones
    start from the project, ``~`` and ``$VARIABLES`` are replaced. A folder around the project does not count.
    """
    for name in texts_in(as_json(value, strict=False)):
        text = name.removeprefix("file://")
        if "://" in text or "\n" in text or "\0" in text or not 0 < len(text) < 4096:
            continue
        path, is_path = project / os.path.expandvars(os.path.expanduser(text)), "/" in text or os.sep in text
        found: list[Path] = []
        try:
            if os.path.exists(path):
                found = [path] if is_path or (path.suffix and path.is_file()) else []
            elif glob.has_magic(str(path)) and (is_path or path.suffix):
                found = sorted(map(Path, glob.glob(str(path), recursive=True, include_hidden=True)))
        except (ValueError, re.error):  # a text that looks like a pattern, and is none
            continue
        yield from (path for path in found if not project.resolve().is_relative_to(path.resolve()))


# Versions


def newest_first(names: Iterable[str]) -> list[str]:
    """Versions in Kedro's order, which sorts paths; without hidden names and those with no room for a successor."""
    versions = (name for name in names if name[:1] not in {"", "."} and len(os.fsencode(name)) <= LONGEST)
    return sorted(versions, key="{}/".format, reverse=True)


def version_after(newest: str, own: str) -> str:
    """``own`` if that comes after ``newest``, otherwise a version that does: clocks may be wrong, names foreign.

    >>> version_after("final", "2026-11-29T06.00.00.000Z")
    'final_2026-11-29T06.00.00.000Z'
    """
    candidates = (own, f"{newest.partition('_')[0]}_{own}")
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
