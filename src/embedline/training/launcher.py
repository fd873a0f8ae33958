"""Processes that a launcher started, such as Accelerate's: the first runs the command, the others serve its trainings.

Light to import: every command reads it.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = (  # rank, number of processes, rank on the machine: of torchrun, Open MPI, and others that speak PMI
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)

logger = logging.getLogger(__name__)


def launcher_rank() -> tuple[int, int]:
    """Rank and number of the processes that a launcher started; 0 and 1 without one."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        for rank, size, _ in VARIABLES:
            if rank in os.environ and size in os.environ:
                return int(os.environ[rank]), int(os.environ[size])
        if os.environ.get("ACCELERATE_USE_CPU") == "True":
            logger.warning(
                "Accelerate's launcher started one process: with --cpu it needs --mpirun_hostfile for more; take "
                "--multi_gpu instead, which works without a GPU, or set training.processes"
            )
    return 0, 1


def local_rank() -> int | None:
    """Rank among the launcher's processes of this machine; None without one."""
    return next((int(os.environ[name]) for _, _, name in VARIABLES if name in os.environ), None)


@contextmanager
def launched() -> Iterator[bool]:
    """Share out the trainings inside the ``with`` block to a launcher's processes, where it has started several.

    Yields True in the first of them, or where there is one. The others serve until the first is done, and get False:
    nothing is left for them to do.
    """
    rank, size = launcher_rank()
    if size == 1:
        yield True
        return
    from embedline.training import processes, worker

    processes.join("env://", rank, size)
    if rank:
        # The first process hears of an interruption, too, and keeps a checkpoint with the others' help. They end then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker.serve()
        yield False
        return
    with processes.leading():
        yield True
