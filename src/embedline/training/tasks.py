"""What a training works through: the batches of an epoch, in order, and the loss of each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from embedline.training.checkpoints import Identity

Loss = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]


class StepLoss(NamedTuple):
    """Losses [] of one batch: the one to descend, with its penalties, and the one to report."""

    descended: Tensor
    reported: Tensor


class Task(Protocol):
    """Batches of a training. Its tensors lie on the training's device already.

    Attributes:
        n_batches: batches of an epoch, the same in every epoch.
        rows_per_batch: rows, or tokens, of a batch on average: what the reported speed counts.
    """

    n_batches: int
    rows_per_batch: float

    def identity(self) -> Identity:
        """What a checkpoint's training must have had in common with this one, beside the options."""

    def begin_epoch(self, order: torch.Generator) -> None:
        """Put the batches of the next epoch into an order drawn from ``order``; the same draws give the same order."""

    def rate(self, index: int) -> float:
        """Factor of the learning rate at batch ``index`` of the epoch."""

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> StepLoss:
        """Losses of batch ``index`` of the epoch; what may run in low precision runs within ``autocast()``."""

    def state(self) -> Any:
        """What is carried from batch to batch, such as a recurrent state; tensors in lists, or None."""

    def restore(self, state: Any) -> None:
        """Go on within an epoch from :meth:`state`."""


def step_batches(task: Task, accumulate: int, first: int = 0) -> Iterator[range]:
    """Batches of each step of an epoch, from step ``first`` on: ``accumulate`` of them, in the last the rest."""
    starts = range(first * accumulate, task.n_batches, accumulate)
    return (range(start, min(start + accumulate, task.n_batches)) for start in starts)


class RowTask:
    """Batches cut by index from tensors of independent rows.

    A batch of static shape is cut from a fresh permutation each epoch; the rows that do not fill a last batch are left
    out of that epoch, others of the next (fastai does the same).

    Args:
        tensors: inputs and, last, the target; all of the same length [N, …].
        loss: mean loss of a batch, ``loss(output, target)``, where ``output = network(*inputs)``.
    """

    def __init__(self, tensors: Sequence[Tensor], loss: Loss, *, batch_size: int, device: torch.device) -> None:
        self._tensors = [tensor.to(device) for tensor in tensors]
        self._loss = loss
        self.n_rows = len(tensors[-1])
        self.batch_size = min(batch_size, self.n_rows)
        self.n_batches = self.n_rows // self.batch_size
        self.rows_per_batch = float(self.batch_size)
        self._batches: Sequence[Tensor] = ()

    def identity(self) -> Identity:
        """Number of rows and of rows a batch."""
        return {"n_rows": self.n_rows, "batch_size": self.batch_size}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Cut a fresh permutation into batches."""
        permutation = torch.randperm(self.n_rows, generator=order, device=order.device)
        self._batches = permutation[: self.n_batches * self.batch_size].split(self.batch_size)

    def rate(self, index: int) -> float:
        """The same for every batch."""
        return 1.0

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> StepLoss:
        """Loss of the batch's rows."""
        return self.loss_of(network, self._batches[index], autocast)

    def loss_of(self, network: nn.Module, rows: Tensor, autocast: Autocast) -> StepLoss:
        """Loss of some rows, int64 [B]."""
        value = row_loss(network, [tensor[rows] for tensor in self._tensors], self._loss, autocast)
        return StepLoss(value, value)

    def state(self) -> None:
        """Rows are independent: nothing is carried."""

    def restore(self, state: None) -> None:
        """Nothing is carried."""


def row_loss(network: nn.Module, batch: Sequence[Tensor], loss: Loss, autocast: Autocast) -> Tensor:
    """Loss [] of a batch (inputs and, last, the target); the loss itself is computed in float32."""
    *inputs, target = batch
    with autocast():
        output = network(*inputs)
    return loss(output.float(), target)
