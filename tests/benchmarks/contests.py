"""A benchmark's contestants: each runs in a process of its own and measures itself."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


def run_contestant(script: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run ``script`` with the job as its argument, on ``job["threads"]`` threads; what it measured."""
    paths = [str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(job["threads"]),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(script), json.dumps(job)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peak_megabytes() -> float:
    """Peak of this process's resident memory; ``getrusage`` would count the parent's from before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
