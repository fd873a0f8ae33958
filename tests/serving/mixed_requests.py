"""Good and bad HTTP requests for a service, and clients that send them: used by tests and by the benchmark."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}
PATH = "/invocations"


@dataclass(frozen=True)
class Request:
    """One request and what may come back.

    Attributes:
        kind: name in the tables of the results.
        expected: status; 0 where the connection ends without one.
        rows: numbers of the rows that it asks about, to check the answer.
        raw: sent as it is, in place of the parts.
    """

    kind: str
    expected: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    method: str = "POST"
    path: str = PATH
    rows: tuple[int, ...] = ()
    raw: bytes = b""

    def content(self) -> bytes:
        """What goes over the wire."""
        if self.raw:
            return self.raw
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def ask(records: Sequence[Any], rows: Sequence[int] = (), kind: str = "good") -> Request:
    return Request(kind, 200, json.dumps({"dataframe_records": list(records)}).encode(), rows=tuple(rows))


def json_layouts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in each layout of JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [
        {"dataframe_records": rows},
        {"dataframe_split": {"columns": names, "data": [[row.get(name) for name in names] for row in rows]}},
        {"inputs": {name: [row.get(name) for row in rows] for name in names}},
        {"instances": rows},
    ]


def good_requests(records: Sequence[dict[str, Any]], sizes: Sequence[int], seed: int) -> Iterator[Request]:
    """Endless requests about rows drawn at random, of each of ``sizes`` in turn, in all of JSON's layouts."""
    drawn = random.Random(seed)
    while True:
        for size in sizes:
            rows = [drawn.randrange(len(records)) for _ in range(size)]
            body = drawn.choice(json_layouts([records[row] for row in rows]))
            yield Request(f"good, {size} rows", 200, json.dumps(body).encode(), rows=tuple(rows))


def bad_requests(record: dict[str, Any], required: str, number: str | None, most_bytes: int) -> list[Request]:
    """Every way to be wrong that we know.

    Args:
        record: a good row.
        required: a column that must be there.
        number: a column that must be a number; None where there is none.
        most_bytes: that a body may have.
    """

    def row(kind: str, changed: Any, expected: int = 400) -> Request:
        return Request(kind, expected, json.dumps({"dataframe_records": [changed]}).encode())

    def body(kind: str, content: bytes, expected: int = 400) -> Request:
        return Request(kind, expected, content)

    def typed(kind: str, content_type: str | None, content: bytes = b"{}", expected: int = 415) -> Request:
        headers = {} if content_type is None else {"Content-Type": content_type}
        return Request(kind, expected, content, headers)

    good = json.dumps({"dataframe_records": [record]}).encode()
    found = [
        body("JSON cut off", good[: len(good) // 2]),
        body("no JSON", b"user=1&item=2"),
        body("no body", b""),
        body("bytes that are no UTF-8", b'{"dataframe_records": [{"\xff\xfe": 1}]}'),
        body("half of a surrogate pair", b'{"dataframe_records": [{"%s": "\\ud800"}]}' % required.encode()),
        body("a number of 5,000 digits", b'{"dataframe_records": [{"%s": %s}]}' % (required.encode(), b"9" * 5000)),
        body("nested too deeply", b"[" * 100_000),
        body("a list", b"[1, 2, 3]"),
        body("a string", b'"dataframe_records"'),
        body("another key", b'{"rows": [{}]}'),
        body("two layouts", b'{"dataframe_records": [], "inputs": {}}'),
        body("no rows", b'{"dataframe_records": []}'),
        body("rows that are numbers", b'{"dataframe_records": [1, 2]}'),
        body("records that are an object", b'{"dataframe_records": {"a": 1}}'),
        body("split without data", b'{"dataframe_split": {"columns": ["a"]}}'),
        body("split of other length", b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}'),
        body("inputs of two lengths", b'{"inputs": {"a": [1, 2], "b": [1]}}'),
        body("parameters", good[:-1] + b', "params": {"temperature": 2}}'),
        row("an empty row", {}),
        row("a column is missing", {name: value for name, value in record.items() if name != required}),
        row("an unknown column", {**record, "Unheard_of": 1}),
        row("a list as a value", {**record, required: [1, 2]}),
        row("an object as a value", {**record, required: {"a": 1}}),
        typed("no Content-Type", None),
        typed("a form", "application/x-www-form-urlencoded"),
        typed("another charset", "application/json; charset=utf-16"),
        typed("CSV that is none", "text/csv", b'"a\n"b,c\n1,2,3,4', 400),
        typed("Parquet that is none", "application/vnd.apache.parquet", b"PAR1 nothing PAR1", 400),
        Request("a compressed body", 415, good, {**JSON, "Content-Encoding": "gzip"}),
        Request("a huge body", 413, b" " * (most_bytes + 1)),
        Request("another path", 404, good, path="/predict"),
        Request("another path, GET", 404, method="GET", path="/../../etc/passwd"),
        Request("GET", 405, method="GET"),
        Request("DELETE", 405, method="DELETE"),
        Request("no HTTP", 400, raw=b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n"),
        Request("hangs up", 0, raw=Request("", 0, good).content()[:-5]),
    ]
    strange = {} if number is None else {"text": "many", "infinity": float("inf")}
    return found + [row(f"{kind} as a number", {**record, number: value}) for kind, value in strange.items()]


@dataclass(frozen=True)
class Outcome:
    """A request and what came back: the status (0: none), the body, and the seconds that it took."""

    request: Request
    status: int
    body: bytes
    seconds: float


async def send_all(port: int, requests: Iterator[Request], clients: int, *, seconds: float = 3600.0) -> list[Outcome]:
    """Send requests over so many connections at a time, each as soon as the one before is answered, for some time."""
    outcomes: list[Outcome] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for request in requests:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
            start = time.perf_counter()
            status, body, open_ = await _exchange(*connection, request)
            outcomes.append(Outcome(request, status, body, time.perf_counter() - start))
            if not open_:
                connection[1].close()
                connection = None
            if time.perf_counter() > end:
                break
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection stays open."""
    try:
        writer.write(request.content())
        if request.expected == 0:
            return 0, b"", False
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, b"", False
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    closes = headers.get("connection") == "close" or bool(request.raw)
    return int(first.split()[1]), body, not closes
