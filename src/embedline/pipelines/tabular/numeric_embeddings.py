"""Encodings of continuous inputs, and their embeddings (Gorishniy, Rubachev & Babenko 2022, arXiv:2203.05556)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.pipelines.tabular.options import PeriodicOptions, PiecewiseLinearOptions


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
