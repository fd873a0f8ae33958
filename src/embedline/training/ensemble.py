"""Train the members of an ensemble, several at a time where the processor has the cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from embedline.training.loop import Fitted


def train_side_by_side(
    train_member: Callable[[int, nn.Module], Fitted],
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    *,
    workers: int,
) -> list[Fitted]:
    """Call ``train_member(index, network)`` for each network, ``workers`` at a time, and keep their order.

    Threads are enough: PyTorch releases the interpreter's lock inside its kernels. Each worker has its share of the
    cores. With one worker the members run one after the other, each with PyTorch's global generator set to its seed, so
    that dropout masks follow the seed too; the generator is left as it was.
    """
    if workers == 1:
        runs = []
        for member, (network, seed) in enumerate(zip(networks, seeds, strict=True)):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                runs.append(train_member(member, network))
        return runs
    threads = max(1, torch.get_num_threads() // workers)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return list(pool.map(train_member, range(len(networks)), networks))
