"""The entity-embedding network and its loss (Guo & Berkhahn 2016, arXiv:1604.06737), as in the fast.ai lessons.

The loss takes numbers in standard deviations and classes by cross-entropy, and sums up several targets.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.options import NetworkOptions, PeriodicOptions, PiecewiseLinearOptions, TableTraining
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target
from embedline.training.batches import Loss
from embedline.training.dropout import Dropout

Y_RANGE_MARGIN = 1.2  # DL1: the sigmoid's upper end is 1.2 times the largest training target
LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}
RELATIVE_CLIP = 0.5  # larger relative errors count linearly: else a handful of rows would dominate the training


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


class EmbeddingNetwork(nn.Module):
    """Embeddings and continuous inputs through hidden layers to the outputs of all targets, side by side.

    Each hidden block is Linear -> ReLU -> [BatchNorm] -> Dropout. An output is ``mean + scale * x`` with its own mean
    and scale, or with a range ``low + (high - low) * sigmoid(x)``. The output of a number has the units of the
    *transformed* target, and an untrained network predicts the training mean. The outputs of classes are logits, and an
    untrained network predicts the shares of the training rows. DIFF(fastai): the lessons leave the output unscaled, so
    that the first hundred steps only find the mean.

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
        inputs = []
        if self.embeddings is not None:
            inputs.append(self.embedding_dropout(self.embeddings(codes)))
        inputs.append(self.numeric(continuous) if self.numeric is not None else self.normalise(continuous))
        raw = self.output(self.hidden(torch.cat(inputs, dim=1))).float()  # (B, K)
        output = self.mean + self.scale * raw
        if self.limited:
            ranged = self.low + (self.high - self.low) * torch.sigmoid(raw)
            output = torch.where(self.high > self.low, ranged, output)
        return output.squeeze(-1)


def make_loss(targets: Sequence[Target], training: TableTraining) -> Loss:
    """Loss between the output of the network and the target of :class:`.arrays.TableArrays`.

    With several targets it is the sum of their losses, each times its weight in ``training.target_weights``.

    Raises:
        DataError: naming the setting of ``training`` that does not fit the targets.
    """
    _check_settings(targets, training)
    losses = [
        number_loss(training.loss, target)
        if isinstance(target, NumericTarget)
        else class_loss(target, class_weights(target, training, alone=len(targets) == 1), training.label_smoothing)
        for target in targets
    ]
    scales = [training.target_weights.get(target.column, 1.0) for target in targets]
    if len(targets) == 1:
        return losses[0] if scales[0] == 1.0 else lambda output, target: scales[0] * losses[0](output, target)
    ends = np.cumsum([target.width for target in targets]).tolist()

    def summed(output: Tensor, target: Tensor) -> Tensor:
        total = output.new_zeros(())
        for k, (loss, scale, end) in enumerate(zip(losses, scales, ends, strict=True)):
            outputs = output[:, end - targets[k].width : end]
            number = isinstance(targets[k], NumericTarget)
            total = total + scale * (
                loss(outputs.squeeze(-1), target[:, k]) if number else loss(outputs, target[:, k].long())
            )
        return total

    return summed


def number_loss(name: str, numeric: NumericTarget) -> Loss:
    """Loss on outputs and targets [B] in transformed units, divided by the standard deviation of the target.

    The division lets learning rates carry over from one table to the next. ``relative`` is the squared relative error
    ``(exp(output - target) - 1)^2`` of a target learned as a logarithm, which RMSPE averages, clipped as in Huber's
    loss.

    Raises:
        DataError: if ``relative`` is asked for a target that is not learned as a logarithm.
    """
    std = numeric.std
    if name == "relative":
        if numeric.transform != "log":
            raise DataError(f"training.loss 'relative' needs encoding.target_transform: log for {numeric.column!r}")

        def relative(output: Tensor, target: Tensor) -> Tensor:
            difference = output - target
            # Above a difference of 1 the exponential continues as its tangent: a clamp would leave no gradient there.
            near = difference.clamp(max=1.0)
            error = (torch.expm1(near) + math.e * (difference - near)) / std
            return 2.0 * F.huber_loss(error, torch.zeros_like(error), delta=RELATIVE_CLIP / std)

        return relative
    loss = LOSSES[name]
    return lambda output, target: loss(output / std, target / std)


def class_loss(target: ClassTarget, weights: NDArray[np.float64] | None, smoothing: float) -> Loss:
    """Cross-entropy of logits [B, C] and classes int64 [B], in nats.

    With weights [C], the entropy of each row is multiplied by the weight of its class, and the mean is taken over the
    rows. The weights are scaled to the mean 1 over the *training* rows: ``torch`` itself divides by the weights of the
    batch, where a row would count more among light classes.
    """
    if weights is None:
        return lambda output, classes: F.cross_entropy(output, classes, label_smoothing=smoothing)
    counts = np.asarray(target.counts, dtype=np.float64)
    scaled = torch.from_numpy((weights * counts.sum() / (weights * counts).sum()).astype(np.float32))

    def weighted(output: Tensor, classes: Tensor) -> Tensor:
        entropies = F.cross_entropy(output, classes, label_smoothing=smoothing, reduction="none")
        return (entropies * scaled.to(output.device, non_blocking=True)[classes]).mean()

    return weighted


def class_weights(target: ClassTarget, training: TableTraining, *, alone: bool) -> NDArray[np.float64] | None:
    """Weight of each class, float64 [C], from ``training.class_weights``; None if all weights are equal.

    Args:
        alone: whether the table has no other target, so that the setting may omit the name of the target.

    Raises:
        DataError: if the setting names a class that the target does not have.
    """
    setting: Any = training.class_weights
    if isinstance(setting, dict) and (not alone or set(setting) == {target.column}):
        setting = setting.get(target.column)
    if setting is None:
        return None
    if setting == "balanced":
        return sum(target.counts) / (target.width * np.asarray(target.counts, dtype=np.float64))
    given = {str(name): weight for name, weight in setting.items()} if isinstance(setting, dict) else None
    if given is None or any(not isinstance(weight, float | int) for weight in given.values()):
        raise DataError(f"training.class_weights of {target.column!r} must be balanced or {{class: weight}}")
    if strange := sorted(set(given) - set(target.names)):
        known = ", ".join(target.names)
        raise DataError(f"training.class_weights names {strange}, no classes of {target.column!r}; these are: {known}")
    return np.array([given.get(name, 1.0) for name in target.names])


def _check_settings(targets: Sequence[Target], training: TableTraining) -> None:
    names, classes = [t.column for t in targets], [t.column for t in targets if isinstance(t, ClassTarget)]
    if strange := sorted(set(training.target_weights) - set(names)):
        raise DataError(f"training.target_weights names {strange}; the targets are {names}")
    if not classes and (training.label_smoothing or training.class_weights is not None):
        key = "label_smoothing" if training.label_smoothing else "class_weights"
        raise DataError(f"training.{key} is for classes, but the targets {names} are numbers (columns.classes)")
    if len(targets) > 1 and isinstance(training.class_weights, dict):
        if strange := sorted(set(map(str, training.class_weights)) - set(classes)):
            raise DataError(
                f"training.class_weights names {strange}; of several targets it needs {{target: ...}} with {classes}"
            )
