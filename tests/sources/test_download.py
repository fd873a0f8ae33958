"""Downloads: what went wrong is said in one line, without the secrets of the address, and nothing is left behind."""

import contextlib
import errno
import ssl
import subprocess
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from embedline import download
from embedline.archive import read_members
from embedline.download import Access, set_access
from embedline.errors import DataError

from .conftest import Serve, answer, write_tar

MEMBERS = {"a.csv": b"x,y\n1,2\n" * 1000}


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    return Path(write_tar(tmp_path / "x.tar", MEMBERS, "w")).read_bytes()


@pytest.fixture(autouse=True)
def _nothing_is_left(scratch: Path) -> Iterator[None]:
    yield
    set_access({})


@pytest.fixture
def serve_secret(serve: Serve) -> Serve:
    """The address of a server, with secrets in it."""
    return lambda respond: f"http://joe:S3CRET@{serve(respond)}/x.tar?token=S3CRET"


def message_of(address: str) -> str:
    with pytest.raises(DataError) as caught:
        read_members(address)
    message = str(caught.value)
    assert "S3CRET" not in message and "\n" not in message and len(message) < 400
    assert "S3CRET" not in "".join(traceback.format_exception(caught.value))  # trackers store it
    return message


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 502, 503, 418])
def test_a_status_is_named(status: int, serve_secret: Serve) -> None:
    message = message_of(serve_secret(lambda handler: answer(handler, status)))
    gone = status in (404, 410)
    assert ("there is no file or folder" in message) == gone and (str(status) in message or gone)
    assert "http://***@127.0.0.1" in message and "/x.tar?token=***" in message
    assert ("credentials:" in message) == (status in (401, 403))


def test_servers_that_do_not_answer(serve_secret: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "redirect" in message_of(serve_secret(lambda handler: answer(handler, 302, Location=handler.path)))
    assert "refuses the connection" in message_of("http://joe:S3CRET@127.0.0.1:9/x.tar?token=S3CRET")
    assert "host" in message_of("http://joe:S3CRET@nobody.invalid/x.tar")
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    done = threading.Event()
    assert "silent" in message_of(serve_secret(lambda handler: done.wait(5)))
    done.set()


def test_a_certificate_that_nobody_signed(tmp_path: Path) -> None:
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    request += ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    made = subprocess.run(request, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        message = message_of(f"https://joe:S3CRET@127.0.0.1:{server.server_port}/x.tar")
    finally:
        server.shutdown()
        server.server_close()
    assert "certificate" in message and "https://***@127.0.0.1" in message


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_the_limit_is_not_downloaded(declared: bool, serve_secret: Serve) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        with contextlib.suppress(OSError):
            while handler.command == "GET" and len(sent) < 10_000:
                handler.wfile.write(bytes(1 << 20))
                sent.append(1)
        handler.close_connection = True

    address = serve_secret(endless)
    set_access({address: Access(max_bytes=20_000_000)})
    message = message_of(address)
    assert "20,000,000 bytes" in message and "`max_bytes:`" in message
    assert len(sent) < 200  # MB, of 10 GB


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({"username": "joe", "password": "S3CRET"}, "Basic am9lOlMzQ1JFVA=="),
        ({"token": "S3CRET"}, "Bearer S3CRET"),
        ({"headers": {"Authorization": "Key S3CRET"}}, "Key S3CRET"),
    ],
)
def test_credentials_reach_an_http_server(credentials, expected, serve, archive) -> None:
    def check(handler: BaseHTTPRequestHandler) -> None:
        allowed = handler.headers.get("Authorization") == expected
        answer(handler, 200 if allowed else 401, archive if allowed else b"")

    address = f"http://{serve(check)}/x.tar?token=S3CRET"
    assert "401" in message_of(address)
    set_access({address: Access(credentials)})
    assert "S3CRET" not in repr(Access(credentials))
    assert read_members(address) == MEMBERS


def test_credentials_reach_a_store_and_are_not_in_its_errors(archive: bytes) -> None:
    class Vault(MemoryFileSystem):
        """A store that asks for a key, and whose errors repeat what it was given."""

        protocol, cachable = "vault", False
        store: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, key: str = "", secret: str = "", **options: Any) -> None:
            super().__init__(**options)
            self.given = (key, secret)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("vault://")))

        def info(self, path: str, **options: Any) -> Any:
            if self.given != ("S3CRETKEY", "S3CRETPW"):
                raise RuntimeError(f"InvalidAccessKeyId: {self.given} for {path}")
            return super().info(path, **options)

    fsspec.register_implementation("vault", Vault, clobber=True)
    Vault().pipe("/x.tar", archive)
    for given in ({}, {"vault://x.tar": Access({"key": "S3CRETKEY", "secret": "S3CRETPX"})}):
        set_access(given)
        assert "InvalidAccessKeyId" in message_of("vault://x.tar")
    set_access({"vault://x.tar": Access({"key": "S3CRETKEY", "secret": "S3CRETPW"})})
    assert read_members("vault://x.tar") == MEMBERS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_temporary_folder(code: int, archive: bytes, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "memory://full/x.tar"
    MemoryFileSystem().pipe("/full/x.tar", archive)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(code, "No space", "/somewhere/download")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", full)
    message = message_of(address)
    assert str(scratch) in message and "TMPDIR" in message
    monkeypatch.setattr("embedline.download.tempfile.TemporaryDirectory", full)
    assert "TMPDIR" in message_of(address)


def test_the_progress_bar_names_no_secret(serve_secret: Serve, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[str] = []
    made = download._Progress.__init__
    monkeypatch.setattr(download._Progress, "__init__", lambda *given: (bars.append(given[1]), made(*given))[1])
    assert read_members(serve_secret(lambda handler: answer(handler, 200, archive))) == MEMBERS
    assert bars == ["x.tar"]
