"""The entity-embedding network (Guo & Berkhahn 2016, arXiv:1604.06737), as in the fast.ai lessons."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.layers import EmbeddingTables, EnsembleLinear, EnsembleOutput, LinearPart
from embedline.pipelines.tabular.linear import LinearModel
from embedline.pipelines.tabular.numeric_embeddings import make_numeric_embeddings, numeric_config
from embedline.pipelines.tabular.options import NetworkOptions
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target
from embedline.training.dropout import Dropout, seed_dropout

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


class EmbeddingNetwork(nn.Module):
    """Embeddings and continuous inputs through hidden layers to the outputs of all targets, side by side.

    Each hidden block is Linear -> ReLU -> [BatchNorm] -> Dropout. An output is ``mean + scale * x`` with its own mean
    and scale, or with a range ``low + (high - low) * sigmoid(x)``. The output of a number has the units of the
    *transformed* target, and an untrained network predicts the training mean. The outputs of classes are logits, and an
    untrained network predicts the shares of the training rows. DIFF(fastai): the lessons leave the output unscaled, so
    that the first hundred steps only find the mean.

    With ``members`` it is an ensemble in one network (:class:`EnsembleLinear`). Each member has a loss of its own; in
    evaluation the outputs are the mean of their numbers, and the logarithms of the mean of their probabilities. With
    ``linear`` the outputs in evaluation are ``share`` times those of the hidden layers, and for the rest those of a
    linear model (:class:`.layers.LinearPart`); the hidden layers learn as if they were alone.

    **Shape**: codes int [B, V], continuous float [B, C] -> float [B] of one output, [B, K] of K; while it trains,
    B is the number of rows times that of members, the members of a row side by side.
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
        members: int = 1,
        linear: bool = False,
        classes: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.embeddings = EmbeddingTables(cardinalities=cardinalities, sizes=sizes) if len(sizes) else None
        drops = bool(embedding_dropout) or any(dropouts)
        self.embedding_dropout = Dropout(embedding_dropout) if drops else nn.Identity()
        self.normalise = nn.BatchNorm1d(n_continuous) if n_continuous and continuous_batch_norm else nn.Identity()
        embedded = numeric_embedding is not None and n_continuous > 0
        self.numeric = make_numeric_embeddings(numeric_embedding or {}, n_continuous) if embedded else None
        self.hidden = nn.Sequential()
        self.members, self.classes = members, [tuple(each) for each in classes]
        width = sum(sizes) + (self.numeric.width if self.numeric else n_continuous)
        for index, (size, rate) in enumerate(zip(layers, dropouts, strict=True)):
            layer = EnsembleLinear(width, size, members, first=index == 0) if members > 1 else nn.Linear(width, size)
            self.hidden.add_module(f"linear{index}", layer)
            self.hidden.add_module(f"relu{index}", nn.ReLU())
            if batch_norm:
                self.hidden.add_module(f"norm{index}", nn.BatchNorm1d(size))
            if rate:
                self.hidden.add_module(f"dropout{index}", Dropout(rate))
            width = size
        n_outputs = len(output_means)
        self.output = nn.Linear(width, n_outputs) if members == 1 else EnsembleOutput(width, n_outputs, members)
        self.linear = LinearPart(cardinalities, n_continuous, n_outputs) if linear else None
        if linear:
            self.register_buffer("share", torch.ones(()))
            self.share: Tensor
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
        if isinstance(self.output, nn.Linear):
            nn.init.xavier_uniform_(self.output.weight, gain=0.1)
            nn.init.zeros_(self.output.bias)

    @torch.no_grad()
    def set_linear_part(self, models: Sequence[LinearModel]) -> None:
        """Take over fitted linear models, one for each target in their order."""
        assert self.linear is not None
        self.linear.slopes.copy_(torch.from_numpy(np.concatenate([model.slopes for model in models])))
        for variable in range(len(self.linear.effects.sizes)):
            effects = np.concatenate([model.effects(variable) for model in models], axis=1)
            self.linear.effects.table(variable).copy_(torch.from_numpy(effects))
        intercepts = torch.from_numpy(np.concatenate([model.intercepts for model in models])).float()
        for (
            begin,
            end,
        ) in self.classes:  # logits start from those of the shares; a number is in deviations from its mean
            intercepts[begin:end] -= self.mean[begin:end]
        self.linear.bias.copy_(intercepts)

    def forward(self, codes: Tensor, continuous: Tensor) -> Tensor:
        """Predict the transformed numbers and the logits of the classes."""
        inputs = []
        if self.embeddings is not None:
            inputs.append(self.embedding_dropout(self.embeddings(codes)))
        inputs.append(self.numeric(continuous) if self.numeric is not None else self.normalise(continuous))
        values = torch.cat(inputs, dim=1)
        if self.members > 1:
            values = values.unsqueeze(1).expand(-1, self.members, -1)
        raw = self.output(self.hidden(values)).float()  # (B, K), or (B, M, K)
        if self.linear is not None and not self.training:
            straight = self.linear(codes, continuous)
            raw = self.share * raw + (1.0 - self.share) * (straight.unsqueeze(1) if self.members > 1 else straight)
        output = self.mean + self.scale * raw
        if self.limited:
            ranged = self.low + (self.high - self.low) * torch.sigmoid(raw)
            output = torch.where(self.high > self.low, ranged, output)
        if self.members > 1:
            output = output.flatten(0, 1) if self.training else self._mean_of_members(output)
        # By its width: ONNX's Squeeze, unlike PyTorch's, refuses an axis that is longer than one.
        return output.squeeze(-1) if output.shape[-1] == 1 else output

    def _mean_of_members(self, output: Tensor) -> Tensor:
        """Outputs [B, K] of the members' [B, M, K]."""
        mean = output.mean(dim=1)
        for begin, end in self.classes:
            logarithms = output[..., begin:end].log_softmax(dim=-1)
            mean[:, begin:end] = logarithms.logsumexp(dim=1) - math.log(self.members)
        return mean


def network_config(
    encoder: Encoder, options: NetworkOptions, values: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Arguments of :class:`EmbeddingNetwork` for a fitted encoder; plain JSON values.

    Args:
        values: float32 [N, C], the continuous inputs of the training rows; bins of numeric embeddings need them.
    """
    dropouts = list(options.dropout) if isinstance(options.dropout, tuple) else [options.dropout] * len(options.layers)
    own_sizes = {k: v for k, v in options.embedding_sizes.items() if k not in encoder.left_out.names}
    known = options.model_copy(update={"embedding_sizes": own_sizes})
    ends = np.cumsum([target.width for target in encoder.targets]).tolist()
    ensemble = {
        "members": options.members,
        "linear": options.linear,
        "classes": [
            [end - target.width, end]
            for end, target in zip(ends, encoder.targets, strict=True)
            if isinstance(target, ClassTarget)
        ],
    }
    return {
        "cardinalities": list(encoder.cardinalities),
        "sizes": list(embedding_sizes(encoder.code_columns, encoder.cardinalities, known)),
        "n_continuous": len(encoder.value_columns),
        "continuous_batch_norm": options.continuous_batch_norm,
        "layers": list(options.layers),
        "dropouts": dropouts,
        "embedding_dropout": options.embedding_dropout,
        "batch_norm": options.batch_norm,
        "numeric_embedding": (
            numeric_config(options.numeric_embedding, values)
            if encoder.value_columns and options.numeric_embedding
            else None
        ),
        **_outputs(encoder.targets, options),
        **(ensemble if options.members > 1 or options.linear else {}),
    }


def _outputs(targets: Sequence[Target], options: NetworkOptions) -> dict[str, list[Any]]:
    """Mean, scale and range of each output of the network."""
    numeric = sum(isinstance(target, NumericTarget) for target in targets)
    if options.y_range is not None and not numeric:
        raise DataError("network.y_range is for numeric targets, and all of columns.target are classes: set it to null")
    if isinstance(options.y_range, tuple) and numeric > 1:
        raise DataError(f"network.y_range is one range for {numeric} numeric targets: set it to auto or null")
    means: list[float] = []
    scales: list[float] = []
    ranges: list[list[float] | None] = []
    for target in targets:
        if isinstance(target, ClassTarget):
            shares = np.array(target.counts) / sum(target.counts)
            means += np.log(shares).tolist()
            scales += [1.0] * target.width
            ranges += [None] * target.width
        else:
            deviations = [NormalDist().inv_cdf(level) for level in target.quantiles] or [0.0]
            means += [target.mean + deviation * target.std for deviation in deviations]
            scales += [target.std] * target.width
            ranges += [_range(target, options)] * target.width
    return {"output_means": means, "output_scales": scales, "y_ranges": ranges}


def _range(target: NumericTarget, options: NetworkOptions) -> list[float] | None:
    if options.y_range != "auto":
        return list(options.y_range) if options.y_range is not None else None
    if target.maximum <= 0.0:
        raise DataError(
            f"network.y_range 'auto' ends at {Y_RANGE_MARGIN} times the largest training target, which is "
            f"{target.maximum:.4g} ({target.column!r}, transform {target.transform!r}): give the range as two numbers"
        )
    # DIFF(fastai): the lesson takes the largest target of training and validation rows together.
    return [0.0, Y_RANGE_MARGIN * target.maximum]


def build_network(config: dict[str, Any], *, seed: int) -> EmbeddingNetwork:
    """Network of :func:`network_config`; weights and dropout masks follow ``seed``, global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingNetwork(**config)
    if config["embedding_dropout"] or any(config["dropouts"]):
        seed_dropout(network, seed)
    return network
