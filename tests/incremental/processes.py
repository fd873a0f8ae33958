"""A fresh Python process with a hash seed of its own: sets then have another order."""

import subprocess
import sys


def last_line(script: str, seed: str) -> str:
    """Run a script; the last line that it printed."""
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", script]
    return subprocess.check_output(command, env=environment, text=True).splitlines()[-1]
