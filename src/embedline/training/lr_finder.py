"""The learning-rate range test (Smith 2015): watch the loss while the rate grows batch by batch."""

import copy
import logging
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import nn

from embedline.training.batches import WHOLE, Autocast, Batches, BatchLoss, Stopped, TableBatches, batches_by_step
from embedline.training.device import Accelerator
from embedline.training.optimizer import LayerGroup, make_optimizer, set_rates
from embedline.training.options import FinderOptions, FitOptions
from embedline.training.train import training_step

SMOOTHING = 0.9  # weight of the past in the smoothed loss
FAR = 10.0  # a rate this many times above or below the suggestion is probably a mistake
SLOPE = 0.05  # share of the first loss by which it has to fall for a suggestion
DIVERGED = 4.0  # stop once the smoothed loss is this many times its minimum


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RangeTest:
    """Rates tried, the smoothed loss at each, and the rate to start from."""

    rates: list[float]
    losses: list[float]
    suggestion: float

    def frame(self) -> pl.DataFrame:
        """A row a rate: ``rate``, ``loss`` and ``suggestion``, the same in all rows, null without a slope; f64 each."""
        suggestion = self.suggestion if self.has_slope else None
        columns = {"rate": self.rates, "loss": self.losses, "suggestion": [suggestion] * len(self.rates)}
        return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Float64))

    @property
    def has_slope(self) -> bool:
        """Whether the fall that the suggestion stands in is most of the whole fall, and no ripple of a plateau."""
        if not self.losses:
            return False
        start, length = _longest_fall(self.losses)
        fall = self.losses[start] - self.losses[start + length - 1]
        return fall > max(SLOPE * abs(self.losses[0]), (self.losses[0] - min(self.losses)) / 2)

    def log(self, rate: float) -> None:
        """Log the suggestion beside the ``rate`` of the training; warn if one is ten times the other."""
        if not self.has_slope:
            logger.info("The loss of the learning-rate range test does not fall: nothing is suggested")
            return
        logger.info("Learning-rate range test suggests %.1e; the training uses %.1e", self.suggestion, rate)
        if max(rate / self.suggestion, self.suggestion / rate) >= FAR:
            logger.warning(
                "training.lr is %.1e, %s times the rate that the range test suggests (%.1e): look at its plot",
                rate,
                f"{rate / self.suggestion:.3g}",
                self.suggestion,
            )


class RandomRows(TableBatches):
    """Batches of rows drawn with replacement, each when it is asked for, in an epoch without an end."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.n_batches = sys.maxsize

    def begin_epoch(self, order: torch.Generator) -> None:
        """Draw from ``order`` from now on."""
        self._order = order

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        """Loss of rows drawn for it."""
        rows = torch.randint(self.n_rows, (self.batch_size,), generator=self._order, device=self._order.device)
        return self.loss_of(network, rows, autocast)


def range_test(
    network: nn.Module,
    batches: Batches,
    training: FitOptions,
    finder: FinderOptions,
    *,
    accelerator: Accelerator,
    seed: int,
    groups: Sequence[LayerGroup] | None = None,
    stop: threading.Event | None = None,
) -> RangeTest:
    """Train a copy of ``network`` for ``finder.steps`` steps with a growing rate; the network itself is untouched.

    Arguments are those of :func:`embedline.training.train.train`; epochs follow one another as needed; Stopped is
    raised if ``stop`` was set before the end. The loss, without penalties, is smoothed by an exponential average with
    bias correction. The suggestion is the rate two thirds into (on the log scale) the longest fall of the smoothed loss
    (compare fastai's "valley" rule).
    """
    accelerator = replace(accelerator, shard=WHOLE)  # of several processes one alone searches
    trained, trained_groups = copy.deepcopy((network, groups))  # together: the groups then hold modules of the copy
    trained = trained.to(accelerator.device).train()
    optimizer = make_optimizer(trained, training, trained_groups)
    steps = _steps(batches, training.accumulate, torch.Generator(device=accelerator.device).manual_seed(seed))
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, (indices, factor) in zip(range(finder.steps), steps, strict=False):
        rate = finder.low * (finder.high / finder.low) ** (step / (finder.steps - 1))
        set_rates(optimizer, rate * factor, training.betas[0])
        reported = training_step(batches, indices, trained, optimizer, accelerator, training.clip_norm)
        average = SMOOTHING * average + (1.0 - SMOOTHING) * (sum(loss.item() for loss in reported) / len(reported))
        smoothed = average / (1.0 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
        if stop and stop.is_set():
            raise Stopped(f"at step {step + 1:,} of {finder.steps:,} of a range test")
    return RangeTest(rates, losses, suggest_rate(rates, losses) if rates else finder.low)


def _steps(batches: Batches, accumulate: int, order: torch.Generator) -> Iterator[tuple[range, float]]:
    """Batches of each step, epoch after epoch."""
    while True:
        batches.begin_epoch(order)
        yield from batches_by_step(batches, accumulate)


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Rate two thirds into the longest run of falling losses: the steep part, clear of its end.

    >>> suggest_rate([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0, 5.0])
    0.001
    """
    start, length = _longest_fall(losses)
    return rates[start + (length - 1) * 2 // 3]


def _longest_fall(losses: Sequence[float]) -> tuple[int, int]:
    """Where the longest run of falling losses begins, and how many there are."""
    best_start, best_length, start = 0, 1, 0
    for index in range(1, len(losses)):
        if losses[index] >= losses[index - 1]:
            start = index
        elif index - start + 1 > best_length:
            best_start, best_length = start, index - start + 1
    return best_start, best_length
