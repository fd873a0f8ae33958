"""Processes that work through many items, and end with the one that has started them; PyTorch is not imported here."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def granted_cores() -> int:
    """Cores that the system grants this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int, work: str
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of the items; a RuntimeError names the ``work`` if a process ends early.

    Processes are spawned on every system: a forked process may hang if Polars or PyTorch have threads. Few items are
    handed over at a time: the executor may hang if Ctrl-C comes while it takes a task over, not while one waits for it.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process of the {work} ended early, perhaps for lack of memory: try fewer processes. A script that "
            'starts processes needs `if __name__ == "__main__":` around its code'
        ) from error
    finally:
        # Also after an error, after Ctrl-C and if the caller stops early: running items end, no new ones start.
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # spaCy imports PyTorch if it is installed: two seconds and 200 MB that no such process needs.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    end_with_parent(os._exit, 1)


def end_with_parent(end: Callable[..., Any], *arguments: Any) -> None:
    """Call ``end(*arguments)`` once the process that has started this one is gone."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            end(*arguments)

    threading.Thread(target=wait, daemon=True).start()
