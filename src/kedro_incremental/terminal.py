"""What a run says while it works: the node at work, a line for what is done, and its warnings once, at the end."""

import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from kedro.framework import project
from kedro.pipeline.node import Node
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from .redaction import redacted
from .report import as_text, format_seconds, make_console

Verbosity = Literal["quiet", "normal", "verbose"]

LOG = "last_run.log"  # in the folder of the manifest: INFO of Kedro and of the project, of the last run of a node
FEW = 12  # nodes to run, each of which has a line of its own; of more, each namespace has one
PATIENCE = 60.0  # seconds of a node without a line, where no terminal shows it; twice as long for each next line
TICK = 0.5
MOST_WARNINGS = 5  # shown at the end; the log has all
FAILED_NODES = "kedro.pipeline.node"  # logs the error of a node, which ends the run as an exception too
_WARNING = re.compile(r"^.+?:\d+: \w*Warning: ")  # file and line that `warnings` puts before a message


def log_levels(level: int) -> dict[str, int]:
    """Set the level of the loggers of Kedro, this package and the project; what each of them had."""
    names = ("kedro", __package__, project.PACKAGE_NAME)
    before = {name: logging.getLogger(name).level for name in names if name}
    for name in before:
        logging.getLogger(name).setLevel(level)
    return before


class LiveLine:
    """The last line of a terminal, written over until it is cleared; nothing where the output is no terminal."""

    _shown = ""  # on the terminal, of which there is one
    _lock = threading.RLock()

    def __init__(self, console: Console) -> None:
        self._console = console
        self.is_on = console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter

    def show(self, text: str) -> None:
        """Replace the line, unless a progress bar of tqdm has it."""
        bars = sys.modules.get("tqdm.std")
        if not self.is_on or (bars and len(bars.tqdm._instances)):
            return
        with self._lock:
            text = as_text(text).plain[: self._console.width - 1]
            self._write(f"\r{text.ljust(len(self._shown))}")
            LiveLine._shown = text

    def clear(self) -> None:
        """Leave an empty line."""
        with self._lock:
            if self.is_on and self._shown:
                self._write(f"\r{' ' * len(self._shown)}\r")
                LiveLine._shown = ""

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


class Output:
    """What one run prints, and its log.

    While it is entered, warnings of loggers are kept for its end, and what conf/logging.yml lets through besides is
    shown beside the live line. ``verbose``: all is shown as it comes, too. ``quiet``: warnings and the end alone.

    Args:
        folder: of the log; no log without one.
    """

    def __init__(self, verbosity: Verbosity, folder: Path | None = None) -> None:
        self.verbosity, self._folder = verbosity, folder
        self.console = make_console()
        self._line = LiveLine(self.console)
        self._line.is_on &= verbosity == "normal"
        self._warnings = Counter[tuple[str, str]]()
        self._handlers: list[logging.Handler] = []
        self._filter = _Visible(self)
        self._levels: dict[str, int] = {}
        self._waiting: list[str] = []  # namespace, or name, of each node that is still to run
        self._by_node, self._total, self._done = True, 0, 0
        self._at_work, self._began, self._said = "", 0.0, time.perf_counter()
        self._ran: dict[str, list[float]] = {}  # seconds of the nodes that ran, by namespace
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Output":
        self._handlers = [_Warnings(self)]
        logging.getLogger().addHandler(self._handlers[0])
        for handler in self._consoles():
            handler.addFilter(self._filter)
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        for handler in self._consoles():
            handler.removeFilter(self._filter)
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    # Nodes

    def checking(self, n_nodes: int) -> None:
        """The plan is being made."""
        self._line.show(f"checking what changed of {n_nodes} nodes ...")

    def begin(self, nodes: Sequence[Node], n_all: int) -> None:
        """These nodes are going to run, unless their inputs come out as they were; without any, nothing is said."""
        self._line.clear()
        if not nodes:
            return
        self._begin_log()
        self._total, self._by_node = len(nodes), len(nodes) <= FEW
        self._waiting = [self._group(node) for node in nodes]
        if self.verbosity == "normal":
            self.say(f"{len(nodes)} of {n_all} nodes to run")
        self._thread = threading.Thread(target=self._watch, name="kedro_incremental output", daemon=True)
        self._thread.start()

    @contextmanager
    def at_work(self, node: Node) -> Iterator[None]:
        """A node runs; it is named with its warnings, too."""
        self._at_work, self._began = node.name, time.perf_counter()
        self._show()
        try:
            yield
        finally:
            self._at_work = ""
            self._line.clear()

    def finished(self, node: Node, seconds: float | None) -> None:
        """A node that was to run has run, or was skipped after all (``seconds`` is None)."""
        group = self._group(node)
        if group not in self._waiting:
            self._waiting.append(group)  # others have changed its files while the run went on
            self._total += 1
        self._waiting.remove(group)
        self._done += 1
        if seconds is not None:
            self._ran.setdefault(group, []).append(seconds)
        if group not in self._waiting and (ran := self._ran.get(group)) and self.verbosity == "normal":
            number = "" if self._by_node else f"  {len(ran)} node{'s' * (len(ran) > 1)}"
            self.say(f"{self._number()} {group}{number}  {format_seconds(sum(ran))}")

    def rest(self) -> None:
        """No node runs any more."""
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._line.clear()

    def _group(self, node: Node) -> str:
        return node.name if self._by_node else str(node.namespace or "others").partition(".")[0]

    def _number(self) -> str:
        return f"[{self._done:>{len(str(self._total))}}/{self._total}]"

    def _show(self) -> None:
        number = f"[{self._done + 1:>{len(str(self._total))}}/{self._total}]"
        self._line.show(f"{number} {self._at_work}  {format_seconds(time.perf_counter() - self._began)}")

    def _watch(self) -> None:
        """Refresh the line; without a terminal, name the node that has run for long without a word."""
        lines = 0  # of the node at work
        while not self._ended.wait(TICK):
            name, now = self._at_work, time.perf_counter()
            if name and self._line.is_on:
                self._show()
                continue
            lines = lines if self._said > self._began else 0
            if name and self.verbosity == "normal" and now - max(self._said, self._began) > PATIENCE * 2**lines:
                lines += 1
                self.say(f"{self._number()} {name} has been running for {format_seconds(now - self._began)}")

    # Lines

    def say(self, text: str | Text) -> None:
        """Print a line."""
        self._line.clear()
        self._said = time.perf_counter()
        text = as_text(text) if isinstance(text, str) else text
        self.console.print(text, highlight=False, soft_wrap=not self.console.is_terminal)

    def show_warnings(self) -> None:
        """Print the warnings that were kept, each of them once, with the node and how often it came."""
        if not self._warnings:
            return
        self.say(f"{len(self._warnings)} warning{'s' * (len(self._warnings) > 1)}:")
        for (node, text), count in list(self._warnings.items())[:MOST_WARNINGS]:
            times = f" ({count} times)" if count > 1 else ""
            self.say(f"- {node}: {text}{times}" if node else f"- {text}{times}")
        if (others := len(self._warnings) - MOST_WARNINGS) > 0:
            self.say(f"- and {others} more, in {self._folder / LOG if self._folder else 'the log'}")

    # Logging

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown as it comes."""
        if self.verbosity == "verbose":
            return True
        if record.name == FAILED_NODES or logging.WARNING <= record.levelno < logging.ERROR:
            return False
        is_shown = record.levelno >= self._configured_level(record.name)
        if is_shown:
            self._line.clear()
            self._said = time.perf_counter()
        return is_shown

    def keep(self, record: logging.LogRecord) -> None:
        """Keep a warning for the end."""
        if record.levelno < logging.ERROR:
            text = record.getMessage()
            text = _WARNING.sub("", text.strip().partition("\n")[0]) if record.name == "py.warnings" else text
            self._warnings[self._at_work, str(redacted(" ".join(text.split())))] += 1

    def _configured_level(self, name: str) -> int:
        """Level of a logger by the configuration: the run has lowered some for its log."""
        while name:
            if level := self._levels.get(name, logging.getLogger(name).level):
                return level
            name = name.rpartition(".")[0]
        return logging.getLogger().level

    def _begin_log(self) -> None:
        if self._folder is None:
            return
        try:
            handler = _Log(self._folder / LOG, mode="w", encoding="utf-8")
        except OSError:  # the records of the run cannot be written there either, and say so
            return
        self._handlers.append(handler)
        logging.getLogger().addHandler(handler)
        if self.verbosity != "verbose":
            self._levels = log_levels(logging.INFO)

    @staticmethod
    def _consoles() -> list[logging.Handler]:
        """Handlers that write to the screen; others, of a file or a test, get every record."""
        found = logging.getLogger().handlers
        return [one for one in found if isinstance(one, RichHandler) or type(one) is logging.StreamHandler]


class _Visible(logging.Filter):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def filter(self, record: logging.LogRecord) -> bool:
        return self._output.admits(record)


class _Warnings(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.keep(record)


class _Log(logging.FileHandler):
    """A file that ends, instead of a traceback a line, where it cannot be written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setLevel(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        return str(redacted(super().format(record)))

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger().removeHandler(self)
