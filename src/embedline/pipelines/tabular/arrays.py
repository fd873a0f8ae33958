"""Rows of an encoded frame as the tensors of a network, in memory or in a file that is mapped into memory.

The file serves tables larger than memory, and one copy of the rows serves several processes.
"""

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
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import SPLIT_COLUMN
from embedline.pipelines.tabular.encoder import Encoder, code_name, value_name
from embedline.pipelines.tabular.options import TableTraining
from embedline.pipelines.tabular.targets import UNLABELLED, ClassTarget, Target, transform_target
from embedline.training import checkpoint
from embedline.training.batches import ReadRows
from embedline.training.device import resolve_device

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5  # of the free memory that rows may take: there are networks, predictions and other programs
CGROUP = Path("/sys/fs/cgroup")
BLOCK_ROWS = 65_536  # rows of the frame that are in memory at a time while the file is written


@dataclass(frozen=True)
class TableArrays:
    """One split of an encoded table in memory: codes int32 [N, V], continuous float32 [N, C], and the target.

    The target is float32 [N] for a number (transformed, such as its logarithm), int64 [N] for a class, and float32
    [N, T] for T targets, with classes as whole numbers. Where rows have weights, it is float32 [N, T + 1] with the
    weights last, also for one target. It is None unless every row has all of it.
    """

    codes: Tensor
    continuous: Tensor
    target: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """Inputs of the network."""
        return self.codes, self.continuous

    def arrays(self) -> "TableArrays":
        """Itself: the counterpart of :meth:`MappedRows.arrays`."""
        return self

    def reader(self) -> None:
        """No function to read rows with: all are in memory."""

    def labelled(self, encoder: Encoder) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and target for a training; raise a DataError if a row has no target."""
        if self.target is None:
            names = ", ".join(repr(target.column) for target in encoder.targets)
            weight = f", or no weight {encoder.weight.column!r}" if encoder.weight else ""
            raise DataError(f"the training rows have no target {names}{weight}")
        return (*self.inputs, self.target)


def subset(encoded: nw.DataFrame[Any], split: str) -> nw.DataFrame[Any]:
    """Rows of the encoded frame that belong to ``split``."""
    return encoded.filter(nw.col(SPLIT_COLUMN) == split)


def to_arrays(encoded: nw.DataFrame[Any], encoder: Encoder) -> TableArrays:
    """Gather the columns of an encoded frame into contiguous tensors on the CPU."""
    codes = [code_name(name) for name in encoder.code_columns]
    values = [value_name(name) for name in encoder.value_columns]
    learned = [learned_target(encoded, target) for target in encoder.targets]
    if encoder.weight is not None:
        has_weights = encoder.weight.stored in encoded.columns
        learned.append(encoded.get_column(encoder.weight.stored).to_numpy() if has_weights else None)
    present = [values for values in learned if values is not None]
    target = None
    if len(present) == 1 == len(learned):
        target = torch.from_numpy(present[0])
    elif len(present) == len(learned):
        target = torch.from_numpy(np.stack(present, axis=1).astype(np.float32))
    return TableArrays(
        codes=_matrix(encoded, codes, np.int32),
        continuous=_matrix(encoded, values, np.float32),
        target=target,
    )


def learned_target(encoded: nw.DataFrame[Any], target: Target) -> NDArray[Any] | None:
    """Learned values of a target: float32 [N] transformed numbers or int64 [N] classes; None if a row has none."""
    if target.stored not in encoded.columns:
        return None
    column = encoded.get_column(target.stored)
    if isinstance(target, ClassTarget):
        codes = column.to_numpy().astype(np.int64)
        return None if (codes == UNLABELLED).any() else codes
    if column.null_count():
        return None
    return transform_target(column.to_numpy(), target).astype(np.float32)


def _matrix(encoded: nw.DataFrame[Any], names: list[str], dtype: type) -> Tensor:
    matrix: NDArray[Any] = np.empty((len(encoded), len(names)), dtype=dtype)
    for index, name in enumerate(names):  # column by column: one copy at a time, not one of the whole frame
        matrix[:, index] = encoded.get_column(name).to_numpy()
    return torch.from_numpy(matrix)


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
        """Function that reads codes, values and target of rows int64 [B] by one read of each row.

        Indexing the views of :meth:`arrays` one after the other reads each row three times, and takes longer.
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
    """The record of a row, aligned as a C compiler does it; see :class:`TableArrays` for the target's type."""
    width = len(encoder.targets) + (encoder.weight is not None)
    target: list[Any] = []
    if labelled and width == 1:
        target = [("target", np.int64 if isinstance(encoder.targets[0], ClassTarget) else np.float32)]
    elif labelled:
        target = [("target", np.float32, (width,))]
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
    """Access of a training to the rows of the splits of an encoded table.

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
    """Store the rows of a training as ``training.memory`` says, until the end of the ``with`` block.

    Files lie in the scratch folder of the node, or the system's folder for temporary files.
    """
    if not _mapped(encoded, encoder, training):
        yield RowStore(encoded, encoder, None)
        return
    scratch = checkpoint.scratch_dir()
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


def available_memory(device: torch.device) -> int:
    """Bytes that can still be filled on ``device`` and in main memory, whichever are fewer.

    Of main memory, a container's limit (control groups, version 2) counts where there is one; cached files are free.
    """
    free = [int(psutil.virtual_memory().available)]
    limit, used, details = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in details.read_text().splitlines()) if details.exists() else {}
        free.append(int(most) - int(used.read_text()) + int(stat.get("file", 0)))
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return min(free)
