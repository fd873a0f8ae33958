"""The progress of long work in a log: a line a minute where no terminal shows a bar."""

import logging
import sys
import time
from collections.abc import Callable

EVERY = 60.0  # seconds between two lines, and before the first: what ends sooner says nothing
clock: Callable[[], float] = time.monotonic  # in seconds; tests set another

logger = logging.getLogger(__name__)


class Progress:
    """Logs how far some work is, every :data:`EVERY` seconds, unless standard error is a terminal.

    Args:
        title: what is done, such as ``training member0``.
        total, unit: steps, or other units, of the whole work, and their name.
        done: units that were done earlier, such as the steps of a checkpoint; they do not count in the time left.
        quiet: log nothing, as in all processes but one.
    """

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._silent = quiet or (sys.stderr is not None and sys.stderr.isatty())
        self._began = self._last = (done, clock())  # units and seconds

    def update(self, done: int, details: Callable[[float], str] | None = None) -> None:
        """Log a line if one is due: units done, ``details`` of the units of a second since the last line, the time
        left.
        """
        if self._silent or (now := clock()) - self._last[1] < EVERY:
            return
        speed = (done - self._last[0]) / (now - self._last[1])
        more = [details(speed)] if details else []
        if done > self._began[0]:
            left = (self._total - done) * (now - self._began[1]) / (done - self._began[0])
            more.append(f"{format_duration(left)} left")
        logger.info(", ".join([f"{self._title}: {self._unit} {done:,} of {self._total:,}", *more]))
        self._last = (done, now)


def format_duration(seconds: float) -> str:
    """Seconds as text, rounded.

    >>> format_duration(41.6), format_duration(1730), format_duration(7530)
    ('42 s', '29 min', '2 h 06 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
