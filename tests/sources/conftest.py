"""Small archives and folders, servers of files, and generated Rossmann tables."""

import io
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables


@pytest.fixture(scope="session")
def tables() -> dict[str, bytes]:
    """Seven generated tables over two months."""
    days = {"first_day": "2015-06-01", "last_day": "2015-07-20", "test_last_day": "2015-07-31"}
    return generate_tables(GeneratorOptions.model_validate({"n_stores": 5, **days}))


@pytest.fixture(scope="session")
def files(tables: dict[str, bytes]) -> dict[str, bytes]:
    """The same, keyed by file name."""
    return {f"{name}.csv": data for name, data in tables.items()}


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> str:
    """Write a tar archive, with member names as they are, and return its path as a source."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_folder(folder: Path, members: Mapping[str, bytes]) -> str:
    """Write files below a folder and return its path as a source."""
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


def write_zip(path: Path, members: Mapping[str, bytes]) -> str:
    """Write a zip archive and return its path as a source."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return str(path)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which every test leaves empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


Serve = Callable[[Callable[[BaseHTTPRequestHandler], Any]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an HTTP server on this machine that answers every request by a function; its host and port."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(handler: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    """Answer a request; the headers say of the content what is not given otherwise."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)
