"""Dropout that draws a number for each dropped element instead of one for every element."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

RANK_STRIDE = 2**40 + 15  # far from the seeds of other modules and networks
SPARSE_RATE = 0.1  # up to this rate, drawing the gaps between dropped elements is cheaper than a mask


def dropped_positions(count: int, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Positions int64 [D], rising, of the elements out of ``count`` that are dropped, each with probability ``rate``.

    The gaps between the successes of a Bernoulli process are geometric and independent. Six deviations more of them are
    drawn than are needed on average, and more where these do not reach the end.
    """
    expected = count * rate
    gaps = torch.empty(int(expected + 6.0 * expected**0.5) + 8, dtype=torch.int64)
    positions = gaps.geometric_(rate, generator=generator).cumsum_(0) - 1
    while positions[-1] < count:
        positions = torch.cat([positions, positions[-1] + gaps.geometric_(rate, generator=generator).cumsum_(0)])
    return positions[: int(torch.searchsorted(positions, count))]


class Dropout(nn.Dropout):
    """``nn.Dropout`` that is quicker on a CPU at low rates, where numbers for all elements take half of a step.

    With a seed (:func:`seed_dropout`) it draws from a generator of its own, so that networks trained side by side in
    threads stay reproducible. **Shape**: any -> the same.
    """

    seed: int | None = None
    _generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability ``p`` and divide the others by ``1 - p``; the identity in evaluation."""
        sparse = input.device.type == "cpu" and self.p <= SPARSE_RATE
        if not self.training or self.inplace or not 0.0 < self.p < 1.0 or (self.seed is None and not sparse):
            return super().forward(input)
        if self.seed is not None and (self._generator is None or self._generator.device != input.device):
            self._generator = torch.Generator(input.device).manual_seed(self.seed)
        if sparse:
            positions = dropped_positions(input.numel(), self.p, self._generator)
            scaled = input.flatten() * (1.0 / (1.0 - self.p))
            return scaled.index_fill_(0, positions, 0.0).view(input.shape)
        return input * torch.empty_like(input).bernoulli_(1.0 - self.p, generator=self._generator) / (1.0 - self.p)


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Give every :class:`Dropout` of ``network`` a generator of its own, seeded from ``seed`` and its place."""
    for place, module in enumerate(_dropouts(network)):
        module.seed = seed * 1_000_003 + place


def vary_dropout(network: nn.Module, rank: int) -> None:
    """Make the masks differ between the processes that train ``network``; rank 0 keeps its own."""
    for module in _dropouts(network):
        if module.seed is not None:
            module.seed += rank * RANK_STRIDE


def generator_states(network: nn.Module) -> list[Tensor | None]:
    """State uint8 [S] of each :class:`Dropout`'s generator; None where it has drawn nothing yet."""
    generators = [module._generator for module in _dropouts(network)]
    return [None if generator is None else generator.get_state() for generator in generators]


def restore_generators(network: nn.Module, states: Sequence[Tensor | None], device: torch.device) -> None:
    """Restore the generators from :func:`generator_states` of as many modules on the same type of device."""
    for module, state in zip(_dropouts(network), states, strict=True):
        module._generator = None if state is None else torch.Generator(device).set_state(state)


def _dropouts(network: nn.Module) -> list[Dropout]:
    return [module for module in network.modules() if isinstance(module, Dropout)]
