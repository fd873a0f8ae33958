"""Several processes train one network as one process does, and none of them is left behind."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_trainings as small
import torch
from cut_off import Killed, raise_at, step_of
from embedline.training.batch_norm import SharedBatchNorm, share_batch_norm
from embedline.training.parcels import share
from embedline.training.processes import Team
from small_trainings import Trained
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.training import checkpoint as checkpoints
from embedline.training import processes, progress
from embedline.training import train as loop
from embedline.training.batches import Share
from embedline.training.options import FitOptions

TWO = FitOptions.model_validate({"epochs": 1, "lr": 1.0, "batch_size": 2, "processes": 2, "device": "cpu"})
LEARNERS: dict[str, Callable[..., Trained]] = {
    "table": small.train_table,
    "ratings": small.train_factors,
    "language model": small.train_words,
    "classifier": small.train_texts,
}
FIGURE = {"table": "exp_rmspe", "ratings": "rmse", "language model": "validation_loss", "classifier": "validation_loss"}


@pytest.fixture(scope="module")
def two() -> Iterator[Team]:
    """This process and another one, for all tests that leave them whole: a process takes seconds to start."""
    with processes.team(TWO) as team:
        assert team is not None
        yield team


def alone(train: Callable[..., Trained], **settings: Any) -> Trained:
    """What one process makes of the same training."""
    with processes.acting_as(None):
        return train(**settings)


def assert_close(ours: Trained, theirs: Trained, rtol: float = 1e-4) -> None:
    """The same weights and records but for rounding."""
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    for name, tensor in theirs[0].weights.items():
        torch.testing.assert_close(
            ours[0].weights[name], tensor, rtol=rtol, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert len(ours[1]) == len(theirs[1])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert mine == pytest.approx(other, rel=rtol, abs=1e-6)


def assert_same(ours: Trained, theirs: Trained) -> None:
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    assert [name for name, tensor in theirs[0].weights.items() if not torch.equal(ours[0].weights[name], tensor)] == []
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("learner", LEARNERS)
def test_two_processes_give_the_weights_of_one(learner: str, two: Team) -> None:
    ours, theirs = LEARNERS[learner](), alone(LEARNERS[learner])
    assert_close(ours, theirs)
    assert (ours[0].metrics["processes"], "processes" in theirs[0].metrics) == (2, False)
    assert FIGURE[learner] in ours[1][-1]


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        ("table", {"accumulate": 3, "clip_norm": 0.3, "averaging": {"decay": 0.9}, "decay": "l2", "weight_decay": 0.1}),
        ("table", {"classes": True, "class_weights": "balanced", "label_smoothing": 0.1, "batch_size": 64}),
        ("table", {"early_stopping": {"patience": 1}, "schedule": "constant", "lr": 0.1, "epochs": 8, "seeds": (1,)}),
        ("table", {"memory": "mapped"}),
        ("ratings", {"early_stopping": {"patience": 1}, "loss": "huber"}),
        ("language model", {"random_bptt": True, "tokens_per_epoch": 900}),
        ("classifier", {"early_stopping": {"patience": 1}, "seeds": (1, 2), "averaging": {"decay": 0.5}}),
    ],
    ids=str,
)
def test_two_processes_do_what_the_settings_say(learner: str, settings: dict[str, Any], two: Team) -> None:
    ours, theirs = LEARNERS[learner](**settings), alone(LEARNERS[learner], **settings)
    assert_close(ours, theirs, rtol=1e-3)
    if settings.get("lr") == 0.1:
        assert ours[0].metrics["epochs"] < 8  # stopped early, in both


@pytest.mark.parametrize("learner", LEARNERS)
def test_with_dropout_two_processes_come_close(learner: str, two: Team) -> None:
    settings = {"dropout": 0.2}
    ours, theirs, plain = LEARNERS[learner](**settings), alone(LEARNERS[learner], **settings), LEARNERS[learner]()
    figures = [trained[1][-1][FIGURE[learner]] for trained in (ours, theirs, plain)]
    assert figures[0] != figures[1] != figures[2]  # masks of their own
    assert figures[0] == pytest.approx(figures[1], rel=0.1)
    assert_same(LEARNERS[learner](**settings), ours)  # the same ones every time


@pytest.mark.parametrize("learner", ["table", "language model", "classifier"])
@pytest.mark.parametrize("report", [1, 4])
def test_a_training_that_is_cut_off_goes_on_to_the_same_bits(
    learner: str, report: int, two: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)
    settings = {"dropout": 0.3, **({"seeds": (1,)} if learner == "table" else {})}
    whole = LEARNERS[learner](**settings)
    with progress.listening(raise_at(report)), checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(Killed):
        LEARNERS[learner](**settings)
    kept = list(tmp_path.glob("*.pt"))
    assert kept and step_of(sorted(kept)[-1]) > 0
    with checkpoints.checkpointing(tmp_path, 3600.0):
        assert_same(LEARNERS[learner](**settings), whole)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(0, 7)])
def test_batch_norm_of_shared_rows_is_that_of_all(rows: slice, two: Team) -> None:
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float() * 3.0 + 100.0
    plain, network = nn.BatchNorm1d(5), nn.Sequential(nn.BatchNorm1d(5))
    share_batch_norm(network)
    assert isinstance(network[0], SharedBatchNorm)
    whole, part = values.clone().requires_grad_(), values[rows].clone().requires_grad_()
    with two.following(normalise_rest, values[rows.stop :], rows.stop):
        output = network(part)
        (output * weights()[rows]).sum().backward()
    expected = plain(whole)
    (expected * weights()).sum().backward()
    torch.testing.assert_close(output, expected[rows], rtol=1e-4, atol=1e-4)
    assert whole.grad is not None and part.grad is not None
    torch.testing.assert_close(part.grad, whole.grad[rows], rtol=1e-3, atol=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network[0].state_dict()[name], tensor)
    assert torch.equal(network.eval()(values), network.eval()(values))


def weights() -> Tensor:
    return torch.linspace(-1.0, 1.0, 35).reshape(7, 5)


def normalise_rest(values: Tensor, first: int) -> None:
    network = nn.Sequential(nn.BatchNorm1d(5))
    share_batch_norm(network)
    # Its rows need a gradient here as there: every process takes part in the exchange of both passes.
    (network(values.clone().requires_grad_()) * weights()[first:]).sum().backward()


@pytest.mark.parametrize("by_file", [True, False])
def test_values_arrive_as_they_were_sent(by_file: bool, two: Team) -> None:
    numbers = torch.Generator().manual_seed(2)
    large, low = torch.randn(300, 70, generator=numbers), torch.randn(4, 3, generator=numbers).bfloat16()
    value = {
        "large": large.t(),
        "array": np.arange(90_000, dtype=np.uint16)[::2],
        "low": low,
        "text": "ä",
        "none": None,
    }
    with two.following(answer, by_file):
        share(value, by_file=by_file)
        sums = two.gather(None)[1]
    assert sums == {"large": large.double().sum().item(), "array": int(value["array"].astype(int).sum()), "text": "ä"}


def answer(by_file: bool) -> None:
    value = share()
    assert isinstance(value["large"].numpy().base, np.ndarray | torch.Tensor) or by_file
    value["large"][0] += 0.0  # may be written to
    sums = {"large": value["large"].double().sum().item(), "array": int(value["array"].astype(int).sum())}
    team = processes.current()
    assert team is not None and value["low"].dtype == torch.bfloat16
    team.gather({**sums, "text": value["text"]})


@pytest.mark.parametrize(("learner", "what"), [("table", "row"), ("language model", "stream"), ("classifier", "docum")])
def test_a_batch_too_small_to_share_out_is_refused(learner: str, what: str) -> None:
    share_of_three = Share(1, 3)
    with pytest.raises(DataError, match=rf"3 processes share out a batch of 2 {what}.*training\.batch_size to 3"):
        share_of_three.check(2, f"{what}(s)")
    assert [Share(rank, 3).weight(8) for rank in range(3)] == [0.25, 0.375, 0.375]


# Below, processes of their own, which do not outlive the test.


def pids(team: Team) -> list[int]:
    return [helper.pid for helper in team.helpers]


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def own() -> Iterator[None]:
    """No team of other tests."""
    if processes.current() is not None:
        pytest.skip("the team of this module's other tests is at work")
    yield
