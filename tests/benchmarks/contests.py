"""A benchmark's contestants, each in a process of its own that measures itself, and what the benchmarks share."""

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDLINE_REAL_DATA", PROJECT.parent / "shared" / "data"))  # of the public archives
CORES = os.cpu_count() or 1

Result = dict[str, Any]
Rounds = list[dict[str, Result]]


def say(*lines: str) -> None:
    """Write lines to standard output at once."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def end(missed: list[str]) -> None:
    """End with an error where targets were missed."""
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


def require_fastai() -> None:
    """Skip the test where there is no fastai."""
    import pytest

    pytest.importorskip("fastai", reason='fastai is not installed: pip install -e ".[benchmark]"')


def environment(**variables: str) -> dict[str, str]:
    """Variables of a process that finds the project's packages."""
    paths = [str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore", **variables}


def configuration(root: Path, env: str = "base", conf: Path = PROJECT / "conf") -> Any:
    """The project's configuration in an environment, with every artifact under ``root``."""
    from kedro.config import OmegaConfigLoader

    from embedline.paths import project_path, sqlite_url

    settings: dict[str, Any] = {"base_env": "base", "default_run_env": env, "config_patterns": {"spark": ["spark*"]}}
    settings["custom_resolvers"] = {"project": project_path, "sqlite": sqlite_url}
    return OmegaConfigLoader(str(conf), runtime_params={"data_root": str(root)}, **settings)


def run_contestant(script: Path, job: Result) -> Result:
    """Run ``script`` with the job as its argument, on ``job["threads"]`` threads; what it measured."""
    command = [sys.executable, str(script), json.dumps(job)]
    names = ("OMP_NUM_THREADS", "LK_NUM_THREADS", "LK_NUM_BACKEND_THREADS", "RAYON_NUM_THREADS")  # LK: of lenskit
    threads = environment(**dict.fromkeys(names, str(job["threads"])))
    done = subprocess.run(command, check=True, env=threads, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def race(script: Path, sides: dict[str, Result], common: Result, rounds: int, same: Iterable[str]) -> Rounds:
    """Rounds in which every side runs once, in turn; refused where the sides differ in what has to be the same."""
    found = [{name: run_contestant(script, {**common, **side}) for name, side in sides.items()} for _ in range(rounds)]
    for results in found:
        for key in same:
            values = {side: result[key] for side, result in results.items()}
            if len({json.dumps(value) for value in values.values()}) != 1:
                raise AssertionError(f"the sides differ in {key}: {values}")
    return found


def median_ratio(rounds: Rounds, metric: str, side: str, other: str) -> float:
    """Median over the rounds of a side's metric to that of another one in the same round."""
    return statistics.median(found[side][metric] / found[other][metric] for found in rounds)


def contest(work: Callable[[Result], Result]) -> None:
    """Run the job in the script's argument and print what it measured."""
    say(json.dumps(work(json.loads(sys.argv[1]))))


def peak_megabytes() -> float:
    """Peak of this process's resident memory; ``getrusage`` would count the parent's from before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
