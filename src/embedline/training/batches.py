"""What a training works through: the batches of an epoch, in order, and the loss of each."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from embedline.errors import DataError

Loss = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]
ReadRows = Callable[[Tensor], list[Tensor]]
"""Function of rows int64 [B]: inputs and, last, the target, [B, …] each, on the CPU."""
Fingerprint = dict[str, Any]  # what tells one training from another; JSON values by name

UNTIMED_STEPS = 10  # first steps warm caches and kernels up; they do not count in rows per second


class Stopped(Exception):
    """A training ended before its time because it was asked to."""


class BatchLoss(NamedTuple):
    """Losses [] of one batch: the one that is minimised, with its penalties, and the one to report."""

    total: Tensor
    data_term: Tensor

    def times(self, weight: float) -> "BatchLoss":
        """Multiply both."""
        return BatchLoss(self.total * weight, self.data_term.detach() * weight)


class Shard(NamedTuple):
    """The rows of every batch that one process takes, of ``size`` processes that train together.

    >>> [Shard(rank, 3).slice(8) for rank in range(3)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """

    rank: int = 0
    size: int = 1

    def slice(self, n: int) -> slice:
        """Its rows of ``n``."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def weight(self, n: int) -> float:
        """Its share of ``n`` rows, between 0 and 1."""
        return len(range(n)[self.slice(n)]) / n

    def check(self, n: int, rows: str) -> None:
        """Raise a DataError where a batch of ``n`` leaves a process without any; ``rows`` names them."""
        if n < self.size:
            raise DataError(
                f"{self.size} processes share out a batch of {n} {rows}: set training.batch_size to {self.size} or "
                "more, or train with fewer processes (training.processes)"
            )


WHOLE = Shard()


@dataclass
class RunningMean:
    """Mean loss since it was last read, summed on the device: reading it is the loop's only synchronisation."""

    total: Tensor
    count: int = 0

    def add(self, value: Tensor) -> None:
        """Count the loss of one more batch."""
        self.total += value.detach()
        self.count += 1

    def value(self) -> float:
        """Mean of the losses since the last reading, without a new beginning."""
        return self.total.item() / self.count

    def read(self) -> float:
        """Mean of the losses since the last reading."""
        mean = self.value()
        self.total.zero_()
        self.count = 0
        return mean


@dataclass
class Throughput:
    """Time of training steps, without the first ones of a process, evaluations and checkpoints."""

    steps: int = 0
    seconds: float = 0.0
    warm: int = UNTIMED_STEPS  # the first step that counts
    _since: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Start the clock after ``step`` steps of the training."""
        self._since = (step, time.perf_counter())

    def stop(self, step: int) -> None:
        """Stop the clock, if it runs, after ``step`` steps."""
        (first, began), self._since = self._since or (step, 0.0), None
        if step > first >= self.warm:
            self.steps += step - first
            self.seconds += time.perf_counter() - began


class Batches(Protocol):
    """Batches of a training; their tensors lie on its device already.

    Of several processes each has the same batches in the same order, and computes the losses of its shard: their sum
    over the processes is the loss of the batch. By default the rate is constant, and batches are independent.

    Attributes:
        n_batches: batches of an epoch, the same in every epoch.
        rows_per_batch: rows, or tokens, of a batch on average: what the reported speed counts.
        unit: name of these.
        epoch: number of the epoch, from 0, as the training sets it before each :meth:`begin_epoch`.
    """

    n_batches: int
    rows_per_batch: float
    unit: str = "rows"
    epoch: int = 0

    def fingerprint(self) -> Fingerprint:
        """What a checkpoint's training must have had in common with this one, beside the options."""

    def begin_epoch(self, order: torch.Generator) -> None:
        """Put the batches of the next epoch into an order drawn from ``order``; the same draws give the same order."""

    def rate(self, index: int) -> float:
        """Factor of the learning rate at batch ``index`` of the epoch."""
        return 1.0

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        """Losses of batch ``index`` of the epoch; what may run in low precision runs within ``autocast()``."""

    def state(self) -> Any:
        """What is carried from batch to batch, such as a recurrent state; tensors in lists, or None."""
        return None

    def restore(self, state: Any) -> None:
        """Go on within an epoch from :meth:`state`."""
        return None


def batches_by_step(batches: Batches, accumulate: int, first: int = 0) -> Iterator[tuple[range, float]]:
    """Batches of each step of an epoch, from step ``first`` on, with the mean of their factors of the learning rate.

    A step has ``accumulate`` batches, the last one the rest.
    """
    for start in range(first * accumulate, batches.n_batches, accumulate):
        indices = range(start, min(start + accumulate, batches.n_batches))
        yield indices, sum(map(batches.rate, indices)) / len(indices)


def batch_sizes(n_rows: int, batch_size: int) -> list[int]:
    """Sizes of the batches of an epoch that reads each of ``n_rows`` once: equal but for one row.

    A short last batch would give its few rows the weight of a whole batch, and batch-norm the statistics of a handful.
    No batch has one row alone, which batch-norm cannot normalise: three rows in batches of two are one batch of three.

    >>> batch_sizes(511, 256), batch_sizes(257, 256), batch_sizes(512, 256), batch_sizes(3, 2)
    ([256, 255], [129, 128], [256, 256], [3])
    """
    n_batches = math.ceil(n_rows / batch_size)
    if batch_size > 1 and n_rows < 2 * n_batches:
        n_batches = max(1, n_rows // 2)
    return [n_rows // n_batches + (place < n_rows % n_batches) for place in range(n_batches)]


class TableBatches(Batches):
    """Batches of independent rows: each epoch cuts a fresh permutation of all rows by :func:`batch_sizes`.

    Args:
        tensors: inputs and, last, the target; all of the same length [N, …].
        loss: mean loss of a batch, ``loss(output, target)``, where ``output = network(*inputs)``.
        rows: int64 [M], the rows to learn from; all of them when absent.
        read: reads the rows of a batch, from the file that the tensors are views on; else they are moved to the device.
        shard: the rows of each batch that this process takes.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        loss: Loss,
        *,
        batch_size: int,
        device: torch.device,
        rows: Tensor | None = None,
        read: ReadRows | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        self._tensors = [] if read is not None else [tensor.to(device) for tensor in tensors]
        self._read = read
        self._rows = rows.to(device) if rows is not None else None
        self._loss, self._device, self._shard = loss, device, shard
        self.n_rows = len(tensors[-1]) if rows is None else len(rows)
        self.batch_size = min(batch_size, self.n_rows)
        self._sizes = batch_sizes(self.n_rows, self.batch_size)
        self.n_batches = len(self._sizes)
        self.rows_per_batch = self.n_rows / self.n_batches
        shard.check(min(self._sizes), "row(s)")
        self._batches: Sequence[Tensor] = ()

    def fingerprint(self) -> Fingerprint:
        """Number of rows and of rows a batch."""
        return {"n_rows": self.n_rows, "batch_size": self.batch_size}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Cut a fresh permutation into batches."""
        permutation = torch.randperm(self.n_rows, generator=order, device=order.device)
        self._batches = permutation.split(self._sizes)

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        """Loss of the batch's rows."""
        rows, shard = self._batches[index], self._shard
        if shard.size == 1:
            return self.loss_of(network, rows, autocast)
        return self.loss_of(network, rows[shard.slice(len(rows))], autocast).times(shard.weight(len(rows)))

    def loss_of(self, network: nn.Module, rows: Tensor, autocast: Autocast) -> BatchLoss:
        """Loss of some rows, int64 [B]."""
        value = row_loss(network, self.gather(rows), self._loss, autocast)
        return BatchLoss(value, value)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The tensors' values [B, …] at some of the rows to learn from, int64 [B], on the device."""
        chosen = rows if self._rows is None else self._rows[rows]
        if self._read is not None:
            return [values.to(self._device) for values in self._read(chosen.cpu())]
        return [tensor[chosen] for tensor in self._tensors]


def row_loss(network: nn.Module, batch: Sequence[Tensor], loss: Loss, autocast: Autocast) -> Tensor:
    """Loss [] of a batch (inputs and, last, the target); the loss itself is computed in float32."""
    *inputs, target = batch
    with autocast():
        output = network(*inputs)
    return loss(output.float(), target)
