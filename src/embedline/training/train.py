"""The training loop: device-resident tensors, a batch is an index slice, one synchronisation a record."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from embedline.training import progress, schedules
from embedline.training.batch_norm import share_batch_norm
from embedline.training.batches import Batches, Loss, TableBatches, mean_rate
from embedline.training.checkpoint import Checkpoint
from embedline.training.dropout import vary_dropout
from embedline.training.early_stopping import hold_out, row_monitor
from embedline.training.following import GradientSum, follow
from embedline.training.optimizer import LayerGroup, make_optimizer, set_rates
from embedline.training.options import FitOptions, HeldOutStopping
from embedline.training.processes import Order, Stopped, current, current_share
from embedline.training.state import Record, TrainingState

Evaluate = Callable[[nn.Module], dict[str, float]]
Monitor = Callable[[nn.Module], float]

RECORDS_PER_TRAINING = 200  # how often the running loss is read back from the device, in all

logger = logging.getLogger(__name__)


@dataclass
class FitResult:
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


def optimizer_step(
    value: Tensor,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_norm: float | None = None,
    exchange: Callable[[], None] | None = None,
) -> None:
    """One step of the optimiser along the gradient of ``value`` [], and of what went backward since the last step.

    ``exchange`` makes it the gradient of all processes.
    """
    accelerator.backward(value)
    if exchange is not None:
        exchange()
    if clip_norm is not None:
        accelerator.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def training_step(
    task: Batches,
    batches: range,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_norm: float | None = None,
    exchange: GradientSum | None = None,
) -> list[Tensor]:
    """One step of the optimiser along the mean gradient of some batches; the losses [] to report, one for each.

    Where several processes train, ``exchange`` sums both over them.
    """
    reported: list[Tensor] = []
    more = () if exchange is None else (partial(exchange, reported),)
    for index in batches:
        value, plain = task.loss(network, index, accelerator.autocast)
        reported.append(plain.detach())
        if len(batches) > 1:
            value = value / len(batches)
        if index == batches[-1]:
            optimizer_step(value, network, optimizer, accelerator, clip_norm, *more)
        else:
            accelerator.backward(value)
    return reported


def fit(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    options: FitOptions,
    *,
    accelerator: Accelerator,
    resident: bool = True,
    **settings: Any,
) -> FitResult:
    """:func:`train` on independent rows, ``options.batch_size`` of them a batch.

    With ``options.early_stopping`` its ``fraction`` of the rows is held out, and their mean loss decides.

    Args:
        network: called as ``network(*inputs)``; must return what ``loss`` takes as its first argument.
        tensors: inputs and, last, the target; all of the same length [N, …].
        loss: mean loss of a batch, ``loss(output, target)``.
        resident: whether the tensors are moved to the device, once; each batch of its own when False.
        settings: those of :func:`train`.

    Raises:
        DataError: if there are too few rows to hold any out.
    """
    learned: Tensor | None = None
    if isinstance(options.early_stopping, HeldOutStopping):
        learned, held_out = hold_out(len(tensors[-1]), options.early_stopping)
        settings["monitor"] = row_monitor(tensors, loss, accelerator.device, held_out)
    task = TableBatches(
        tensors,
        loss,
        batch_size=options.batch_size,
        device=accelerator.device,
        rows=learned,
        resident=resident,
        share=current_share(),
    )
    return train(network, task, options, accelerator=accelerator, **settings)


def train(
    network: nn.Module,
    task: Batches,
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
) -> FitResult:
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

    The learning rate changes every step. In a :func:`team <embedline.training.processes.team>` all processes call it,
    and rank 0 leads: ``evaluate``, ``monitor``, ``checkpoint`` and ``stop`` are its own, the network of all is the one
    that it started with, and in the end the one to use.

    Raises:
        Stopped: if ``stop`` was set before the training was over.
        TrainingError: if it diverged: the loss, a weight or a metric of ``evaluate`` or ``monitor`` is not finite.
        ValueError: if ``options.early_stopping`` has no ``monitor`` to go by.
    """
    team = current()
    leads = team is None or team.rank == 0
    if leads and options.early_stopping and (monitor is None or (isinstance(monitor, str) and evaluate is None)):
        raise ValueError("early_stopping needs a monitor: a loss on data that the network does not learn from")
    network = network.to(accelerator.device)
    if team:
        share_batch_norm(network)
        vary_dropout(network, team.rank)
    optimizer = make_optimizer(network, options, groups)
    training = TrainingState(network, optimizer, options, task=task, seed=seed, accelerator=accelerator, alone=alone)
    if not leads:
        follow(training, lambda batches: _step(training, accelerator, batches)[1])
        return FitResult(network)
    state = checkpoint.load(training.fingerprint()) if checkpoint else None
    if team:
        team.share_out((state, network.state_dict() if state is None else {}))
    if checkpoint and state:
        training.restore(state)
        reached = f"step {training.step:,} of {training.n_steps:,}"
        logger.info("Going on at %s of %s from its checkpoint", reached, checkpoint.name)
    found = training.position
    with team.dismissing(training) if team else nullcontext():
        try:
            _run(training, accelerator, evaluate, monitor, label, position, checkpoint, stop)
        finally:
            # From a state that is not finite every later run would end in the same error.
            if checkpoint and training.whole and training.position != found and training.is_finite():
                checkpoint.save(training.state(), training.fingerprint())
    fitted = _fitted(training, label)
    if team:
        team.order(Order.END)
        team.share_out(fitted.network.state_dict())
    return fitted


def _fitted(training: TrainingState, label: str) -> FitResult:
    """What a training leaves that has ended; with early stopping its network is put back to the best epoch."""
    best = training.best.epoch if training.best else None
    if training.best:
        training.result.load_state_dict(training.best.weights)
        name, planned = f"training {label}".strip(" ."), training.options.epochs
        logger.info("The %s ended after epoch %d of %d; the best is %d", name, training.epoch, planned, best)
    return FitResult(
        training.result, training.history, training.rows_per_second, training.seconds, training.epoch, best
    )


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
    n_steps = training.n_steps
    record_every = max(1, n_steps // RECORDS_PER_TRAINING)
    title = f"training {label}".strip(" .")
    with tqdm(total=n_steps, initial=training.step, desc=title, unit="step", position=position, disable=None) as bar:
        while not training.over:
            training.network.train()
            steps = training.begin_epoch()
            training.stopwatch.start(training.step)
            for batches in steps:
                with training.changing():
                    if training.team:
                        training.team.order(Order.STEP)
                    lr, losses = _step(training, accelerator, batches)
                    training.count_step(losses)
                    step = training.step
                    due = step % record_every == 0 or step % training.epoch_steps == 0
                    record = training.record(lr) if due else None
                if record:
                    training.refuse_divergence(label, {"train_loss": record["train_loss"]})
                    progress.report({f"{label}{name}": record[name] for name in ("train_loss", "lr")}, step)
                    bar.update(step - bar.n)
                if checkpoint and checkpoint.due():
                    training.refuse_divergence(label)
                    checkpoint.save(training.state(), training.fingerprint())
                    training.stopwatch.start(step)
                if stop and stop.is_set():
                    raise Stopped(f"at step {step:,} of {n_steps:,}")
            training.stopwatch.stop(training.step)
            training.refuse_divergence(label)
            figures = _figures(training, evaluate, monitor)
            training.refuse_divergence(label, figures)
            training.end_epoch(figures)
            if figures:
                progress.report({f"{label}{name}": value for name, value in figures.items()}, training.step)
                bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)


def _step(training: TrainingState, accelerator: Accelerator, batches: range) -> tuple[float, list[Tensor]]:
    """Take one step; the learning rate of the schedule, and the losses [] of its batches."""
    options, task, progressed = training.options, training.task, training.step / training.n_steps
    lr = schedules.learning_rate(options, progressed)
    set_rates(training.optimizer, lr * mean_rate(task, batches), schedules.momentum(options, progressed))
    network, optimizer, exchange = training.network, training.optimizer, training.exchange
    return lr, training_step(task, batches, network, optimizer, accelerator, options.clip_norm, exchange)


def _figures(training: TrainingState, evaluate: Evaluate | None, monitor: Monitor | str | None) -> dict[str, float]:
    """Figures of the network at the end of an epoch, with the one that early stopping goes by."""
    figures = dict(evaluate(training.result)) if evaluate else {}
    if training.best and monitor is not None:
        figures["monitor"] = figures[monitor] if isinstance(monitor, str) else monitor(training.result)
    return figures
