"""Local files for Kedro's configuration loader, which looks for them by patterns."""

import re
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate


class LiteralFolder(LocalFileSystem):
    """Local files, in which a folder's name such as ``data[1]`` is no part of a pattern."""

    cachable = False

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def glob(self, path: str, **options: Any) -> list[str]:
        """Paths that match ``path``; only what is below the folder is a pattern."""
        fits = re.compile(glob_translate(path.removeprefix(f"{self._folder}/"))).match
        return [name for name in self.find(self._folder) if fits(name.removeprefix(f"{self._folder}/"))]
