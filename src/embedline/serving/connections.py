"""Limits on HTTP connections: the time and size of headers, the number of connections, clients that do not read.

uvicorn closes a connection that is idle after an answer. It keeps one that never sends a request, or half of its
headers, and takes headers of any size where httptools reads them.
"""

import asyncio
import sys
import time
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_SECONDS = 10.0  # from the opening of a connection, or its last answer, to the end of the next headers
HEADER_BYTES = 65_536
STALLED_SECONDS = 30.0  # in which a client must have taken something of its answer
_SHARE, _MOST = 0.75, 1_000  # connections: of the descriptors that the process may have, and at most


def most_connections() -> int:
    """Connections of this process that may be open at a time."""
    if sys.platform == "win32":
        return _MOST
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(16, min(int(_SHARE * soft), _MOST))


class BoundedConnection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two, whichever is installed
    """uvicorn's protocol, with limits on what a connection may do while no request of it is being answered."""

    def connection_made(self, transport: Any) -> None:
        """Start the clock; where there are too many connections, the one that has idled longest makes room."""
        super().connection_made(transport)
        self._waits: asyncio.TimerHandle | None = None
        self._stalls: asyncio.TimerHandle | None = None
        self._in_headers, self._header_bytes = False, 0
        self._watch()
        if len(self.connections) > (most := most_connections()):
            open_ = [one for one in self.connections if not one.transport.is_closing()]
            if len(open_) > most:
                waiting = (one for one in open_ if getattr(one, "_waits", None))
                min(waiting, key=lambda one: one._idle_since).close()

    def data_received(self, data: bytes) -> None:
        """Read a piece of a request."""
        super().data_received(data)
        if self._in_headers:  # of httptools; h11 has such a limit itself
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self.close(b"431 Request Header Fields Too Large")
        self._watch()

    def on_message_begin(self) -> None:
        """The first byte of a request is there (httptools)."""
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers are there (httptools)."""
        self._in_headers = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client is slower than its answer."""
        super().pause_writing()
        self._check_progress(sys.maxsize)

    def resume_writing(self) -> None:
        """The client has taken most of its answer."""
        super().resume_writing()
        self._stalls = _cancel(self._stalls)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        super().connection_lost(exc)
        self._waits, self._stalls = _cancel(self._waits), _cancel(self._stalls)

    def close(self, status: bytes = b"") -> None:
        """Close the connection, after an answer with the ``status`` if there is one."""
        if not self.transport.is_closing():
            if status:
                self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
        self._waits = _cancel(self._waits)

    def _watch(self) -> None:
        """Let the clock run while no request is being answered; further bytes do not turn it back."""
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._waits = _cancel(self._waits)
        elif self._waits is None:
            self._waits = self.loop.call_later(HEADER_SECONDS, self._give_up)
            self._idle_since = time.monotonic()  # a loop's own clock may be the same for many new connections

    def _give_up(self) -> None:
        self.close(b"408 Request Timeout" if self._in_headers else b"")

    def _check_progress(self, left: int) -> None:
        """Cut the connection where no byte of an answer has gone since there were ``left``."""
        now = self.transport.get_write_buffer_size()
        if now >= left:
            self.transport.abort()
        else:
            self._stalls = self.loop.call_later(STALLED_SECONDS, self._check_progress, now)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, in place of a timer that runs no longer."""
    if timer is not None:
        timer.cancel()
    return None
