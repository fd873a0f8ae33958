"""What stands at an address, as a local path: files are used in place, anything else is downloaded through fsspec."""

from __future__ import annotations

import errno
import posixpath
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.callbacks import TqdmCallback
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from embedline.errors import DataError, causes_of, one_line
from embedline.redaction import HIDDEN, redacted, secrets_in

MAX_BYTES = 2 * 1024**3
"""The most that is downloaded, and that an archive may hold (IMDB, the largest public source, holds 0.2 GB)."""

MAX_NAME = 4096  # characters of a member's path; no file system takes a longer one
CONNECT_SECONDS, SILENCE_SECONDS = 30, 60
"""An HTTP server that does not answer, or stops sending, for so long ends the download; its whole length does not."""

_HOW = "name an entry of conf/local/credentials.yml in `credentials:` beside `source:`"
_STATUS = {
    401: f"the server asks for a user and password, or refuses these (HTTP 401); {_HOW}",
    403: f"access is denied (HTTP 403); a signed address may have expired, otherwise {_HOW}",
    407: "the proxy asks for a user and password (HTTP 407)",
    429: "the server has had too many requests (HTTP 429); wait some minutes and run again",
}

_CERTIFICATE = (
    "the server's certificate cannot be trusted; compare the host or set SSL_CERT_FILE to the certificate of its issuer"
)
_KNOWN = {  # by the name of the error's class: most are aiohttp's or botocore's, which are imported where they are used
    "TooManyRedirects": "the server redirects again and again",
    "ClientConnectorCertificateError": _CERTIFICATE,
    "SSLCertVerificationError": _CERTIFICATE,
    "ClientConnectorDNSError": "the host is not known; compare the address, and the connection",
    "ConnectionRefusedError": "the server refuses the connection; compare the host and port, or run again later",
    "TimeoutError": f"the server is silent, for {CONNECT_SECONDS} s at first or {SILENCE_SECONDS} later; try again",
    "NoCredentialsError": f"the store asks for credentials; {_HOW}",
}


@dataclass(frozen=True)
class Access:
    """How the file at an address is reached.

    Attributes:
        credentials: options of the fsspec file system, such as ``key`` and ``secret`` of ``s3://``; of HTTP also
            ``username`` and ``password``, or ``token``.
        max_bytes: the most that is downloaded, and that an archive may hold uncompressed.
    """

    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    max_bytes: int = MAX_BYTES


def read_access(name: str, block: Mapping[str, Any], known: Callable[[], Mapping[str, Any]]) -> Access:
    """Read ``credentials`` and ``max_bytes`` beside ``source`` in the block ``name`` of parameters.

    ``known`` looks up the content of ``credentials.yml``, where an address needs an entry. An entry that is not there,
    and a value of the wrong kind, are a DataError that names the key.
    """
    entry, max_bytes = block.get("credentials"), block.get("max_bytes")
    if max_bytes is None:
        max_bytes = MAX_BYTES
    if isinstance(max_bytes, float) and max_bytes.is_integer():  # 5e9
        max_bytes = int(max_bytes)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise DataError(f"{name}.max_bytes must be a number of bytes, 1 or more, got {max_bytes!r}")
    if not isinstance(entry, str | None):
        raise DataError(f"{name}.credentials must name an entry of conf/local/credentials.yml, not hold its content")
    if entry is None or "://" not in block["source"]:  # generated, or on this machine: another environment needs them
        return Access(max_bytes=max_bytes)
    entries = known()
    if not isinstance(entries.get(entry), Mapping):
        there = f"it has {', '.join(map(str, entries))}" if entries else "there is none yet"
        raise DataError(f"{name}.credentials names {entry!r}, which is no entry of conf/local/credentials.yml: {there}")
    return Access(dict(entries[entry]), max_bytes)


_access: dict[str, Access] = {}


def set_access(access: Mapping[str, Access]) -> None:
    """Say how addresses are reached, for all that this process downloads from now on; what was said before is gone."""
    _access.clear()
    _access.update(access)


def access_to(address: str) -> Access:
    """Return how an address is reached: without credentials unless `set_access` named it."""
    return _access.get(address, Access())


def checked_name(name: str, address: str) -> str:
    """Return the name of a member of an archive or folder in normal form, with forward slashes.

    One that is empty, too long, absolute, leads out of the archive or has control characters is a DataError.
    """
    path, member = name.replace("\\", "/"), f"{address} holds the member {quoted(name)}, whose"
    if not path:
        raise DataError(f"{address} holds a member without a name")
    if len(path) > MAX_NAME:
        raise DataError(f"{member} name has {len(path):,} characters")
    if re.search("[\x00-\x1f\x7f-\x9f]", path):
        raise DataError(f"{member} name has control characters")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise DataError(f"{member} path leads out of the archive")
    return posixpath.normpath(path)


def quoted(name: str) -> str:
    """Return a member's name for a message: quoted, cut to 80 characters."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


@contextmanager
def fetched(address: str, max_bytes: int | None = None) -> Iterator[Path]:
    """Give a local path to the file or folder at an address, for the length of the ``with`` block.

    A local one is used in place. Anything else is streamed to a temporary folder, with a progress bar on a terminal,
    and removed afterwards: an interrupted download leaves nothing behind and the next one starts afresh. ``max_bytes``
    is the most that is downloaded; that of `access_to` unless given.

    Raises:
        DataError: there is nothing, it cannot be downloaded, or it is larger; names the address without its secrets.
    """
    filesystem, path = _filesystem(address)
    if isinstance(filesystem, LocalFileSystem):
        if not Path(path).exists():
            raise DataError(f"there is no file or folder at {address}")
        yield Path(path)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="embedline-")
    except OSError as error:
        raise DataError(f"the download of {address} failed: {_reason(error, address)}") from None
    with folder:
        target = Path(folder.name) / "download"
        _download(filesystem, path, target, address, access_to(address).max_bytes if max_bytes is None else max_bytes)
        yield target


def _filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec filesystem of an address and the path in it."""
    if not address.strip():
        raise DataError("the address of the source is empty; give an URL, a path of an archive or of a folder")
    options = dict(access_to(address).credentials)
    try:
        if address.startswith(("http://", "https://")):
            options = _http_options(options)
        filesystem, path = url_to_fs(address, **options)
    except (ImportError, ValueError, TypeError, OSError) as error:
        raise DataError(f"{address} cannot be opened: {_reason(error, address, again=False)}") from None
    return filesystem, path


def _http_options(credentials: dict[str, Any]) -> dict[str, Any]:
    from aiohttp import ClientTimeout

    user, password, token = (credentials.pop(name, None) for name in ("username", "password", "token"))
    # "identity": the declared length is then that of the bytes we get.
    headers = {"Accept-Encoding": "identity", **credentials.pop("headers", {})}
    # aiohttp ends every transfer after five minutes by default, which a slow line exceeds.
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    client = {"timeout": timeout, **credentials.pop("client_kwargs", {})}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if user is not None:
        headers["Authorization"] = "Basic " + b64encode(f"{user}:{password or ''}".encode()).decode()
    return {"headers": headers, "client_kwargs": client, **credentials}


def _download(filesystem: AbstractFileSystem, path: str, target: Path, address: str, max_bytes: int) -> None:
    """Copy a remote file, or every file of a remote folder, to ``target``; raise `DataError` unless it is whole."""
    try:
        info = filesystem.info(path)
        if info.get("type") != "directory":
            name = posixpath.basename(redacted(address).split("?")[0].rstrip("/"))  # a query may hold a token
            _download_file(filesystem, path, target, info.get("size"), _Progress(name, address, max_bytes))
            return
        target.mkdir()
        left = max_bytes
        for file, details in filesystem.find(path, detail=True).items():
            name = checked_name(posixpath.relpath(file, path), address)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            progress = _Progress(posixpath.basename(name), address, max_bytes, left)
            left -= _download_file(filesystem, file, target / name, details.get("size"), progress)
    except DataError:
        raise
    except Exception as error:  # every fsspec backend has its own errors: aiohttp, botocore, timeouts, a full disk
        # `from None`: the text of the cause holds the address with its password, and a traceback would show it.
        if _is_missing(error):
            raise DataError(f"there is no file or folder at {address}") from None
        raise DataError(f"the download of {address} failed: {_reason(error, address)}") from None


def _download_file(
    filesystem: AbstractFileSystem, path: str, target: Path, size: int | None, progress: _Progress
) -> int:
    """Download one file; return its size in bytes."""
    with progress:
        if size is not None:
            progress.set_size(size)
        filesystem.get_file(path, str(target), callback=progress)
    arrived = target.stat().st_size
    if size is not None and arrived != size:
        raise EOFError(f"{arrived:,} of {size:,} bytes arrived")
    return arrived


class _Progress(TqdmCallback):
    """A progress bar that ends a download which is, or says that it is, larger than what is left to it."""

    def __init__(self, name: str, address: str, max_bytes: int, left: int | None = None) -> None:
        bar = {"desc": name, "unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}
        super().__init__(tqdm_kwargs=bar)
        self._address, self._max_bytes, self._left = address, max_bytes, max_bytes if left is None else left

    def call(self, *args: Any, **kwargs: Any) -> None:
        if max(self.size or 0, self.value) > self._left:
            raise DataError(
                f"{self._address} holds more than {self._max_bytes:,} bytes, the most that is downloaded; "
                "set `max_bytes:` beside `source:` to allow more"
            )
        super().call(*args, **kwargs)


def _is_missing(error: BaseException) -> bool:
    """Whether nothing stands at the address; fsspec says so of every failed request, the status is in the cause."""
    if not isinstance(error, FileNotFoundError):
        return False
    causes = list(causes_of(error))
    statuses = [status for cause in causes if isinstance(status := getattr(cause, "status", None), int)]
    return statuses[0] in (404, 410) if statuses else not any(_is_network_error(cause) for cause in causes)


def _is_network_error(error: BaseException) -> bool:
    return type(error).__module__.startswith("aiohttp") or isinstance(error, TimeoutError | ConnectionError)


def _reason(error: BaseException, address: str, *, again: bool = True) -> str:
    """Say in words why a download failed, without what is secret of the address and its credentials."""
    for cause in causes_of(error):
        if text := _known_reason(cause):
            return text
    cause = error
    if isinstance(error, FileNotFoundError):  # fsspec's for any failed request: the cause knows more
        cause = next((one for one in causes_of(error) if _is_network_error(one)), error)
    text = one_line(cause)
    for secret in secrets_in([address, {"credentials": dict(access_to(address).credentials)}]):
        text = text.replace(secret, HIDDEN)
    return f"{text}; run again to restart it" if again else text


def _known_reason(error: BaseException) -> str | None:
    status = getattr(error, "status", None)
    known = next((_KNOWN[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _KNOWN), None)
    if known:
        return known
    if isinstance(status, int) and status >= 400:
        late = "; the fault is the server's, run again later" if status >= 500 else ""
        return _STATUS.get(status, f"the server answers HTTP {status} {getattr(error, 'message', '')}".rstrip() + late)
    if isinstance(error, PermissionError) and error.errno is None:  # of an object store
        return f"access is denied; {_HOW}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        folder = tempfile.gettempdir()
        return f"cannot write to the temporary folder {folder}: {error.strerror}; make room or set TMPDIR to another"
    return None
