"""Several processes that train one network: the first leads, the others do as they are told.

Rank 0 is the process that runs the pipeline. The others are started by it, or by a launcher such as Accelerate's beside
it (:mod:`embedline.training.worker`); they serve jobs, and read, write, track and show nothing. A job is a function and
its arguments, sent to all; inside it all of them run the same training loop, each on its share of every batch.
"""

import functools
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from embedline.errors import DataError
from embedline.training.batches import Share
from embedline.training.environment import kept
from embedline.training.helpers import Helper
from embedline.training.launcher import local_rank
from embedline.training.options import OptimizerOptions
from embedline.training.parcels import share

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=30)  # for work, as long as the rest of a pipeline takes; a death is seen at once


class Order(IntEnum):
    """What rank 0 has the others do next in a training."""

    STEP = 1  # take the next step
    KEEP = 2  # hand over what a checkpoint needs
    END = 3  # the training is over
    STOP = 4  # it ends before its time, and the job with it


class Stopped(Exception):
    """A training ended before its time because it was asked to."""


class Whole(Protocol):
    """A training that can be left between two steps: ``whole`` is False within one."""

    whole: bool


class Team:
    """The processes of a training, as one of them sees it.

    Attributes:
        rank: of this process; 0 leads.
        size: number of processes.
        local_rank: rank among the processes of this machine.
        broken: whether an error has ended the work together: the others are gone, or wait where no one comes.
    """

    def __init__(self, helpers: list[Helper]) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        launched_as = local_rank()  # a launcher's processes may be on several machines
        self.local_rank = self.rank if launched_as is None else launched_as
        self.helpers, self.broken = helpers, False
        self._at_work = False  # whether the others are in the middle of a job

    @property
    def share(self) -> Share:
        """Which rows of a batch are this process's."""
        return Share(self.rank, self.size)

    def environment(self) -> dict[str, str]:
        """What a launcher sets for this process."""
        local_size = os.environ.get("LOCAL_WORLD_SIZE", self.size)
        values = {"RANK": self.rank, "WORLD_SIZE": self.size, "LOCAL_RANK": self.local_rank}
        return {name: str(value) for name, value in {**values, "LOCAL_WORLD_SIZE": local_size}.items()}

    @contextmanager
    def following(self, job: Callable[..., Any], *arguments: Any) -> Iterator[None]:
        """Have the others call ``job(*arguments)`` while this process, rank 0, does its part inside the ``with`` block.

        Raises:
            DataError: if one of them ended before its time.
        """
        if self.broken:
            raise DataError("the other processes of the training ended with an earlier error: start the run again")
        try:
            self._at_work = True
            share((job, arguments))
            yield
            self._at_work = False
        except BaseException as error:
            self.broken = self._at_work
            if lost(error) and (reason := self._death()):
                raise DataError(reason) from error
            raise

    def share_out(self, value: Any = None) -> Any:
        """The value of rank 0, in every process: see :func:`embedline.training.parcels.share`."""
        return share(value)

    @contextmanager
    def dismissing(self, training: Whole) -> Iterator[None]:
        """Have the others leave the job where an error or Ctrl-C ends a training of it between two steps."""
        try:
            yield
        except BaseException:
            if training.whole:
                self.order(Order.STOP)
                self._at_work = False
            raise

    def order(self, order: Order | None = None) -> Order:
        """What rank 0 says; the others call it without an argument and wait for it."""
        said = torch.tensor([order or 0])
        dist.broadcast(said, src=0)
        return Order(int(said.item()))

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank, at rank 0; an empty list elsewhere."""
        values: list[Any] = [None] * self.size if self.rank == 0 else []
        dist.gather_object(value, values or None, dst=0)
        return values

    def sum(self, tensor: Tensor) -> None:
        """Add the tensors of all processes up, in place."""
        dist.all_reduce(tensor)

    def end(self) -> None:
        """Send the others home; after an error they are ended."""
        if not self.broken:
            share(None)
        for helper in self.helpers:
            helper.end(kill=self.broken)

    def _death(self) -> str | None:
        """What ended another process, where one has ended."""
        for rank, helper in enumerate(self.helpers, start=1):
            if reason := helper.death():
                return f"process {rank + 1} of {self.size} of the training {reason}"
        return None if self.helpers else "another process of the training has ended, or cannot be reached any more"


def lost(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("Connection", "gloo", "NCCL"))
    )


@dataclass
class _Teams:
    """Teams that this process belongs to.

    Attributes:
        acting: whose trainings are shared out now.
        launched: of a launcher, for as long as this process lives.
    """

    acting: Team | None = None
    launched: Team | None = None


@functools.cache
def _teams() -> _Teams:
    """The one of this process.

    A cache and no value of the module: those that are set before a run count as code of its nodes, and a run under a
    launcher would not be skipped without one.
    """
    return _Teams()


def current() -> Team | None:
    """The team that trains together now; None where this process trains alone."""
    return _teams().acting


def current_share() -> Share:
    """This process's share of a batch: all of it where it trains alone."""
    member = current()
    return member.share if member else Share()


@contextmanager
def team(options: OptimizerOptions) -> Iterator[Team | None]:
    """Train with ``options.processes`` processes inside the ``with`` block, or with those of the launcher.

    Of nested blocks the outermost counts. Yields None where that is one process.

    Raises:
        DataError: if there are not as many CUDA devices, or the processes cannot be started.
    """
    acting, launched = current(), _teams().launched
    if acting is not None or (options.processes == 1 and launched is None):
        yield acting
        return
    if launched is not None:
        with acting_as(launched):
            yield launched
        return
    _check_devices(options)
    with tempfile.TemporaryDirectory(prefix="embedline-") as folder, _loopback():
        helpers = _start(options.processes, Path(folder, "store"))
        try:
            join(f"file://{folder}/store", 0, options.processes)
        except BaseException:
            for helper in helpers:
                helper.end(kill=True)
            raise
        started = Team(helpers)
        try:
            with acting_as(started):
                yield started
        except BaseException:
            started.broken = True
            raise
        finally:
            try:
                started.end()
            finally:
                dist.destroy_process_group()


@contextmanager
def acting_as(member: Team | None) -> Iterator[None]:
    """Inside the ``with`` block trainings of this process are those of the team."""
    teams = _teams()
    before, teams.acting = teams.acting, member
    try:
        yield
    finally:
        teams.acting = before


def join(address: str, rank: int, size: int) -> None:
    """Meet the other processes at ``address``: ``file://`` and a path, or ``env://`` and the launcher's variables.

    Tensors on the CPU go by Gloo, those on CUDA devices by NCCL.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=PATIENCE)


@contextmanager
def leading() -> Iterator[None]:
    """Lead the processes of a launcher, which this one has joined as rank 0, inside the ``with`` block."""
    logger.info("Trainings are shared out to the %d processes of the launcher", dist.get_world_size())
    member = _teams().launched = Team([])
    try:
        yield
    finally:
        _teams().launched = None
        member.end()
        dist.destroy_process_group()  # of others that wait in the middle of a training this is the end


def _check_devices(options: OptimizerOptions) -> None:
    n_devices = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cpu" or (options.device == "auto" and n_devices == 0):
        return
    if n_devices < options.processes:
        raise DataError(
            f"training.processes is {options.processes}, but PyTorch finds {n_devices} CUDA device(s), and each "
            "process needs one: set training.processes to that or training.device to 'cpu'"
        )


def _start(size: int, store: Path) -> list[Helper]:
    """The processes of the ranks from 1 on, once they are ready to join."""
    helpers: list[Helper] = []
    try:
        for rank in range(1, size):
            helpers.append(Helper(rank, size, store))
        for rank, helper in enumerate(helpers, start=1):
            if reason := helper.wait_until_ready():
                raise DataError(f"process {rank + 1} of {size} of the training {reason}")
    except BaseException:
        for helper in helpers:
            helper.end(kill=True)
        raise
    return helpers


@contextmanager
def _loopback() -> Iterator[None]:
    """Have processes of this machine talk over its loopback device alone."""
    name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    wanted = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}
    with kept(wanted):
        os.environ.update(wanted)
        yield
