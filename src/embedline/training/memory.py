"""How much memory there is to fill."""

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_memory(device: torch.device) -> int:
    """Bytes that can still be filled on ``device``; those of a container's limit where it has one."""
    if device.type == "cuda":
        return min(torch.cuda.mem_get_info(device)[0], _main_memory())
    return _main_memory()


def _main_memory() -> int:
    found = [free for free in (_of_system(), _of_container()) if free is not None]
    return min(found)


def _of_system() -> int:
    if MEMINFO.exists():
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_container() -> int | None:
    """What a control group (version 2) leaves; None without a limit. Cached files count as free."""
    limit, used, details = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not (limit.exists() and used.exists()) or (most := limit.read_text().strip()) == "max":
        return None
    stat = dict(line.split() for line in details.read_text().splitlines()) if details.exists() else {}
    return int(most) - int(used.read_text()) + int(stat.get("file", 0))
