"""What every learner makes of a tiny fixed seed is what it made before: a change of the code that moves nothing.

``golden.json`` is rewritten by ``python tests/golden/learners.py > tests/golden/golden.json`` under the variables
of :data:`SAME_KERNELS`, in a commit of its own that says why the weights had to change.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parents[1] / "data" / "sample" / "08_reporting"
# Kernels that every x86-64 processor has, so that all of them round alike.
SAME_KERNELS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
}
LEARNERS = ("numbers", "classes", "language_model", "classifier", "ratings")


def golden(name: str) -> dict[str, Any]:
    return json.loads((HERE / name).read_text())


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    environment = {**os.environ, **SAME_KERNELS, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(HERE / "learners.py")]
    trained = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    return json.loads(trained.stdout)


@pytest.mark.parametrize("learner", LEARNERS)
def test_training_ends_where_it_did(found: dict[str, Any], learner: str) -> None:
    ours, theirs = found[learner], golden("golden.json")[learner]
    assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-6)
    assert ours["last"] == pytest.approx(theirs["last"], rel=1e-4)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors round in other ways")
@pytest.mark.parametrize("learner", LEARNERS)
def test_weights_are_the_same_to_the_last_bit(found: dict[str, Any], learner: str) -> None:
    assert found[learner]["sha256"] == golden("golden.json")[learner]["sha256"]


@pytest.mark.skipif(not SAMPLE.exists(), reason="`kedro run` has not been run here")
@pytest.mark.parametrize("path", golden("sample.json")["metrics"])
def test_the_sample_run_is_as_good_as_it_was(path: str) -> None:
    dataset, metric = path.split(":")
    source, name = dataset.split(".")
    versions = sorted((SAMPLE / source / f"{name}.json").glob("*/*.json"))
    if not versions:
        pytest.skip(f"{dataset} has not been made here")
    metrics: Any = json.loads(versions[-1].read_text())
    for key in metric.split("."):
        metrics = metrics[key]
    recorded = golden("sample.json")  # with a tolerance: other processors train in other precisions
    assert metrics == pytest.approx(recorded["metrics"][path], abs=recorded["tolerances"][path])
