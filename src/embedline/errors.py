"""Errors that a user can fix: one sentence that names the file, column, row or key, or the fault of the machine."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from embedline.redaction import redacted

_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_TRACKING = ("mlflow", "sqlalchemy", "sqlite3")  # compared by name, since a run without tracking imports none of them

# Dataset or parameter by argument of the node that runs; empty between two nodes.
NO_NAMES: Mapping[str, str] = MappingProxyType({})
input_names: ContextVar[Mapping[str, str]] = ContextVar("input_names", default=NO_NAMES)


class DataError(ValueError):
    """The data or a setting is at fault, not the code; the message says what to fix and where.

    Secrets in the message, such as the password of an address, are replaced by ``***``.
    """

    def __init__(self, *texts: object) -> None:
        super().__init__(*map(redacted, texts))


class FrameError(DataError):
    """A frame that a node takes is at fault; the message begins with the dataset, see :func:`about_frame`."""


def input_name(argument: str) -> str:
    """The dataset or YAML key behind a node's argument, such as ``albums.ratings``; outside of a run the argument."""
    return input_names.get().get(argument, argument).removeprefix("params:")


class TrainingError(DataError):
    """A training diverged: its loss, its weights or a metric are not finite.

    Attributes:
        text: what happened, and when.
        lr: the learning rate of the settings.
        block: that of the settings; the run puts the source's name in (:class:`embedline.hooks.tracking.DatasetNames`).
    """

    def __init__(self, text: str, lr: float) -> None:
        super().__init__(text, lr)
        self.text, self.lr = text, lr
        self.block = "training"

    def __str__(self) -> str:
        """The whole message."""
        return f"{self.text}. Lower lr in {self.block}, which is {self.lr:g}, or bound the gradient by clip_norm there"


@contextmanager
def about_frame(argument: str) -> Iterator[None]:
    """Let a DataError raised inside the ``with`` block begin with the dataset behind the node's ``argument``.

    That is its name in the catalog, such as ``houses.table``; "the table" outside of a run.
    """
    try:
        yield
    except FrameError:
        raise
    except DataError as error:
        name, text, own = input_name(argument), str(error), f"the {argument}"
        text = text.removeprefix(own) if text.startswith(f"{own} ") else f": {text}"
        raise FrameError(f"{own if name == argument else name}{text}") from error


def describe_outage(error: BaseException) -> str | None:
    """Say in one line what is wrong with the machine or with MLflow; None for an error of another kind."""
    causes = list(causes_of(error))
    full = next((one for one in causes if isinstance(one, OSError) and one.errno in _DISK_FAULTS), None)
    if type(error).__module__.split(".")[0] in _TRACKING:
        cause = full or next((one for one in causes if type(one).__module__ == "sqlite3"), error)
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        return (
            f"MLflow cannot store the run: {redacted(reason)}; what has finished is kept. Make room, or name another "
            "place: --params tracking_root=/a/folder"
        )
    if full is None:
        return None
    where = full.filename or "a temporary file (TMPDIR names the folder)"
    return f"cannot read or write {redacted(str(where))}: {full.strerror}; what has finished is kept"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, the first cause last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException, most: int | None = None) -> str:
    """The message of a library's error in one line of at most ``most`` characters, or the error's name."""
    return " ".join(str(error).split())[:most] or type(error).__name__
