"""Train the members of an ensemble, several at a time where the processor has the cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from embedline.training.loop import Fitted

Result = TypeVar("Result")


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


def train_side_by_side(
    train_member: Callable[[int, nn.Module], Fitted],
    networks: Sequence[nn.Module],
    *,
    workers: int,
    threads: int,
) -> list[Fitted]:
    """Call ``train_member(index, network)`` for each network, ``workers`` at a time, and keep their order.

    Python threads are enough: PyTorch releases the interpreter's lock inside its kernels. Each has ``threads`` PyTorch
    threads, so that a member comes out the same however many train beside it. ``train_member`` must draw its random
    numbers from generators of its own.
    """
    with _pool(workers, threads) as pool:
        return list(pool.map(train_member, range(len(networks)), networks))


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ThreadPoolExecutor]:
    """Python threads with ``threads`` PyTorch threads each; PyTorch's number for later threads is put back."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
