"""One training in several processes, on torch's own launchers and collectives: one loop, a shard of each batch each.

Rank 0, the process of the command, alone evaluates, writes and reports. The others, children (:func:`processes`) or of
``torchrun`` or ``accelerate launch`` (:func:`launched`), wait for the functions that :func:`run` sends.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, start_processes
from tqdm import tqdm

from embedline.errors import DataError
from embedline.training.batches import Stopped
from embedline.training.dropout import vary_dropout
from embedline.training.options import OptimizerOptions

logger = logging.getLogger(__name__)


def prepare(network: nn.Module, rank: int) -> nn.Module:
    """The network with the weights of rank 0, dropout masks of its own and, on CUDA, batch-norm over all rows."""
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for tensor in network.state_dict().values():
        dist.broadcast(tensor, src=0)
    vary_dropout(network, rank)
    return network


def sum_gradients(optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
    """Replace each gradient, and each of the losses [], by its sum over the processes: one all-reduce for all."""
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([*(p.grad.flatten() for p in learned), torch.stack(losses)])
    dist.all_reduce(flat)
    *gradients, summed = flat.split([*(p.numel() for p in learned), len(losses)])
    for p, gradient in zip(learned, gradients, strict=True):
        p.grad = gradient.view_as(p)
    losses[:] = summed.clone().unbind()


def on_rank_0(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of ``function(*arguments)``, which rank 0 calls, in every process; Stopped in all if it raised."""
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
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in every process."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def run(function: Callable[..., Any], *arguments: Any, options: OptimizerOptions) -> Any:
    """Call ``function(*arguments, stop)`` in every process, by pickle; rank 0's ``stop``, once set, ends a training."""
    with processes(options):
        if dist.is_initialized():
            broadcast(partial(function, *arguments))
        try:
            return function(*arguments, threading.Event())
        except Stopped as stopped:
            error = stopped.__cause__ or stopped
        raise error


@contextmanager
def processes(options: OptimizerOptions) -> Iterator[None]:
    """Start children for the trainings inside the ``with`` block, if ``options.processes`` asks and there are none yet.

    A DataError says which of them ended before its time, or that there are not as many CUDA devices.
    """
    size, n_devices = options.processes, torch.cuda.device_count()
    if dist.is_initialized() or size == 1:
        yield
        return
    if n_devices < size and (options.device == "cuda" or (options.device == "auto" and n_devices)):
        raise DataError(
            f"training.processes is {size}, but PyTorch finds {n_devices} CUDA device(s), and each process needs one: "
            "set training.processes to that or training.device to 'cpu'"
        )
    with tempfile.TemporaryDirectory(prefix="embedline-") as folder:
        children = start_processes(_child, (folder, size), size - 1, join=False, start_method="spawn")
        try:
            try:
                while len(list(Path(folder).glob("ready*"))) < size - 1:  # a child may die before it joins
                    children.join(0.1)
                _join(f"file://{folder}/store", 0, size)
                yield
                broadcast(None)
            except RuntimeError as error:
                for _ in range(100 if is_connection_error(error) else 0):  # 10 s
                    children.join(0.1)  # raises what ended the process at the other end
                raise
        except ProcessException as death:
            end = f"ended with an error: {str(death).strip().splitlines()[-1]}"
            if name := getattr(death, "signal_name", None):
                hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
                end = f"was ended by {name}{hint}: the same command goes on from the last checkpoint"
            raise DataError(f"process {death.error_index + 2} of {size} of the training {end}") from death
        finally:
            for process in children.processes:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _child(index: int, folder: str, size: int) -> None:
    os.environ["LOCAL_RANK"] = str(index + 1)
    tqdm.set_lock(threading.RLock())  # its own, shared between processes, would outlive one that is killed
    Path(folder, f"ready{index}").touch()
    _join(f"file://{folder}/store", index + 1, size)
    _serve()


def _join(address: str, rank: int, size: int) -> None:
    """Meet the other processes: tensors on the CPU go by Gloo, those on CUDA devices by NCCL."""
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if address.startswith("file") and loopback:  # processes of one machine need no network
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback[0], "NCCL_SOCKET_IFNAME": loopback[0]}
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    patience = timedelta(days=30)  # for the rest of a pipeline, or an evaluation; a death is seen at once
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=patience)


def _serve() -> None:
    """Call the functions that rank 0 sends until it sends None, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 hears of it, too, and keeps a checkpoint with this process
    logging.getLogger("embedline").setLevel(logging.CRITICAL)  # rank 0 says it all
    try:
        while (call := broadcast()) is not None:
            with suppress(Stopped):
                call(threading.Event())
    except Exception as error:
        if not is_connection_error(error):
            raise


def is_connection_error(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is gone."""
    found = isinstance(error, RuntimeError) and any(word in str(error) for word in ("Connection", "gloo", "NCCL"))
    return found or isinstance(error, dist.DistError)


@contextmanager
def launched() -> Iterator[bool]:
    """Use a launcher's processes inside the ``with`` block; yields False in all but the first, once that is done."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if os.environ.get("ACCELERATE_USE_CPU") == "True":
            logger.warning("Accelerate's launcher started one process: --multi_gpu starts several, on CPUs too")
        yield True
        return
    _join("env://", rank, size)
    try:
        if rank:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _serve()
            yield False
            return
        logger.info("The %d processes of the launcher train together", size)
        yield True
        broadcast(None)
    except BaseException as error:
        if is_connection_error(error):
            raise DataError("another process of the training has ended, or cannot be reached any more") from error
        raise
    finally:
        dist.destroy_process_group()
