"""Dropout that draws a number for each dropped element instead of one for every element."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

RANK_STRIDE = 2**40 + 15  # far from the seeds of other modules and networks
SPARSE_RATE = 0.1  # up to this rate, drawing the gaps between dropped elements is cheaper than a mask


def dropped_positions(count: int, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Positions int64 [D], rising, of the elements out of ``count`` that are dropped, each with probability ``rate``.

    The gaps between the successes of a Bernoulli process are geometric and independent, so drawing gaps draws the same
    process exactly. The number of gaps is six deviations above its mean; the loop draws more in the rest of the cases.
    """
    expected = count * rate
    batch = int(expected + 6.0 * expected**0.5) + 8
    positions = torch.empty(batch, dtype=torch.int64).geometric_(rate, generator=generator).cumsum_(0) - 1
    while positions[-1] < count:
        more = torch.empty(batch, dtype=torch.int64).geometric_(rate, generator=generator).cumsum_(0)
        positions = torch.cat([positions, positions[-1] + more])
    return positions[: int(torch.searchsorted(positions, count))]


class _DropAt(torch.autograd.Function):
    """``input * scale`` with zeros at ``positions`` of the flat input; the gradient likewise."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, positions: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.scale = scale  # type: ignore[attr-defined]
        return _drop_at(input, positions, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _drop_at(gradient, positions, ctx.scale), None, None  # type: ignore[attr-defined]


def _drop_at(values: Tensor, positions: Tensor, scale: float) -> Tensor:
    scaled = values.contiguous() * scale
    scaled.view(-1).index_fill_(0, positions, 0.0)
    return scaled


class Dropout(nn.Dropout):
    """``nn.Dropout`` with random numbers of its own, and quicker on a CPU at low rates; the same in distribution.

    PyTorch draws a double-precision number for every element, which is half of a wide network's training step on a CPU.
    Where :func:`seed_dropout` gave the module a seed, its numbers come from a generator of its own, so that networks
    trained side by side in threads stay reproducible.

    **Shape**: any -> the same.
    """

    seed: int | None = None
    _generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability ``p`` and divide the others by ``1 - p``; the identity in evaluation."""
        sparse = input.device.type == "cpu" and self.p <= SPARSE_RATE
        if not self.training or self.inplace or not 0.0 < self.p < 1.0 or (self.seed is None and not sparse):
            return super().forward(input)
        generator = self._numbers(input.device)
        if sparse:
            positions = dropped_positions(input.numel(), self.p, generator)
            dropped: Tensor = _DropAt.apply(input, positions, 1.0 / (1.0 - self.p))
            return dropped
        return input * torch.empty_like(input).bernoulli_(1.0 - self.p, generator=generator) / (1.0 - self.p)

    def _numbers(self, device: torch.device) -> torch.Generator | None:
        if self.seed is not None and (self._generator is None or self._generator.device != device):
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Give every :class:`Dropout` of ``network`` a generator of its own, seeded from ``seed`` and its place."""
    for place, module in enumerate(_dropouts(network)):
        module.seed = seed * 1_000_003 + place


def vary_dropout(network: nn.Module, rank: int) -> None:
    """Have the modules draw other numbers in each of the processes that train ``network``; rank 0 keeps its own."""
    for module in _dropouts(network):
        if module.seed is not None:
            module.seed += rank * RANK_STRIDE


def generator_states(network: nn.Module) -> list[Tensor | None]:
    """State uint8 [S] of the generator of each :class:`Dropout` of ``network``; None where it has drawn nothing yet."""
    generators = [module._generator for module in _dropouts(network)]
    return [None if generator is None else generator.get_state() for generator in generators]


def restore_generators(network: nn.Module, states: Sequence[Tensor | None], device: torch.device) -> None:
    """Have every :class:`Dropout` of ``network`` go on from its state of :func:`generator_states`.

    Raises:
        ValueError: if there are more or fewer states than modules.
        RuntimeError: if a state comes from another type of device than ``device``.
    """
    for module, state in zip(_dropouts(network), states, strict=True):
        module._generator = None if state is None else torch.Generator(device).set_state(state)


def _dropouts(network: nn.Module) -> list[Dropout]:
    return [module for module in network.modules() if isinstance(module, Dropout)]
