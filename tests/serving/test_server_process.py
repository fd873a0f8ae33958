"""The server as a process of its own: good and bad requests together, several processes, and how it stops."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mixed_requests import Request, bad_requests, good_requests, send_all
from small_server import MOST_BYTES, post
from small_services import PAIRS, pair_predictions, ratings_service

from embedline.errors import DataError
from embedline.serving.server import ServerOptions, run


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed service."""
    path = tmp_path_factory.mktemp("packed") / "service.zip"
    path.write_bytes(ratings_service().to_bytes())
    return path


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return pair_predictions()


def start(file: Path, workers: int, code: str = "") -> subprocess.Popen[str]:
    """A server in a process of its own, which runs ``code`` first."""
    given = ServerOptions(path=str(file), name="albums", limits={"body": MOST_BYTES}, workers=workers).model_dump_json()
    code += (
        "\nfrom embedline.serving import server\n"
        "server.HEALTHY = 8  # seconds after which the death of a process is noticed\n"
        f"server.run(server.ServerOptions.model_validate_json({given!r}), host='127.0.0.1', port=0)"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def started(file: Path, workers: int = 1, code: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port, once it says that it answers."""
    process = start(file, workers, code)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("albums answers at http://127.0.0.1:"), line + process.stderr.read()
        yield process, int(line.split(":")[2].split("/")[0])
    finally:
        process.kill()
        process.wait()


def children_of(pid: int) -> list[str]:
    """Ids of the processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("the system does not list the children of a process in /proc")
    return listed.read_text().split()


def wait_until_gone(pids: list[str]) -> None:
    """Wait for the end of processes, that of multiprocessing's own helper among them."""
    end = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


@pytest.mark.slow
def test_good_and_bad_requests_together(file: Path, expected: list[float]) -> None:
    bad = bad_requests(PAIRS[0], "album", "listener", MOST_BYTES)
    good = list(itertools.islice(good_requests(PAIRS, [1, 30], seed=0), 150))
    mixed = [*good, *(bad * 5)[:160]]
    random.Random(0).shuffle(mixed)
    with started(file) as (process, port):
        outcomes = asyncio.run(send_all(port, iter(mixed), 16))
        assert len(outcomes) == len(mixed)
        counts = Counter((one.request.kind, one.status) for one in outcomes)
        assert counts == Counter((one.kind, one.expected) for one in mixed)  # so no 5xx
        for one in outcomes:
            if one.status == 200:
                answered = [row["predicted"] for row in json.loads(one.body)["predictions"]]
                assert answered == [expected[row] for row in one.request.rows]
        assert process.poll() is None
        assert post(port, {"instances": PAIRS})[1] == {"predictions": [{"predicted": one} for one in expected]}

        # A stop lets what is under way end: the second half of this body comes after the signal.
        body = json.dumps({"instances": PAIRS}).encode()
        request = Request("", 200, body).content()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request[:-10])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            client.sendall(request[-10:])
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"predicted") == len(PAIRS)
        assert process.wait(timeout=20) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
def test_several_processes_answer_and_stop_together(file: Path, expected: list[float]) -> None:
    with started(file, workers=2) as (process, port):
        requests = itertools.islice(good_requests(PAIRS, [1], seed=1), 60)
        outcomes = asyncio.run(send_all(port, requests, 8))
        assert Counter(one.status for one in outcomes) == {200: 60}
        for one in outcomes:
            assert json.loads(one.body)["predictions"] == [{"predicted": expected[one.request.rows[0]]}]
        workers = children_of(process.pid)
        assert len(workers) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        wait_until_gone(workers)


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_has_started_them(file: Path) -> None:
    with started(file, workers=2) as (process, port):
        assert asyncio.run(send_all(port, iter([Request("", 200, method="GET", path="/ping")] * 4), 4))[0].status == 200
        workers = children_of(process.pid)
        process.kill()
        wait_until_gone(workers)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
def test_processes_that_cannot_start_are_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip")
    process = start(broken, workers=2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "answers at" not in said
    assert "albums cannot be served: its processes do not start" in said


def test_an_address_in_use_is_named(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DataError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            run(ServerOptions(path=str(file), name="albums"), host="127.0.0.1", port=port)
