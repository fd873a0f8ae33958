"""Where a training tells what it measures while it runs; a tracker listens, a node function need not know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[dict[str, float], int], None]

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener(figures, step)`` for every report made inside the ``with`` block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(figures: dict[str, float], step: int) -> None:
    """Hand ``figures``, measured after ``step`` optimiser steps, to everyone who listens."""
    for listener in _listeners:
        listener(figures, step)
