"""From an encoded frame to the tensors that a network takes, and back from its output to the target's units."""

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.tables.columns import PART
from embedline.tables.encoder import Encoder, code_name, value_name
from embedline.tables.scales import TargetScale


@dataclass(frozen=True)
class TableArrays:
    """One part of an encoded table: codes int32 [N, V], continuous float32 [N, C], target float32 [N] or None.

    The target is transformed (its logarithm where the encoder says so).
    """

    codes: Tensor
    continuous: Tensor
    target: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What the network is called with."""
        return self.codes, self.continuous


def part_of(encoded: nw.DataFrame[Any], part: str) -> nw.DataFrame[Any]:
    """Rows of the encoded frame that belong to ``part``."""
    return encoded.filter(nw.col(PART) == part)


def to_arrays(encoded: nw.DataFrame[Any], encoder: Encoder) -> TableArrays:
    """Gather the columns of an encoded frame into contiguous tensors on the CPU."""
    codes = [code_name(name) for name in encoder.code_columns]
    values = [value_name(name) for name in encoder.value_columns]
    target = None
    if encoder.target.column in encoded.columns and not encoded.get_column(encoder.target.column).null_count():
        raw = encoded.get_column(encoder.target.column).to_numpy()
        target = torch.from_numpy(transform_target(raw, encoder.target).astype(np.float32))
    return TableArrays(
        codes=_matrix(encoded, codes, np.int32),
        continuous=_matrix(encoded, values, np.float32),
        target=target,
    )


def _matrix(encoded: nw.DataFrame[Any], names: list[str], dtype: type) -> Tensor:
    matrix: NDArray[Any] = np.empty((len(encoded), len(names)), dtype=dtype)
    for index, name in enumerate(names):  # column by column: one copy at a time, not one of the whole frame
        matrix[:, index] = encoded.get_column(name).to_numpy()
    return torch.from_numpy(matrix)


def transform_target(values: NDArray[np.floating], scale: TargetScale) -> NDArray[np.float64]:
    """To the units in which the target is learned."""
    exact: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return np.asarray(np.log(exact)) if scale.transform == "log" else exact


def invert_target(values: NDArray[np.floating], scale: TargetScale) -> NDArray[np.float64]:
    """Back to the target's own units."""
    exact: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return np.asarray(np.exp(exact)) if scale.transform == "log" else exact
