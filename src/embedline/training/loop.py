"""The training loop: device-resident tensors, a batch is an index slice, one synchronisation a record."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from embedline.training import progress, schedules
from embedline.training.checkpoints import Checkpoint
from embedline.training.groups import LayerGroup, optimizer_groups
from embedline.training.options import FitOptions, HeldOutStopping
from embedline.training.state import Record, TrainingState
from embedline.training.stopping import hold_out, row_monitor
from embedline.training.tasks import Loss, RowTask, Task

Evaluate = Callable[[nn.Module], dict[str, float]]
Monitor = Callable[[nn.Module], float]

RECORDS_PER_TRAINING = 200  # how often the running loss is read back from the device, in all

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A training ended before its time because it was asked to."""


@dataclass
class Fitted:
    """What a training leaves.

    Attributes:
        network: the one to use: of averaged weights if asked for, of the best epoch with early stopping.
        epochs: so many were trained, fewer than asked for where the training was stopped early.
        best_epoch: the epoch, counted from 1, that ``network`` is of; None without early stopping.
    """

    network: nn.Module
    history: list[Record] = field(default_factory=list)
    rows_per_second: float = 0.0
    seconds: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None

    @property
    def figures(self) -> Record:
        """The last record of the epoch that ``network`` is of."""
        return next((record for record in self.history if record["epoch"] == self.best_epoch), self.history[-1])


def make_optimizer(
    network: nn.Module, options: FitOptions, groups: Sequence[LayerGroup] | None = None
) -> torch.optim.Optimizer:
    """Adam in its fused form, one kernel for all parameters, with weight decay of the kind ``options.decay``."""
    settings: list[dict[str, Any]] = optimizer_groups(groups or [LayerGroup([network])], options.weight_decay)
    kind = torch.optim.AdamW if options.decay == "decoupled" else torch.optim.Adam
    return kind(settings, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta1: float) -> None:
    """Give every parameter group the learning rate ``lr`` times its own factor, and Adam's first coefficient."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
        group["betas"] = (beta1, group["betas"][1])


def descend(
    value: Tensor,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_norm: float | None = None,
) -> None:
    """One step of the optimiser along the gradient of ``value`` [], and of what went backward since the last step."""
    accelerator.backward(value)
    if clip_norm is not None:
        accelerator.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def take_step(
    task: Task,
    batches: range,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_norm: float | None = None,
) -> list[Tensor]:
    """One step of the optimiser along the mean gradient of some batches; the losses [] to report, one for each."""
    reported = []
    for index in batches:
        value, plain = task.loss(network, index, accelerator.autocast)
        reported.append(plain.detach())
        if len(batches) > 1:
            value = value / len(batches)
        if index == batches[-1]:
            descend(value, network, optimizer, accelerator, clip_norm)
        else:
            accelerator.backward(value)
    return reported


def mean_rate(task: Task, batches: range) -> float:
    """Factor of the learning rate of a step: the mean of its batches' factors."""
    return sum(task.rate(index) for index in batches) / len(batches)


def fit(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    options: FitOptions,
    *,
    accelerator: Accelerator,
    **settings: Any,
) -> Fitted:
    """:func:`train` on independent rows, ``options.batch_size`` of them a batch.

    With ``options.early_stopping`` its ``fraction`` of the rows is held out, and their mean loss decides.

    Args:
        network: called as ``network(*inputs)``; must return what ``loss`` takes as its first argument.
        tensors: inputs and, last, the target; all of the same length [N, …]; moved to the device once.
        loss: mean loss of a batch, ``loss(output, target)``.
        settings: those of :func:`train`.

    Raises:
        DataError: if there are too few rows to hold any out.
    """
    if isinstance(options.early_stopping, HeldOutStopping):
        learned, held_out = hold_out(len(tensors[-1]), options.early_stopping)
        settings["monitor"] = row_monitor([tensor[held_out] for tensor in tensors], loss, accelerator.device)
        tensors = [tensor[learned] for tensor in tensors]
    task = RowTask(tensors, loss, batch_size=options.batch_size, device=accelerator.device)
    return train(network, task, options, accelerator=accelerator, **settings)


def train(
    network: nn.Module,
    task: Task,
    options: FitOptions,
    *,
    accelerator: Accelerator,
    seed: int,
    groups: Sequence[LayerGroup] | None = None,
    evaluate: Evaluate | None = None,
    monitor: Monitor | str | None = None,
    label: str = "",
    position: int = 0,
    checkpoint: Checkpoint | None = None,
    stop: threading.Event | None = None,
    alone: bool = True,
) -> Fitted:
    """Train ``network`` on ``task`` for ``options.epochs`` and return the network to use.

    Args:
        task: the batches of an epoch and their losses, on the accelerator's device.
        accelerator: carries device and precision.
        seed: of the order of the batches (the network's own initialisation is the caller's).
        groups: layers with learning rates of their own; parameters that are in none stay as they are. All of the
            network at one rate when absent.
        evaluate: figures of the network at the end of each epoch; reported, never acted on
            but for the one that ``monitor`` names.
        monitor: loss of the network that would be used, at the end of each epoch, on data that it does not learn from;
            or the name of such a figure of ``evaluate``. What ``options.early_stopping`` goes by, and used for nothing
            else; ``monitor`` in the history.
        label: prefix of the reported figures, such as the member of an ensemble.
        position: line of the progress bar, for trainings side by side.
        checkpoint: keeps the state every so often, at the end and on an interruption. A training that finds its state
            there goes on from it, and ends as one that was never cut off (on a CPU to the last bit).
        stop: once it is set, the training ends after its present step.
        alone: no other training runs beside it. PyTorch's global random state is then in the checkpoint too; side by
            side, networks must draw from generators of their own.

    The learning rate changes every step.

    Raises:
        Stopped: if ``stop`` was set before the training was over.
        ValueError: if ``options.early_stopping`` has no ``monitor`` to go by.
    """
    if options.early_stopping and (monitor is None or (isinstance(monitor, str) and evaluate is None)):
        raise ValueError("early_stopping needs a monitor: a loss on data that the network does not learn from")
    network = network.to(accelerator.device)
    optimizer = make_optimizer(network, options, groups)
    training = TrainingState(network, optimizer, options, task=task, seed=seed, accelerator=accelerator, alone=alone)
    if checkpoint and (state := checkpoint.load(training.identity())):
        training.restore(state)
        reached = f"step {training.step:,} of {training.n_steps:,}"
        logger.info("Going on at %s of %s from its checkpoint", reached, checkpoint.name)
    found = training.position
    try:
        _run(training, accelerator, evaluate, monitor, label, position, checkpoint, stop)
    finally:
        if checkpoint and training.whole and training.position != found:
            checkpoint.save(training.state(), training.identity())
    return _fitted(training, label)


def _fitted(training: TrainingState, label: str) -> Fitted:
    """What a training leaves that has ended; with early stopping its network is put back to the best epoch."""
    best = training.best.epoch if training.best else None
    if training.best:
        training.result.load_state_dict(training.best.weights)
        name, planned = f"training {label}".strip(" ."), training.options.epochs
        logger.info("The %s ended after epoch %d of %d; the best is %d", name, training.epoch, planned, best)
    return Fitted(training.result, training.history, training.rows_per_second, training.seconds, training.epoch, best)


def _run(
    training: TrainingState,
    accelerator: Accelerator,
    evaluate: Evaluate | None,
    monitor: Monitor | str | None,
    label: str,
    position: int,
    checkpoint: Checkpoint | None,
    stop: threading.Event | None,
) -> None:
    """Train from where ``training`` stands to the end; the arguments are those of :func:`train`."""
    options, task, n_steps = training.options, training.task, training.n_steps
    record_every = max(1, n_steps // RECORDS_PER_TRAINING)
    title = f"training {label}".strip(" .")
    with tqdm(total=n_steps, initial=training.step, desc=title, unit="step", position=position, disable=None) as bar:
        while not training.over:
            training.network.train()
            steps = training.begin_epoch()
            training.stopwatch.start(training.step)
            for batches in steps:
                progressed = training.step / n_steps
                lr = schedules.learning_rate(options, progressed)
                with training.changing():
                    rate = lr * mean_rate(task, batches)
                    set_rates(training.optimizer, rate, schedules.momentum(options, progressed))
                    losses = take_step(
                        task, batches, training.network, training.optimizer, accelerator, options.clip_norm
                    )
                    training.count_step(losses)
                    step = training.step
                    due = step % record_every == 0 or step % training.epoch_steps == 0
                    record = training.record(lr) if due else None
                if record:
                    progress.report({f"{label}{name}": record[name] for name in ("train_loss", "lr")}, step)
                    bar.update(step - bar.n)
                if checkpoint and checkpoint.due():
                    checkpoint.save(training.state(), training.identity())
                    training.stopwatch.start(step)
                if stop and stop.is_set():
                    raise Stopped(f"at step {step:,} of {n_steps:,}")
            training.stopwatch.stop(training.step)
            figures = _figures(training, evaluate, monitor)
            training.end_epoch(figures)
            if figures:
                progress.report({f"{label}{name}": value for name, value in figures.items()}, training.step)
                bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)


def _figures(training: TrainingState, evaluate: Evaluate | None, monitor: Monitor | str | None) -> dict[str, float]:
    """Figures of the network at the end of an epoch, with the one that early stopping goes by."""
    figures = dict(evaluate(training.result)) if evaluate else {}
    if training.best and monitor is not None:
        figures["monitor"] = figures[monitor] if isinstance(monitor, str) else monitor(training.result)
    return figures
