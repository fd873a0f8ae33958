"""The learners train where there is torch and none of the packages of the project's outer parts."""

import subprocess
import sys
from pathlib import Path

import pytest
from bare import ABSENT

PROJECT = Path(__file__).resolve().parents[2]
BARE = str(PROJECT / "tests" / "gpu" / "bare.py")


def run_bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, BARE, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_bare_machine() -> None:
    run = run_bare(str(PROJECT / "tests/benchmarks/bench_gpu.py"), "--small", "--device", "cpu")
    lines = run.stdout.splitlines()[1:]
    for unit, cases in (("rows/s", 1), ("ratings/s", 1), ("tokens/s", 2)):
        for precision in ("fp32", "bf16"):
            found = [line for line in lines if unit in line.split() and precision in line.split()]
            assert len(found) == cases, run.stdout
    assert len(lines) == 8


def test_absent_packages_are_absent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import importlib.util\n"
        f"assert not [name for name in {sorted(ABSENT)} if importlib.util.find_spec(name)]\n"
        "import embedline\n"
    )
    run_bare(str(program))
