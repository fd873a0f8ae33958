"""The loss of the network: numbers in standard deviations, classes by cross-entropy, summed over several targets."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.options import TableTraining
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target
from embedline.training.batches import Loss

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}
RELATIVE_CLIP = 0.5  # larger relative errors count linearly: else a handful of rows would dominate the training

Reduction = Literal["mean", "none"]  # to a loss [], or the losses [B] of the rows


def make_loss(targets: Sequence[Target], training: TableTraining, *, weighted: bool = False) -> Loss:
    """Loss between the output of the network and the target of :class:`.arrays.TableArrays`.

    With several targets it is the sum of their losses, each times its weight in ``training.target_weights``. Where the
    output has several members of each row, it is the mean of their losses.

    Args:
        weighted: whether the target has weights of the rows. The loss of a batch is then the mean of each row's loss
            times its weight: divided by the number of rows, not by the sum of their weights, by which a row would count
            more in a light batch. The weights have the mean 1 over the training rows.

    Raises:
        DataError: naming the setting of ``training`` that does not fit the targets.
    """
    _check_settings(targets, training)
    reduction: Reduction = "none" if weighted else "mean"
    alone = len(targets) == 1
    losses = [
        number_loss(training.loss, target, reduction)
        if isinstance(target, NumericTarget)
        else class_loss(target, class_weights(target, training, alone=alone), training.label_smoothing, reduction)
        for target in targets
    ]
    scales = [training.target_weights.get(target.column, 1.0) for target in targets]
    if alone and not weighted:
        return _of_members(
            losses[0] if scales[0] == 1.0 else lambda output, target: scales[0] * losses[0](output, target)
        )
    ends = np.cumsum([target.width for target in targets]).tolist()

    def summed(output: Tensor, target: Tensor) -> Tensor:
        output = output.unsqueeze(-1) if output.ndim == 1 else output
        total = output.new_zeros(())
        for k, (loss, scale, end) in enumerate(zip(losses, scales, ends, strict=True)):
            outputs = output[:, end - targets[k].width : end]
            number = isinstance(targets[k], NumericTarget)
            total = total + scale * (
                loss(outputs.squeeze(-1), target[:, k]) if number else loss(outputs, target[:, k].long())
            )
        return (total * target[:, -1]).mean() if weighted else total

    return _of_members(summed)


def _of_members(loss: Loss) -> Loss:
    """``loss``, also of outputs that have several members of each row side by side."""

    def of_members(output: Tensor, target: Tensor) -> Tensor:
        members = len(output) // len(target)
        return loss(output, target if members == 1 else target.repeat_interleave(members, dim=0))

    return of_members


def number_loss(name: str, numeric: NumericTarget, reduction: Reduction = "mean") -> Loss:
    """Loss on outputs and targets [B] in transformed units, divided by the standard deviation of the target.

    The division lets learning rates carry over from one table to the next. ``relative`` is the squared relative error
    ``(exp(output - target) - 1)^2`` of a target learned as a logarithm, which RMSPE averages, clipped as in Huber's
    loss. ``quantile`` takes outputs [B, Q] of the quantiles of the target, and is the mean of their pinball losses
    ``max(q e, (q - 1) e)`` of ``e = target - output`` (Koenker & Bassett 1978).

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
            return 2.0 * F.huber_loss(error, torch.zeros_like(error), delta=RELATIVE_CLIP / std, reduction=reduction)

        return relative
    if name == "quantile":
        levels = torch.tensor(numeric.quantiles, dtype=torch.float32)

        def pinball(output: Tensor, target: Tensor) -> Tensor:
            error = (target.unsqueeze(-1) - output.reshape(len(target), -1)) / std  # (B, Q)
            q = levels.to(output.device, non_blocking=True)
            losses = torch.maximum(q * error, (q - 1.0) * error).mean(dim=1)
            return losses.mean() if reduction == "mean" else losses

        return pinball
    loss = LOSSES[name]
    return lambda output, target: loss(output / std, target / std, reduction=reduction)


def class_loss(
    target: ClassTarget, weights: NDArray[np.float64] | None, smoothing: float, reduction: Reduction = "mean"
) -> Loss:
    """Cross-entropy of logits [B, C] and classes int64 [B], in nats.

    With weights [C], the entropy of each row is multiplied by the weight of its class, and the mean is taken over the
    rows. The weights are scaled to the mean 1 over the *training* rows: ``torch`` itself divides by the weights of the
    batch, where a row would count more among light classes. Weighted rows teach a network the shares of the *weighted*
    classes; the logarithms of the weights, added to the logits here, leave the logits themselves calibrated (prior
    correction, King & Zeng 2001).
    """
    if weights is None:
        return lambda output, classes: F.cross_entropy(output, classes, label_smoothing=smoothing, reduction=reduction)
    counts = np.asarray(target.counts, dtype=np.float64)
    scaled = torch.from_numpy((weights * counts.sum() / (weights * counts).sum()).astype(np.float32))

    def weighted(output: Tensor, classes: Tensor) -> Tensor:
        weight = scaled.to(output.device, non_blocking=True)
        logits = output + weight.log()
        entropies = F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")
        losses = entropies * weight[classes]
        return losses.mean() if reduction == "mean" else losses

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
    if training.loss == "quantile" and len(classes) == len(names):
        raise DataError(f"training.loss 'quantile' is for numbers, but the targets {names} are all classes")
    if not classes and (training.label_smoothing or training.class_weights is not None):
        key = "label_smoothing" if training.label_smoothing else "class_weights"
        raise DataError(f"training.{key} is for classes, but the targets {names} are numbers (columns.classes)")
    if len(targets) > 1 and isinstance(training.class_weights, dict):
        if strange := sorted(set(map(str, training.class_weights)) - set(classes)):
            raise DataError(
                f"training.class_weights names {strange}; of several targets it needs {{target: ...}} with {classes}"
            )
