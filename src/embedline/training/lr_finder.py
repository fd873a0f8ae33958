"""The learning-rate range test (Smith 2015): watch the loss while the rate grows batch by batch."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from embedline.training.loop import descend, make_optimizer, set_rates
from embedline.training.options import FinderOptions, TrainingOptions
from embedline.training.tasks import Loss, row_loss

SMOOTHING = 0.9  # weight of the past in the smoothed loss
DIVERGED = 4.0  # stop once the smoothed loss is this many times its minimum


@dataclass(frozen=True)
class RangeTest:
    """Rates tried, the smoothed loss at each, and the rate to start from."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    training: TrainingOptions,
    finder: FinderOptions,
    *,
    accelerator: Accelerator,
    seed: int,
) -> RangeTest:
    """Train a copy of ``network`` for ``finder.steps`` batches with a growing rate; the network itself is untouched.

    Arguments are those of :func:`embedline.training.loop.fit`. The loss is smoothed by an exponential average with
    bias correction. The suggestion is the rate two thirds into (on the log scale) the longest fall of the smoothed
    loss (compare fastai's "valley" rule).
    """
    device = accelerator.device
    network = copy.deepcopy(network).to(device).train()
    optimizer = make_optimizer(network, training)
    tensors = [tensor.to(device) for tensor in tensors]
    n_rows = len(tensors[-1])
    batch_size = min(training.batch_size, n_rows)
    order = torch.Generator(device=device).manual_seed(seed)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step in range(finder.steps):
        rate = finder.low * (finder.high / finder.low) ** (step / (finder.steps - 1))
        set_rates(optimizer, rate, training.betas[0])
        rows = torch.randint(n_rows, (batch_size,), generator=order, device=device)
        batch = [tensor[rows] for tensor in tensors]
        value = row_loss(network, batch, loss, accelerator.autocast)
        descend(value, network, optimizer, accelerator, training.clip_norm)
        average = SMOOTHING * average + (1.0 - SMOOTHING) * value.item()
        smoothed = average / (1.0 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
    return RangeTest(rates, losses, suggest_rate(rates, losses) if rates else finder.low)


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Rate two thirds into the longest run of falling losses: the steep part, clear of its end.

    >>> suggest_rate([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0, 5.0])
    0.001
    """
    best_start, best_length, start = 0, 1, 0
    for index in range(1, len(losses)):
        if losses[index] >= losses[index - 1]:
            start = index
        elif index - start + 1 > best_length:
            best_start, best_length = start, index - start + 1
    return rates[best_start + (best_length - 1) * 2 // 3]
