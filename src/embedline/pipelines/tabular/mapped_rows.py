"""Training rows in a file that is mapped into memory: tables larger than that, and one copy for several processes."""

import logging
import mmap
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import TableArrays, subset, to_arrays
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.options import TableTraining
from embedline.pipelines.tabular.targets import ClassTarget
from embedline.training import checkpoint
from embedline.training.batches import ReadRows
from embedline.training.device import available_memory, resolve_device

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5  # of the free memory that rows may take: there are networks, predictions and other programs
BLOCK_ROWS = 65_536  # rows of the frame that are in memory at a time while the file is written


@dataclass(frozen=True)
class MappedRows:
    """One split of an encoded table in a file, a record a row: reading a random row touches a page or two.

    Attributes:
        path: the file; every process that trains must see it there.
        dtype: fields ``codes`` int32 [V], ``values`` float32 [C] and, where there is one, ``target``.
    """

    path: Path
    n_rows: int
    dtype: np.dtype[Any]

    def arrays(self) -> TableArrays:
        """The rows as views on the file, none of which is in memory yet.

        Raises:
            DataError: if this process does not see the file, as on a machine without the folder.
        """
        if not self.path.is_file():
            raise DataError(
                f"the training rows are in {self.path}, which a process of the training does not see: processes on "
                "several machines need a folder that they share, or training.memory: device"
            )
        records = self._records()
        views = {name: torch.from_numpy(records[name]) for name in self.dtype.fields or ()}
        return TableArrays(views["codes"], views["values"], views.get("target"))

    def reader(self) -> ReadRows:
        """Function that reads codes, values and target of rows int64 [B], each of which it touches once.

        It takes a half to a quarter of the time that indexing the views of :meth:`arrays` one by one does.
        """
        records = self._records()

        def read(rows: Tensor) -> list[Tensor]:
            taken = np.take(records, rows.numpy())
            return [torch.from_numpy(np.ascontiguousarray(taken[name])) for name in ("codes", "values", "target")]

        return read

    def _records(self) -> NDArray[Any]:
        """The mapped records [n_rows]."""
        if not self.n_rows:
            return np.empty(0, self.dtype)
        records = np.memmap(self.path, self.dtype, mode="c")  # torch has no tensors that are read-only
        if isinstance(records.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            records.base.madvise(mmap.MADV_RANDOM)  # else each row that is missing has the system read 32 pages
        return records.view(np.ndarray)


def record_dtype(encoder: Encoder, *, labelled: bool = True) -> np.dtype[Any]:
    """The record of a row, aligned as a C compiler does it; see :class:`.arrays.TableArrays` for the target's type."""
    targets = encoder.targets if labelled else ()
    target: list[Any] = []
    if len(targets) == 1:
        target = [("target", np.int64 if isinstance(targets[0], ClassTarget) else np.float32)]
    elif targets:
        target = [("target", np.float32, (len(targets),))]
    codes, values = (len(encoder.code_columns),), (len(encoder.value_columns),)
    return np.dtype([*target, ("codes", np.int32, codes), ("values", np.float32, values)], align=True)


def write_rows(
    encoded: nw.DataFrame[Any], encoder: Encoder, split: str, path: Path, *, labelled: bool = True
) -> MappedRows:
    """Write the rows of a split to a file, a block of the frame at a time.

    Args:
        labelled: whether the target is written, too.

    Raises:
        DataError: if a row has no target.
    """
    dtype, n_rows = record_dtype(encoder, labelled=labelled), 0
    with path.open("wb") as file:
        for block in blocks_of(encoded, split):
            _records(block, encoder, dtype).tofile(file)
            n_rows += len(block)
    return MappedRows(path, n_rows, dtype)


def _records(block: nw.DataFrame[Any], encoder: Encoder, dtype: np.dtype[Any]) -> NDArray[Any]:
    arrays, records = to_arrays(block, encoder), np.zeros(len(block), dtype)
    records["codes"], records["values"] = arrays.codes.numpy(), arrays.continuous.numpy()
    if "target" in records.dtype.fields:
        records["target"] = arrays.labelled(encoder)[-1].numpy()
    return records


def blocks_of(encoded: nw.DataFrame[Any], split: str) -> Iterator[nw.DataFrame[Any]]:
    """Rows of a split, in their order, a block of the frame at a time."""
    for start in range(0, len(encoded), BLOCK_ROWS):
        block = subset(encoded[start : start + BLOCK_ROWS], split)
        if len(block):
            yield block


@dataclass(frozen=True)
class RowStore:
    """Where a training finds the rows of the splits of an encoded table.

    Attributes:
        folder: for files of rows; None where they are in memory.
    """

    encoded: nw.DataFrame[Any]
    encoder: Encoder
    folder: Path | None

    def rows(self, split: str, *, labelled: bool = True) -> TableArrays | MappedRows:
        """Rows of a split; in a file without their target unless ``labelled``."""
        if self.folder is None:
            return to_arrays(subset(self.encoded, split), self.encoder)
        return write_rows(self.encoded, self.encoder, split, self.folder / split, labelled=labelled)


@contextmanager
def rows_of(encoded: nw.DataFrame[Any], encoder: Encoder, training: TableTraining) -> Iterator[RowStore]:
    """Keep the rows of a training where ``training.memory`` says, until the end of the ``with`` block.

    Files lie in the scratch folder of the node, or the system's folder for temporary files.
    """
    if not _mapped(encoded, encoder, training):
        yield RowStore(encoded, encoder, None)
        return
    scratch = checkpoint.scratch()
    folder = scratch / "rows" if scratch else Path(tempfile.mkdtemp(prefix="embedline-"))
    if scratch:
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        folder.mkdir(parents=True)
    try:
        yield RowStore(encoded, encoder, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mapped(encoded: nw.DataFrame[Any], encoder: Encoder, training: TableTraining) -> bool:
    if training.memory != "auto":
        return training.memory == "mapped"
    needed, free = len(encoded) * record_dtype(encoder).itemsize, available_memory(resolve_device(training.device))
    if needed <= free * FREE_SHARE:
        return False
    logger.info(
        "The rows take %.1f GB, of %.1f GB of free memory: they are mapped from a file", needed / 1e9, free / 1e9
    )
    return True
