"""The training loop: evaluate, save a checkpoint, take a step, report, in the order in which they happen.

Tensors stay on the device, a batch is an index slice, and the loss is read back once a record.
"""

import logging
import math
import operator
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from embedline.errors import TrainingError
from embedline.training import distributed
from embedline.training.batches import Batches, Loss, ReadRows, Stopped, TableBatches, batches_by_step
from embedline.training.checkpoint import Checkpoint, Record, TrainingState
from embedline.training.device import Accelerator
from embedline.training.early_stopping import hold_out, row_monitor
from embedline.training.metrics import report as report_metrics
from embedline.training.optimizer import LayerGroup, learning_rate, momentum, optimizer_step, set_rates
from embedline.training.options import FitOptions, HeldOutStopping
from embedline.training.progress import Progress

Evaluate = Callable[[nn.Module], dict[str, float]]
Monitor = Callable[[nn.Module], float]

# Of a progress bar in 80 columns; it ends in spaces, which write over all that stood in its line.
BAR = "{desc}: {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]{bar:-10b}"
RECORDS_PER_TRAINING = 200  # how often the running loss is read back from the device, in all

logger = logging.getLogger(__name__)


@dataclass
class FitResult:
    """The result of a training.

    Attributes:
        network: the one to use: of averaged weights if asked for, of the best epoch with early stopping.
        epochs: number of epochs trained, fewer than asked for where the training was stopped early.
        best_epoch: the epoch, counted from 1, whose weights ``network`` has; None without early stopping.
    """

    network: nn.Module
    history: list[Record] = field(default_factory=list)
    rows_per_second: float = 0.0
    seconds: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None

    @property
    def metrics(self) -> Record:
        """The last record of the epoch whose weights ``network`` has."""
        return next((record for record in self.history if record["epoch"] == self.best_epoch), self.history[-1])


def training_step(
    batches: Batches,
    indices: range,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_norm: float | None = None,
) -> list[Tensor]:
    """One step of the optimiser along the mean gradient of some batches; the losses [] to report, one for each.

    Of several processes both are sums over them.
    """
    losses: list[Tensor] = []
    more = (partial(distributed.sum_gradients, optimizer, losses),) if accelerator.shard.size > 1 else ()
    for index in indices:
        value, data_term = batches.loss(network, index, accelerator.autocast)
        losses.append(data_term.detach())
        if len(indices) > 1:
            value = value / len(indices)
        if index == indices[-1]:
            optimizer_step(value, network, optimizer, clip_norm, *more)
        else:
            value.backward()
    return losses


def fit(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    options: FitOptions,
    *,
    accelerator: Accelerator,
    read: ReadRows | None = None,
    **settings: Any,
) -> FitResult:
    """:func:`train` on independent rows; the arguments are those of :class:`.batches.TableBatches` and :func:`train`.

    With ``options.early_stopping`` its ``fraction`` of the rows is held out, a DataError where there are too few, and
    their mean loss decides.
    """
    device, learned = accelerator.device, None
    if isinstance(options.early_stopping, HeldOutStopping):
        learned, held_out = hold_out(len(tensors[-1]), options.early_stopping, settings.get("position", 0))
        settings["monitor"] = row_monitor(tensors, loss, device, held_out)
    rows: dict[str, Any] = {"rows": learned, "read": read, "shard": accelerator.shard}
    batches = TableBatches(tensors, loss, batch_size=options.batch_size, device=device, **rows)
    return train(network, batches, options, accelerator=accelerator, **settings)


def train(  # noqa: PLR0912, PLR0915 - one loop that reads from top to bottom
    network: nn.Module,
    batches: Batches,
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
    """Train ``network`` on ``batches`` for ``options.epochs`` and return the network to use.

    Args:
        accelerator: device, precision and, of several processes, this one's shard of the batches. All of them call
            this function; ``evaluate``, ``monitor``, ``checkpoint`` and ``stop`` of rank 0 count.
        seed: of the order of the batches (the network's own initialisation is the caller's).
        groups: layers with learning rates of their own; parameters that are in none stay as they are. All of the
            network at one rate when absent.
        evaluate: metrics of the network at the end of each epoch; reported, and only ``monitor`` decides anything.
        monitor: loss on data that the network does not learn from, or the name of such a metric of ``evaluate``: what
            ``options.early_stopping`` goes by; ``monitor`` in the history.
        label: prefix of the reported metrics, such as the member of an ensemble.
        position: line of the progress bar, for trainings side by side.
        checkpoint: keeps the state every so often, at the end and on an interruption. A training that finds its state
            there goes on from it, and ends as one that was never cut off (on a CPU to the last bit).
        stop: once it is set, the training ends after its present step.
        alone: no other training runs beside it, so that PyTorch's global random state is in the checkpoint too.

    Raises:
        Stopped: if ``stop`` was set before the training was over.
        TrainingError: if it diverged: the loss, a weight or a metric of ``evaluate`` or ``monitor`` is not finite.
        ValueError: if ``options.early_stopping`` has no ``monitor`` to go by.
    """
    if options.early_stopping and (monitor is None or (isinstance(monitor, str) and evaluate is None)):
        raise ValueError("early_stopping needs a monitor: a loss on data that the network does not learn from")
    network, several = network.to(accelerator.device), accelerator.shard.size > 1
    on_rank_0 = distributed.on_rank_0 if several else operator.call
    if several:
        network = distributed.prepare(network, accelerator.shard.rank)
    state = TrainingState(network, batches, options, accelerator=accelerator, seed=seed, groups=groups, alone=alone)
    n_steps, epoch_steps, title = state.n_steps, state.epoch_steps, f"training {label}".strip(" .")
    optimizer, network_to_use = state.optimizer, state.average.module if state.average else network

    # Go on from a checkpoint, if there is one.
    saved = checkpoint.load(state.fingerprint()) if checkpoint else None
    if several:
        saved = distributed.broadcast(saved)
    if saved:
        rank = accelerator.shard.rank
        state.load_state_dict(saved | (saved["others"][rank - 1] if rank else {}))
        if checkpoint:
            reached = f"step {state.step:,} of {n_steps:,}"
            logger.info("Going on at %s of %s from its checkpoint", reached, checkpoint.name)
    found = (state.step, state.epoch)

    def save() -> None:
        others = distributed.gather(state.state_of_process())[1:] if several else []
        if checkpoint:
            checkpoint.save({**state.state_dict(), "others": others}, state.fingerprint())

    def keep() -> None:
        """Save at the end; a state that is not finite would only end every later run in the same error."""
        changed = checkpoint is not None and (state.step, state.epoch) != found and state.is_finite()
        if distributed.broadcast(changed) if several else changed:
            save()

    def report(metrics: Record) -> None:
        require_finite(state, label, metrics)
        report_metrics({f"{label}{name}": value for name, value in metrics.items()}, state.step)

    def describe(steps_per_second: float) -> str:
        """The loss since the last record (at a record: that one), the rate, and rows a second, for a line of a log."""
        loss = state.loss.value() if state.loss.count else state.history[-1]["train_loss"]
        rows_per_second = steps_per_second * epoch_rows / epoch_steps
        speed = f"{rows_per_second:,.0f}" if rows_per_second >= 10 else f"{rows_per_second:.2g}"
        epoch = f"epoch {state.epoch + 1} of {options.epochs}"
        return f"{epoch}, loss {loss:.4f}, rate {lr:.2g}, {speed} {batches.unit}/s"

    record_every = max(1, n_steps // RECORDS_PER_TRAINING)
    epoch_rows = batches.rows_per_batch * batches.n_batches
    quiet = True if accelerator.shard.rank else None  # None: no bar where there is no terminal, but lines in the log
    lines = Progress(title, n_steps, "step", done=state.step, quiet=accelerator.shard.rank > 0)
    try:
        shown: dict[str, Any] = {"desc": title, "position": position, "disable": quiet, "leave": False}
        with tqdm(total=n_steps, initial=state.step, bar_format=BAR, **shown) as bar:
            while state.epoch < options.epochs and not (state.best and state.best.over):
                # The order of an epoch is drawn anew, and again where the training goes on within it.
                network.train()
                state.order.set_state(state.order_of_epoch)
                batches.epoch = state.epoch
                batches.begin_epoch(state.order)
                if state.carried is not None:
                    batches.restore(state.carried)
                    state.carried = None
                state.throughput.start(state.step)
                first_step = state.step - state.epoch * epoch_steps
                for indices, factor in batches_by_step(batches, options.accumulate, first_step):
                    # Take a step with some batches.
                    with state.changing():
                        done = state.step / n_steps
                        lr = learning_rate(options, done)
                        set_rates(optimizer, lr * factor, momentum(options, done))
                        for loss in training_step(batches, indices, network, optimizer, accelerator, options.clip_norm):
                            state.loss.add(loss)
                        state.step += 1
                        if state.average:
                            state.average.update_parameters(network)
                        if state.step == state.throughput.warm:
                            state.throughput.start(state.step)
                        due = state.step % record_every == 0 or state.step % epoch_steps == 0
                        if due:
                            record = {"step": state.step, "epoch": state.step / epoch_steps, "lr": lr}
                            state.history.append({**record, "train_loss": state.loss.read()})
                    # Report the running loss.
                    if due:
                        on_rank_0(report, {name: state.history[-1][name] for name in ("train_loss", "lr")})
                        bar.update(state.step - bar.n)
                    lines.update(state.step, describe)
                    # Save a checkpoint, stop.
                    saving, stopping = checkpoint is not None and checkpoint.due(), stop is not None and stop.is_set()
                    if several:
                        saving, stopping = distributed.broadcast((saving, stopping))
                    if saving:
                        on_rank_0(require_finite, state, label)
                        save()
                        state.throughput.start(state.step)
                    if stopping:
                        raise Stopped(f"at step {state.step:,} of {n_steps:,}")
                state.throughput.stop(state.step)
                # Evaluate at the end of the epoch.
                metrics = on_rank_0(_evaluate, state, label, network_to_use, evaluate, monitor)
                with state.changing():
                    state.history[-1].update(metrics)
                    state.epoch, state.order_of_epoch = state.epoch + 1, state.order.get_state()
                    if state.best:
                        state.best.see(metrics["monitor"], state.epoch, network_to_use)
                if metrics:
                    on_rank_0(report, metrics)
                    bar.set_postfix({name: f"{value:.4f}" for name, value in metrics.items()}, refresh=False)
    except BaseException as error:
        if state.consistent and (not several or isinstance(error, Stopped)):
            keep()
        raise
    keep()
    best = state.best.epoch if state.best else None
    if state.best:
        network_to_use.load_state_dict(state.best.weights)
        logger.info("The %s ended after epoch %d of %d; the best is %d", title, state.epoch, options.epochs, best)
    seconds = time.perf_counter() - state.began
    return FitResult(network_to_use, state.history, state.rows_per_second(seconds), seconds, state.epoch, best)


def _evaluate(
    state: TrainingState, label: str, network: nn.Module, evaluate: Evaluate | None, monitor: Monitor | str | None
) -> Record:
    """Metrics of ``network`` at the end of an epoch, with ``monitor`` where there is early stopping."""
    require_finite(state, label)
    metrics = dict(evaluate(network)) if evaluate else {}
    if state.best and monitor is not None:
        metrics["monitor"] = metrics[monitor] if isinstance(monitor, str) else monitor(network)
    require_finite(state, label, metrics)
    return metrics


def require_finite(state: TrainingState, label: str, metrics: Record | None = None) -> None:
    """Raise a TrainingError that names the epoch if one of ``metrics`` is not finite or, without any, a weight."""
    if metrics is None:
        faults = [] if state.is_finite() else ["its weights are not finite"]
    else:
        faults = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if faults:
        of = f" of {label.strip('.')}" if label else ""
        epochs, steps = state.options.epochs, f"step {state.step:,} of {state.n_steps:,}"
        epoch = min(state.epoch + 1, epochs)
        message = f"the training{of} diverged in epoch {epoch} of {epochs}: {faults[0]} at {steps}"
        raise TrainingError(message, state.options.lr)
