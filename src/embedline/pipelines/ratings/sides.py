"""Vectors of users and of items: their own ones, and those of their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.pipelines.ratings.features import Features

DENSE_CELLS = 2**24  # features up to so many cells are kept as a dense matrix, whose product is quicker than gathering


@dataclass(frozen=True)
class SideCodes:
    """Features of all users, or all items: codes int32 [n + 1, L] padded with 0, and weights float32 [n + 1, L].

    Networks side by side share these tensors.
    """

    codes: Tensor
    weights: Tensor
    n_features: int

    @classmethod
    def of(cls, codes: NDArray[np.int32], features: Features) -> "SideCodes":
        """Tensors of codes of ``features``."""
        return cls(torch.from_numpy(codes), torch.from_numpy(features.weights(codes)), features.size)

    def dense(self) -> Tensor:
        """Weight float32 [n + 1, n_features + 1] of every feature."""
        matrix = torch.zeros(len(self.codes), self.n_features + 1)
        return matrix.scatter_(1, self.codes.long(), self.weights)


class Side(nn.Module):
    """Vectors of all users, or of all items: a row's own one, and the sum of those of its features.

    Row 0, the unknown one, is zero and has no gradient; so has feature 0, which is none. The bias, where there is one,
    is the last column: one gather reads both.

    **Shape**: rows int [B] -> own [B, W], features [B, W].
    """

    def __init__(self, size: int, width: int, described: SideCodes | None) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(size + 1, width))
        self.feature = nn.Parameter(torch.zeros(described.n_features + 1, width)) if described else None
        dense = described is not None and len(described.codes) * (described.n_features + 1) <= DENSE_CELLS
        self.matrix: Tensor | None
        self.codes: Tensor | None
        self.weights: Tensor | None
        self.register_buffer("matrix", described.dense() if described and dense else None, persistent=False)
        self.register_buffer("codes", described.codes if described and not dense else None, persistent=False)
        self.register_buffer("weights", described.weights if described and not dense else None, persistent=False)

    def parts(self, rows: Tensor) -> list[Tensor]:
        """The own vectors [B, W] and, where there are features, the sum of theirs [B, W]."""
        own = F.embedding(rows, self.own, padding_idx=0)
        if self.matrix is not None and self.feature is not None:
            return [own, self.matrix.index_select(0, rows) @ self.feature]
        if self.codes is not None and self.weights is not None:
            return [own, self.of_features(self.codes[rows], self.weights[rows])]
        return [own]

    def of_features(self, codes: Tensor, weights: Tensor) -> Tensor:
        """Sum [B, W] of the vectors of features, codes int [B, L] with weights [B, L]."""
        if self.feature is None:
            return self.own.new_zeros(len(codes), self.own.shape[1])
        return F.embedding_bag(codes, self.feature, mode="sum", per_sample_weights=weights, padding_idx=0)

    def reset_parameters(self, trained: int, std: float, bias: bool) -> None:
        """Normal vectors of the deviation ``std``; zero are biases, rows 0, and rows above the ``trained`` ones."""
        with torch.no_grad():
            for table in (self.own, self.feature):
                if table is not None:
                    table.normal_(std=std)
                    table[0] = 0.0
                    if bias:
                        table[:, -1] = 0.0
            self.own[trained + 1 :] = 0.0


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Sum [B, W] of one or two parts of vectors."""
    return parts[0] + parts[1] if len(parts) > 1 else parts[0]
