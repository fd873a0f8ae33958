"""What the incremental runner costs on the full-size Rossmann run, and what a run costs when nothing changed.

    python tests/benchmarks/bench_running.py --source ../shared/data/rossmann.tgz [--epochs 6]

A first `kedro run --env base --pipelines rossmann` in a fresh folder gives the share of the run that goes into telling
what to run, hashing and remembering. Then, in turn: the same command again, which runs nothing, and Kedro's own runner
with --only-missing-outputs, which runs nothing either and is Kedro's start-up. Wall times of whole processes.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def kedro_run(arguments: list[str], expected: str) -> tuple[float, str]:
    """Seconds of a whole `kedro run`, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "kedro", "run", "--env", "base", "--pipelines", "rossmann", *arguments]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="archive or folder of the Rossmann tables")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        params = f"data_root={root}/data,tracking_root={root},rossmann.source={Path(options.source).resolve()}"
        params += f",rossmann.training.epochs={options.epochs}"
        seconds, printed = kedro_run(["--params", params], "0 were skipped")
        cost = bookkeeping(printed)
        size = sum(path.stat().st_size for path in Path(root, "data").rglob("*") if path.is_file())
        say(f"first run: {seconds:.1f} s, {size / 1e9:.2f} GB stored; bookkeeping {cost:.1f} s ({cost / seconds:.2%})")
        again, start_up, costs = [], [], []
        for _ in range(options.rounds):
            seconds, printed = kedro_run(["--params", params], " 0 of ")
            again.append(seconds)
            costs.append(bookkeeping(printed))
            plain = ["--runner", "SequentialRunner", "--only-missing-outputs", "--params", params]
            start_up.append(kedro_run(plain, "Skipping all")[0])
        ours, kedros = statistics.median(again), statistics.median(start_up)
        cost = statistics.median(costs)
        say(f"nothing changed, median of {options.rounds}: {ours:.2f} s, of it bookkeeping {cost:.1f} s")
        say(f"Kedro's own runner with nothing to do: {kedros:.2f} s; difference {ours - kedros:.2f} s")


def say(text: str) -> None:
    """Print at once: the first run takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
