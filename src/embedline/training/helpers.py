"""A process that helps this one to train: started, watched and ended."""

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

READY = "ready"
START_SECONDS = 300.0  # for a process to import PyTorch, on a slow disk
END_SECONDS = 10.0  # for a process to end of itself


class Helper:
    """Rank ``rank`` of ``size`` processes, which meet at the file ``store``.

    It ends with this process, however that ends: it watches its standard input. Ctrl-C in a terminal does not reach it,
    since it has a session of its own.
    """

    def __init__(self, rank: int, size: int, store: Path) -> None:
        self._log = tempfile.TemporaryFile(prefix="embedline-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embedline.training.worker", str(store), str(rank), str(size)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_ready(self) -> str | None:
        """Wait until it is about to join the others; what went wrong instead, None if nothing did."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(START_SECONDS):
                return f"did not start within {START_SECONDS:.0f} s"
        if self._process.stdout.readline().decode().strip() == READY:
            return None
        return self.death() or "did not start"

    def death(self) -> str | None:
        """What ended it, in words; None if it lives on."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
            return f"was ended by {name}{hint}: the same command goes on from the last checkpoint"
        return f"ended with status {status}: {self._last_words()}"

    def end(self, *, kill: bool) -> None:
        """Wait for its end, or kill it: it keeps nothing that could be lost."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if kill:
            self._process.kill()
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return re.sub(r"^\[rank\d+\]: ", "", lines[-1]) if lines else "it said nothing"
