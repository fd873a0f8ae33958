"""Die at every single file operation of a tiny incremental run, one after the other: what random kills may miss.

    python tests/faults/crash_points.py             a minute or two; exit status 1 on a failure

Python announces each file operation before it does it, and an audit hook ends the process there, as SIGKILL does. Then
everything loads, the next run completes, its outputs are those of an undisturbed run, and nothing is left over.
"""

import argparse
import itertools
import logging
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro_runs import Settings, Site

from kedro_incremental import IncrementalRunner

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
NAMES = ("first", "total", "doubled", "last")
UNDISTURBED = 0  # no operation has this number


def numbers(count: int) -> dict[str, Any]:
    """Data for the others."""
    return {"values": list(range(count))}


def total_and_doubled(first: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two outputs: a kill may come between them."""
    return {"total": sum(first["values"])}, {"values": [2 * value for value in first["values"]]}


def joined(total: dict[str, Any], doubled: dict[str, Any]) -> dict[str, Any]:
    """The end of the pipeline."""
    return total | doubled


PIPELINE = Pipeline(
    [
        Node(numbers, "params:count", "first", name="numbers"),
        Node(total_and_doubled, "first", ["total", "doubled"], name="total_and_doubled"),
        Node(joined, ["total", "doubled"], "last", name="joined"),
    ]
)


def catalog(data: Path, version: str) -> DataCatalog:
    """Versioned JSON files."""
    entry = {"type": "embedline.datasets.JSON", "versioned": True}
    entries = {name: {**entry, "filepath": f"{data}/01/tiny/{name}.json"} for name in NAMES}
    made = DataCatalog.from_config(entries, save_version=version)
    made["params:count"] = 5
    return made


def run(data: Path, version: str, die_at: int) -> int:
    """Run in a process of its own, which dies before its operation of the number ``die_at``; its wait status."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in OPERATIONS and str(data) in str(arguments[0]) and not reads:
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(count)
        IncrementalRunner(manifest=data / ".runs").run(PIPELINE, catalog(data, version), run_id=version)
    except Exception:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def outputs(site: Site) -> dict[str, bytes]:
    """Current content by dataset."""
    made = {name: output for record in site.records().values() for name, output in record["outputs"].items()}
    return {name: Path(output["path"]).read_bytes() for name, output in made.items()}


def unloadable(data: Path) -> list[str]:
    """Versions that do not load."""
    wrong = []
    for name in NAMES:
        for path in data.glob(f"01/tiny/{name}.json/*/{name}.json"):
            try:
                DataCatalog.from_config({name: {"type": "embedline.datasets.JSON", "filepath": str(path)}}).load(name)
            except Exception as error:
                wrong.append(f"{path} does not load: {error}")
    return wrong


def crash(root: Path, every: int) -> tuple[int, list[str]]:
    """Die at every operation, or at one of ``every`` so many: at how many, and what is wrong then."""
    undisturbed = Site.make(root, Settings(), root / "undisturbed")
    failures = ["the undisturbed run failed"] if run(undisturbed.data, "v1", UNDISTURBED) else []
    for points in itertools.count():
        die_at = (points + 1) * every
        site = Site.make(root, Settings(), root / str(die_at))
        ended = run(site.data, "v1", die_at) != signal.SIGKILL
        wrong = unloadable(site.data)
        if run(site.data, "v2", UNDISTURBED):
            wrong.append("the next run failed")
        elif outputs(site) != outputs(undisturbed):
            wrong.append("the outputs differ")
        failures += [f"killed at operation {die_at}: {what}" for what in [*wrong, *site.leftovers()]]
        if ended:
            return points, failures
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description="die at every file operation of a tiny incremental run")
    parser.add_argument("--every", type=int, default=1, help="take only each of so many operations")
    options = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        points, failures = crash(Path(folder), options.every)
    sys.stdout.write("\n".join([f"killed at {points} operations, {len(failures)} failures", *failures, ""]))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
