"""Device and precision of a training; precision ``auto`` on a CPU is measured on some of its batches."""

import copy
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from embedline.errors import DataError
from embedline.training import distributed
from embedline.training.batches import WHOLE, Batches, Shard, Stopped
from embedline.training.options import OptimizerOptions

AUTO = "auto"
ROUNDS = 3  # times that each batch is computed in each precision; the first warms caches and kernels up
BATCHES_PER_TIMED = 300  # batches of a training for each that is timed: 2 * ROUNDS of 300 are 2 %
MOST_TIMED = 4
MARGIN = 1.1  # bf16 must be this many times as fast: it rounds more, and a clock is not exact

# Of this thread alone, whatever else the machine does; Windows counts it in steps of 16 ms.
_clock = time.perf_counter if sys.platform == "win32" else time.thread_time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accelerator:
    """Device and precision of a training.

    Attributes:
        precision: ``fp32``, or ``bf16`` inside of :meth:`autocast`; weights stay in float32. ``auto``, which computes
            in fp32, until :func:`choose_precision` has chosen one of them.
        shard: rows of each batch that are this process's, where several processes train together.
        precision_reason: why it is this precision, for people.
    """

    device: torch.device
    precision: str
    shard: Shard = WHOLE
    precision_reason: str = ""

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which PyTorch computes in :attr:`precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def make_accelerator(options: OptimizerOptions) -> Accelerator:
    """Accelerator for ``options.device`` and ``options.precision``.

    Within a process group, each process has the shard of its rank and, on CUDA, the device of its local rank.
    """
    device = resolve_device(options.device)
    shard = Shard(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else WHOLE
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", shard.rank)) if shard.size > 1 else torch.cuda.current_device()
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    precision, reason = resolve_precision(options.precision, device)
    return Accelerator(device, precision, shard, reason)


def resolve_device(device: str) -> torch.device:
    """Turn ``auto`` into CUDA where there is a CUDA device, else the CPU; CUDA by name without one is a DataError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("training.device is 'cuda' but PyTorch finds no CUDA device: set it to 'auto' or 'cpu'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """Precision and the reason for it. On a GPU ``auto`` is ``bf16`` where that is native; on a CPU it stays."""
    if precision != AUTO:
        return precision, "as set"
    if device.type == "cpu":
        return AUTO, ""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the GPU computes bfloat16 natively"
    return "fp32", "the GPU has no native bfloat16"


def choose_precision(
    accelerator: Accelerator,
    network: nn.Module,
    batches: Batches,
    n_batches: int,
    *,
    checkpoints: Sequence[Path] = (),
    stop: threading.Event | None = None,
) -> Accelerator:
    """The accelerator with ``fp32`` or ``bf16`` in the place of ``auto``.

    A training that goes on from a checkpoint keeps its precision. Otherwise bf16 is chosen where the processor has
    instructions for it and passes of the training's own batches are at least :data:`MARGIN` times as fast. They run on
    a copy of the network and leave all random numbers as they were, so that the training is, to the last bit, that of a
    given precision. Call this in a thread with as many PyTorch threads as the training has.

    Args:
        network: in the state of the training, frozen layers included.
        batches: of the training; must begin an epoch afterwards.
        n_batches: batches of all epochs; 2 % of them are measured at most.
        checkpoints: files of the trainings that share the choice; not all of them need exist.
        stop: once it is set, Stopped is raised.
    """
    if accelerator.precision == AUTO:
        choose = partial(_choose, accelerator, network, batches, n_batches, checkpoints, stop)
        precision, reason = distributed.on_rank_0(choose) if accelerator.shard.size > 1 else choose()
        accelerator = replace(accelerator, precision=precision, precision_reason=reason)
    if accelerator.shard.rank == 0:
        logger.info("Precision %s: %s", accelerator.precision, accelerator.precision_reason)
    return accelerator


def _stored_choice(checkpoints: Sequence[Path], accelerator: Accelerator) -> tuple[str, str] | None:
    """Precision and reason of the first checkpoint of a training with ``auto`` on such a device."""
    for path in filter(Path.exists, checkpoints):
        try:
            fingerprint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"]
        except Exception as error:  # a damaged file makes torch.load raise nearly anything; the training warns of it
            logger.debug("No precision from %s: %s", path, error)
            continue
        found = [fingerprint.get(name) for name in ("options.precision", "device", "precision", "precision_reason")]
        if found[:2] == [AUTO, accelerator.device.type] and found[2] and found[3]:
            return str(found[2]), str(found[3])
    return None


def _choose(
    accelerator: Accelerator,
    network: nn.Module,
    batches: Batches,
    n_batches: int,
    checkpoints: Sequence[Path],
    stop: threading.Event | None,
) -> tuple[str, str]:
    """The precision that ``auto`` stands for, and the reason; see :func:`choose_precision`."""
    if stored := _stored_choice(checkpoints, accelerator):
        return stored
    # PyTorch emulates bfloat16 on other processors.
    if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "fp32", "the processor has no instructions for bfloat16 (AMX or AVX512-BF16), which would be slower"
    n_timed = min(MOST_TIMED, batches.n_batches, n_batches // BATCHES_PER_TIMED)
    if n_timed == 0:
        return "fp32", f"a training of {n_batches:,} batches is too short to measure whether bf16 is faster"
    seconds = time_precisions(accelerator, network, batches, n_timed, stop)
    if not seconds:
        return "fp32", "all that the network computes is in fp32"
    ratio, steps = seconds["fp32"] / seconds["bf16"], n_timed * (ROUNDS - 1)
    return "bf16" if ratio >= MARGIN else "fp32", f"bf16 is {ratio:.2f} times as fast as fp32 in {steps} steps"


def time_precisions(
    accelerator: Accelerator, network: nn.Module, batches: Batches, n_timed: int, stop: threading.Event | None = None
) -> dict[str, float]:
    """Seconds of forward and backward passes of ``n_timed`` batches, spread over an epoch, in fp32 and in bf16.

    Of each batch and precision the quickest pass counts, in processor time of this thread: other programs can only slow
    a pass down. Empty where the batches never enter the context that lowers the precision, as those of ratings without
    hidden layers.
    """
    trained = copy.deepcopy(network).to(accelerator.device).train()
    kinds = [replace(accelerator, precision=precision) for precision in ("fp32", "bf16")]
    seconds, lowered = {kind.precision: 0.0 for kind in kinds}, False

    def autocast(kind: Accelerator) -> AbstractContextManager[Any]:
        nonlocal lowered
        lowered = True
        return kind.autocast()

    with torch.random.fork_rng(devices=[]):
        batches.begin_epoch(torch.Generator(device=accelerator.device).manual_seed(0))
        for place in range(n_timed):
            index = (2 * place + 1) * batches.n_batches // (2 * n_timed)
            passes: dict[str, list[float]] = {kind.precision: [] for kind in kinds}
            for kind in kinds * ROUNDS:
                if stop is not None and stop.is_set():
                    raise Stopped("before its first step")
                began = _clock()
                batches.loss(trained, index, partial(autocast, kind)).total.backward()
                passes[kind.precision].append(_clock() - began)
                trained.zero_grad(set_to_none=True)
                if not lowered:
                    return {}
            for precision, times in passes.items():
                seconds[precision] += min(times[1:])
    return seconds


def device_name(device: torch.device) -> str:
    """Name to report: the GPU's own, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
