"""Requests per second, latency, and what a server makes of good and bad requests together. Run by hand.

It starts ``embedline serve`` as a process of its own and sends requests over loopback from this one, so that the two
share the cores of the machine: a server that has them for itself answers more.

    python tests/benchmarks/bench_serving.py rossmann --env base --rows data/01_raw/rossmann/test.csv --workers 2

With ``--what-if`` each row says something else than the calendar that the Rossmann service knows, so that its features
are computed rather than its forecast looked up.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import polars as pl
import psutil
from contests import PROJECT, say

sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests" / "serving")]

from mixed_requests import Outcome, Request, ask, bad_requests, good_requests, send_all  # noqa: E402

from embedline.pipelines.publish.nodes import typed_request  # noqa: E402
from embedline.serving.service import Service  # noqa: E402


def main() -> None:
    """Measure and print tables in Markdown."""
    options = parse()
    arguments = [options.source, *(["--env", options.env] if options.env else [])]
    arguments += ["--params", options.params] if options.params else []
    limits = ["--max-bytes", str(options.max_bytes)]
    command = [sys.executable, "-m", "embedline", "serve", *arguments, "--packed", "--port", "0", *limits]
    if options.file:
        code = (
            "from embedline.serving.server import ServerOptions, run\n"
            f"run(ServerOptions(path={options.file!r}, name='{options.source}', limits={{'body': {options.max_bytes}}},"
            f" workers={options.workers}), host='127.0.0.1', port=0)"
        )
        command = [sys.executable, "-c", code]
    else:
        command += ["--workers", str(options.workers)]
    with tempfile.TemporaryFile("w+") as log:  # not a pipe, which would be full one day
        process = subprocess.Popen(command, cwd=PROJECT, stderr=log)
        try:
            port = wait(process, log)
            asyncio.run(send_all(port, iter([Request("", 200, method="GET", path="/ping")] * 8), 8))
            measure(port, process, options)
            process.send_signal(signal.SIGTERM)
            say(f"\nStopped with exit status {process.wait(timeout=60)}.")
        except BaseException:
            log.seek(0)
            sys.stderr.say(log.read()[-5000:])
            raise
        finally:
            process.kill()


def wait(process: subprocess.Popen[bytes], log: TextIO) -> int:
    """The port of the server, once it says so."""
    while process.poll() is None:
        log.seek(0)
        if found := re.search(r"http://127.0.0.1:(\d+)/", log.read()):
            return int(found[1])
        time.sleep(0.1)
    raise SystemExit("the server did not start")


def parse() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="such as rossmann, whose service is packed")
    parser.add_argument("--env", help="of the packed service")
    parser.add_argument("--params", help="of the project, such as data_root=…")
    parser.add_argument("--file", help="packed service, in place of the environment's")
    parser.add_argument("--rows", required=True, help="CSV file with rows to ask about")
    what_if = "column of zeros and ones that is turned round in each row"
    parser.add_argument("--what-if", nargs="?", const="Promo", metavar="COLUMN", help=what_if)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--batches", type=int, nargs="*", default=[100, 5000])
    parser.add_argument("--mixed", type=int, default=0, help="good and bad requests sent together")
    parser.add_argument("--max-bytes", type=int, default=4_000_000)
    parser.add_argument("--number", help="column that must be a number, for the bad requests")
    return parser.parse_args()


def measure(port: int, process: subprocess.Popen[bytes], options: argparse.Namespace) -> None:
    """All measurements."""
    service = load(options)
    rows = pl.read_csv(options.rows, infer_schema=False)
    frame = typed_request(rows.sample(20_000, with_replacement=True, seed=0), service)
    known = [column.name for column in service.columns if column.name in frame.columns]
    frame = frame.select(known)
    if options.what_if:
        frame = frame.with_columns((1 - pl.col(options.what_if)).alias(options.what_if))
    records = json.loads(json.dumps(frame.to_dicts()))
    say(f"\n{options.source}, {options.workers} process(es), {len(records):,} different rows\n")
    say("| rows a request | clients | requests/s | rows/s | median ms | p99 ms | processor ms a request |")
    say("|---|---|---|---|---|---|---|")
    for size, clients in itertools.product([1, *options.batches], [1, 16]):
        requests = prepared(records, size)
        asyncio.run(send_all(port, requests, clients, seconds=1.0))  # warm
        start, used = time.perf_counter(), processor(process.pid)
        outcomes = asyncio.run(send_all(port, requests, clients, seconds=options.seconds))
        report(outcomes, time.perf_counter() - start, processor(process.pid) - used, size, clients)
    if options.mixed:
        mix(port, process, options, service, frame, records)


def load(options: argparse.Namespace) -> Service:
    """The service that the server has."""
    if options.file:
        return Service.from_bytes(Path(options.file).read_bytes())
    from kedro.framework.startup import bootstrap_project

    from embedline.commands.artifacts import load_bundle

    bootstrap_project(PROJECT)
    params = dict(pair.split("=", 1) for pair in options.params.split(",")) if options.params else {}
    return load_bundle(options.source, "service", None, options.env, params)[0]


def prepared(records: Sequence[dict[str, Any]], size: int) -> Iterator[Request]:
    """Requests that are made before the clock runs, again and again."""
    starts = range(0, len(records) - size + 1, size)
    made = [ask(records[start : start + size]) for start in itertools.islice(starts, 2_000)]
    return itertools.cycle(made)


def report(outcomes: Sequence[Outcome], seconds: float, used: float, size: int, clients: int) -> None:
    """A row of the table."""
    assert {one.status for one in outcomes} == {200}, Counter((one.status, one.body[:300]) for one in outcomes)
    times = np.array([one.seconds for one in outcomes]) * 1000
    rate = len(outcomes) / seconds
    median, late = np.quantile(times, [0.5, 0.99])
    row = (f"{size:,}", clients, f"{rate:,.0f}", f"{rate * size:,.0f}", f"{median:.1f}", f"{late:.1f}")
    say(f"| {' | '.join(map(str, row))} | {1000 * used / len(outcomes):.2f} |")


def mix(
    port: int,
    process: subprocess.Popen[bytes],
    options: argparse.Namespace,
    service: Service,
    frame: pl.DataFrame,
    records: list[dict[str, Any]],
) -> None:
    """Half good and half bad requests over 16 connections: statuses, right answers, memory."""
    few = 500
    records, frame = records[:few], frame.head(few)
    required = next(column.name for column in service.columns if column.required)
    bad = bad_requests(records[0], required, options.number, options.max_bytes)
    good = list(itertools.islice(good_requests(records, [1, 20], seed=0), options.mixed // 2))
    mixed = [*good, *itertools.islice(itertools.cycle(bad), options.mixed - len(good))]
    random.Random(0).shuffle(mixed)
    before, start = memory(process.pid), time.perf_counter()
    outcomes = asyncio.run(send_all(port, iter(mixed), 16))
    seconds = time.perf_counter() - start
    statuses = Counter(one.status for one in outcomes)
    others = [one for one in outcomes if one.status != one.request.expected]
    unexpected = Counter((one.request.kind, one.request.expected, one.status) for one in others)
    say(f"\n{len(outcomes):,} mixed requests by 16 clients in {seconds:.0f} s; statuses (0: the client hung up):")
    say(", ".join(f"{status} {count:,}" for status, count in sorted(statuses.items())))
    kinds = sorted({(one.kind, one.expected) for one in bad})
    say("By kind: " + "; ".join(f"{kind} {status}" for kind, status in kinds))
    say(f"Other than expected: {dict(unexpected) or 'none'}")
    say(f"Answers that differ from the service's own: {different(outcomes, service, frame)}")
    say(f"Memory of the server: {before:,.0f} MB before, {memory(process.pid):,.0f} MB after")
    say(f"Alive: {process.poll() is None}")


def different(outcomes: Sequence[Outcome], service: Service, frame: pl.DataFrame) -> int:
    """Rows of all good answers that are not what the service says of the row alone, in this process."""
    opened = service.open()
    rows = sorted({row for one in outcomes for row in one.request.rows})
    alone = {row: opened.predict(frame[row : row + 1].to_pandas()).to_dict(orient="records")[0] for row in rows}
    good = ((json.loads(one.body)["predictions"], one.request.rows) for one in outcomes if one.status == 200)
    return sum(not same(answer, alone[row]) for pair in good for answer, row in zip(*pair, strict=True))


def same(answer: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal but for rounding: a row among others goes through other matrix products than one alone."""
    return answer.keys() == wanted.keys() and all(
        abs(value - wanted[name]) <= 1e-5 * abs(wanted[name]) + 1e-9
        if isinstance(value, float) and isinstance(wanted[name], float)
        else value == wanted[name] or (value is None and pd.isna(wanted[name]))
        for name, value in answer.items()
    )


def family(pid: int) -> list[psutil.Process]:
    """A process and its children."""
    process = psutil.Process(pid)
    return [process, *process.children()]


def processor(pid: int) -> float:
    """Seconds of processor time that a process and its children have used."""
    return float(sum(one.cpu_times().user + one.cpu_times().system for one in family(pid)))


def memory(pid: int) -> float:
    """Resident MB of a process and its children."""
    return float(sum(one.memory_info().rss for one in family(pid)) / 1024**2)


if __name__ == "__main__":
    main()
