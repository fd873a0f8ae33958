"""Processes that begin with the libraries imported: forked from one that imported them, and new in all else.

A run of `kedro` in a process of its own takes seven seconds of processor time to import what it needs; most of them
are spared here. What is the project's own is imported by each process, from the copy of the project that it runs in.
"""

import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from shared import forget_power_failures

# Not Kedro, which reads the project's logging when it is imported. Polars makes its threads when it is first used.
LIBRARIES = (
    *("torch", "torch._dynamo", "scipy.stats", "sklearn.linear_model", "sklearn.metrics", "pandas", "pyarrow.parquet"),
    *("mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.postgresql", "alembic"),
    *("git", "fastapi", "uvicorn", "opentelemetry.sdk", "narwhals", "polars", "plotly.express", "spacy", "lightgbm"),
    *("IPython", "rich", "pydantic", "omegaconf", "fsspec", "cryptography.hazmat.primitives.hashes"),
)


class Process:
    """A process that was forked; its surface is that of :class:`subprocess.Popen`."""

    def __init__(self, connection: socket.socket, output: Any) -> None:
        self._connection, self._output = connection, output
        self.returncode: int | None = None
        self.pid = int(self._line())

    def _line(self) -> str:
        found = b""
        while not found.endswith(b"\n"):
            if not (piece := self._connection.recv(1)):
                raise RuntimeError("the process that forks has died")
            found += piece
        return found.decode()

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._line())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, once it has ended."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            self.returncode = int(self._line())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it printed, once it has ended."""
        self.wait(timeout)
        return self.printed(), None

    def printed(self) -> str:
        """What it has printed so far."""
        self._output.seek(0)
        return cast(str, self._output.read())


class Server:
    """The process that has imported the libraries."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = str(Path(self._folder.name, "s"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "MPLBACKEND": "agg"},
        )
        assert self._process.stdout and self._process.stdout.readline(), "the libraries cannot be imported"
        atexit.register(self.end)

    def end(self) -> None:
        """End the server; the processes that it forked go on."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def start(self, order: dict[str, Any], stdin: str, output: Any) -> Process:
        """Fork a process."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        with tempfile.TemporaryFile() as typed:
            typed.write(stdin.encode())
            typed.seek(0)
            body = json.dumps(order).encode()
            socket.send_fds(connection, [len(body).to_bytes(8, "big")], [typed.fileno(), output.fileno()])
            connection.sendall(body)
        return Process(connection, output)


_servers: list[Server] = []


def start(
    module: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    output: Any = None,
    before: str = "",
) -> Process:
    """Start ``python -m module arguments`` in a process group of its own; it runs the code ``before`` first.

    ``output`` is a file, else a temporary one.

    A process that a shell puts in the background ignores Ctrl-C; this one hears it.
    """
    if not _servers:
        _servers.append(Server())
    output = output or tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    environment = dict(os.environ if env is None else env)
    order = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": environment, "before": before}
    return _servers[0].start(order, stdin, output)


def _serve(address: str) -> None:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # whoever needs it says so
            importlib.import_module(name)
    forget_power_failures()
    assert not {"kedro", "embedline"} & set(sys.modules), "these have to be new in each process"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the processes that look after others
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([listening, 0], [], [])
        if 0 in ready:
            os._exit(0)  # whoever started this has ended
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _look_after(connection)
        connection.close()


def _look_after(connection: socket.socket) -> None:
    """Fork the process that is asked for, and report its id and its end."""
    head, files, _, _ = socket.recv_fds(connection, 8, 2)
    length, body = int.from_bytes(head, "big"), b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        connection.close()
        _become(json.loads(body), *files)
    for file in files:
        os.close(file)
    os.setsid()
    with contextlib.suppress(OSError):  # it has done so itself
        os.setpgid(pid, pid)
    connection.sendall(b"%d\n" % pid)
    threading.Thread(target=_end_with, args=(connection, pid), daemon=True).start()
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _end_with(connection: socket.socket, pid: int) -> None:
    """Have a process end, and what it started, when whoever asked for it does."""
    connection.recv(1)  # nothing is ever sent: it returns when the connection ends
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGTERM)


def _become(order: dict[str, Any], stdin: int, output: int) -> None:
    """Run the module as ``python -m`` would."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number, file in ((0, stdin), (1, output), (2, output)):
            os.dup2(file, number)
        os.close(stdin)
        os.close(output)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        time.tzset()
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            encoding = order["env"].get("PYTHONIOENCODING", "utf-8")
            at_once = "PYTHONUNBUFFERED" in order["env"] and stream is not sys.stdin
            cast(io.TextIOWrapper, stream).reconfigure(encoding=encoding, write_through=at_once)
        paths = [path for path in order["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[0:1] = [order["cwd"], *paths]  # in place of the folder of this file
        for name in ("shared", "warm"):
            sys.modules.pop(name, None)
        sys.argv = [order["module"], *order["arguments"]]
        importlib.invalidate_caches()
        exec(order["before"])
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except KeyboardInterrupt:
        traceback.print_exc()
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        _end(status)


def _end(status: int) -> None:
    """As the interpreter ends: threads, what was registered, and what waits to be written."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
