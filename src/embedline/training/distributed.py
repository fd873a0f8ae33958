"""One training in several processes, on torch's own launchers and collectives.

All processes run the same function and the same loop, each on its shard of every batch; gradients and losses are
summed once a step. Rank 0 alone evaluates, writes and reports; the others learn of its decisions.

There are two ways in. :func:`run` starts ``training.processes`` children, rank 0 among them, and gives back what rank 0
returns. Under a launcher (``torchrun``, ``accelerate launch``) :func:`launched` has rank 0 run the command and the
others wait for the functions that :func:`run` sends them.

A network's batch-norm sees the rows of all processes on CUDA (``SyncBatchNorm``), those of its own process on a CPU.
"""

import io
import logging
import logging.handlers
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from embedline.errors import DataError
from embedline.training import checkpoint, progress
from embedline.training.batches import Stopped
from embedline.training.dropout import vary_dropout
from embedline.training.options import OptimizerOptions

CPU = torch.device("cpu")
PATIENCE = timedelta(days=30)  # for the rest of a pipeline, or an evaluation; a death is seen at once
END_SECONDS = 5.0  # between the end of one process and those that follow from it
LOST = 3  # exit status of a process whose connection to another is gone
WATCH_SECONDS = 0.2  # between two looks for Ctrl-C: Polars's handler has the system resume a wait without an end

logger = logging.getLogger(__name__)


# What a training loop calls, in all processes at the same place.


def prepare(network: nn.Module, rank: int) -> nn.Module:
    """The network with the weights of rank 0, dropout masks of this rank's own, and on CUDA shared batch-norm."""
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for tensor in network.state_dict().values():
        dist.broadcast(tensor, src=0)
    vary_dropout(network, rank)
    return network


def sum_gradients(optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
    """Replace each gradient, and each of the losses [], by its sum over the processes: one all-reduce for all."""
    groups = optimizer.param_groups
    learned = [p for group in groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([*(p.grad.flatten() for p in learned), torch.stack(losses)])
    dist.all_reduce(flat)
    *parts, summed = flat.split([*(p.numel() for p in learned), len(losses)])
    for p, part in zip(learned, parts, strict=True):
        p.grad = part.view_as(p)
    losses[:] = summed.clone().unbind()


def flags_of_rank_0(*flags: bool) -> list[bool]:
    """The flags that rank 0 gives, in every process."""
    told = torch.tensor(flags)
    dist.broadcast(told, src=0)
    return [bool(flag) for flag in told.tolist()]


def on_rank_0(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of ``function(*arguments)``, which rank 0 calls, in every process.

    Raises:
        Stopped: in all of them, if it raised an error; at rank 0 that is the cause.
    """
    value, error = None, None
    if dist.get_rank() == 0:
        try:
            value = function(*arguments)
        except BaseException as raised:
            error = raised
    failed, value = broadcast((error is not None, value))
    if failed:
        raise Stopped("by an error of rank 0") from error
    return value


def broadcast(value: Any = None) -> Any:
    """The value of rank 0, by pickle, in every process."""
    values = [value]
    dist.broadcast_object_list(values, src=0, device=CPU)
    return values[0]


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, at rank 0; an empty list elsewhere."""
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None, dst=0)
    return values


# Where processes come from.


def run(function: Callable[..., Any], *arguments: Any, options: OptimizerOptions) -> Any:
    """``function(*arguments, stop)`` in each of several processes; what it returns at rank 0.

    Without several, as by ``options.processes`` or a launcher, it is called here. Otherwise function, arguments and
    value go through pickle. ``stop`` is an event: once it is set at rank 0, a training ends after its present step.

    Raises:
        DataError: if there are not as many CUDA devices, or a process ended before its time.
    """
    if dist.is_initialized():
        buffer = io.BytesIO()
        torch.save((function, arguments), buffer)
        broadcast(buffer.getvalue())
        value, error = _outcome(function, arguments, threading.Event())
        if error is not None and is_connection_error(error):
            raise DataError("another process of the training has ended, or cannot be reached any more") from error
        if error is not None:
            raise error
        return value
    if options.processes == 1:
        return function(*arguments, threading.Event())
    n_devices = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cuda" or n_devices:
        if n_devices < options.processes:
            raise DataError(
                f"training.processes is {options.processes}, but PyTorch finds {n_devices} CUDA device(s), and each "
                "process needs one: set training.processes to that or training.device to 'cpu'"
            )
    with tempfile.TemporaryDirectory(prefix="embedline-") as folder:
        torch.save((function, arguments), Path(folder, "call"), pickle_module=_ARRAYS_AS_TENSORS)
        _watch(Path(folder), options.processes)
        error, value = torch.load(Path(folder, "value"), map_location=CPU, weights_only=False)
    if error is not None:
        raise error
    return value


def _outcome(function: Callable[..., Any], arguments: Any, stop: Any) -> tuple[Any, BaseException | None]:
    """What ``function`` returns, or raises; of a training that was stopped by an error in one process, that error."""
    try:
        return function(*arguments, stop), None
    except Stopped as stopped:
        return None, stopped.__cause__ or stopped
    except BaseException as error:
        return None, error


def is_connection_error(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("Connection", "gloo", "NCCL"))
    )


def _join(address: str, rank: int, size: int) -> None:
    """Meet the other processes: tensors on the CPU go by Gloo, those on CUDA devices by NCCL."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=PATIENCE)


class _ArrayPickler(pickle.Pickler):
    """Pickle NumPy arrays as tensors, which ``torch.load`` maps into memory: several processes hold them once."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            return NotImplemented
        writable = value if value.flags.writeable and value.flags.c_contiguous else value.copy()
        return torch.Tensor.numpy, (torch.from_numpy(writable),)


_ARRAYS_AS_TENSORS = SimpleNamespace(__name__="arrays", Pickler=_ArrayPickler)


def _watch(folder: Path, size: int) -> None:
    """Start the processes, pass on what rank 0 logs and reports, and wait for their end.

    Raises:
        DataError: if one ended before its time.
    """
    context = torch.multiprocessing.get_context("spawn")
    reports, reporting = context.Pipe(duplex=False)
    stop = context.Event()
    given = (folder, size, checkpoint.keeper(), reporting, stop, logging.getLogger("embedline").getEffectiveLevel())
    started = start_processes(_child, given, size, join=False, start_method="spawn")

    def pump(pass_on: bool = True) -> None:
        sentinels = [process.sentinel for process in started.processes if process.is_alive()]
        multiprocessing.connection.wait([reports, *sentinels], WATCH_SECONDS)
        while reports.poll():
            message = reports.recv()
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif pass_on:
                progress.report(*message)

    try:
        while any(process.is_alive() for process in started.processes):
            pump()
            if any(process.exitcode for process in started.processes) and not Path(folder, "value").exists():
                raise DataError(_death(started))
        pump()
        if not Path(folder, "value").exists():
            raise DataError(_death(started))
    except DataError:
        raise
    except BaseException:  # Ctrl-C, or an error of a listener: rank 0 keeps a checkpoint
        stop.set()
        while all(process.is_alive() for process in started.processes):
            pump(pass_on=False)
        raise
    finally:
        for process in started.processes:
            process.join(END_SECONDS if process.exitcode is None and not sys.exc_info()[0] else 0)
            process.kill()
            process.join()


def _death(started: Any) -> str:
    """What ended the first process that did not end because of another."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        for rank, process in enumerate(started.processes):
            who = f"process {rank + 1} of {len(started.processes)} of the training"
            if process.exitcode and process.exitcode < 0:
                name = signal.Signals(-process.exitcode).name
                hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
                return f"{who} was ended by {name}{hint}: the same command goes on from the last checkpoint"
            if process.exitcode and process.exitcode != LOST:
                file = Path(started.error_files[rank])
                lines = pickle.loads(file.read_bytes()).strip().splitlines() if file.exists() else []
                return f"{who} ended with status {process.exitcode}: {lines[-1] if lines else 'it said nothing'}"
        time.sleep(0.05)
    return "a process of the training cannot be reached any more"


def _child(
    rank: int, folder: Path, size: int, keeper: tuple[Path, float] | None, reporting: Any, stop: Any, level: int
) -> None:
    """One of the processes of :func:`run`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, too, and sets ``stop``
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    os.environ.update(
        {f"{kind}_SOCKET_IFNAME": loopback for kind in ("GLOO", "NCCL") if loopback}, LOCAL_RANK=str(rank)
    )
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            reporting.send(message)

    log = logging.getLogger("embedline")
    log.setLevel(level)
    queue: Any = SimpleNamespace(put_nowait=send)
    log.addHandler(logging.NullHandler() if rank else logging.handlers.QueueHandler(queue))
    _join(f"file://{folder}/store", rank, size)
    function, arguments = torch.load(folder / "call", mmap=True, weights_only=False)
    with checkpoint.checkpointing(*keeper) if keeper and not rank else nullcontext():
        with progress.listening(lambda *report: send(report)):
            value, error = _outcome(function, arguments, stop)
    if error is not None and is_connection_error(error):
        sys.exit(LOST)
    if error is not None and rank and not isinstance(error, Stopped):
        raise error
    if rank == 0:
        if error is not None:
            error.add_note("".join(traceback.format_exception(error)))
        torch.save((error, value), folder / "staged")
        os.replace(folder / "staged", folder / "value")
    if error is None or isinstance(error, Stopped):
        gather(None)  # rank 0 leaves when all have what it sent
    dist.destroy_process_group()


def _end_with_parent() -> None:
    """End at once when the process that started this one has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


VARIABLES = (  # rank, number of processes, rank on the machine: of torchrun, Open MPI, and others that speak PMI
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def launcher_rank() -> tuple[int, int]:
    """Rank and number of the processes that a launcher started; 0 and 1 without one."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        for rank, size, local in VARIABLES:
            if rank in os.environ and size in os.environ:
                os.environ.setdefault("LOCAL_RANK", os.environ.get(local, os.environ[rank]))
                return int(os.environ[rank]), int(os.environ[size])
        if os.environ.get("ACCELERATE_USE_CPU") == "True":
            logger.warning(
                "Accelerate's launcher started one process: with --cpu it needs --mpirun_hostfile for more; take "
                "--multi_gpu instead, which works without a GPU, or set training.processes"
            )
    return 0, 1


@contextmanager
def launched() -> Iterator[bool]:
    """Share the trainings inside the ``with`` block out to a launcher's processes, where it has started several.

    Yields True in the first of them, or where there is one. The others serve until the first is done, and get False:
    nothing is left for them to do.
    """
    rank, size = launcher_rank()
    if size == 1:
        yield True
        return
    _join("env://", rank, size)
    try:
        if rank:
            # The first process hears of an interruption, too, and keeps a checkpoint with the others. They end then.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            logging.disable()  # rank 0 says it all
            _serve(rank, size)
            yield False
            return
        logger.info("Trainings are shared out to the %d processes of the launcher", size)
        yield True
        broadcast(None)  # not after an error: the others may wait in the middle of a training, which ends them
    finally:
        dist.destroy_process_group()


def _serve(rank: int, size: int) -> None:
    """Call the functions that rank 0 sends until it has no more, or is gone."""
    try:
        while (sent := broadcast()) is not None:
            function, arguments = torch.load(io.BytesIO(sent), weights_only=False)
            with suppress(Stopped):
                function(*arguments, threading.Event())
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        # Rank 0 tells what happened; a status of failure here would have a launcher end it before it can.
        print(f"Process {rank + 1} of {size} of a training ends: {error}", file=sys.stderr)  # noqa: T201
