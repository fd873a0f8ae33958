"""Tokenizing and numericalizing against fastai's ``parallel_tokenize``, side by side on the same real reviews.

    pip install -e ".[benchmark]" "spacy~=3.8"
    python tests/benchmarks/bench_tokens.py --data FOLDER                20,000 reviews, two processes each
    python tests/benchmarks/bench_tokens.py --data FOLDER --reviews 5000 --rounds 1
    python -m pytest tests/benchmarks/bench_tokens.py                    holds the target

From the texts in memory to their ids, under fastai's default rules (``ulmfit`` here): tokens, a vocabulary of at most
60,000 that occur three times, ids. Both sides run in turn, none beside the other, each in a process of its own that
starts the same number of processes for spaCy. The time includes starting those; fastai forks them with everything
loaded, embedline spawns them. Memory is the peak of all processes of a side together, shared pages counted once (PSS).
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from contests import DATA, Result, Rounds, end, environment, require_fastai, say

CONTESTANT = Path(__file__).with_name("token_contestants.py")
ARCHIVE = "aclImdb_v1.tar.gz"
REVIEWS = 20_000
ROUNDS = 2
WORKERS = 2
TARGET = 2.5
SIDES = ("fastai", "embedline")
SAMPLING = 0.5  # seconds between two looks at the memory


def test_tokens_per_second_are_two_and_a_half_times_fastais(real_data: Path, tmp_path: Path) -> None:
    require_fastai()
    if not (real_data / ARCHIVE).exists():
        pytest.skip(f"no reviews: {real_data} has no {ARCHIVE}")
    job = prepare(real_data, tmp_path, REVIEWS)
    rounds = compare(job, ROUNDS)
    report(job, rounds)
    assert ratio(rounds) >= TARGET


def prepare(data: Path, folder: Path, reviews: int) -> Result:
    """Write ``reviews`` texts from all over the archive in ``data`` for the contestants; what both have in common."""
    texts = []
    with tarfile.open(data / ARCHIVE) as archive:
        for member in archive:
            folders = Path(member.name).parts
            if len(folders) == 4 and folders[2] in ("pos", "neg", "unsup") and member.name.endswith(".txt"):
                content = archive.extractfile(member)
                assert content is not None
                texts.append(content.read().decode())
    frame = pl.DataFrame({"text": texts}).sample(reviews, seed=0, shuffle=True)
    path = folder / "texts.parquet"
    frame.write_parquet(path)
    return {"texts": str(path), "reviews": reviews, "workers": WORKERS}


def run(job: Result) -> Result:
    """One contestant in a process of its own; what it measured, and ``peak_mb`` of all its processes."""
    command = [sys.executable, str(CONTESTANT), json.dumps(job)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, megabytes_of(process.pid))
            time.sleep(SAMPLING)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {**json.loads(output.splitlines()[-1]), "peak_mb": peak}


def megabytes_of(pid: int) -> float:
    """Memory of a process and all below it, shared pages counted once."""
    total = 0.0
    with contextlib.suppress(psutil.Error):  # one that ended meanwhile
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += each.memory_full_info().pss / 1024**2
    return total


def compare(job: Result, rounds: int) -> Rounds:
    """Rounds in which every side prepares the texts once."""
    results = [{side: run({**job, "contestant": side}) for side in SIDES} for _ in range(rounds)]
    for found in results:
        check_same_work(found)
    return results


def check_same_work(found: dict[str, Result]) -> None:
    """Refuse to compare sides whose tokens differ by more than the resolved HTML references."""
    for name, allowed in (("tokens", 0.001), ("vocabulary", 0.002)):
        ours, theirs = found["embedline"][name], found["fastai"][name]
        if abs(ours - theirs) > allowed * theirs:
            raise AssertionError(f"the sides differ in {name}: embedline {ours}, fastai {theirs}")


def ratio(rounds: Rounds) -> float:
    """Median over the rounds of embedline's tokens per second to fastai's of the same round."""
    return statistics.median(speed(found["embedline"]) / speed(found["fastai"]) for found in rounds)


def speed(result: Result) -> float:
    return float(result["tokens"] / result["seconds"])


def report(job: Result, rounds: Rounds) -> None:
    """Write what was measured to standard output."""
    first = rounds[0]["embedline"]
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {job['workers']} processes each, "
        f"{job['reviews']:,} reviews, {first['tokens']:,} tokens, vocabulary {first['vocabulary']:,}",
        f"{'':12}{'seconds of each round':26}{'tokens/s':>12}{'peak MB':>10}",
    ]
    for side in SIDES:
        seconds = " ".join(f"{found[side]['seconds']:8.1f}" for found in rounds)
        median = statistics.median(speed(found[side]) for found in rounds)
        peak = max(found[side]["peak_mb"] for found in rounds)
        lines.append(f"{side:12}{seconds:26}{median:12,.0f}{peak:10,.0f}")
    lines.append(f"embedline has {ratio(rounds):.2f} times fastai's tokens per second")
    say(*lines)


def main() -> None:

    parser = argparse.ArgumentParser(description="time embedline's tokens and ids against fastai's on real reviews")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {ARCHIVE}")
    parser.add_argument("--reviews", type=int, default=REVIEWS, help="how many reviews")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each side runs")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of each side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = {**prepare(options.data, Path(folder), options.reviews), "workers": options.workers}
        rounds = compare(job, options.rounds)
    report(job, rounds)
    end([f"{TARGET} times fastai's tokens per second"] if ratio(rounds) < TARGET else [])


if __name__ == "__main__":
    main()
