"""From an encoded frame to the tensors that a network takes."""

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import SPLIT_COLUMN
from embedline.pipelines.tabular.encoder import Encoder, code_name, value_name
from embedline.pipelines.tabular.targets import UNLABELLED, ClassTarget, Target, transform_target


@dataclass(frozen=True)
class TableArrays:
    """One part of an encoded table: codes int32 [N, V], continuous float32 [N, C], and the target.

    The target is float32 [N] for a number (transformed: its logarithm where the encoder says so) and int64 [N] for the
    number of a class; of T targets float32 [N, T], classes as whole numbers; None unless every row has all of them.
    """

    codes: Tensor
    continuous: Tensor
    target: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What the network is called with."""
        return self.codes, self.continuous

    def arrays(self) -> "TableArrays":
        """Itself, as :class:`.mapped_rows.MappedRows` gives them."""
        return self

    def reader(self) -> None:
        """No function to read rows with: all are in memory."""

    def labelled(self, encoder: Encoder) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and target, to train on; raise a DataError where there is no target."""
        if self.target is None:
            names = ", ".join(repr(target.column) for target in encoder.targets)
            raise DataError(f"the training rows have no target {names}")
        return (*self.inputs, self.target)


def subset(encoded: nw.DataFrame[Any], part: str) -> nw.DataFrame[Any]:
    """Rows of the encoded frame that belong to ``split``."""
    return encoded.filter(nw.col(SPLIT_COLUMN) == part)


def to_arrays(encoded: nw.DataFrame[Any], encoder: Encoder) -> TableArrays:
    """Gather the columns of an encoded frame into contiguous tensors on the CPU."""
    codes = [code_name(name) for name in encoder.code_columns]
    values = [value_name(name) for name in encoder.value_columns]
    learned = [learned_target(encoded, target) for target in encoder.targets]
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
    """What is learned of one target: float32 [N] transformed numbers, int64 [N] classes; None where a row has none."""
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
