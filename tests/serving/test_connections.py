"""What clients can hold: connections without a request, half of a request, bodies that do not end, unread answers."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from small_server import post, serving
from small_services import PAIRS, ratings_service
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from embedline.errors import DataError
from embedline.serving import connections, server
from embedline.serving.app import RequestHandler, make_app
from embedline.serving.server import ServerOptions

HEAD = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"instances": PAIRS[:1]}).encode()
LARGE = 1_000_000  # bytes that a body may have
FULL = b" " * (LARGE - len(BODY)) + BODY
WAIT = 2.0  # seconds for headers: a busy machine needs some to send a request
ROOM = 12
# h11 does not tell that half of a request is there: the connection is closed without an answer.
TIMED_OUT = b"HTTP/1.1 408 " if hasattr(AutoHTTPProtocol, "on_message_begin") else b""


def test_connections_get_a_share_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for soft, most in ((256, 192), (8, 16), (2**20, 1_000), (resource.RLIM_INFINITY, 1_000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections.most_connections() == most


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEADER_SECONDS", WAIT)
        patch.setattr(connections, "most_connections", lambda: ROOM)
        handler = RequestHandler(ratings_service(), {"body": LARGE, "waiting": 2.5})
        with serving(make_app(handler), http=connections.BoundedConnection) as port:
            yield port


def connect(port: int, stack: contextlib.ExitStack, sent: bytes = b"") -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
    client.sendall(sent)
    return client


def request(body: bytes = BODY, length: int | None = None) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def received(client: socket.socket) -> bytes:
    """All that comes until the server closes; b"" too where it resets the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65_536):
            found += piece
    return found


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


class TestHeaders:
    @pytest.mark.parametrize("sent", [b"", b"P", HEAD, b"GET /ping HTTP/1.1\r\nX: "])
    def test_half_sent_headers_time_out(self, port: int, stack: contextlib.ExitStack, sent: bytes) -> None:
        found = received(connect(port, stack, sent))
        assert found.startswith(TIMED_OUT) if sent else found == b""
        assert post(port, BODY)[0] == 200

    def test_further_bytes_do_not_turn_the_clock_back(self, port: int, stack: contextlib.ExitStack) -> None:
        client, start = connect(port, stack, HEAD), time.monotonic()
        other = connect(port, stack, request() + HEAD)  # the next request has to come as well
        with pytest.raises(ConnectionError):
            while time.monotonic() - start < 20:
                client.sendall(b"X-More: 1\r\n")
                time.sleep(WAIT / 10)
        assert time.monotonic() - start < 15
        found = received(other)
        assert found.startswith(b"HTTP/1.1 200 ") and TIMED_OUT in found

    def test_headers_without_end_are_refused(self, port: int, stack: contextlib.ExitStack) -> None:
        client = connect(port, stack, HEAD)
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                client.sendall(b"X-Long: " + b"a" * 5_000 + b"\r\n")
        assert received(client)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")  # b"": reset while it was still sending
        assert post(port, BODY)[0] == 200

    def test_a_body_may_take_longer_than_headers(self, port: int, stack: contextlib.ExitStack) -> None:
        client = connect(port, stack, request()[:-10])
        time.sleep(2 * WAIT)
        client.sendall(BODY[-10:])
        assert client.recv(1_000).startswith(b"HTTP/1.1 200 ")


class TestRoom:
    def test_idle_connections_make_room(self, port: int, stack: contextlib.ExitStack) -> None:
        under_way = connect(port, stack, request()[:-10])
        time.sleep(0.1)
        idle = [connect(port, stack, HEAD) for _ in range(4 * ROOM)]
        assert post(port, BODY)[0] == 200  # at once, while they are open
        assert received(idle[0]) == b""  # the oldest had to go
        under_way.sendall(BODY[-10:])
        assert under_way.recv(1_000).startswith(b"HTTP/1.1 200 ")


class TestBodies:
    def test_unfinished_bodies_have_a_common_bound(self, port: int, stack: contextlib.ExitStack) -> None:
        half = request(b" " * (LARGE - 100), LARGE)
        held = [connect(port, stack, half) for _ in range(2)]
        time.sleep(0.3)
        for _ in range(3):  # no room for any more large ones; small ones are answered
            status, answer = post(port, FULL)
            assert status == 503 and answer["error_code"] == "SERVICE_UNAVAILABLE" and answer["message"]
            assert post(port, BODY)[0] == 200
        for client in held:
            client.close()
        deadline = time.monotonic() + 10
        while (status := post(port, FULL)[0]) == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status == 200
        assert {post(port, FULL)[0] for _ in range(5)} == {200}  # what is answered is free

    def test_refused_bodies_are_free_again(self, port: int) -> None:
        for _ in range(5):
            assert post(port, b" " * LARGE + BODY)[0] == 413
            assert post(port, b" " * (LARGE - 10))[0] == 400
        assert post(port, FULL)[0] == 200

    def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(self) -> None:
        """Of a slow one some bytes go in the time; the buffers of the system make a test over sockets a gamble."""
        connection: Any = connections.BoundedConnection.__new__(connections.BoundedConnection)
        connection.transport = connection.loop = fake = Mock()
        fake.get_write_buffer_size.side_effect = [100, 60, 60]
        connection._check_progress(2**62)
        for aborted in (False, True):
            _, call, value = fake.call_later.call_args.args
            call(value)
            assert fake.abort.called is aborted


class TestReady:
    def test_several_processes_answer_before_it_is_said(self, monkeypatch, capsys) -> None:
        from uvicorn.supervisors import Multiprocess, multiprocess

        class Process:
            ready = False

            def is_ready(self) -> bool:
                return self.ready

        monkeypatch.setattr(multiprocess, "SIGNALS", {})
        monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", lambda self: None)
        with socket.socket() as listening:
            supervisor: Any = server._Supervisor(uvicorn.Config("x", workers=2), listening, "it answers")
        supervisor.processes = [Process(), Process()]
        for *ready, said in ((False, False, ""), (True, False, ""), (True, True, "it answers\n"), (True, True, "")):
            for process, value in zip(supervisor.processes, ready, strict=True):
                process.ready = value
            supervisor.keep_subprocess_alive()
            assert capsys.readouterr().err == said

    def test_a_service_that_cannot_answer_its_example_is_not_served(self, tmp_path: Path) -> None:
        file = tmp_path / "service.zip"
        file.write_bytes(replace(ratings_service(), example=[{"listener": 1}]).to_bytes())
        with pytest.raises(DataError, match=r"albums does not answer its own example: .*'album'"):
            server._make_app(ServerOptions(path=str(file), name="albums"))
