"""What a training needs to go on after a kill, kept in files while somebody asks for it."""

import io
import logging
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

FORMAT = "embedline-checkpoint-1"

State = dict[
    str, Any
]  # dictionaries, lists, tensors, numbers and strings: what torch.load reads without pickle's risks
Fingerprint = dict[str, Any]  # what tells one training from another; JSON values by name

logger = logging.getLogger(__name__)

_keepers: list[tuple[Path, float]] = []


@contextmanager
def checkpointing(folder: Path, every: float) -> Iterator[None]:
    """Have the trainings inside the ``with`` block keep checkpoints in ``folder`` and go on from those they find there.

    The caller answers for it that ``folder`` belongs to exactly this work (same code, parameters and inputs), and
    deletes it once what was trained is stored. It is made with the first checkpoint. Of nested blocks the innermost
    counts.

    Args:
        folder: one file for each training, ``<name>.pt``.
        every: seconds between two checkpoints of a training, at least; 0 means one after every step.

    Raises:
        ValueError: if ``every`` is negative or not a number.
    """
    if not every >= 0.0:
        raise ValueError(f"the seconds between two checkpoints must be 0 or more, got {every}")
    keeper = (Path(folder), every)
    _keepers.append(keeper)
    try:
        yield
    finally:
        _keepers.remove(keeper)


def current(name: str) -> "Checkpoint | None":
    """Checkpoint of the training ``name``, such as ``member0``; None where nobody keeps any."""
    if not _keepers:
        return None
    folder, every = _keepers[-1]
    return Checkpoint(folder / f"{name}.pt", every)


def scratch() -> Path | None:
    """The folder of :func:`checkpointing`, for other things that are needed until then; None without one."""
    return _keepers[-1][0] if _keepers else None


class Checkpoint:
    """The latest state of one training in one file, which is always whole: a new one replaces it in one step.

    A power failure is not guarded against (nothing calls ``fsync``), a killed process is.

    Args:
        path: the file; its folder is made when it is first written.
        every: seconds between two checkpoints, at least.
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path = path
        self.every = every
        self.name = path.stem
        self._since = time.monotonic()
        self._warned = False

    def due(self) -> bool:
        """Whether ``every`` seconds have passed since the training began or the last checkpoint was written."""
        return time.monotonic() - self._since >= self.every

    def load(self, identity: Fingerprint) -> State | None:
        """The stored state, its tensors on the CPU, at the beginning of a training.

        Returns:
            None where there is no file, and, with a warning that names it, where the file cannot be read or was made
            for a training of another ``identity``.
        """
        self._since = time.monotonic()
        if not self.path.exists():
            return None
        try:
            kept = _read(self.path)
        except Exception as error:  # a damaged file makes torch.load and zipfile raise nearly anything
            logger.warning(
                "The checkpoint %s cannot be read (%s: %s): the training starts over",
                self.path,
                type(error).__name__,
                error,
            )
            return None
        if differences := _differences(kept["identity"], identity):
            logger.warning(
                "The checkpoint %s was made for another training: %s. The training starts over", self.path, differences
            )
            return None
        state: State = kept["state"]
        return state

    def save(self, state: State, identity: Fingerprint) -> None:
        """Replace the file by ``state``; where that fails, for want of space, warn once and leave the file as it is."""
        # Through memory, because torch.save itself reports a full disk as a RuntimeError without a reason.
        content = io.BytesIO()
        torch.save({"format": FORMAT, "identity": identity, "state": state}, content)
        staged = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content.getbuffer())
            os.replace(staged, self.path)
        except OSError as error:
            if not self._warned:
                logger.warning(
                    "The checkpoint %s cannot be written (%s): the training goes on without it", self.path, error
                )
            self._warned = True
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            self._since = time.monotonic()


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch.load does not compare the checksums
            raise ValueError(f"{damaged} is damaged")
    kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    return kept


def _differences(theirs: Fingerprint, ours: Fingerprint, most: int = 3) -> str:
    """The first of the names with different values, each with both; empty if there are none."""
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    shown = [f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in names[:most]]
    return ", ".join(shown) + (f", and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the ``with`` block, where it takes its usual course.

    Python raises it in the main thread between any two instructions; half an optimiser's step must not reach a
    checkpoint. In other threads there is nothing to hold.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    if not callable(handler):
        yield
        return
    held: list[tuple[Any, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])
