"""Several processes train one network as one process does, and none of them is left behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_trainings as small
import torch
from cut_off import Killed, raise_at, step_of
from small_trainings import Trained

from embedline.errors import DataError
from embedline.training import checkpoint as checkpoints
from embedline.training import distributed
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.batches import Shard
from embedline.training.options import FitOptions

ROOT = Path(__file__).resolve().parents[2]


LEARNERS: dict[str, Callable[..., Trained]] = {
    "table": partial(small.train_table, batch_norm=False),  # which each process takes over its own rows on a CPU
    "ratings": small.train_factors,
    "language model": small.train_words,
    "classifier": small.train_texts,
}
FIGURE = {"table": "exp_rmspe", "ratings": "rmse", "language model": "validation_loss", "classifier": "validation_loss"}


# Few readings of the running loss, at both ends, so that it matters to what a checkpoint holds.
SERVE = """
import os
from embedline.training import train
from embedline.training.distributed import launched

train.RECORDS_PER_TRAINING = 4
with launched() as runs:
    assert not runs
os._exit(0)  # not through the interpreter's end, where threads of Gloo have once aborted a process on a busy machine
"""


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """This process and another one as a launcher starts them, once for all tests: a process takes seconds to start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    folders = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])
    environment = {**os.environ, **variables, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": folders}
    other = subprocess.Popen([sys.executable, "-c", SERVE], env=environment)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "RECORDS_PER_TRAINING", 4)
            for name, value in {**variables, "RANK": "0", "LOCAL_RANK": "0"}.items():
                patch.setenv(name, value)
            with distributed.launched() as runs:
                assert runs
                yield
        assert other.wait(20.0) == 0
    finally:
        other.kill()
        other.wait()


def alone(train: Callable[..., Trained], **settings: Any) -> Trained:
    """The result of the same training in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: False)
        return train(**settings)


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        *((learner, {}) for learner in LEARNERS if learner != "classifier"),  # whose head has batch-norm
        ("table", {"accumulate": 3, "clip_norm": 0.3, "averaging": {"decay": 0.9}, "decay": "l2", "weight_decay": 0.1}),
        ("table", {"classes": True, "class_weights": "balanced", "label_smoothing": 0.1, "batch_size": 64}),
        ("table", {"early_stopping": {"patience": 1}, "schedule": "constant", "lr": 0.1, "epochs": 8, "seeds": (1,)}),
        ("table", {"memory": "mapped"}),
        ("ratings", {"early_stopping": {"patience": 1}, "loss": "huber"}),
        ("language model", {"random_bptt": True, "tokens_per_epoch": 900}),
    ],
    ids=str,
)
def test_two_processes_give_the_weights_of_one(learner: str, settings: dict[str, Any], two: None) -> None:
    ours, theirs = LEARNERS[learner](**settings), alone(LEARNERS[learner], **settings)
    small.assert_close(ours, theirs, rtol=1e-3 if settings else 1e-4)
    assert (ours[0].metrics["processes"], "processes" in theirs[0].metrics) == (2, False)
    assert FIGURE[learner] in ours[1][-1] or settings.get("classes")
    if settings.get("lr") == 0.1:
        assert ours[0].metrics["epochs"] < 8  # stopped early, in both


@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": {"patience": 1}, "seeds": (1, 2), "averaging": {"decay": 0.5}}], ids=str
)
@pytest.mark.parametrize("learner", ["classifier", "table"])
def test_with_batch_norm_over_the_rows_of_each_process_they_come_close(learner, settings, two) -> None:
    train = {"classifier": small.train_texts, "table": small.train_table}[learner]
    ours, theirs = train(**settings), alone(train, **settings)
    last = [trained[1][-1][FIGURE[learner]] for trained in (ours, theirs)]
    assert last[0] == pytest.approx(last[1], rel=0.25)
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    small.assert_same(train(**settings), ours)


@pytest.mark.parametrize("learner", ["table", "language model"])
def test_with_dropout_two_processes_come_close(learner: str, two: None) -> None:
    settings = {"dropout": 0.2}
    ours, theirs, plain = LEARNERS[learner](**settings), alone(LEARNERS[learner], **settings), LEARNERS[learner]()
    figures = [trained[1][-1][FIGURE[learner]] for trained in (ours, theirs, plain)]
    assert figures[0] != figures[1] != figures[2]  # masks of their own
    assert figures[0] == pytest.approx(figures[1], rel=0.1)
    small.assert_same(LEARNERS[learner](**settings), ours)  # the same ones every time


@pytest.mark.parametrize("learner", ["table", "language model", "classifier"])
@pytest.mark.parametrize("report", [1, 4])
def test_a_training_that_is_cut_off_goes_on_to_the_same_bits(learner, report, two, tmp_path) -> None:
    settings = {"dropout": 0.3, **({"seeds": (1,)} if learner == "table" else {})}
    whole = LEARNERS[learner](**settings)
    with progress.listening(raise_at(report)), checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(Killed):
        LEARNERS[learner](**settings)
    kept = list(tmp_path.glob("*.pt"))
    assert kept and step_of(sorted(kept)[-1]) > 0
    with checkpoints.checkpointing(tmp_path, 3600.0):
        small.assert_same(LEARNERS[learner](**settings), whole)


def test_values_arrive_as_they_were_sent(two: None) -> None:
    numbers = torch.Generator().manual_seed(2)
    large, low = torch.randn(300, 70, generator=numbers), torch.randn(4, 3, generator=numbers).bfloat16()
    array = np.arange(90_000, dtype=np.uint16)[::2]
    value = {"large": large.t(), "array": array, "low": low, "text": "ä", "none": None}
    options = FitOptions.model_validate({"epochs": 1, "lr": 1.0, "batch_size": 2, "device": "cpu"})
    sums = distributed.run(summed, value, options=options)
    assert sums[0] == sums[1]
    assert sums[1] == {"large": large.double().sum().item(), "array": int(array.astype(int).sum()), "text": "ä"}


def summed(value: dict[str, Any], stop: Any) -> list[Any]:
    value["large"][0] += 0.0  # may be written to
    sums = {"large": value["large"].double().sum().item(), "array": int(value["array"].astype(int).sum())}
    assert value["low"].dtype == torch.bfloat16 and value["none"] is None
    return distributed.gather({**sums, "text": value["text"]})


def test_a_batch_too_small_to_share_out_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 processes share out a batch of 2 row.*training\.batch_size to 3"):
        Shard(1, 3).check(2, "row(s)")
    assert [Shard(rank, 3).weight(8) for rank in range(3)] == [0.25, 0.375, 0.375]
