"""Two thousand seeded requests to the four services, half of them damaged: refused, or answered rightly."""

import gc
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_rossmann import Batch, as_pandas, raw_tables
from small_services import CSV, JSON, PAIRS, PARQUET, bodies, ratings_service, texts_service
from small_table import CLASSES, Trained

from embedline.serving.app import RequestHandler
from embedline.serving.contract import RefusedError
from embedline.serving.service import Service

REQUESTS = 500  # to each service
SEED = 7
MOST_MB = 100
Row = dict[str, Any]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, "", " ", "0", "00", "1.0", "1e3", "-1", "NaN", "null", "true", "a", "Ünïcode"),
    *("\uff11", "😀", "\x00", "\ud800", '"', "a,b\nc", "2015-08-01", "2015-13-41", "x" * 5_000),
    *([], [1], {}, {"a": [{}]}),
)


def rossmann() -> tuple[Service, list[Row]]:
    batch = Batch(raw_tables()).fitted()
    rows = as_pandas(batch.raw["test"].head(60))
    return batch.pack(batch.train()), json.loads(rows.to_json(orient="records"))


def table() -> tuple[Service, list[Row]]:
    trained = Trained(CLASSES)
    rows = trained.table.head(60).select("row", "shop", "colour", "size", "member", "heat", "year")
    return trained.packed, rows.to_dicts()


def texts() -> tuple[Service, list[Row]]:
    words = ("the", "film", "was", "dull", "wonderful", "not", ",", "zorgon", "!", "\n", "I", '"', "[", "{")
    drawn = random.Random(1)
    return texts_service(), [{"text": " ".join(drawn.choices(words, k=drawn.randrange(30)))} for _ in range(60)]


SERVICES: dict[str, Callable[[], tuple[Service, list[Row]]]] = {"rossmann": rossmann, "table": table, "texts": texts}
SERVICES["ratings"] = lambda: (ratings_service(), PAIRS)


def encode(rows: list[Row], drawn: random.Random) -> tuple[str, bytes]:
    """The rows in one of all layouts."""
    layouts = bodies(rows)
    content_type, make = drawn.choice(layouts)
    try:
        return content_type, make()
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # a value that this layout cannot hold
        return JSON, layouts[0][1]()


def change_bytes(body: bytes, drawn: random.Random) -> bytes:
    """Some bytes changed, put in, taken out, or all behind a place."""
    found = bytearray(body)
    for _ in range(drawn.choice((1, 1, 2, 5))):
        place = drawn.randrange(len(found)) if found else 0
        strange = drawn.choice((b'"', b"\n", b",", b"[", b"}", b"\\", b"\xff", b"\x00", b"9" * 400))
        changes = [
            (place + 1, bytes([drawn.randrange(256)])),
            (place, strange),
            (place, bytes(found[place : place + 40])),
        ]
        end, new = drawn.choice([*changes, (place + drawn.randrange(1, 9), b""), (len(found), b"")])
        found[place:end] = new
    return bytes(found)


def change_rows(rows: list[Row], drawn: random.Random) -> tuple[list[Row], set[int]]:
    """A value, a name or a column of the rows changed, and the places of the rows that have changed."""
    rows = [dict(row) for row in rows]
    row, name, kind = drawn.randrange(len(rows)), drawn.choice(list(rows[0])), drawn.randrange(12)
    if kind < 8:
        rows[row][name] = drawn.choice(STRANGE)
        return rows, {row}
    if kind == 8:
        del rows[row][name]
        return rows, {row}
    for one in rows:
        if kind == 9:
            del one[name]
        else:
            one[drawn.choice((name.upper(), name + " ", "", "index"))] = 1
    return rows, set(range(len(rows)))


def same(answer: Row, wanted: Row) -> bool:
    """Equal but for rounding: a row among others goes through other matrix products."""
    return answer.keys() == wanted.keys() and all(
        value == pytest.approx(wanted[name], rel=1e-4) if isinstance(value, float) else value == wanted[name]
        for name, value in answer.items()
    )


def resident() -> float:
    """MB of memory that this process has."""
    gc.collect()
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def requests(rows: list[Row], seed: int) -> Iterator[tuple[str, bytes, list[int], str, set[int]]]:
    """Content type, body, the rows that are asked about, what was damaged ("rows", "bytes" or ""), and which rows."""
    drawn = random.Random(seed)
    while True:
        asked = [drawn.randrange(len(rows)) for _ in range(drawn.randrange(1, 7))]
        chosen, damage = [rows[place] for place in asked], drawn.choice(("", "", "rows", "bytes"))
        damaged: set[int] = set()
        if damage == "rows":
            chosen, damaged = change_rows(chosen, drawn)
        content_type, body = encode(chosen, drawn)
        if damage == "bytes":
            body = change_bytes(body, drawn)
            content_type = drawn.choice((content_type, content_type, content_type, JSON, CSV, PARQUET))
            damaged = set(range(len(rows)))
        yield content_type, body, asked, damage, damaged


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVICES)
def test_no_request_breaks_a_service(name: str) -> None:
    packed, rows = SERVICES[name]()
    handler = RequestHandler(packed, {})
    wanted = json.loads(handler.answer(json.dumps({"instances": rows}).encode(), JSON))["predictions"]
    counts = {200: 0, 400: 0, 413: 0}
    before = 0.0
    for number, request in zip(range(REQUESTS), requests(rows, seed=SEED), strict=False):
        content_type, body, asked, damage, damaged = request
        if number == REQUESTS // 10:  # what libraries load once is there by now
            before = resident()
        try:
            answers = json.loads(handler.answer(body, content_type))["predictions"]
        except RefusedError as error:
            counts[error.status] += 1
            assert damage, (str(error), body[:500])
            assert 10 < len(str(error)) and "\n" not in str(error)
            continue
        counts[200] += 1
        if damage != "bytes":
            assert len(answers) == len(asked)
        if damage and name == "rossmann":  # a changed day changes the days around it
            continue
        for row in set(range(len(asked))) - damaged:
            assert same(answers[row], wanted[asked[row]]), (answers[row], wanted[asked[row]], content_type, body)
    assert counts[200] > REQUESTS / 2 and counts[400] > REQUESTS / 8
    assert resident() - before < MOST_MB
