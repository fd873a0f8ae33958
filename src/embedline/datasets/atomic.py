"""Atomic saves for any kedro-datasets class that writes one file, or one folder."""

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any


class AtomicSave:
    """Mixin, listed before the dataset class: write beside the target, then rename into place.

    Kedro takes the newest version *directory that has the file* for the newest version; a save that fails half-way
    would leave a truncated file there, and every later load would fail. Here the file gets its name in one
    ``os.replace`` after the write has succeeded; on an error the partial file and its directory are removed.

    It applies to local paths. An object store makes an upload visible only when it is complete, so remote saves pass
    through as they are. A power failure is not guarded against (nothing calls ``fsync``), a killed process is.
    """

    _protocol: str
    _filepath: PurePosixPath
    _staged: PurePosixPath | None = None

    def _get_save_path(self) -> PurePosixPath:
        target: PurePosixPath = super()._get_save_path()  # type: ignore[misc]
        if self._protocol != "file":
            return target
        self._staged = target.with_name(f".{os.getpid()}.{target.name}")
        return self._staged

    def _get_versions(self) -> list[str]:
        """Paths of all versions, the newest first; Kedro's pattern finds none below a folder such as ``data[1]``."""
        if self._protocol != "file":
            versions: list[str] = super()._get_versions()  # type: ignore[misc]
            return versions
        folder = Path(self._filepath)
        names = sorted((one.name for one in folder.iterdir()), reverse=True) if folder.is_dir() else []
        return [str(path) for name in names if (path := folder / name / folder.name).exists()]

    @classmethod
    def _save_wrapper(cls, save_func: Callable[..., None]) -> Callable[..., None]:
        """Kedro calls this for each subclass to wrap its ``save``; the staging goes inside of Kedro's own wrapper."""
        write = inspect.unwrap(save_func)

        @wraps(write)
        def save(self: Any, data: Any) -> None:
            with _commit(self):
                write(self, data)

        return super()._save_wrapper(save)  # type: ignore[misc]


@contextmanager
def _commit(dataset: Any) -> Iterator[None]:
    """Rename the staged file to its target on success; on any error remove it and an empty version directory."""
    dataset._staged = None
    try:
        yield
        if dataset._staged is not None:
            staged = Path(dataset._staged)
            os.replace(staged, staged.with_name(staged.name.split(".", 2)[2]))
    except BaseException:
        if dataset._staged is not None:
            staged = Path(dataset._staged)
            if staged.is_dir():
                shutil.rmtree(staged)
            else:
                staged.unlink(missing_ok=True)
            for folder in (staged.parent, staged.parent.parent):
                with suppress(OSError):  # not empty: other versions live here
                    folder.rmdir()
        raise
    finally:
        dataset._staged = None
