"""Modules that embed the inputs of a table: one table of all categories, and encodings of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.options import NetworkOptions, PeriodicOptions, PiecewiseLinearOptions


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


def numeric_config(
    options: PiecewiseLinearOptions | PeriodicOptions | None, values: NDArray[np.float32] | None
) -> dict[str, Any] | None:
    """Arguments of :func:`make_numeric_embeddings` as JSON values; the edges of bins are fitted on ``values``.

    Args:
        values: float32 [N, C], the standardised inputs of the training rows; only bins need them.
    """
    if not isinstance(options, PiecewiseLinearOptions):
        return options.model_dump() if options else None
    if values is None:
        raise ValueError("bins need the values of the training rows")
    return {"kind": options.kind, "edges": bin_edges(values, options.bins), "size": options.size}


def bin_edges(values: NDArray[np.float32], bins: int) -> list[list[float]]:
    """Ascending edges of each column of ``values`` [N, C]: quantiles of its distinct values, at most ``bins + 1``.

    Quantiles of the rows would waste the bins on a value that nine rows in ten have. A constant column has one bin of
    the width 1.
    """
    levels = np.linspace(0.0, 1.0, bins + 1)
    # "nearest" takes values that occur: an interpolated edge beside a frequent value would leave a bin of almost no
    # width, and the line beyond the last edge continues with its slope.
    edges = [
        np.unique(np.quantile(np.unique(column), levels, method="nearest")).astype(np.float64) for column in values.T
    ]
    return [(each if len(each) > 1 else np.array([each[0], each[0] + 1.0])).tolist() for each in edges]


def make_numeric_embeddings(config: dict[str, Any], n_variables: int) -> "NumericEmbeddings":
    """The module of :func:`numeric_config`, for ``n_variables`` continuous inputs."""
    if config["kind"] == "piecewise_linear":
        encoding: PiecewiseLinearEncoding | PeriodicEncoding = PiecewiseLinearEncoding(config["edges"])
    else:
        encoding = PeriodicEncoding(n_variables, config["frequencies"], config["sigma"])
    return NumericEmbeddings(encoding, n_variables, config["size"])


class PiecewiseLinearEncoding(nn.Module):
    """Piecewise-linear encoding: 1 for each bin below the number, 0 for each bin above, a share for the bin around it.

    Below the first edge and above the last one, the first and the last bin continue as a line. Variables with fewer
    bins than T are padded with zeros.

    **Shape**: float [B, C] -> float [B, C, T], T the greatest number of bins.
    """

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        counts = [len(each) - 1 for each in edges]
        self.n_features = max(counts)
        shape = (len(edges), self.n_features)
        left, inverse = torch.zeros(shape), torch.zeros(shape)
        low, high = torch.zeros(shape), torch.ones(shape)
        for variable, (each, count) in enumerate(zip(edges, counts, strict=True)):
            exact = torch.tensor(each, dtype=torch.float64)
            left[variable, :count] = exact[:-1].float()
            inverse[variable, :count] = (1.0 / exact.diff()).float()
            low[variable, 0], high[variable, count - 1] = -torch.inf, torch.inf
        for name, buffer in (("left", left), ("inverse", inverse), ("low", low), ("high", high)):
            self.register_buffer(name, buffer, persistent=False)
        self.left: Tensor
        self.inverse: Tensor
        self.low: Tensor
        self.high: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Encode standardised values."""
        through = (values.unsqueeze(-1) - self.left) * self.inverse  # (B, C, T)
        return torch.minimum(torch.maximum(through, self.low), self.high)


class PeriodicEncoding(nn.Module):
    """``cos(2 pi c x)`` and ``sin(2 pi c x)`` for ``n_frequencies`` learned coefficients ``c`` of each variable.

    The coefficients start as normal draws with the standard deviation ``sigma``.

    **Shape**: float [B, C] -> float [B, C, 2 n_frequencies].
    """

    def __init__(self, n_variables: int, n_frequencies: int, sigma: float) -> None:
        super().__init__()
        self.shape, self.n_features = (n_variables, n_frequencies), 2 * n_frequencies
        # One-dimensional, since weight decay applies to matrices: a frequency has no reason to be small.
        self.coefficients = nn.Parameter(torch.empty(n_variables * n_frequencies))
        nn.init.normal_(self.coefficients, std=sigma)

    def forward(self, values: Tensor) -> Tensor:
        """Encode standardised values."""
        angles = 2.0 * torch.pi * values.unsqueeze(-1) * self.coefficients.view(self.shape)  # (B, C, F)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NumericEmbeddings(nn.Module):
    """Embeddings of continuous inputs (Gorishniy, Rubachev & Babenko 2022, arXiv:2203.05556).

    Each variable has a linear layer of its own on its encoding, ``size`` units with ReLU. A network on plain numbers is
    smooth in them; with these it can bend within a few bins, or periods. One tensor operation serves all variables.

    **Shape**: float [B, C] -> float [B, C * size], the units of a variable side by side.
    """

    def __init__(self, encoding: PiecewiseLinearEncoding | PeriodicEncoding, n_variables: int, size: int) -> None:
        super().__init__()
        self.encoding, self.width = encoding, n_variables * size
        self.weight = nn.Parameter(torch.empty(n_variables, encoding.n_features, size))
        self.bias = nn.Parameter(torch.empty(n_variables * size))  # one-dimensional: no weight decay
        bound = encoding.n_features**-0.5  # as nn.Linear starts
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, values: Tensor) -> Tensor:
        """Embed standardised values."""
        units = torch.einsum("bct,cts->bcs", self.encoding(values), self.weight)
        return torch.relu(units.flatten(1) + self.bias)
