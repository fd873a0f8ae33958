"""Debian's chromium without a window: what a page becomes once its scripts have run, as a tree or as a picture."""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which containers lack
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT = "/a-second"  # address of a served folder that takes a second to answer
NOBODY = "not an origin"  # the initiator of requests that the browser makes for itself
SECONDS = 120  # a busy machine draws forty figures in ten


def find_browser() -> str | None:
    """Path of the browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Visit:
    """A page that was opened.

    Attributes:
        tree: its DOM as HTML, after its scripts.
        errors: messages of its console that are errors or warnings.
        requests: addresses on the network that it asked for.
    """

    tree: str
    errors: list[str]
    requests: list[str]

    def attribute(self, name: str) -> str | None:
        """An attribute of the root element."""
        found = re.search(rf'<html[^>]*\s{name}="([^"]*)"', self.tree)
        return found[1] if found else None


class Browser:
    """A browser with a profile of its own.

    Args:
        folder: for the profile and logs; removed by nobody but the caller.
    """

    def __init__(self, folder: Path) -> None:
        path = find_browser()
        if path is None:
            raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)} is on the PATH")
        self._path, self._folder = path, folder

    def visit(self, url: str, *, width: int = 1360, height: int = 900, patience_ms: int = 30000) -> Visit:
        """Open a page and wait until its scripts rest; ``patience_ms`` is in the page's own, virtual time."""
        log = self._folder / "requests.json"
        finished = self._run(
            url, width, height, patience_ms, "--dump-dom", "--enable-logging=stderr", f"--log-net-log={log}"
        )
        messages = re.findall(r":(?:CONSOLE|CONSOLE:\d+)[^\"]*\] \"(.*?)\", source:", finished.stderr)
        return Visit(finished.stdout, messages, _requests(log))

    def picture(
        self,
        url: str,
        path: Path,
        *,
        width: int = 1360,
        height: int = 900,
        scale: float = 1.0,
        patience_ms: int = 30000,
    ) -> None:
        """Open a page and save what is seen of it as a PNG file."""
        self._run(url, width, height, patience_ms, f"--force-device-scale-factor={scale}", f"--screenshot={path}")
        if not path.exists():
            raise OSError(f"the browser made no picture of {url}")

    def _run(
        self, url: str, width: int, height: int, patience_ms: int, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        own = (f"--user-data-dir={self._folder / 'profile'}", f"--window-size={width},{height}")
        return subprocess.run(
            [self._path, *FLAGS, *own, f"--virtual-time-budget={patience_ms}", *arguments, url],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )


def _requests(log: Path) -> list[str]:
    """Addresses of the network that pages asked for, in a log of the browser; files and data inside a page are none."""
    content = log.read_text().rstrip().rstrip(",")
    events = json.loads(content if content.endswith("}") else content + "]}")["events"]
    starts = [event["params"] for event in events if {"url", "initiator"} <= event.get("params", {}).keys()]
    urls = {start["url"] for start in starts if start["initiator"] != NOBODY}
    return sorted(url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:")))


def waiting(selector: str) -> str:
    """A script for the head of a served page: it keeps the browser until ``selector`` is there, then a little longer.

    The page's own, virtual time does not wait for its workers, but it stands still while a request is under way.
    """
    return (
        "<script>(async () => { let after = 0; for (let k = 0; k < 40 && after < 3; k++) { "
        f"await fetch('{WAIT}'); await new Promise((r) => setTimeout(r, 300)); "
        f"if (document.querySelector('{selector}')) after++; }} }})()</script>"
    )


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; the address to open."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """A file; or, of :data:`WAIT`, nothing after a second."""
        if self.path != WAIT:
            super().do_GET()
            return
        time.sleep(1.0)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: each request would be a line."""
