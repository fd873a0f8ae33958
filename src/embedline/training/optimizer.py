"""Layer groups: parts of a network that are trained at rates of their own, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from embedline.training.options import FitOptions


@dataclass(frozen=True)
class LayerGroup:
    """Modules that share a learning rate.

    Attributes:
        modules: their parameters are those of the group; a parameter that several groups hold, such as a tied matrix,
            belongs to the first of them.
        rate: factor of the training's learning rate.
    """

    modules: Sequence[nn.Module]
    rate: float = 1.0


def discriminative(groups: Sequence[Sequence[nn.Module]], decay: float) -> list[LayerGroup]:
    """Groups from the first layers to the last, each learning ``decay`` times slower than the next.

    Discriminative fine-tuning (Howard & Ruder 2018, arXiv:1801.06146, §3.2; the paper's factor is 2.6).

    >>> [round(group.rate, 3) for group in discriminative([[], [], []], decay=2.0)]
    [0.25, 0.5, 1.0]
    """
    last = len(groups) - 1
    return [LayerGroup(modules, decay ** (place - last)) for place, modules in enumerate(groups)]


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


def make_optimizer(
    network: nn.Module, options: FitOptions, groups: Sequence[LayerGroup] | None = None
) -> torch.optim.Optimizer:
    """Adam in its fused form, one kernel for all parameters, with weight decay of the kind ``options.decay``."""
    settings: list[dict[str, Any]] = optimizer_groups(groups or [LayerGroup([network])], options.weight_decay)
    kind = torch.optim.AdamW if options.decay == "decoupled" else torch.optim.Adam
    return kind(settings, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta1: float) -> None:
    """Give every parameter group the learning rate ``lr`` times its own factor, and Adam's first coefficient."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
        group["betas"] = (beta1, group["betas"][1])
