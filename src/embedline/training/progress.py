"""Live metrics of a training: the loop reports them, a tracker listens, a node function need not know of it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[dict[str, float], int], None]


@functools.cache
def _listeners() -> list[Listener]:
    """The list of this process; a cache, as what a module holds counts as code of the nodes that use it."""
    return []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener(metrics, step)`` for every report made inside the ``with`` block."""
    _listeners().append(listener)
    try:
        yield
    finally:
        _listeners().remove(listener)


def report(metrics: dict[str, float], step: int) -> None:
    """Send ``metrics``, measured after ``step`` optimiser steps, to all listeners."""
    for listener in _listeners():
        listener(metrics, step)
