"""Two thousand seeded requests to the four services, half of them damaged: refused, or answered rightly."""

import gc
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_rossmann import Batch, as_pandas, raw_tables
from small_table import CLASSES, Trained
from test_ratings_service import make_bundle

from embedline.serving.app import RequestHandler
from embedline.serving.contract import RefusedError
from embedline.serving.ratings import pack_ratings
from embedline.serving.service import Service
from embedline.serving.texts import pack_texts
from test_commands import make_bundles

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
REQUESTS = 500  # to each service
SEED = 7
MOST_MB = 100
Row = dict[str, Any]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        " ",
        "0",
        "00",
        "1.0",
        "1e3",
        "-1",
        "NaN",
        "null",
        "true",
        "a",
        "Ünïcode",
        "\uff11",
    ),
    *("😀", "\x00", "\ud800", '"', "a,b\nc", "2015-08-01", "2015-13-41", "x" * 5_000, [], [1], {}, {"a": [{}]}),
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
    return pack_texts(make_bundles(3)["model"]), [
        {"text": " ".join(drawn.choices(words, k=drawn.randrange(30)))} for _ in range(60)
    ]


def ratings() -> tuple[Service, list[Row]]:
    pairs = [{"listener": listener, "album": album} for listener in (1, 2, 3, 4, 99) for album in (10, 11, 12, 13, 99)]
    return pack_ratings(make_bundle(False)), pairs


SERVICES: dict[str, Callable[[], tuple[Service, list[Row]]]] = {
    "rossmann": rossmann,
    "table": table,
    "texts": texts,
    "ratings": ratings,
}


def encode(rows: list[Row], drawn: random.Random) -> tuple[str, bytes]:
    """The rows in one of all layouts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    layouts: list[Callable[[], tuple[str, bytes]]] = [
        lambda: (JSON, json.dumps({"dataframe_records": rows}).encode()),
        lambda: (JSON, json.dumps({"instances": rows}).encode()),
        lambda: (JSON, json.dumps({"inputs": columns}).encode()),
        lambda: (
            JSON,
            json.dumps(
                {"dataframe_split": {"columns": names, "data": [[*map(row.get, names)] for row in rows]}}
            ).encode(),
        ),
        lambda: (CSV, pd.DataFrame(columns, dtype=object).to_csv(index=False).encode()),
        lambda: (PARQUET, parquet(columns)),
    ]
    try:
        return drawn.choice(layouts)()
    except (ValueError, TypeError, OverflowError):  # a value that this layout cannot hold
        return layouts[0]()


def parquet(columns: dict[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def change_bytes(body: bytes, drawn: random.Random) -> bytes:
    """Some bytes changed, put in, taken out, or all behind a place."""
    found = bytearray(body)
    for _ in range(drawn.choice((1, 1, 2, 5))):
        place = drawn.randrange(len(found)) if found else 0
        kind = drawn.randrange(5)
        if kind == 0:
            found[place : place + 1] = bytes([drawn.randrange(256)])
        elif kind == 1:
            found[place:place] = drawn.choice((b'"', b"\n", b",", b"[", b"}", b"\\", b"\xff", b"\x00", b"9" * 400))
        elif kind == 2:
            del found[place : place + drawn.randrange(1, 9)]
        elif kind == 3:
            del found[place:]
        else:
            found[place:place] = found[place : place + 40]
    return bytes(found)


def change_rows(rows: list[Row], drawn: random.Random) -> tuple[list[Row], set[int]]:
    """A value, a name or a column of the rows changed, and the places of the rows that have changed."""
    rows = [dict(row) for row in rows]
    row, name = drawn.randrange(len(rows)), drawn.choice(list(rows[0]))
    kind = drawn.randrange(6)
    if kind < 4:
        rows[row][name] = drawn.choice(STRANGE)
    elif kind == 4:
        if drawn.random() < 0.5:
            del rows[row][name]
        else:
            rows = [{key: value for key, value in one.items() if key != name} for one in rows]
            row = -1
    else:
        for one in rows:
            one[drawn.choice((name.upper(), name + " ", "", "index"))] = 1
        row = -1
    return rows, set(range(len(rows))) if row < 0 else {row}


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
