"""A process that serves another one's trainings: rank 1 or more of several.

``python -m embedline.training.worker STORE RANK SIZE`` is started by :mod:`embedline.training.helpers`; processes of a
launcher come to :func:`serve` by :func:`embedline.training.launcher.launched`.
"""

import os
import sys
import threading
from contextlib import suppress

import torch.distributed as dist

from embedline.training.helpers import READY
from embedline.training.parcels import share
from embedline.training.processes import Stopped, Team, acting_as, join, lost


def serve() -> None:
    """Do the jobs of rank 0 until it has no more, or is gone."""
    member = Team([])
    try:
        with acting_as(member):
            while (job := share()) is not None:
                function, arguments = job
                with suppress(Stopped):
                    function(*arguments)
    except RuntimeError as error:
        if not lost(error):
            raise
        # Rank 0 tells what happened; a status of failure here would have a launcher end it before it can.
        print(f"Process {member.rank + 1} of {member.size} of a training ends: {error}", file=sys.stderr)  # noqa: T201
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """End at once when the process that started this one has ended, which closes the pipe."""
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin itself, whose lock a thread would hold at the normal end
        pass
    os._exit(0)


def main(store: str, rank: str, size: str) -> None:
    """Join the processes that meet at ``store`` and serve."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(READY, flush=True)  # noqa: T201
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    join(f"file://{store}", int(rank), int(size))
    serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
