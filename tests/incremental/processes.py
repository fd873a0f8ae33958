"""A fresh Python process with a hash seed of its own: sets then have another order."""

import subprocess
import sys


def last_line(script: str, seed: str) -> str:
    """Run a script; the last line that it printed."""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.splitlines()[-1]
