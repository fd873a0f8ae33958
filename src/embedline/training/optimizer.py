"""Optimiser: layer groups with rates of their own, schedules of rate and momentum, averaged weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from embedline.training.options import FitOptions

WARMUP_DIVISOR = 25.0  # a one-cycle starts at lr / 25 and …
FINAL_DIVISOR = 1e5  # … ends at lr / 1e5: the defaults of fastai v2
AVERAGE_WARMUP = 10.0


@dataclass(frozen=True)
class LayerGroup:
    """Modules that learn at ``rate`` times the training's learning rate.

    A parameter that several groups hold, such as a tied matrix, belongs to the first of them.
    """

    modules: Sequence[nn.Module]
    rate: float = 1.0


def discriminative(groups: Sequence[Sequence[nn.Module]], decay: float) -> list[LayerGroup]:
    """Return groups from the first layers to the last, each learning ``decay`` times slower than the next.

    (Howard & Ruder 2018, arXiv:1801.06146, §3.2: discriminative fine-tuning; the paper's factor is 2.6.)
    """
    last = len(groups) - 1
    return [LayerGroup(modules, decay ** (place - last)) for place, modules in enumerate(groups)]


def unfreeze(network: nn.Module, groups: Sequence[Sequence[nn.Module]], n_groups: int | None) -> None:
    """Have only the last ``n_groups`` of a network's layer groups learn; all parameters if None."""
    network.requires_grad_(n_groups is None)
    for modules in groups[-n_groups if n_groups else 0 :]:
        for module in modules:
            module.requires_grad_(True)


def optimizer_groups(groups: Sequence[LayerGroup], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser: matrices are decayed, vectors (biases, batch-norm) are not, as in fastai v2."""
    settings: list[dict[str, Any]] = []
    taken: set[int] = set()
    for group in groups:
        found = [p for module in group.modules for p in module.parameters() if p.requires_grad]
        own = [p for p in dict.fromkeys(found) if id(p) not in taken]
        taken |= {id(p) for p in own}
        matrices, vectors = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
        settings.append({"params": matrices, "weight_decay": weight_decay, "rate": group.rate})
        settings.append({"params": vectors, "weight_decay": 0.0, "rate": group.rate})
    return [setting for setting in settings if setting["params"]]


class SGD(torch.optim.SGD):
    """SGD whose ``weight_decay`` may be ``decoupled``: the share ``lr * weight_decay`` of a weight (as in AdamW)."""

    def __init__(self, params: Any, *, decay: str, **settings: Any) -> None:
        super().__init__(params, **settings)
        for group in self.param_groups:
            group["decoupled"] = group["weight_decay"] if decay == "decoupled" else 0.0
            group["weight_decay"] = 0.0 if decay == "decoupled" else group["weight_decay"]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, after the decay."""
        for group in self.param_groups:
            if group["decoupled"]:
                learned = [p for p in group["params"] if p.grad is not None]
                torch._foreach_mul_(learned, 1.0 - group["lr"] * group["decoupled"])
        return super().step(closure)


def make_optimizer(
    network: nn.Module, options: FitOptions, groups: Sequence[LayerGroup] | None = None
) -> torch.optim.Optimizer:
    """Adam or SGD in its fused form, one kernel for all parameters, with weight decay of the kind ``options.decay``."""
    settings: list[dict[str, Any]] = optimizer_groups(groups or [LayerGroup([network])], options.weight_decay)
    if options.optimizer == "sgd":
        return SGD(settings, lr=options.lr, momentum=options.betas[0], nesterov=True, fused=True, decay=options.decay)
    kind = torch.optim.AdamW if options.decay == "decoupled" else torch.optim.Adam
    return kind(settings, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def optimizer_step(
    value: Tensor,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None = None,
    sum_gradients: Callable[[], None] | None = None,
) -> None:
    """One step of the optimiser along the gradient of ``value`` [], and of what went backward since the last step.

    ``sum_gradients`` makes it the gradient of all processes.
    """
    value.backward()
    if sum_gradients is not None:
        sum_gradients()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta1: float) -> None:
    """Give every parameter group the learning rate ``lr`` times its own factor, and the momentum."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
        if "betas" in group:
            group["betas"] = (beta1, group["betas"][1])
        else:
            group["momentum"] = beta1


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a network's weights and floating-point buffers: ``module``, which starts as a copy.

    ``update_parameters(network)`` after each step makes it ``decay_t * average + (1 - decay_t) * weights``, where
    ``decay_t = min(decay, (1 + t) / (10 + t))`` after ``t`` updates: with a fixed decay of 0.999 the untrained weights
    would still hold a tenth of the average after 2,300 steps (TensorFlow's ``ExponentialMovingAverage``).
    """

    @torch.no_grad()
    def update(averaged: Any, weights: Any, _: Any) -> None:
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, weights)
            return
        t = int(average.n_averaged)  # not the argument, whose reading would wait for a GPU
        torch._foreach_lerp_(averaged, weights, 1.0 - min(decay, (1.0 + t) / (AVERAGE_WARMUP + t)))

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)  # the copy is the first: else the first update would replace it
    average.module.requires_grad_(False).eval()
    return average


def _cosine(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine as ``progress`` goes from 0 to 1."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def one_cycle(progress: float, low: float, peak: float, final: float, warmup: float) -> float:
    """Rise from ``low`` to ``peak`` over the first ``warmup`` of the training, then fall to ``final``, by cosines.

    ``progress`` lies in [0, 1] (Smith 2018, "super-convergence", in the form of fastai v2).
    """
    if progress < warmup:
        return _cosine(low, peak, progress / warmup)
    return _cosine(peak, final, (progress - warmup) / (1.0 - warmup))


def cosine_restarts(epoch: float, *, peak: float, cycle_epochs: int, cycle_growth: int) -> float:
    """Fall from ``peak`` to 0 along a cosine, again and again; each cycle is ``cycle_growth`` times longer.

    ``epoch`` is the position in epochs, a real number >= 0 (Loshchilov & Hutter 2017, SGDR).
    """
    length, start = float(cycle_epochs), 0.0
    while epoch >= start + length:
        start += length
        length *= cycle_growth
    return _cosine(peak, 0.0, (epoch - start) / length)


def learning_rate(options: FitOptions, progress: float) -> float:
    """Learning rate at ``progress`` in [0, 1] of the training that ``options`` describe."""
    lr = options.lr
    if options.schedule == "one_cycle":
        return one_cycle(progress, lr / WARMUP_DIVISOR, lr, lr / FINAL_DIVISOR, options.warmup)
    if options.schedule == "cosine_restarts":
        # The very end belongs to the last cycle, not to the first step of a cycle that never runs.
        epoch = min(progress, 1.0 - 1e-9) * options.epochs
        return cosine_restarts(epoch, peak=lr, cycle_epochs=options.cycle_epochs, cycle_growth=options.cycle_growth)
    return lr


def momentum(options: FitOptions, progress: float) -> float:
    """Adam's first beta at ``progress``: it mirrors the learning rate in a one-cycle, else it stays."""
    if options.schedule != "one_cycle" or options.momentum is None:
        return options.betas[0]
    high, low = options.momentum
    return one_cycle(progress, high, low, high, options.warmup)
