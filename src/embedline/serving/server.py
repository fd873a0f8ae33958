"""The processes behind ``embedline serve``: one socket, uvicorn, and the application of each."""

import errno
import json
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import Field
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from embedline.errors import DataError
from embedline.training.options import Options
from embedline.training.processes import end_with_parent, granted_cores

logger = logging.getLogger(__name__)

SETTINGS = "EMBEDLINE_SERVING"  # environment variable with the settings of a process
GRACE = 30  # seconds that requests under way have to end in when the server is stopped
HEALTHY = 20  # seconds in which a process has to say that it lives, before another one takes its place
BACKLOG = 2048  # connections that wait to be accepted


class ServerOptions(Options):
    """Settings of a server process; JSON in the environment of the processes that uvicorn starts.

    Attributes:
        path, name: file of the service, and what messages call it.
        limits: of a request, those that are given (:class:`embedline.serving.contract.Limits`).
        strict: whether a column that the model does not have is refused.
        workers: processes that answer.
    """

    path: str
    name: str
    limits: dict[str, float] = Field(default={})
    strict: bool = True
    workers: int = 1


def run(serving: ServerOptions, *, host: str, port: int) -> None:
    """Serve until the process gets a signal to stop; requests under way end first.

    An address that cannot be listened on, and processes that do not start, are a DataError.
    """
    listening = _listen(host, port)
    os.environ[SETTINGS] = serving.model_dump_json()
    config = uvicorn.Config(
        f"{__name__}:make_worker_app",
        factory=True,
        http="embedline.serving.connections:BoundedConnection",
        workers=serving.workers,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        timeout_worker_healthcheck=HEALTHY,
    )
    # uvicorn raises the signal that has stopped it once more: a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with suppress(KeyboardInterrupt):
            _serve(serving, config, listening)
    finally:
        listening.close()
        del os.environ[SETTINGS]


def _serve(serving: ServerOptions, config: Any, listening: socket.socket) -> None:
    bound, port = listening.getsockname()[:2]
    line = f"{serving.name} answers at http://{f'[{bound}]' if ':' in bound else bound}:{port}/invocations"
    if serving.workers == 1:
        config.load()  # an error of it is one of ours, not of the event loop
        _Server(config, line).run(sockets=[listening])
        return
    supervisor = _Supervisor(config, listening, f"{line}, by {serving.workers} processes")
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise DataError(f"{serving.name} cannot be served: its processes do not start, see above")


class _Server(uvicorn.Server):
    """uvicorn in this process, which says ``line`` once it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            _say(self._line)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which says ``line`` once all of its processes answer."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, line: str) -> None:
        super().__init__(config, sockets=[listening])
        self._line = line

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if self._line and not self.should_exit.is_set() and all(one.is_ready() for one in self.processes):
            _say(self._line)
            self._line = ""


def make_worker_app() -> Any:
    """The application of this process."""
    serving = ServerOptions.model_validate_json(os.environ[SETTINGS])
    if serving.workers > 1:
        end_with_parent(os.kill, os.getpid(), signal.SIGTERM)  # else it would hold the port for good
    try:
        return _make_app(serving)
    except Exception as error:
        if serving.workers == 1:
            raise
        # uvicorn would start another process, and another one, in place of one that ends in any other way.
        logger.error("%s", error, exc_info=not isinstance(error, DataError))
        sys.exit(STARTUP_FAILURE)


def _make_app(serving: ServerOptions) -> Any:
    import torch

    from embedline.serving.app import RequestHandler, make_app
    from embedline.serving.contract import RefusedError
    from embedline.serving.service import Service

    torch.set_num_threads(max(1, granted_cores() // serving.workers))
    service = Service.from_bytes(Path(serving.path).read_bytes(), name=serving.name)
    handler = RequestHandler(service, serving.limits, strict=serving.strict)
    if service.example:
        try:  # the first answer is the slowest: nobody shall wait for it
            handler.answer(json.dumps({"dataframe_records": service.example}).encode(), "application/json")
        except RefusedError as error:
            raise DataError(f"{serving.name} does not answer its own example: {error}") from error
    return make_app(handler, serving.name)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        free = "; --port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        raise DataError(f"cannot listen on {host}, port {port}: {reason}{free}") from error


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
