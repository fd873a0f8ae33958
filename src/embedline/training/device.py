"""Device and precision of a training, chosen once and carried by Hugging Face Accelerate."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from embedline.errors import DataError
from embedline.training.environment import kept
from embedline.training.launcher import VARIABLES
from embedline.training.options import OptimizerOptions
from embedline.training.processes import current

CGROUP = Path("/sys/fs/cgroup")
LAUNCHER = ("LOCAL_WORLD_SIZE", *(name for names in VARIABLES for name in names))  # what Accelerate reads


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


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn ``auto`` into ``bf16`` where matrix units make it the faster one, else ``fp32``.

    On a CPU this means AMX tiles: without them bfloat16 is emulated and slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def make_accelerator(options: OptimizerOptions) -> Accelerator:
    """Accelerator for ``options.device`` and ``options.precision``.

    That of a process of a team if it is in one: on CUDA each has the device of its local rank.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    # Accelerate keeps one state a process and refuses a second precision; a run may train several models.
    AcceleratorState._reset_state(reset_partial_state=True)
    with _launched_as_team():
        return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision)


@contextmanager
def _launched_as_team() -> Iterator[None]:
    """Have Accelerate find its launcher's variables as they are for the present team, and none of them without one."""
    with kept((*LAUNCHER, "OMP_NUM_THREADS")):
        for name in LAUNCHER:
            os.environ.pop(name, None)
        if team := current():
            os.environ.update(team.environment())
            os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else it sets a number of its own
        yield


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
