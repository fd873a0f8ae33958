"""Memory of a benchmark's contestant, measured from inside its process."""

import resource
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """Peak of this process's resident memory; ``getrusage`` would count the parent's from before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
