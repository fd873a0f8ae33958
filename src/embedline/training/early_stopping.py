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
        self._lowest = self._improved = math.inf  # the loss of the best epoch, and of the last improvement

    @property
    def over(self) -> bool:
        """Whether the patience is at its end."""
        return self.waited >= self.options.patience

    def see(self, value: float, epoch: int, network: nn.Module) -> None:
        """Take in the loss of an epoch, and the weights if it is the lowest so far."""
        value = math.inf if math.isnan(value) else value
        if value < self._lowest or not self.epoch:
            self._lowest, self.epoch = value, epoch
            self.weights = copy.deepcopy(network.state_dict())
        # Against the last improvement, not the lowest loss: a slow but steady fall is one, too.
        if value < self._improved - self.options.min_delta:
            self._improved, self.waited = value, 0
        else:
            self.waited += 1

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs."""
        return {
            "epoch": self.epoch,
            "waited": self.waited,
            "weights": self.weights,
            "lowest": self._lowest,
            "improved": self._improved,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.epoch, self.waited, self.weights = state["epoch"], state["waited"], state["weights"]
        self._lowest, self._improved = state["lowest"], state["improved"]


def hold_out(n_rows: int, stopping: HeldOutStopping) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows held out of them, int64 each, rising; the same for the same seed.

    Raises:
        DataError: if either would be empty.
    """
    n_held_out = max(1, round(stopping.fraction * n_rows))
    if n_held_out >= n_rows:
        raise DataError(
            f"early_stopping.fraction {stopping.fraction} of {n_rows} training row(s) leaves none to learn from"
        )
    rows = torch.randperm(n_rows, generator=torch.Generator().manual_seed(stopping.seed))
    return rows[n_held_out:].sort().values, rows[:n_held_out].sort().values


def row_monitor(
    tensors: Sequence[Tensor], loss: Loss, device: torch.device, rows: Tensor | None = None
) -> Callable[[nn.Module], float]:
    """Function that gives a network's mean loss on some rows, without dropout and in full precision.

    Args:
        tensors: inputs and, last, the target; all of the same length [N, …].
        loss: mean loss of a batch, ``loss(output, target)``.
        rows: int64 [M], the rows to measure, all of them when absent; they go to ``device`` a block at a time.
    """
    measured = torch.arange(len(tensors[-1])) if rows is None else rows

    @torch.no_grad()
    def monitor(network: nn.Module) -> float:
        network.eval()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for block in measured.split(MEASURED_ROWS):
            batch = [tensor[block].to(device) for tensor in tensors]
            total += row_loss(network, batch, loss, nullcontext).double() * len(block)
        return total.item() / len(measured)

    return monitor
