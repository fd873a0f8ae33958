"""What the incremental runner costs on the full-size Rossmann run, and what a run costs when nothing changed.

    python tests/benchmarks/bench_running.py --source ../shared/data/rossmann.tgz [--epochs 6]

A first `kedro run --env base --pipelines rossmann` in a fresh folder gives the share of the run that goes into telling
what to run, hashing and remembering. Then, in turn: the same command again, which runs nothing, and Kedro's own runner
with --only-missing-outputs, which runs nothing either and is Kedro's start-up. Wall times of whole processes.

    python tests/benchmarks/bench_running.py --watching

Processor seconds of a small training, in turn with and without the watch on what a node opens and imports.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contests import PROJECT, say


def kedro_run(arguments: list[str], expected: str) -> tuple[float, str]:
    """Seconds of a whole `kedro run`, and what it printed."""
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "kedro",
        "run",
        "--env",
        "base",
        "--verbose",
        "--pipelines",
        "rossmann",
        *arguments,
    ]
    finished = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if finished.returncode or expected not in " ".join(finished.stdout.split()):
        raise SystemExit(finished.stdout + finished.stderr)
    return seconds, finished.stdout


def bookkeeping(printed: str) -> float:
    """Seconds that the table at the end tells."""
    found = re.search(r"bookkeeping: ([\d.]+) s", printed)
    assert found
    return float(found[1])


TRAINING = """
import contextlib, sys, time
import numpy as np, polars as pl
context = contextlib.nullcontext()
if sys.argv[1] == "watched":
    from kedro_incremental.audit import AUDIT
    context = AUDIT.node()
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
numbers = np.random.default_rng(0)
x, k, y = numbers.normal(size=20_000), numbers.integers(0, 50, 20_000), numbers.normal(size=20_000)
table = pl.DataFrame({"x": x, "k": k, "y": y})
columns, split = Columns(categorical=["k"], continuous=["x"], target="y"), Split(kind="random")
encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
encoded = nodes.encode(table, encoder, columns, split)
with context:
    for epochs in (1, 20):  # the first one imports what a training needs, once for a process
        began = time.process_time()
        training = TableTraining(epochs=epochs, batch_size=64, lr=0.003, threads=1)
        nodes.train(encoded, encoder, NetworkOptions(layers=[64, 32]), training)
print(time.process_time() - began)
"""


def measure_watching(rounds: int) -> None:
    """Print what the watch costs; the ratio is that of two runs, one after the other."""
    seconds: dict[str, list[float]] = {"watched": [], "alone": []}
    for _ in range(rounds):
        for kind, found in seconds.items():
            run = subprocess.run([sys.executable, "-c", TRAINING, kind], capture_output=True, text=True, check=True)
            found.append(float(run.stdout.split()[-1]))
    ratios = [watched / alone for watched, alone in zip(seconds["watched"], seconds["alone"], strict=True)]
    say(
        f"training watched: {statistics.median(seconds['watched']):.2f} s of the processor, "
        f"alone: {statistics.median(seconds['alone']):.2f} s; ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="archive or folder of the Rossmann tables")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--watching", action="store_true", help="measure the watch alone")
    options = parser.parse_args()
    if options.watching:
        measure_watching(options.rounds)
        return
    if not options.source:
        parser.error("--source is needed")
    with tempfile.TemporaryDirectory() as root:
        params = f"data_root={root}/data,tracking_root={root},rossmann.source={Path(options.source).resolve()}"
        params += f",rossmann.training.epochs={options.epochs}"
        seconds, printed = kedro_run(["--params", params], "0 were up to date")
        cost = bookkeeping(printed)
        size = sum(path.stat().st_size for path in Path(root, "data").rglob("*") if path.is_file())
        say(f"first run: {seconds:.1f} s, {size / 1e9:.2f} GB stored; bookkeeping {cost:.1f} s ({cost / seconds:.2%})")
        again, start_up, costs = [], [], []
        for _ in range(options.rounds):
            seconds, printed = kedro_run(["--params", params], "nodes up to date")
            again.append(seconds)
            costs.append(bookkeeping(printed))
            plain = ["--runner", "SequentialRunner", "--only-missing-outputs", "--params", params]
            start_up.append(kedro_run(plain, "Skipping all")[0])
        ours, kedros = statistics.median(again), statistics.median(start_up)
        cost = statistics.median(costs)
        say(f"nothing changed, median of {options.rounds}: {ours:.2f} s, of it bookkeeping {cost:.1f} s")
        say(f"Kedro's own runner with nothing to do: {kedros:.2f} s; difference {ours - kedros:.2f} s")


if __name__ == "__main__":
    main()
