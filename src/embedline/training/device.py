"""Device and precision of a training, chosen once and passed around as one object."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from embedline.errors import DataError
from embedline.training.batches import WHOLE, Shard
from embedline.training.options import OptimizerOptions

AUTO = "auto"
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Accelerator:
    """Where and how a training computes.

    Attributes:
        device: of the network and its batches.
        precision: ``fp32``, or ``bf16`` for what runs inside :meth:`autocast`; weights stay in float32. ``auto``, which
            computes in fp32, until :func:`embedline.training.precision.choose_precision` has chosen one of them.
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
    """Turn ``auto`` into CUDA where there is a CUDA device, else the CPU.

    Raises:
        DataError: if CUDA is asked for by name and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("training.device is 'cuda' but PyTorch finds no CUDA device: set it to 'auto' or 'cpu'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """Precision, and the reason for it; on a CPU ``auto`` stays: the network decides it.

    On a GPU ``auto`` is ``bf16`` where it is native, else ``fp32``.
    """
    if precision != AUTO:
        return precision, "as set"
    if device.type == "cpu":
        return AUTO, ""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the GPU computes bfloat16 natively"
    return "fp32", "the GPU has no native bfloat16"


def device_name(device: torch.device) -> str:
    """Name to report: the GPU's own, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def available_memory(device: torch.device) -> int:
    """Bytes that can still be filled on ``device`` and in main memory, whichever are fewer.

    Of main memory, a container's limit (control groups, version 2) counts where there is one; cached files are free.
    """
    free = [int(psutil.virtual_memory().available)]
    limit, used, details = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in details.read_text().splitlines()) if details.exists() else {}
        free.append(int(most) - int(used.read_text()) + int(stat.get("file", 0)))
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return min(free)
