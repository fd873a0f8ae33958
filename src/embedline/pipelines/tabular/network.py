"""The entity-embedding network (Guo & Berkhahn 2016, arXiv:1604.06737) in the form of the fast.ai lessons."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.numeric_embeddings import make_numeric_embeddings
from embedline.pipelines.tabular.options import NetworkOptions
from embedline.training.dropout import Dropout

Y_RANGE_MARGIN = 1.2  # DL1: the sigmoid's upper end is 1.2 times the largest training target


def embedding_size(cardinality: int, rule: str) -> int:
    """Width of the embedding of a variable with ``cardinality`` rows (levels and the row for missing or unseen).

    ``dl1``: ``min(50, (n + 1) // 2)`` of the 2017 course; ``v2``: ``min(600, round(1.6 n^0.56))`` of fastai v1 and v2.

    >>> [embedding_size(n, "dl1") for n in (8, 13, 53, 1116)], [embedding_size(n, "v2") for n in (8, 13, 53, 1116)]
    ([4, 7, 27, 50], [5, 7, 15, 81])
    """
    if rule == "dl1":
        return min(50, (cardinality + 1) // 2)
    return min(600, round(1.6 * cardinality**0.56))


def embedding_sizes(variables: Sequence[str], cardinalities: Sequence[int], options: NetworkOptions) -> tuple[int, ...]:
    """Width of each variable's embedding: the rule, or the user's own number.

    Raises:
        DataError: if ``embedding_sizes`` names a variable that is not among ``variables``.
    """
    unknown = sorted(set(options.embedding_sizes) - set(variables))
    if unknown:
        raise DataError(f"network.embedding_sizes names {unknown}, which are not categorical; these are: {variables}")
    return tuple(
        options.embedding_sizes.get(name, embedding_size(n, options.embedding_rule))
        for name, n in zip(variables, cardinalities, strict=True)
    )


class EmbeddingTables(nn.Module):
    """All variables' embeddings in one table, read by one gather.

    Twenty small lookups cost twice what one large one does, on a CPU as on a GPU. Variable ``v`` owns the rows
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


class EmbeddingNetwork(nn.Module):
    """Embeddings and continuous inputs through hidden layers to the outputs of all targets, side by side.

    Each hidden block is Linear -> ReLU -> [BatchNorm] -> Dropout. An output is ``mean + scale * x`` with its own mean
    and scale, or with a range ``low + (high - low) * sigmoid(x)``. That of a number is in units of the *transformed*
    target, and an untrained network predicts the training mean; those of classes are logits, and an untrained network
    predicts the shares of the training rows. DIFF(fastai): the lessons leave the output unscaled, and the first hundred
    steps go into finding the mean.

    **Shape**: codes int [B, V], continuous float [B, C] -> float [B] of one output, [B, K] of K.
    """

    def __init__(
        self,
        *,
        cardinalities: Sequence[int],
        sizes: Sequence[int],
        n_continuous: int,
        layers: Sequence[int],
        dropouts: Sequence[float],
        embedding_dropout: float,
        batch_norm: bool,
        continuous_batch_norm: bool,
        output_means: Sequence[float],
        output_scales: Sequence[float],
        y_ranges: Sequence[Sequence[float] | None],
        numeric_embedding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = EmbeddingTables(cardinalities=cardinalities, sizes=sizes) if len(sizes) else None
        self.embedding_dropout = Dropout(embedding_dropout)
        self.normalise = nn.BatchNorm1d(n_continuous) if n_continuous and continuous_batch_norm else nn.Identity()
        embedded = numeric_embedding is not None and n_continuous > 0
        self.numeric = make_numeric_embeddings(numeric_embedding or {}, n_continuous) if embedded else None
        self.hidden = nn.Sequential()
        width = sum(sizes) + (self.numeric.width if self.numeric else n_continuous)
        for index, (size, rate) in enumerate(zip(layers, dropouts, strict=True)):
            self.hidden.add_module(f"linear{index}", nn.Linear(width, size))
            self.hidden.add_module(f"relu{index}", nn.ReLU())
            if batch_norm:
                self.hidden.add_module(f"norm{index}", nn.BatchNorm1d(size))
            if rate:
                self.hidden.add_module(f"dropout{index}", Dropout(rate))
            width = size
        self.output = nn.Linear(width, len(output_means))
        self.limited = any(limits is not None for limits in y_ranges)
        lows, highs = zip(*(limits if limits is not None else (0.0, 0.0) for limits in y_ranges), strict=True)
        self.mean: Tensor
        self.scale: Tensor
        self.low: Tensor
        self.high: Tensor
        for name, numbers in (("mean", output_means), ("scale", output_scales), ("low", lows), ("high", highs)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal hidden weights (He et al. 2015) and zero biases; a small output layer."""
        for module in self.hidden:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.output.weight, gain=0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, codes: Tensor, continuous: Tensor) -> Tensor:
        """Predict the transformed numbers and the logits of the classes."""
        parts = []
        if self.embeddings is not None:
            parts.append(self.embedding_dropout(self.embeddings(codes)))
        parts.append(self.numeric(continuous) if self.numeric is not None else self.normalise(continuous))
        raw = self.output(self.hidden(torch.cat(parts, dim=1))).float()  # (B, K)
        output = self.mean + self.scale * raw
        if self.limited:
            ranged = self.low + (self.high - self.low) * torch.sigmoid(raw)
            output = torch.where(self.high > self.low, ranged, output)
        return output.squeeze(-1)
