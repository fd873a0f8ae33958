"""Train an ensemble, a network for each seed: several at a time where the processor has the cores."""

import heapq
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.training import checkpoint, distributed
from embedline.training.batches import Batches, Stopped
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, choose_precision, device_name, make_accelerator
from embedline.training.options import MemberOptions, SeedOptions
from embedline.training.processes import granted_cores
from embedline.training.train import Evaluate, FitResult

Result = TypeVar("Result")

FEW_STEPS = 100  # of a training, all epochs together

# Seconds between two looks for Ctrl-C while members train. A wait without an end never sees it once Polars is imported,
# whose handler has the system resume it: https://github.com/pola-rs/polars/issues/21739.
HEED_EVERY = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnsembleResult:
    """Tensors of all members under ``0.``, ``1.``, …, metrics of the training, and records of each ``member``."""

    weights: dict[str, Tensor]
    metrics: dict[str, Any]
    history: list[Record]


class NetworkSpec(Protocol):
    """Data and settings of the networks of an ensemble; where several processes train, it goes through pickle."""

    @property
    def training(self) -> MemberOptions:
        """How to train them."""

    def build(self, seed: int) -> nn.Module:
        """The network of a seed, as it is before the training."""

    def batches(self, network: nn.Module, accelerator: Accelerator) -> Batches:
        """Batches such as the training has, to time."""

    def fit(self, network: nn.Module, *, accelerator: Accelerator, seed: int, **settings: Any) -> FitResult:
        """Train it; ``settings`` are others of :func:`embedline.training.train.train`."""

    def evaluator(self, accelerator: Accelerator) -> Evaluate | None:
        """Function that measures a network at the end of each epoch, where there is anything to measure it on."""


def train_ensemble(spec: NetworkSpec, *, rows: int, name: str = "") -> EnsembleResult:
    """Train a network for each of ``spec.training.seeds``, several at a time where the processor has the cores.

    With ``training.processes``, or under a launcher, the processes train one network after the other together. ``rows``
    are those of the split ``train``; ``name`` is that of this ensemble among several of one node, such as a fold, and
    prefix of its checkpoints and metrics.
    """
    if spec.training.processes == 1 and not dist.is_initialized():
        return _train_ensemble(spec, rows, name, threading.Event())
    result: EnsembleResult = distributed.run(_train_ensemble, spec, rows, name, options=spec.training)
    return result


def _train_ensemble(spec: NetworkSpec, rows: int, name: str, stop: threading.Event) -> EnsembleResult:
    training, accelerator = spec.training, make_accelerator(spec.training)
    several = accelerator.shard.size > 1
    networks = [spec.build(seed) for seed in training.seeds]
    prefix = f"{name}." if name else ""
    checkpoints = [checkpoint.current(f"{prefix}member{member}") for member in range(len(networks))]
    workers = 1 if several else count_workers(len(networks), training.threads, accelerator.device)

    def choose() -> Accelerator:
        batches = spec.batches(networks[0], accelerator)
        n_batches = training.epochs * batches.n_batches
        files = [each.path for each in checkpoints if each]
        return choose_precision(accelerator, networks[0], batches, n_batches, checkpoints=files, stop=stop)

    accelerator = in_threads(training.threads, choose)
    evaluate = spec.evaluator(accelerator)

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> FitResult:
        return spec.fit(
            network,
            accelerator=accelerator,
            seed=training.seeds[member],
            evaluate=evaluate,
            label=prefix + (f"member{member}." if len(networks) > 1 else ""),
            position=member,
            checkpoint=checkpoints[member],
            stop=stop,
            alone=workers == 1,
        )

    results = train_parallel(train_member, networks, workers=workers, threads=training.threads, stop=stop)
    warn_of_few_steps(results[:1], training.batch_size, "training")
    metrics = {
        "rows": rows,
        "epochs": max(result.epochs for result in results),
        "members": len(results),
        "member_weights": member_weights(training),
        "workers": workers,
        **({"processes": accelerator.shard.size} if several else {}),
        "seconds": parallel_seconds([result.seconds for result in results], workers),
        "rows_per_second": workers * float(np.mean([result.rows_per_second for result in results])),
        "device": device_name(accelerator.device),
        "precision": accelerator.precision,
        "precision_reason": accelerator.precision_reason,
        **({"best_epochs": [result.best_epoch for result in results]} if training.early_stopping else {}),
    }
    history = [{"member": member, **record} for member, result in enumerate(results) for record in result.history]
    return EnsembleResult(member_tensors([result.network for result in results]), metrics, history)


def member_tensors(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Tensors of all networks, the names of each with the prefix ``0.``, ``1.``, …"""
    states = enumerate(network.state_dict() for network in networks)
    return {f"{member}.{name}": tensor for member, state in states for name, tensor in state.items()}


def member_weights(options: SeedOptions) -> list[float]:
    """Weight of each member in the mean; their sum is 1."""
    weights = options.weights or (1.0,) * len(options.seeds)
    return [weight / sum(weights) for weight in weights]


def warn_of_few_steps(stages: Sequence[FitResult], batch_size: int, block: str) -> None:
    """Warn of a training whose stages have fewer than :data:`FEW_STEPS` steps; ``block`` is that of its settings."""
    steps = sum(int(stage.history[-1]["step"]) for stage in stages)
    if steps < FEW_STEPS:
        logger.warning(
            f"The training took {steps} step(s) in all, too few for most networks to learn much: lower "
            f"{block}.batch_size, which is {batch_size}, or raise the epochs"
        )


def describe(metrics: dict[str, Any]) -> str:
    """One line of the ``metrics`` for the log."""
    return (
        f"Trained {metrics['members']} network(s) on {metrics['rows']:,} rows for {metrics['epochs']} epochs in "
        f"{metrics['seconds']:.0f} s: {metrics['rows_per_second']:,.0f} rows/s on {metrics['device']} in "
        f"{metrics['precision']}"
    )


def history_frame(history: Sequence[Record]) -> pl.DataFrame:
    """A row a record; metrics that were measured once an epoch are null in between."""
    return pl.from_dicts(history, infer_schema_length=None)


def available_cores() -> int:
    """Cores that this process may use: ``OMP_NUM_THREADS`` where it is set, else those the system grants it."""
    if limit := os.environ.get("OMP_NUM_THREADS"):
        return max(1, int(limit))
    return granted_cores()


def count_workers(n_members: int, threads: int, device: torch.device) -> int:
    """How many members to train at a time: one on a GPU, as many as there are cores on a CPU.

    Small batches leave a second core half idle: two members side by side end in little more than the time of one.
    """
    return min(n_members, max(1, available_cores() // threads)) if device.type == "cpu" else 1


def in_threads(threads: int, function: Callable[[], Result]) -> Result:
    """Call ``function`` with ``threads`` PyTorch threads."""
    with _pool(1, threads) as pool:
        return pool.submit(function).result()


def train_parallel(
    train_member: Callable[[int, nn.Module, threading.Event], Result],
    networks: Sequence[nn.Module],
    *,
    workers: int,
    threads: int,
    stop: threading.Event | None = None,
) -> list[Result]:
    """Call ``train_member(index, network, stop)`` for each network, ``workers`` Python threads at a time, in order.

    Each has ``threads`` PyTorch threads, and must draw from generators of its own: a member then comes out the same
    however many train beside it. Ctrl-C, which only the calling thread hears, and the error of a member set ``stop``: a
    member must then end soon, and the interruption or the error is raised when all have ended.
    """
    stop = stop or threading.Event()
    errors: list[BaseException] = []

    def train(index: int, network: nn.Module) -> Result:
        if stop.is_set():
            raise Stopped("before its first step")
        try:
            return train_member(index, network, stop)
        except BaseException as error:
            errors.append(error)
            stop.set()  # here and now: this thread is about to take the next member
            raise

    with _pool(workers, threads) as pool:
        try:
            members = [pool.submit(train, index, network) for index, network in enumerate(networks)]
            while wait(members, HEED_EVERY, FIRST_EXCEPTION).not_done and not errors:
                pass
            if errors:
                raise errors[0]  # the others were stopped by it
            return [member.result() for member in members]
        except BaseException:
            stop.set()
            raise


def weighted_mean(outputs: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> NDArray[np.float64]:
    """Mean float64 [N, …] of the members' outputs, each float [N, …], with one weight for each.

    >>> weighted_mean([np.array([1.0, 2.0]), np.array([5.0, 2.0])], [3.0, 1.0])
    array([2., 2.])
    """
    if len(outputs) != len(weights) or not outputs:
        raise ValueError(f"need a weight for each output, got {len(weights)} for {len(outputs)}")
    mean = np.zeros(outputs[0].shape)
    for output, weight in zip(outputs, weights, strict=True):
        mean += (weight / sum(weights)) * output
    return mean


def parallel_seconds(seconds: Sequence[float], workers: int) -> float:
    """Time that trainings of these ``seconds`` take, ``workers`` at a time, each begun as soon as another ends.

    >>> parallel_seconds([3.0, 5.0, 4.0], 2)
    7.0
    """
    busy_until = [0.0] * workers  # a heap: the first is the smallest
    for duration in seconds:
        heapq.heapreplace(busy_until, busy_until[0] + duration)
    return max(busy_until)


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ThreadPoolExecutor]:
    """Python threads with ``threads`` PyTorch threads each; PyTorch's number for later threads is put back."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
