"""Variables of this process's environment that are set for a while."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def kept(names: Iterable[str]) -> Iterator[None]:
    """Put these variables back, at the end of the ``with`` block, to what they are at its beginning."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
