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
from pathlib import Path

import pytest
from contests import CORES, Rounds, end, median_ratio, race, require_fastai, say

CONTESTANT = Path(__file__).with_name("language_contestants.py")
STEPS, ROUNDS = 10, 3
PRECISIONS = {"embedline float32": "fp32", "embedline auto": "auto"}
OURS = {name: {"contestant": "embedline", "precision": precision} for name, precision in PRECISIONS.items()}
SIDES = {"fastai float32": {"contestant": "fastai"}, **OURS}


@pytest.fixture(scope="module")
def rounds() -> Rounds:
    require_fastai()
    found = compare(STEPS, ROUNDS, CORES)
    report(found)
    return found


def test_a_step_is_twice_as_fast_as_fastais_in_half_the_memory(rounds: Rounds) -> None:
    assert not missed(rounds)


def compare(steps: int, rounds: int, threads: int) -> Rounds:
    """Rounds in which every side takes its steps once."""
    return race(CONTESTANT, SIDES, {"steps": steps, "threads": threads}, rounds, same=["parameters"])


def ratio(rounds: Rounds, metric: str, side: str = "embedline auto") -> float:
    """Median over the rounds of a side's metric to fastai's of the same round."""
    return median_ratio(rounds, metric, side, "fastai float32")


def missed(rounds: Rounds) -> list[str]:
    """The targets that were missed."""
    speed, memory = ratio(rounds, "tokens_per_second"), ratio(rounds, "peak_mb")
    found = ["twice fastai's tokens per second"] if speed < 2.0 else []
    return found + (["half of its peak memory"] if memory > 0.5 else [])


def report(rounds: Rounds) -> None:
    """Write what was measured to standard output."""
    lines = [f"{'':20}{'tokens/s of each round':30}{'ratio':>8}{'peak MB':>10}{'ratio':>8}"]
    for side in SIDES:
        speeds = " ".join(f"{found[side]['tokens_per_second']:9,.0f}" for found in rounds)
        peak = max(found[side]["peak_mb"] for found in rounds)
        speed, memory = ratio(rounds, "tokens_per_second", side), ratio(rounds, "peak_mb", side)
        lines.append(f"{side:20}{speeds:30}{speed:7.2f}x{peak:10,.0f}{memory:7.2f}x")
    say(*lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="time a step of embedline's language model against fastai's")
    parser.add_argument("--steps", type=int, default=STEPS, help="timed steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=CORES, help="threads of each contestant")
    options = parser.parse_args()
    found = compare(options.steps, options.rounds, options.threads)
    report(found)
    end(missed(found))


if __name__ == "__main__":
    main()
