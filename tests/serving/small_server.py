"""Servers in this process, requests to them, and rows about albums: shared by the tests of the server."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from mixed_requests import Request, send_all
from small_services import JSON

MOST_BYTES, MOST_ROWS = 100_000, 60


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application in a thread, with options of uvicorn; the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()
    listening.close()


def send(port: int, request: Request) -> tuple[int, Any]:
    """Status and body of one request; JSON where it is."""
    found = asyncio.run(send_all(port, iter([request]), 1))[0]
    with contextlib.suppress(ValueError):
        return found.status, json.loads(found.body)
    return found.status, found.body


def post(port: int, content: Any, content_type: str = JSON) -> tuple[int, Any]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return send(port, Request("", 200, body, {"Content-Type": content_type}))
