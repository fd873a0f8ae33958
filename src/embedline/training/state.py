"""All that changes while a network trains, so that a checkpoint can hold it."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from embedline.errors import TrainingError
from embedline.training.batches import Batches, batches_by_step
from embedline.training.checkpoint import Fingerprint, State, defer_interrupt
from embedline.training.dropout import generator_states, restore_generators
from embedline.training.early_stopping import BestEpoch
from embedline.training.ema import WeightAverage
from embedline.training.following import GradientSum
from embedline.training.options import FitOptions
from embedline.training.processes import Order, current

Record = dict[str, float]

UNTIMED_STEPS = 10  # first steps warm caches and kernels up; they do not count in rows per second


@dataclass
class RunningMean:
    """Mean loss since it was last read, summed on the device: reading it is the loop's only synchronisation."""

    total: Tensor
    count: int = 0

    def add(self, value: Tensor) -> None:
        """Count the loss of one more batch."""
        self.total += value.detach()
        self.count += 1

    def read(self) -> float:
        """Mean of the losses since the last reading."""
        mean = self.total.item() / self.count
        self.total.zero_()
        self.count = 0
        return mean


@dataclass
class Throughput:
    """Time spent in training steps, without the first ones of a process, evaluations and checkpoints."""

    steps: int = 0
    seconds: float = 0.0
    warm: int = UNTIMED_STEPS  # the first step that counts
    _since: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Begin to count after ``step`` steps of the training."""
        self._since = (step, time.perf_counter())

    def stop(self, step: int) -> None:
        """Add what was counted up to ``step``; nothing where it stands still."""
        if self._since is None:
            return
        (first, began), self._since = self._since, None
        if step > first >= self.warm:
            self.steps += step - first
            self.seconds += time.perf_counter() - began


class TrainingState:
    """How far a training has come: its network, optimiser, average, random numbers, position, meters and history.

    Attributes:
        step: steps of the optimiser taken, each along the gradient of ``options.accumulate`` batches or, at the end of
            an epoch, of those that are left. All that goes by progress or is counted in steps goes by these.
        epoch: epochs that are over, their evaluation included.
        best: the best epoch so far, with early stopping.
        whole: False while a step is half done, and for good after an error in one: that is no state to go on from.
        team: the processes that train together; None where one trains alone. What goes by the result (average, best
            epoch, history) is kept by rank 0, the random numbers and what the task carries by each.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        options: FitOptions,
        *,
        task: Batches,
        seed: int,
        accelerator: Accelerator,
        alone: bool,
    ) -> None:
        self.network, self.optimizer, self.options = network, optimizer, options
        self.seed, self.alone = seed, alone
        self.device, self.precision = accelerator.device, accelerator.mixed_precision
        self.task, self.epoch_steps = task, math.ceil(task.n_batches / options.accumulate)
        self.n_steps = self.epoch_steps * options.epochs
        self.team = current()
        self.exchange = GradientSum(self.team, optimizer) if self.team else None
        leads = self.team is None or self.team.rank == 0
        self.average = WeightAverage(network, options.averaging.decay) if options.averaging and leads else None
        self.best = BestEpoch(options.early_stopping) if options.early_stopping and leads else None
        self.order = torch.Generator(device=self.device).manual_seed(seed)
        self.order_of_epoch = self.order.get_state()  # from which the present epoch's order is drawn
        self._carried: Any = None  # of a checkpoint from within an epoch
        self.meter, self.stopwatch = RunningMean(torch.zeros((), device=self.device)), Throughput()
        self.step = self.epoch = 0
        self.history: list[Record] = []
        self.whole = True
        self._earlier = 0.0  # seconds in processes before this one
        self._began = time.perf_counter()

    @property
    def result(self) -> nn.Module:
        """The network to use: the averaged one if there is one."""
        return self.average.network if self.average else self.network

    @property
    def over(self) -> bool:
        """Whether all epochs are over, or one more would try the patience of early stopping."""
        return self.epoch >= self.options.epochs or (self.best is not None and self.best.over)

    @property
    def position(self) -> tuple[int, int]:
        """Steps taken and epochs ended."""
        return self.step, self.epoch

    @property
    def seconds(self) -> float:
        """Since the training began, evaluations and checkpoints included, without the time between two processes."""
        return self._earlier + time.perf_counter() - self._began

    @property
    def rows_per_second(self) -> float:
        """Rows trained on per second of the steps that count."""
        # A training of fewer than the untimed steps has only its whole time to report.
        timed = (self.stopwatch.steps, self.stopwatch.seconds) if self.stopwatch.steps else (self.step, self.seconds)
        rows_per_step = self.task.rows_per_batch * self.task.n_batches / self.epoch_steps
        return timed[0] * rows_per_step / timed[1]

    def begin_epoch(self) -> Iterator[range]:
        """Order the batches of the present epoch; the indices of those of each step that is still to come."""
        self.order.set_state(self.order_of_epoch)
        self.task.begin_epoch(self.order)
        if self._carried is not None:
            self.task.restore(self._carried)
            self._carried = None
        return batches_by_step(self.task, self.options.accumulate, self.step - self.epoch * self.epoch_steps)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What changes inside the ``with`` block comes into a checkpoint as a whole or, after an error, not at all."""
        with defer_interrupt():
            self.whole = False
            yield
            self.whole = True

    def count_step(self, losses: Sequence[Tensor]) -> None:
        """Take the step that was just made, and the losses [] of its batches, into average, position and meters."""
        for loss in losses:
            self.meter.add(loss)
        self.step += 1
        if self.average:
            self.average.update()
        if self.step == self.stopwatch.warm:
            self.stopwatch.start(self.step)

    def record(self, lr: float) -> Record:
        """Add to the history: position, learning rate and mean loss since the last record."""
        epoch = self.step / self.epoch_steps
        record: Record = {"step": self.step, "epoch": epoch, "lr": lr, "train_loss": self.meter.read()}
        self.history.append(record)
        return record

    def is_finite(self) -> bool:
        """Whether the losses since the last record and all weights are: what a later step could go on from."""
        tensors = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        norms = torch._foreach_norm(tensors)
        return bool(torch.stack([self.meter.total, *norms]).isfinite().all().item())

    def refuse_divergence(self, label: str, metrics: Mapping[str, float] | None = None) -> None:
        """Raise a TrainingError that names the epoch if one of ``metrics`` is not finite or, without any, a weight."""
        if metrics is None:
            faults = [] if self.is_finite() else ["its weights are not finite"]
        else:
            faults = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if faults:
            of = f" of {label.strip('.')}" if label else ""
            epoch = min(self.epoch + 1, self.options.epochs)
            raise TrainingError(
                f"the training{of} diverged in epoch {epoch} of {self.options.epochs}: {faults[0]} at step "
                f"{self.step:,} of {self.n_steps:,}",
                self.options.lr,
            )

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Put the figures, if any, with the epoch's last record, and turn to the next epoch.

        With early stopping ``monitor`` is one of them.
        """
        with self.changing():
            self.history[-1].update(figures)
            self.turn_epoch()
            if self.best:
                self.best.see(figures["monitor"], self.epoch, self.result)

    def turn_epoch(self) -> None:
        """Turn to the next epoch."""
        self.epoch += 1
        self.order_of_epoch = self.order.get_state()

    def fingerprint(self) -> Fingerprint:
        """What a training must have in common with this one to go on from its state."""
        options = self.options.model_dump(mode="json")
        return {
            **self.task.fingerprint(),
            "n_steps": self.n_steps,
            "seed": self.seed,
            "processes": self.team.size if self.team else 1,
            "device": self.device.type,
            "precision": self.precision,
            "torch": str(torch.__version__),
            "rates": [group["rate"] for group in self.optimizer.param_groups],
            "trained": sum(parameter.requires_grad for parameter in self.network.parameters()),
            **{f"options.{name}": value for name, value in options.items()},
            **{f"shape of {name}": list(tensor.shape) for name, tensor in self.network.state_dict().items()},
        }

    def state(self) -> State:
        """All that :meth:`restore` needs, of all processes, at rank 0. The stopwatch stops."""
        others: list[State] = []
        if self.team:
            self.team.order(Order.KEEP)
            others = self.team.gather(None)[1:]
        meter = {"total": self.meter.total.item(), "count": self.meter.count}  # first, as it waits for the device
        self.stopwatch.stop(self.step)
        return {
            "step": self.step,
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state() if self.average else None,
            "best": self.best.state() if self.best else None,
            "order": self.order_of_epoch,
            **self.own_state(),
            "others": others,
            "meter": meter,
            "history": json.dumps(self.history, default=float),  # every float in full; NumPy's become Python's
            "timed": {"steps": self.stopwatch.steps, "seconds": self.stopwatch.seconds},
            "seconds": self.seconds,
        }

    def own_state(self) -> State:
        """What each process has of its own: random numbers, and what its task carries within an epoch."""
        return {
            "task": self.task.state() if self.step > self.epoch * self.epoch_steps else None,
            "dropout": generator_states(self.network),
            "shared_numbers": _shared_numbers(self.device) if self.alone else None,
        }

    def restore(self, state: State) -> None:
        """Go on from a state of a training of the same identity."""
        if self.team and self.team.rank:
            state = state | state["others"][self.team.rank - 1]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.restore(state["average"])
        if self.best:
            self.best.restore(state["best"])
        self.order_of_epoch, self._carried = state["order"], state["task"]
        if state["step"] == state["epoch"] * self.epoch_steps:  # a follower had not been told that its epoch is over
            self._carried = None
        restore_generators(self.network, state["dropout"], self.device)
        if self.alone and state["shared_numbers"]:
            _set_shared_numbers(state["shared_numbers"], self.device)
        self.step, self.epoch = state["step"], state["epoch"]
        self.meter.total.fill_(state["meter"]["total"])
        self.meter.count = state["meter"]["count"]
        self.history = json.loads(state["history"])
        self.stopwatch = Throughput(**state["timed"], warm=self.step + UNTIMED_STEPS)
        self._earlier, self._began = state["seconds"], time.perf_counter()


def _shared_numbers(device: torch.device) -> list[Tensor]:
    """States of the generators that all of the process share: the CPU's and, on CUDA, that of the device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_shared_numbers(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
