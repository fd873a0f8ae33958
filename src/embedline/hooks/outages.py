"""Faults of the machine and of MLflow: a full disk, a folder that cannot be written, a tracking store that is gone."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from embedline.redaction import redacted

logger = logging.getLogger(__name__)

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_TRACKING = ("mlflow", "sqlalchemy", "sqlite3")  # compared by name, since a run without tracking imports none of them

Method = TypeVar("Method", bound=Callable[..., Any])


def describe_outage(error: BaseException) -> str | None:
    """Say in one line what is wrong with the machine or with MLflow; None for an error of another kind."""
    causes = list(_chain(error))
    full = next((one for one in causes if isinstance(one, OSError) and one.errno in _DISK), None)
    if _is_tracking(error):
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


def go_on(method: Method) -> Method:
    """Have a hook that tracks the run warn of an outage, once, instead of ending the run and losing a node's work.

    From then on the hooks of the object, or of its attribute ``tracker``, do nothing: its ``outage`` is true.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracker = getattr(self, "tracker", self)
        if getattr(tracker, "outage", False):
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            line = describe_outage(error)
            if line is None:
                raise
            tracker.outage = True
            logger.warning("%s. The run goes on, and is not tracked from here", line)
            return None

    return cast(Method, call)


def _is_tracking(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _TRACKING


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
