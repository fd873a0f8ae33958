"""The dataset types of the catalog: kedro-datasets' own with atomic saves, and two of ours."""

from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any

import fsspec
import narwhals as nw
import polars as pl
from kedro.io.core import AbstractVersionedDataset, Version, get_filepath_str, get_protocol_and_path
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset as PandasCSVDataset
from kedro_datasets.pandas import FeatherDataset, ParquetDataset
from kedro_datasets.plotly import JSONDataset as PlotlyJSONDataset
from kedro_datasets.polars import EagerPolarsDataset

from embedline.datasets.atomic import AtomicSave


class PolarsFrame(AtomicSave, EagerPolarsDataset):
    """Polars frame in any format that Polars reads and writes: ``file_format`` is ``parquet``, ``ipc`` or ``csv``.

    Local files are written and read by Polars itself, without the copy of the whole file in memory that the base
    class makes; an IPC file is memory-mapped.
    """

    def load(self) -> pl.DataFrame:
        """Read the newest version, or the one asked for."""
        if self._protocol != "file":
            return super().load()
        path = get_filepath_str(self._get_load_path(), self._protocol)
        frame: pl.DataFrame = getattr(pl, f"read_{self._file_format}")(path, **self._load_args)
        return frame

    def save(self, data: Any) -> None:
        """Write ``data``, a frame of any engine that Narwhals knows, as the version of this run."""
        frame = nw.from_native(data, eager_only=True).to_polars()
        if self._protocol != "file":
            super().save(frame)
            return
        path = get_filepath_str(self._get_save_path(), self._protocol)
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        getattr(frame, f"write_{self._file_format}")(path, **self._save_args)


class PandasParquet(AtomicSave, ParquetDataset):
    """pandas frame in Parquet."""


class PandasFeather(AtomicSave, FeatherDataset):
    """pandas frame in Feather (Arrow IPC)."""


class PandasCSV(AtomicSave, PandasCSVDataset):
    """pandas frame in CSV."""


class JSON(AtomicSave, JSONDataset):
    """JSON values: metrics, fitted encoders."""


class Figure(AtomicSave, PlotlyJSONDataset):
    """Plotly figure; kedro-viz draws it."""


class Bytes(AtomicSave, AbstractVersionedDataset[bytes, bytes]):
    """A file as it is: raw files pass through the catalog unchanged, with the checksums of their source."""

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        fs_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Create the dataset; arguments as those of every kedro-datasets class."""
        protocol, path = get_protocol_and_path(filepath, version)
        options = {**deepcopy(fs_args or {}), **deepcopy(credentials or {})}
        if protocol == "file":
            options.setdefault("auto_mkdir", True)
        self._protocol = protocol
        self._fs = fsspec.filesystem(protocol, **options)
        self.metadata = metadata
        super().__init__(PurePosixPath(path), version, exists_function=self._fs.exists, glob_function=self._fs.glob)

    def load(self) -> bytes:
        """Read the newest version, or the one asked for."""
        content: bytes = self._fs.cat_file(get_filepath_str(self._get_load_path(), self._protocol))
        return content

    def save(self, data: bytes) -> None:
        """Write ``data`` as the version of this run."""
        with self._fs.open(get_filepath_str(self._get_save_path(), self._protocol), "wb") as file:
            file.write(data)

    def _exists(self) -> bool:
        return bool(self._fs.exists(get_filepath_str(self._get_load_path(), self._protocol)))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}

    def _release(self) -> None:
        super()._release()
        self._fs.invalidate_cache(get_filepath_str(self._filepath, self._protocol))
