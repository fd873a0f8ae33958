"""Kedro's configuration loader, for projects in folders of any name and parameters that only the catalog reads."""

import re
from copy import deepcopy
from glob import has_magic
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate
from kedro.config import OmegaConfigLoader


class ConfigLoader(OmegaConfigLoader):
    """Kedro's configuration loader, which remembers the runtime parameters that the configuration asks for.

    Attributes:
        asked: names in ``${runtime_params:name}`` and ``${runtime_params:name, default}`` of the files read so far.
    """

    def __init__(self, conf_source: str, *args: Any, **kwargs: Any) -> None:
        """Create the loader; arguments are Kedro's."""
        self.asked: set[str] = set()
        self._parameters: tuple[Any, Any] = (None, None)  # what they were read with, and the parameters
        super().__init__(conf_source, *args, **kwargs)

    def __getitem__(self, key: str) -> Any:
        """Read a part of the configuration; the parameters, which Kedro asks for again and again, only once."""
        if key != "parameters":
            return super().__getitem__(key)
        given = (self.env, self.runtime_params)
        if self._parameters[0] != given:
            self._parameters = deepcopy(given), super().__getitem__(key)
        return deepcopy(self._parameters[1])

    @staticmethod
    def _initialise_filesystem_and_protocol(conf_source: str) -> tuple[AbstractFileSystem, str]:
        filesystem, protocol = OmegaConfigLoader._initialise_filesystem_and_protocol(conf_source)
        if protocol == "file" and has_magic(str(conf_source)):
            filesystem = _LiteralFolder(Path(conf_source).as_posix())
        return filesystem, protocol

    def _get_runtime_value(self, variable: str, *default: Any) -> Any:
        self.asked.add(variable)
        return super()._get_runtime_value(variable, *default)


class _LiteralFolder(LocalFileSystem):
    """Local files, in which a folder's name such as ``data[1]`` is no part of a pattern."""

    cachable = False

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def glob(self, path: str, **options: Any) -> list[str]:
        """Paths that match ``path``; only what is below the folder is a pattern."""
        fits = re.compile(glob_translate(path.removeprefix(f"{self._folder}/"))).match
        return [name for name in self.find(self._folder) if fits(name.removeprefix(f"{self._folder}/"))]
