"""The training loop: device-resident tensors, a batch is an index slice, one synchronisation a record."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from embedline.training import progress, schedules
from embedline.training.averaging import WeightAverage
from embedline.training.options import TrainingOptions

Loss = Callable[[Tensor, Tensor], Tensor]
Evaluate = Callable[[nn.Module], dict[str, float]]
Record = dict[str, float]

RECORDS_PER_TRAINING = 200  # how often the running loss is read back from the device, in all
UNTIMED_STEPS = 10  # first steps warm caches and kernels up; they do not count in rows per second


@dataclass
class Fitted:
    """What a training leaves: the network to use (averaged weights if asked for), its history and its speed."""

    network: nn.Module
    history: list[Record] = field(default_factory=list)
    rows_per_second: float = 0.0
    seconds: float = 0.0


@dataclass
class _Meter:
    """Mean loss since it was last read, summed on the device: reading it is the loop's only synchronisation."""

    total: Tensor
    count: int = 0

    def add(self, value: Tensor) -> None:
        self.total += value.detach()
        self.count += 1

    def read(self) -> float:
        mean = self.total.item() / self.count
        self.total.zero_()
        self.count = 0
        return mean


@dataclass
class _Stopwatch:
    """Time spent in training steps, without the first ones and without evaluations."""

    steps: int = 0
    seconds: float = 0.0
    _since: tuple[int, float] = (0, 0.0)

    def start(self, step: int) -> None:
        self._since = (step, time.perf_counter())

    def stop(self, step: int) -> None:
        first, began = self._since
        if step > first >= UNTIMED_STEPS:
            self.steps += step - first
            self.seconds += time.perf_counter() - began


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters: matrices are decayed, vectors (biases, batch-norm) are not, as in fastai v2."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW (decoupled weight decay, Loshchilov & Hutter 2019) in its fused form: one kernel for all parameters."""
    groups = decay_groups(network, options.weight_decay)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta1: float) -> None:
    """Give every parameter group the learning rate ``lr`` and the first Adam coefficient ``beta1``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["betas"] = (beta1, group["betas"][1])


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Tensor],
    loss: Loss,
    accelerator: Accelerator,
    clip_norm: float | None = None,
) -> Tensor:
    """One step on a batch (inputs and, last, the target); the loss as a tensor on the device, not yet read."""
    *inputs, target = batch
    with accelerator.autocast():
        output = network(*inputs)
    value = loss(output.float(), target)
    accelerator.backward(value)
    if clip_norm is not None:
        accelerator.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def fit(
    network: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    options: TrainingOptions,
    *,
    accelerator: Accelerator,
    seed: int,
    evaluate: Evaluate | None = None,
    label: str = "",
    position: int = 0,
) -> Fitted:
    """Train ``network`` on ``tensors`` for ``options.epochs`` and return the network to use.

    Args:
        network: called as ``network(*inputs)``; must return what ``loss`` takes as its first argument.
        tensors: inputs and, last, the target; all of the same length [N, …]; moved to the device once.
        loss: mean loss of a batch, ``loss(output, target)``.
        accelerator: carries device and precision.
        seed: of the order of the rows (the network's own initialisation is the caller's).
        evaluate: figures of the network at the end of each epoch; reported, never acted on.
        label: prefix of the reported figures, such as the member of an ensemble.
        position: line of the progress bar, for trainings side by side.

    A batch of static shape is cut from a fresh permutation each epoch; the rows that do not fill a last batch are left
    out of that epoch, others of the next (fastai does the same). The learning rate changes every step.
    """
    device = accelerator.device
    network = network.to(device)
    optimizer = make_optimizer(network, options)
    tensors = [tensor.to(device) for tensor in tensors]
    n_rows = len(tensors[-1])
    batch_size = min(options.batch_size, n_rows)
    n_batches = n_rows // batch_size
    n_steps = n_batches * options.epochs
    record_every = max(1, n_steps // RECORDS_PER_TRAINING)
    average = WeightAverage(network, options.averaging.decay) if options.averaging else None
    fitted = Fitted(network=average.network if average else network)
    order = torch.Generator(device=device).manual_seed(seed)
    meter, stopwatch, step = _Meter(torch.zeros((), device=device)), _Stopwatch(), 0
    started = time.perf_counter()
    with tqdm(total=n_steps, desc=f"training {label}".strip(" ."), unit="step", position=position, disable=None) as bar:
        for _ in range(options.epochs):
            network.train()
            permutation = torch.randperm(n_rows, generator=order, device=device)
            stopwatch.start(step)
            for rows in permutation[: n_batches * batch_size].split(batch_size):
                lr = schedules.learning_rate(options, step / n_steps)
                set_rates(optimizer, lr, schedules.momentum(options, step / n_steps))
                batch = [tensor[rows] for tensor in tensors]
                meter.add(train_step(network, optimizer, batch, loss, accelerator, options.clip_norm))
                step += 1
                if average:
                    average.update()
                if step == UNTIMED_STEPS:
                    stopwatch.start(step)
                if step % record_every == 0 or step % n_batches == 0:
                    record: Record = {"step": step, "epoch": step / n_batches, "lr": lr, "train_loss": meter.read()}
                    fitted.history.append(record)
                    progress.report({f"{label}{name}": record[name] for name in ("train_loss", "lr")}, step)
                    bar.update(step - bar.n)
            stopwatch.stop(step)
            if evaluate is not None:
                figures = evaluate(fitted.network)
                fitted.history[-1].update(figures)
                progress.report({f"{label}{name}": value for name, value in figures.items()}, step)
                bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)
    fitted.seconds = time.perf_counter() - started
    # A training of fewer than the untimed steps has only its whole time to report.
    steps, seconds = (stopwatch.steps, stopwatch.seconds) if stopwatch.steps else (step, fitted.seconds)
    fitted.rows_per_second = steps * batch_size / seconds
    return fitted
