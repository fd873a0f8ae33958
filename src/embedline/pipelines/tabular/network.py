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
from embedline.pipelines.tabular.layers import EmbeddingTables, EnsembleLinear, EnsembleOutput, LinearPart
from embedline.pipelines.tabular.linear import LinearModel
from embedline.pipelines.tabular.numeric_embeddings import make_numeric_embeddings
from embedline.pipelines.tabular.options import NetworkOptions, TableTraining
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


class EmbeddingNetwork(nn.Module):
    """Embeddings and continuous inputs through hidden layers to the outputs of all targets, side by side.

    Each hidden block is Linear -> ReLU -> [BatchNorm] -> Dropout. An output is ``mean + scale * x`` with its own mean
    and scale, or with a range ``low + (high - low) * sigmoid(x)``. The output of a number has the units of the
    *transformed* target, and an untrained network predicts the training mean. The outputs of classes are logits, and an
    untrained network predicts the shares of the training rows. DIFF(fastai): the lessons leave the output unscaled, so
    that the first hundred steps only find the mean.

    With ``members`` it is an ensemble in one network (:class:`EnsembleLinear`). Each member has a loss of its own; in
    evaluation the outputs are the mean of their numbers, and the logarithms of the mean of their probabilities. With
    ``linear`` the hidden layers add to a linear part in the numbers and the levels (:class:`.layers.LinearPart`), which
    is the whole output at first.

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
        """Hidden weights as in He et al. 2015, zero biases, and a small output layer, of zeros beside a linear part."""
        for module in self.hidden:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        if isinstance(self.output, nn.Linear):
            nn.init.xavier_uniform_(self.output.weight, gain=0.1)
            nn.init.zeros_(self.output.bias)
        if self.linear is not None:
            nn.init.zeros_(self.output.weight)

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
        if self.linear is not None:
            straight = self.linear(codes, continuous)
            raw = raw + (straight.unsqueeze(1) if self.members > 1 else straight)
        output = self.mean + self.scale * raw
        if self.limited:
            ranged = self.low + (self.high - self.low) * torch.sigmoid(raw)
            output = torch.where(self.high > self.low, ranged, output)
        if self.members > 1:
            output = output.flatten(0, 1) if self.training else self._mean_of_members(output)
        return output.squeeze(-1)

    def _mean_of_members(self, output: Tensor) -> Tensor:
        """Outputs [B, K] of the members' [B, M, K]."""
        mean = output.mean(dim=1)
        for begin, end in self.classes:
            logarithms = output[..., begin:end].log_softmax(dim=-1)
            mean[:, begin:end] = logarithms.logsumexp(dim=1) - math.log(self.members)
        return mean


def make_loss(targets: Sequence[Target], training: TableTraining) -> Loss:
    """Loss between the output of the network and the target of :class:`.arrays.TableArrays`.

    With several targets it is the sum of their losses, each times its weight in ``training.target_weights``. Where the
    output has several members of each row, it is the mean of their losses.

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
        alone = losses[0] if scales[0] == 1.0 else lambda output, target: scales[0] * losses[0](output, target)
        return _of_members(alone)
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

    return _of_members(summed)


def _of_members(loss: Loss) -> Loss:
    """``loss``, also of outputs that have several members of each row side by side."""

    def of_members(output: Tensor, target: Tensor) -> Tensor:
        members = len(output) // len(target)
        return loss(output, target if members == 1 else target.repeat_interleave(members, dim=0))

    return of_members


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
    batch, where a row would count more among light classes. Weighted rows teach a network the shares of the *weighted*
    classes; the logarithms of the weights, added to the logits here, leave the logits themselves calibrated (prior
    correction, King & Zeng 2001).
    """
    if weights is None:
        return lambda output, classes: F.cross_entropy(output, classes, label_smoothing=smoothing)
    counts = np.asarray(target.counts, dtype=np.float64)
    scaled = torch.from_numpy((weights * counts.sum() / (weights * counts).sum()).astype(np.float32))

    def weighted(output: Tensor, classes: Tensor) -> Tensor:
        weight = scaled.to(output.device, non_blocking=True)
        logits = output + weight.log()
        entropies = F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")
        return (entropies * weight[classes]).mean()

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
