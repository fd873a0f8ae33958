"""Exponential moving average of a network's weights, usable from the first step on."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

WARMUP = 10.0


class WeightAverage:
    """Keep ``average <- decay_t * average + (1 - decay_t) * weights`` of a network beside its training.

    ``decay_t = min(decay, (1 + t) / (10 + t))`` after ``t`` updates: with a fixed decay of 0.999 the untrained weights
    would still hold a tenth of the average after 2,300 steps (the warm-up is that of TensorFlow's
    ``ExponentialMovingAverage``). Floating-point buffers, such as batch-norm's statistics, are averaged too, others
    copied. ``network`` is the averaged network; it starts as a copy and is never trained.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self._averaged = [own for own, source in pairs if source.is_floating_point()]
        self._weights = [source for _, source in pairs if source.is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[1].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1.0 + self.updates) / (WARMUP + self.updates))
        torch._foreach_lerp_(self._averaged, self._weights, 1.0 - decay)
        for own, source in self._copied:
            own.copy_(source)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on with the average: the averaged tensors and the number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            RuntimeError: if it is the state of a network with other tensors.
        """
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in network.parameters()), *network.buffers()]
