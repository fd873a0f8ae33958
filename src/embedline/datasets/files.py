"""The dataset types of the catalog: those of kedro-datasets with atomic saves, and three types of its own."""

import inspect
import json
from pathlib import Path, PurePosixPath
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow
import pyarrow.ipc
from kedro.io.core import get_filepath_str
from kedro_datasets._typing import TablePreview
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset as PandasCSVDataset
from kedro_datasets.pandas import FeatherDataset, ParquetDataset
from kedro_datasets.plotly import JSONDataset as PlotlyJSONDataset
from kedro_datasets.polars import EagerPolarsDataset
from kedro_datasets.text import TextDataset

from embedline.datasets.atomic import AtomicSave
from embedline.training.metrics import require_finite

ROWS_AT_ONCE = 4_096  # of an array that is written
_SAFETENSORS_TYPES = {"F32": np.dtype(np.float32), "U8": np.dtype(np.uint8)}
PREVIEWED_ITEMS = 8  # of a list in a cell of kedro-viz's tables


class PolarsFrame(AtomicSave, EagerPolarsDataset):
    """Polars frame in any format that Polars reads and writes: ``file_format`` is ``parquet``, ``ipc`` or ``csv``.

    Local files are written and read by Polars itself, without a copy of the whole file in memory; IPC is memory-mapped.
    """

    def load(self) -> pl.DataFrame:
        """Read the newest version, or the one asked for."""
        if self._protocol != "file":
            return super().load()
        path = get_filepath_str(self._get_load_path(), self._protocol)
        frame: pl.DataFrame
        if self._file_format == "ipc" and not self._load_args:
            frame = _mapped_frame(path)
        else:
            literal = {"glob": False} if self._file_format in ("csv", "parquet") and Path(path).exists() else {}
            frame = getattr(pl, f"read_{self._file_format}")(path, **literal, **self._load_args)
        return frame

    def save(self, data: Any) -> None:
        """Write ``data``, a frame of any Narwhals backend, as the version of this run."""
        frame = nw.from_native(data, eager_only=True).to_polars()
        if self._protocol != "file":
            super().save(frame)
            return
        path = get_filepath_str(self._get_save_path(), self._protocol)
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        getattr(frame, f"write_{self._file_format}")(path, **self._save_args)

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows for kedro-viz; lists and dates as texts, since it cannot write them."""
        rows = self._copy().load().head(nrows)
        shown = rows.select(
            pl.col(name) if dtype.is_numeric() or dtype in (pl.String, pl.Boolean) else _as_text(name, dtype)
            for name, dtype in rows.schema.items()
        )
        data = [list(row) for row in shown.with_columns(cs.float().fill_nan(None)).rows()]  # NaN is no JSON
        return TablePreview({"index": list(range(len(data))), "columns": shown.columns, "data": data})


def _mapped_frame(path: str) -> pl.DataFrame:
    """A frame whose columns stay in the file: Polars 2 itself reads all of it into memory."""
    mapped = pl.from_arrow(pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all(), rechunk=False)
    if isinstance(mapped, pl.DataFrame) and mapped.schema == pl.read_ipc_schema(path):
        return mapped
    return pl.read_ipc(path)  # a type of Polars that Arrow does not know


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.List | pl.Array):
        return pl.col(name).map_elements(_short_list, return_dtype=pl.String)
    return pl.col(name).cast(pl.String, strict=False)


def _short_list(values: pl.Series) -> str:
    """Its first items: an embedding may have hundreds."""
    items = [f"{item:.3g}" if isinstance(item, float) else str(item) for item in values.head(PREVIEWED_ITEMS)]
    return ", ".join(items) + (" …" if len(values) > PREVIEWED_ITEMS else "")


class PandasParquet(AtomicSave, ParquetDataset):
    """pandas frame in Parquet."""


class PandasFeather(AtomicSave, FeatherDataset):
    """pandas frame in Feather (Arrow IPC)."""


class PandasCSV(AtomicSave, PandasCSVDataset):
    """pandas frame in CSV."""


class JSON(AtomicSave, JSONDataset):
    """JSON values: metrics, fitted encoders. NaN and infinities are not JSON: an error names their path."""

    def save(self, data: Any) -> None:
        """Write ``data`` as the version of this run."""
        require_finite(data, PurePosixPath(self._filepath).name)
        inspect.unwrap(JSONDataset.save)(self, data)  # Kedro and AtomicSave have wrapped this method already


class Figure(AtomicSave, PlotlyJSONDataset):
    """Plotly figure; kedro-viz draws it."""


class Page(AtomicSave, TextDataset):
    """A text file such as an HTML page, in UTF-8 with any locale."""

    DEFAULT_FS_ARGS = {  # noqa: RUF012  # as the base class declares it
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }


class Bytes(AtomicSave, TextDataset):
    """A file as bytes: raw files keep the checksums of their source."""

    DEFAULT_FS_ARGS = {"open_args_save": {"mode": "wb"}, "open_args_load": {"mode": "rb"}}  # noqa: RUF012


class Arrays(Bytes):
    """NumPy arrays by name in one safetensors file; they are mapped into memory when they are read.

    What is written to a loaded array stays in memory. Files that are not local are read as a whole.
    """

    def load(self) -> dict[str, Any]:
        """Map the arrays of the newest version, or of the one asked for."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        content: Any
        if self._protocol == "file":
            content = np.memmap(path, np.uint8, mode="c")
        else:
            content = np.frombuffer(bytearray(self._fs.cat_file(path)), np.uint8)
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        return {
            name: content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            .view(_SAFETENSORS_TYPES[entry["dtype"]])
            .reshape(entry["shape"])
            for name, entry in header.items()
        }

    def save(self, data: dict[str, Any]) -> None:
        """Write the arrays, uint8 or float32, as the version of this run; not all of them need fit into memory."""
        data = dict(sorted(data.items(), key=lambda item: -item[1].itemsize))  # so that all of them are aligned
        header, end = {}, 0
        for name, array in data.items():
            kind = next(kind for kind, dtype in _SAFETENSORS_TYPES.items() if dtype == array.dtype)
            header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with self._fs.open(get_filepath_str(self._get_save_path(), self._protocol), "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in data.values():
                for start in range(0, len(array), ROWS_AT_ONCE):
                    file.write(np.ascontiguousarray(array[start : start + ROWS_AT_ONCE]).tobytes())
