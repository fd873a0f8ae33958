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
from embedline.training.device import resolve_device
from embedline.training.memory import available_memory

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5  # of the free memory that rows may take: there are networks, predictions and other programs
BLOCK_ROWS = 65_536  # of the frame, that are in memory at a time while the file is written
WORD = 4  # bytes: all but the number of a class fill one


@dataclass(frozen=True)
class MappedRows:
    """One part of an encoded table in a file, row by row: reading a random row touches a page or two.

    A row has words of 4 bytes: the target, the codes, the continuous values; their number is even.

    Attributes:
        path: the file; every process that trains must see it there.
        n_targets: numbers that are learned; 0 in a part that is only measured.
        whole: whether the target is the int64 number of a class, of two words.
    """

    path: Path
    n_rows: int
    n_targets: int
    whole: bool
    n_codes: int
    n_values: int

    @property
    def width(self) -> int:
        """Words of a row."""
        words = self._target_words + self.n_codes + self.n_values
        return words + words % 2

    @property
    def _target_words(self) -> int:
        return 2 if self.whole else self.n_targets

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
        words = self._map()
        begin = self._target_words
        codes, values = words[:, begin : begin + self.n_codes], words[:, begin + self.n_codes :]
        return TableArrays(codes, values[:, : self.n_values].view(torch.float32), self._target(words))

    def _target(self, words: Tensor) -> Tensor | None:
        if self.whole:
            return words[:, :2].view(torch.int64).squeeze(1)
        numbers = words[:, : self.n_targets].view(torch.float32)
        return None if not self.n_targets else numbers.squeeze(1) if self.n_targets == 1 else numbers

    def _map(self) -> Tensor:
        if not self.n_rows:
            return torch.empty(0, self.width, dtype=torch.int32)
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # else each row that is missing would have the system read 32 pages
        return torch.from_numpy(np.frombuffer(mapped, dtype=np.int32).reshape(self.n_rows, self.width))


def write_rows(
    encoded: nw.DataFrame[Any], encoder: Encoder, part: str, path: Path, *, labelled: bool = True
) -> MappedRows:
    """Write the rows of a part to a file, a block of the frame at a time.

    Args:
        labelled: whether the target is written, too.

    Raises:
        DataError: if a row has no target.
    """
    n_targets = len(encoder.targets) if labelled else 0
    whole = n_targets == 1 and isinstance(encoder.targets[0], ClassTarget)
    n_codes, n_values, n_rows = len(encoder.code_columns), len(encoder.value_columns), 0
    layout = MappedRows(path, n_rows, n_targets, whole, n_codes, n_values)
    with path.open("wb") as file:
        for block in blocks_of(encoded, part):
            _pack(block, encoder, layout).tofile(file)
            n_rows += len(block)
    return MappedRows(path, n_rows, n_targets, whole, n_codes, n_values)


def blocks_of(encoded: nw.DataFrame[Any], part: str) -> Iterator[nw.DataFrame[Any]]:
    """Rows of a part, in their order, a block of the frame at a time."""
    for start in range(0, len(encoded), BLOCK_ROWS):
        block = subset(encoded[start : start + BLOCK_ROWS], part)
        if len(block):
            yield block


def _pack(block: nw.DataFrame[Any], encoder: Encoder, layout: MappedRows) -> NDArray[np.int32]:
    """Words int32 [N, width] of some rows."""
    arrays = to_arrays(block, encoder)
    parts = [arrays.codes.numpy(), arrays.continuous.numpy().view(np.int32)]
    if layout.n_targets:
        target = arrays.labelled(encoder)[-1].numpy()
        parts.insert(0, target.reshape(len(block), -1).view(np.int32))
    words = np.zeros((len(block), layout.width), dtype=np.int32)
    begin = 0
    for each in parts:
        words[:, begin : begin + each.shape[1]] = each
        begin += each.shape[1]
    return words


def row_bytes(encoder: Encoder) -> int:
    """Memory that the tensors of a row take."""
    return WORD * (len(encoder.code_columns) + len(encoder.value_columns) + 2 * len(encoder.targets))


@dataclass(frozen=True)
class RowStore:
    """Where a training finds the rows of the parts of an encoded table.

    Attributes:
        folder: for files of rows; None where they are in memory.
    """

    encoded: nw.DataFrame[Any]
    encoder: Encoder
    folder: Path | None

    def rows(self, part: str, *, labelled: bool = True) -> TableArrays | MappedRows:
        """Rows of a part; in a file without their target unless ``labelled``."""
        if self.folder is None:
            return to_arrays(subset(self.encoded, part), self.encoder)
        return write_rows(self.encoded, self.encoder, part, self.folder / part, labelled=labelled)


@contextmanager
def rows_of(encoded: nw.DataFrame[Any], encoder: Encoder, training: TableTraining) -> Iterator[RowStore]:
    """Keep the rows of a training where ``training.memory`` says, until the end of the ``with`` block.

    A file lies in the scratch folder of the node, or the system's folder for such.
    """
    if not _mapped(encoded, encoder, training):
        yield RowStore(encoded, encoder, None)
        return
    kept = checkpoint.scratch()
    folder = kept / "rows" if kept else Path(tempfile.mkdtemp(prefix="embedline-"))
    if kept:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left behind
        folder.mkdir(parents=True)
    try:
        yield RowStore(encoded, encoder, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mapped(encoded: nw.DataFrame[Any], encoder: Encoder, training: TableTraining) -> bool:
    if training.memory != "auto":
        return training.memory == "mapped"
    needed, free = len(encoded) * row_bytes(encoder), available_memory(resolve_device(training.device))
    if needed <= free * FREE_SHARE:
        return False
    logger.info(
        "The rows take %.1f GB, of %.1f GB of free memory: they are mapped from a file", needed / 1e9, free / 1e9
    )
    return True
