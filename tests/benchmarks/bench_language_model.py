"""A training step of the AWD-LSTM language model against fastai's own, side by side on the same tokens.

    pip install -e ".[benchmark]"
    python tests/benchmarks/bench_language_model.py              about 3 minutes on two cores
    python -m pytest tests/benchmarks/bench_language_model.py    holds both targets

The model is that of the notebook lesson4-imdb: 200/500/3, a vocabulary of 34,945, batches of 64 x 70 tokens. Each side
runs in a process of its own with the same number of threads, in turn. fastai runs in float32: its mixed precision is
written for CUDA. embedline runs in float32 too, and in the precision that it picks by itself (bfloat16 where the CPU
has it and it is measured to be faster).
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from contests import run_contestant

CONTESTANT = Path(__file__).with_name("language_contestants.py")
STEPS, ROUNDS = 10, 3
SIDES = {
    "fastai float32": {"contestant": "fastai"},
    "embedline float32": {"contestant": "embedline", "precision": "fp32"},
    "embedline auto": {"contestant": "embedline", "precision": "auto"},
}

Result = dict[str, Any]


@pytest.fixture(scope="module")
def rounds() -> list[dict[str, Result]]:
    pytest.importorskip("fastai", reason='fastai is not installed: pip install -e ".[benchmark]"')
    found = compare(STEPS, ROUNDS, os.cpu_count() or 1)
    report(found)
    return found


def test_a_step_is_twice_as_fast_as_fastais(rounds: list[dict[str, Result]]) -> None:
    assert ratio(rounds, "tokens_per_second") >= 2.0


def test_its_peak_memory_is_at_most_half(rounds: list[dict[str, Result]]) -> None:
    assert ratio(rounds, "peak_mb") <= 0.5


def compare(steps: int, rounds: int, threads: int) -> list[dict[str, Result]]:
    """Rounds in which every side takes its steps once."""
    common = {"steps": steps, "threads": threads}
    found = [
        {name: run_contestant(CONTESTANT, {**common, **side}) for name, side in SIDES.items()} for _ in range(rounds)
    ]
    sizes = {result["parameters"] for sides in found for result in sides.values()}
    if len(sizes) != 1:
        raise AssertionError(f"the sides train networks of different sizes: {sorted(sizes)} parameters")
    return found


def ratio(rounds: list[dict[str, Result]], figure: str, side: str = "embedline auto") -> float:
    """Median over the rounds of a side's figure to fastai's of the same round."""
    return statistics.median(found[side][figure] / found["fastai float32"][figure] for found in rounds)


def report(rounds: list[dict[str, Result]]) -> None:
    """Write what was measured to standard output."""
    lines = [f"{'':20}{'tokens/s of each round':30}{'ratio':>8}{'peak MB':>10}{'ratio':>8}"]
    for side in SIDES:
        speeds = " ".join(f"{found[side]['tokens_per_second']:9,.0f}" for found in rounds)
        peak = max(found[side]["peak_mb"] for found in rounds)
        speed, memory = ratio(rounds, "tokens_per_second", side), ratio(rounds, "peak_mb", side)
        lines.append(f"{side:20}{speeds:30}{speed:7.2f}x{peak:10,.0f}{memory:7.2f}x")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="time a step of embedline's language model against fastai's")
    parser.add_argument("--steps", type=int, default=STEPS, help="timed steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each contestant")
    options = parser.parse_args()
    found = compare(options.steps, options.rounds, options.threads)
    report(found)
    missed = [
        *(["twice fastai's tokens per second"] if ratio(found, "tokens_per_second") < 2.0 else []),
        *(["half of its peak memory"] if ratio(found, "peak_mb") > 0.5 else []),
    ]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
