"""Early stopping: rows that are held out of a training, and the epoch at which they were met best."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.training.batches import Loss, row_loss
from embedline.training.options import EarlyStopping, HeldOutStopping

MEASURED_ROWS = 16_384  # of a forward pass: bounds memory, large enough to be quick


class BestEpoch:
    """The weights of the epoch with the lowest monitored loss, and how long it has not been improved on.

    A loss that is not a number counts as infinite.

    Attributes:
        epoch: the best one, counted from 1; 0 before the first.
        weights: the network's state dictionary then; what it shared, such as a tied matrix, is still shared.
        waited: epochs since the loss last fell by more than ``min_delta``.
    """

    def __init__(self, options: EarlyStopping) -> None:
        self.options = options
        self.epoch = self.waited = 0
        self.weights: dict[str, Any] = {}
        self.lowest = self.improved = math.inf  # the loss of the best epoch, and of the last improvement

    @property
    def over(self) -> bool:
        """Whether the patience is at its end."""
        return self.waited >= self.options.patience

    def see(self, value: float, epoch: int, network: nn.Module) -> None:
        """Take in the loss of an epoch, and the weights if it is the lowest so far."""
        value = math.inf if math.isnan(value) else value
        if value < self.lowest or not self.epoch:
            self.lowest, self.epoch = value, epoch
            self.weights = copy.deepcopy(network.state_dict())
        # Against the last improvement, not the lowest loss: a slow but steady fall is one, too.
        if value < self.improved - self.options.min_delta:
            self.improved, self.waited = value, 0
        else:
            self.waited += 1

    def state_dict(self) -> dict[str, Any]:
        """All but the options, for :meth:`load_state_dict`."""
        return {name: value for name, value in vars(self).items() if name != "options"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        vars(self).update(state)


def hold_out(n_rows: int, stopping: HeldOutStopping, member: int = 0) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows held out of them, int64 each, rising; the same for the same seed.

    With ``rotate`` each ``member`` of an ensemble, counted from 0, holds out other rows. An empty side is a DataError.
    """
    n_held_out = max(1, round(stopping.fraction * n_rows))
    if n_held_out >= n_rows:
        raise DataError(
            f"early_stopping.fraction {stopping.fraction} of {n_rows} training row(s) leaves none to learn from"
        )
    rows = torch.randperm(n_rows, generator=torch.Generator().manual_seed(stopping.seed))
    if stopping.rotate:
        rows = rows.roll(-member * n_held_out)
    return rows[n_held_out:].sort().values, rows[:n_held_out].sort().values


def row_monitor(
    tensors: Sequence[Tensor], loss: Loss, device: torch.device, rows: Tensor
) -> Callable[[nn.Module], float]:
    """Function that gives a network's mean loss on some ``rows`` int64 [M], without dropout and in full precision.

    ``tensors`` are inputs and, last, the target [N, …]; they go to ``device`` a block of rows at a time.
    """

    @torch.no_grad()
    def monitor(network: nn.Module) -> float:
        network.eval()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for block in rows.split(MEASURED_ROWS):
            batch = [tensor[block].to(device) for tensor in tensors]
            total += row_loss(network, batch, loss, nullcontext).double() * len(block)
        return total.item() / len(rows)

    return monitor
