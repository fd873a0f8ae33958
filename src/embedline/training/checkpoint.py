"""What a training needs to go on after a kill: its state as a plain dictionary, saved to and loaded from a file."""

import io
import json
import logging
import math
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedline.training.batches import UNTIMED_STEPS, Batches, Fingerprint, RunningMean, Throughput
from embedline.training.device import Accelerator
from embedline.training.dropout import generator_states, restore_generators
from embedline.training.early_stopping import BestEpoch
from embedline.training.optimizer import LayerGroup, average_weights, make_optimizer
from embedline.training.options import FitOptions

FORMAT = "embedline-checkpoint-1"

State = dict[str, Any]  # of dictionaries, lists, tensors, numbers and strings: torch.load needs no pickle for them
Record = dict[str, float]

logger = logging.getLogger(__name__)

_keepers: list[tuple[Path, float]] = []  # folder and interval of each block of :func:`checkpointing`


@contextmanager
def checkpointing(folder: Path, every: float) -> Iterator[None]:
    """Have the trainings inside the ``with`` block keep checkpoints in ``folder`` and go on from those they find there.

    There is a file for each training, ``<name>.pt``, written every so many seconds at the least; 0: after every step.
    The caller makes sure that ``folder`` belongs to exactly this work (same code, parameters and inputs), and deletes
    it once the result is stored. Of nested blocks the innermost counts.
    """
    if not every >= 0.0:
        raise ValueError(f"the seconds between two checkpoints must be 0 or more, got {every}")
    keeper = (Path(folder), every)
    _keepers.append(keeper)
    try:
        yield
    finally:
        _keepers.remove(keeper)


def current(name: str) -> "Checkpoint | None":
    """Checkpoint of the training ``name``, such as ``member0``; None where nobody keeps any."""
    return Checkpoint(_keepers[-1][0] / f"{name}.pt", _keepers[-1][1]) if _keepers else None


def scratch_dir() -> Path | None:
    """The folder of :func:`checkpointing`, for other things that are needed until then; None without one."""
    return _keepers[-1][0] if _keepers else None


class Checkpoint:
    """The latest state of one training in a file, which a new one replaces in one step, ``every`` seconds at least.

    It survives a killed process, but not a power failure (nothing calls ``fsync``).
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path, self.every, self.name = path, every, path.stem
        self._since, self._warned = time.monotonic(), False

    def due(self) -> bool:
        """Whether ``every`` seconds have passed since the training began or the last checkpoint was written."""
        return time.monotonic() - self._since >= self.every

    def load(self, identity: Fingerprint) -> State | None:
        """The stored state, its tensors on the CPU, at the beginning of a training.

        None without a file or, with a warning, where it cannot be read or has another ``identity``.
        """
        self._since = time.monotonic()
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                if damaged := archive.testzip():  # torch.load does not compare the checksums
                    raise ValueError(f"{damaged} is damaged")
            kept: State = torch.load(self.path, map_location="cpu", weights_only=True)
            if not isinstance(kept, dict) or kept.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
        except Exception as error:  # a damaged file makes torch.load and zipfile raise nearly anything
            reason = f"{type(error).__name__}: {error}"
            logger.warning("The checkpoint %s cannot be read (%s): the training starts over", self.path, reason)
            return None
        if other := _differences(kept["identity"], identity):
            message = "The checkpoint %s was made for another training: %s. The training starts over"
            logger.warning(message, self.path, other)
            return None
        state: State = kept["state"]
        return state

    def save(self, state: State, identity: Fingerprint) -> None:
        """Replace the file by ``state``; where that fails, for want of space, warn once and leave the file as it is."""
        # Through memory, because torch.save itself reports a full disk as a RuntimeError without a reason.
        content = io.BytesIO()
        torch.save({"format": FORMAT, "identity": identity, "state": state}, content)
        staged = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content.getbuffer())
            os.replace(staged, self.path)
        except OSError as error:
            if not self._warned:
                message = "The checkpoint %s cannot be written (%s): the training goes on without it"
                logger.warning(message, self.path, error)
            self._warned = True
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            self._since = time.monotonic()


def _differences(theirs: Fingerprint, ours: Fingerprint, most: int = 3) -> str:
    """The first of the names with different values, each with both; empty if there are none."""
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    shown = [f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in names[:most]]
    return ", ".join(shown) + (f", and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the ``with`` block: half an optimiser's step must not reach a checkpoint.

    Python raises it in the main thread between any two instructions; other threads never see it.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    if not callable(handler):
        yield
        return
    held: list[tuple[Any, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])


class TrainingState:
    """What changes while a network trains: weights, optimiser, average, random numbers, position, loss and history.

    Attributes:
        step: steps of the optimiser taken, each along the gradient of ``options.accumulate`` batches.
        epoch: epochs that are over, their evaluation included.
        average: moving average of the weights, if ``options.averaging`` asks for it.
        best: the best epoch so far, with early stopping.
        consistent: False while a step is half done, and for good after an error in one: no state to go on from.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        options: FitOptions,
        *,
        accelerator: Accelerator,
        seed: int,
        groups: Sequence[LayerGroup] | None = None,
        alone: bool = True,
    ) -> None:
        self.network, self.batches, self.options, self.accelerator = network, batches, options, accelerator
        self.seed, self.alone = seed, alone
        self.optimizer = make_optimizer(network, options, groups)
        self.average = average_weights(network, options.averaging.decay) if options.averaging else None
        self.best = BestEpoch(options.early_stopping) if options.early_stopping else None
        self.epoch_steps = math.ceil(batches.n_batches / options.accumulate)
        self.n_steps = self.epoch_steps * options.epochs
        self.order = torch.Generator(device=accelerator.device).manual_seed(seed)
        self.order_of_epoch = self.order.get_state()  # from which the present epoch's order is drawn
        self.carried: Any = None  # by the batches, in a checkpoint from within an epoch
        self.loss, self.throughput = RunningMean(torch.zeros((), device=accelerator.device)), Throughput()
        self.step = self.epoch = 0
        self.history: list[Record] = []
        self.consistent = True
        self.began = time.perf_counter()  # less the seconds in processes before this one

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What changes inside the ``with`` block comes into a checkpoint as a whole or, after an error, not at all."""
        with defer_interrupt():
            self.consistent = False
            yield
            self.consistent = True

    def is_finite(self) -> bool:
        """Whether the losses since the last record and all weights are: what a later step could go on from."""
        tensors = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        norms = torch._foreach_norm(tensors)
        return bool(torch.stack([self.loss.total, *norms]).isfinite().all().item())

    def rows_per_second(self, seconds: float) -> float:
        """Rows trained on per second of the steps that count; of all ``seconds`` where there are no more steps."""
        timed = self.throughput
        steps, seconds = (timed.steps, timed.seconds) if timed.steps else (self.step, seconds)
        return steps * self.batches.rows_per_batch * self.batches.n_batches / self.epoch_steps / seconds

    def fingerprint(self) -> Fingerprint:
        """What a training must have in common with this one to go on from its state."""
        return {
            **self.batches.fingerprint(),
            "n_steps": self.n_steps,
            "seed": self.seed,
            "processes": self.accelerator.shard.size,
            "device": self.accelerator.device.type,
            "precision": self.accelerator.precision,
            "precision_reason": self.accelerator.precision_reason,
            "torch": str(torch.__version__),
            "rates": [group["rate"] for group in self.optimizer.param_groups],
            "trained": sum(parameter.requires_grad for parameter in self.network.parameters()),
            **{f"options.{name}": value for name, value in self.options.model_dump(mode="json").items()},
            **{f"shape of {name}": list(tensor.shape) for name, tensor in self.network.state_dict().items()},
        }

    def _parts(self) -> dict[str, Any]:
        """The objects with a state dictionary of their own; None where the options ask for none."""
        return {"network": self.network, "optimizer": self.optimizer, "average": self.average, "best": self.best}

    def state_dict(self) -> State:
        """All that :meth:`load_state_dict` needs."""
        loss = {"total": self.loss.total.item(), "count": self.loss.count}  # first, as it waits for the device
        self.throughput.stop(self.step)
        return {
            "step": self.step,
            "epoch": self.epoch,
            **{name: None if part is None else part.state_dict() for name, part in self._parts().items()},
            "order": self.order_of_epoch,
            **self.state_of_process(),
            "meter": loss,
            "history": json.dumps(self.history, default=float),  # every float in full; NumPy's become Python's
            "timed": {"steps": self.throughput.steps, "seconds": self.throughput.seconds},
            "seconds": time.perf_counter() - self.began,
        }

    def state_of_process(self) -> State:
        """The part that differs between processes: random numbers, and what the batches carry within an epoch."""
        numbers = [torch.get_rng_state()]
        if self.accelerator.device.type == "cuda":
            numbers.append(torch.cuda.get_rng_state(self.accelerator.device))
        return {
            "task": self.batches.state() if self.step > self.epoch * self.epoch_steps else None,
            "dropout": generator_states(self.network),
            "shared_numbers": numbers if self.alone else None,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state of a training with the same fingerprint."""
        device = self.accelerator.device
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        self.order_of_epoch, self.carried = state["order"], state["task"]
        restore_generators(self.network, state["dropout"], device)
        if self.alone and state["shared_numbers"]:
            torch.set_rng_state(state["shared_numbers"][0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(state["shared_numbers"][1], device)
        self.step, self.epoch = state["step"], state["epoch"]
        self.loss.total.fill_(state["meter"]["total"])
        self.loss.count = state["meter"]["count"]
        self.history = json.loads(state["history"])
        self.throughput = Throughput(**state["timed"], warm=self.step + UNTIMED_STEPS)
        self.began = time.perf_counter() - state["seconds"]
