"""Layers of the table network: embeddings in one table, a linear part, and layers of an ensemble in one network."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EmbeddingTables(nn.Module):
    """All variables' embeddings in one table, read by one gather.

    Twenty small lookups take twice as long as one large one, on a CPU and on a GPU. Variable ``v`` owns the rows
    ``offsets[v] : offsets[v] + cardinalities[v]`` and the first ``sizes[v]`` columns; the rest is never read.

    **Shape**: codes int [B, V] -> float [B, sum(sizes)].
    """

    def __init__(self, *, cardinalities: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.cardinalities, self.sizes = tuple(cardinalities), tuple(sizes)
        width = max(self.sizes, default=0)
        self.weight = nn.Parameter(torch.zeros(sum(self.cardinalities), width))
        offsets = torch.tensor([0, *self.cardinalities[:-1]]).cumsum(0)[: len(self.sizes)]
        used = [torch.arange(size) + index * width for index, size in enumerate(self.sizes)]
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("used", torch.cat(used) if used else torch.empty(0, dtype=torch.long), persistent=False)
        self.offsets: Tensor
        self.used: Tensor
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±2 / (size + 1), the initialisation of the DL1 course."""
        with torch.no_grad():
            for variable, size in enumerate(self.sizes):
                self.table(variable).uniform_(-2.0 / (size + 1), 2.0 / (size + 1))

    def table(self, variable: int) -> Tensor:
        """View [cardinality, size] of one variable's embeddings."""
        start = int(self.offsets[variable])
        return self.weight[start : start + self.cardinalities[variable], : self.sizes[variable]]

    def forward(self, codes: Tensor) -> Tensor:
        """Look up and concatenate the embeddings of ``codes``."""
        vectors = F.embedding(codes + self.offsets, self.weight)  # (B, V, width)
        return vectors.flatten(1).index_select(1, self.used)  # (B, sum(sizes))


class LinearPart(nn.Module):
    """Outputs that are linear in the numbers and the levels: a fitted ridge or logistic regression that stays as it is.

    **Shape**: codes int [B, V], continuous float [B, C] -> float32 [B, K].
    """

    def __init__(self, cardinalities: Sequence[int], n_continuous: int, n_outputs: int) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.zeros(n_outputs, n_continuous))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        self.effects = EmbeddingTables(cardinalities=cardinalities, sizes=[n_outputs] * len(cardinalities))
        nn.init.zeros_(self.effects.weight)
        self.requires_grad_(False)

    def forward(self, codes: Tensor, continuous: Tensor) -> Tensor:
        """The sum of the effects of numbers and levels, in full precision."""
        with torch.autocast(codes.device.type, enabled=False):
            straight = F.linear(continuous.float(), self.slopes, self.bias)
            if self.effects.sizes:
                straight = straight + self.effects(codes).unflatten(1, (codes.shape[1], -1)).sum(dim=1)
            return straight


class EnsembleLinear(nn.Module):
    """A linear layer of ``members`` that share one matrix: ``y_m = s_m * (W (r_m * x_m)) + b_m``.

    BatchEnsemble (Wen, Tran & Ba 2020, arXiv:2002.06715), as in TabM (Gorishniy, Kotelnikov & Babenko 2024,
    arXiv:2410.24210): many networks for little more than the parameters of one.

    **Shape**: float [B, M, inputs] -> float [B, M, outputs].
    """

    def __init__(self, inputs: int, outputs: int, members: int, *, first: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        # One-dimensional, since weight decay applies to matrices: these belong at 1, not at 0.
        self.before = nn.Parameter(torch.ones(members * inputs))
        self.after = nn.Parameter(torch.ones(members * outputs))
        self.bias = nn.Parameter(torch.zeros(members * outputs))
        self.members = members
        nn.init.kaiming_normal_(self.weight)
        if first:  # here the members begin to differ
            nn.init.normal_(self.before)

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer of each member to its values."""
        shared = F.linear(values * self.before.view(self.members, -1), self.weight)
        return torch.addcmul(self.bias.view(self.members, -1), shared, self.after.view(self.members, -1))


class EnsembleOutput(nn.Module):
    """The output layers of all members, which share nothing. **Shape**: float [B, M, inputs] -> float [B, M, K]."""

    def __init__(self, inputs: int, outputs: int, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members * outputs))  # one-dimensional: no weight decay
        bound = 0.1 * (6.0 / (inputs + outputs)) ** 0.5  # as the one output layer of a network begins
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, values: Tensor) -> Tensor:
        """Outputs of each member."""
        found = torch.bmm(values.transpose(0, 1), self.weight).transpose(0, 1)
        return found + self.bias.view(len(self.weight), -1)
