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
from embedline.training.options import FitOptions
from embedline.training.state import Record, TrainingState
from embedline.training.tasks import Loss, RowTask, Task

Evaluate = Callable[[nn.Module], dict[str, float]]

RECORDS_PER_TRAINING = 200  # how often the running loss is read back from the device, in all

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A training ended before its time because it was asked to."""


@dataclass
class Fitted:
    """What a training leaves: the network to use (averaged weights if asked for), its history and its speed."""

    network: nn.Module
    history: list[Record] = field(default_factory=list)
    rows_per_second: float = 0.0
    seconds: float = 0.0


def make_optimizer(
    network: nn.Module, options: FitOptions, groups: Sequence[LayerGroup] | None = None
) -> torch.optim.Optimizer:
    """AdamW (decoupled weight decay, Loshchilov & Hutter 2019) in its fused form: one kernel for all parameters."""
    settings: list[dict[str, Any]] = optimizer_groups(groups or [LayerGroup([network])], options.weight_decay)
    return torch.optim.AdamW(settings, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


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
    """One step of the optimiser along the gradient of ``value`` []."""
    accelerator.backward(value)
    if clip_norm is not None:
        accelerator.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fit(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    options: FitOptions,
    *,
    accelerator: Accelerator,
    **settings: Any,
) -> Fitted:
    """:func:`train` on independent rows, ``options.batch_size`` of them a step.

    Args:
        network: called as ``network(*inputs)``; must return what ``loss`` takes as its first argument.
        tensors: inputs and, last, the target; all of the same length [N, …]; moved to the device once.
        loss: mean loss of a batch, ``loss(output, target)``.
        settings: those of :func:`train`.
    """
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
        evaluate: figures of the network at the end of each epoch; reported, never acted on.
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
    """
    network = network.to(accelerator.device)
    optimizer = make_optimizer(network, options, groups)
    training = TrainingState(network, optimizer, options, task=task, seed=seed, accelerator=accelerator, alone=alone)
    if checkpoint and (state := checkpoint.load(training.identity())):
        training.restore(state)
        reached = f"step {training.step:,} of {training.n_steps:,}"
        logger.info("Going on at %s of %s from its checkpoint", reached, checkpoint.name)
    found = training.position
    try:
        _run(training, accelerator, evaluate, label, position, checkpoint, stop)
    finally:
        if checkpoint and training.whole and training.position != found:
            checkpoint.save(training.state(), training.identity())
    return Fitted(training.result, training.history, training.rows_per_second, training.seconds)


def _run(
    training: TrainingState,
    accelerator: Accelerator,
    evaluate: Evaluate | None,
    label: str,
    position: int,
    checkpoint: Checkpoint | None,
    stop: threading.Event | None,
) -> None:
    """Train from where ``training`` stands to the end; the arguments are those of :func:`train`."""
    options, n_steps, n_batches = training.options, training.n_steps, training.n_batches
    record_every = max(1, n_steps // RECORDS_PER_TRAINING)
    title = f"training {label}".strip(" .")
    with tqdm(total=n_steps, initial=training.step, desc=title, unit="step", position=position, disable=None) as bar:
        while training.epoch < options.epochs:
            training.network.train()
            batches = training.begin_epoch()
            training.stopwatch.start(training.step)
            for index in batches:
                progressed = training.step / n_steps
                lr = schedules.learning_rate(options, progressed)
                with training.changing():
                    rate = training.task.rate(index)
                    set_rates(training.optimizer, lr * rate, schedules.momentum(options, progressed))
                    value, reported = training.task.loss(training.network, index, accelerator.autocast)
                    descend(value, training.network, training.optimizer, accelerator, options.clip_norm)
                    training.count_step(reported)
                    step, due = training.step, training.step % record_every == 0 or training.step % n_batches == 0
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
            figures = evaluate(training.result) if evaluate else {}
            training.end_epoch(figures)
            if figures:
                progress.report({f"{label}{name}": value for name, value in figures.items()}, training.step)
                bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)
