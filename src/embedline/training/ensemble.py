"""Train the members of an ensemble, several at a time where the processor has the cores."""

import heapq
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from embedline.training.processes import Stopped

Result = TypeVar("Result")

# Seconds between two looks for Ctrl-C while members train. A wait without an end never sees it once Polars is imported,
# whose handler has the system resume it: https://github.com/pola-rs/polars/issues/21739.
HEED_EVERY = 0.2


def available_cores() -> int:
    """Cores that this process may use: ``OMP_NUM_THREADS`` where it is set, else those the system grants it."""
    if limit := os.environ.get("OMP_NUM_THREADS"):
        return max(1, int(limit))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers(n_members: int, threads: int, device: torch.device) -> int:
    """How many members to train at a time: as many as the CPU has cores for, one on a GPU.

    Small batches leave a second core half idle, so that two members side by side end in little more than the time of
    one.
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
) -> list[Result]:
    """Call ``train_member(index, network, stop)`` for each network, ``workers`` at a time, and keep their order.

    Python threads are enough: PyTorch releases the interpreter's lock inside its kernels. Each has ``threads`` PyTorch
    threads, so that a member comes out the same however many train beside it. ``train_member`` must draw its random
    numbers from generators of its own.

    Ctrl-C, which only the calling thread hears, and the error of a member set the event ``stop``: a member must then
    end soon, those that have not begun never do, and the interruption or the error is raised when all have ended.
    """
    stop = threading.Event()
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

    Raises:
        ValueError: if there are not as many weights as outputs, or none.
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
