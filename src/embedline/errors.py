"""Errors that a user can fix: one sentence that names the file, column, row or key, or the fault of the machine."""

import difflib
import errno
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from embedline.redaction import redacted

if TYPE_CHECKING:
    from pydantic import ValidationError

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


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The known name most like one that is not there, as the end of a message; all of them where none is near."""
    own = {one.rpartition(".")[2]: one for one in sorted(known, reverse=True)}  # `trian` is near to `flats.train`, too
    near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name, own, n=1)
    if near:
        return f": did you mean {near[0] if near[0] in known else own[near[0]]!r}?"
    return f"; there are {', '.join(sorted(known))}" if known else "; there are none"


def refused_setting(block: str, kind: Any, error: "ValidationError") -> str:
    """Say in one line which key of a block of settings is refused and why; a misspelt key comes first.

    Args:
        block: name of the block.
        kind: its pydantic model, or a union with one.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    fields, place = _fields(kind), [str(one) for one in first["loc"]]
    for name in place[:-1]:
        fields = (name in fields and _fields(fields[name].annotation)) or fields
    key = ".".join([block, *place])
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key{did_you_mean(place[-1], fields)}"
    given = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f"; it is {first['input']!r}"
    reason = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{key}: {' '.join(reason.split())}{given}"


def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a pydantic model, or of the one in a union, by name."""
    return next((one.model_fields for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")), {})
