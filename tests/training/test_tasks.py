"""What the training loop asks of its task, and what it makes of the answers."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import Killed, raise_at
from fits import plain_options, same, seeded, spy_rates, values_of
from fits import train as train_network
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import optimizer as schedules
from embedline.training import train as loop
from embedline.training.batches import Autocast, BatchLoss, Fingerprint, TableBatches, batch_sizes, row_loss
from embedline.training.options import FitOptions

FACTORS = [1.0, 0.25, 2.0, 0.5]


class Counted:
    """Four batches of numbers drawn at the beginning of an epoch; the sum of those read is carried along.

    The loss depends on that sum, so that a training that loses it ends elsewhere.
    """

    n_batches, rows_per_batch = 4, 2.5

    def __init__(self, factors: list[float] = FACTORS, penalty: float = 0.0) -> None:
        self.factors, self.penalty = factors, penalty
        self.calls: list[str] = []
        self.values = torch.empty(0)
        self.total = torch.zeros(())

    def fingerprint(self) -> Fingerprint:
        return {"factors": self.factors}

    def begin_epoch(self, order: torch.Generator) -> None:
        self.calls.append("begin")
        self.values, self.total = torch.randn(4, 3, generator=order), torch.zeros(())

    def rate(self, index: int) -> float:
        return self.factors[index]

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        self.calls.append(f"loss {index}")
        self.total = self.total + self.values[index].sum()
        with autocast():
            output = network(self.values[index])
        reported = (output.float() - self.total).square().mean()
        return BatchLoss(reported + self.penalty * output.square().mean(), reported)

    def state(self) -> list[Tensor]:
        return [self.total]

    def restore(self, state: list[Tensor]) -> None:
        self.calls.append("restore")
        (self.total,) = state


def bias_of(network: nn.Module) -> dict[str, float]:
    return {"bias": network.bias.item()}  # type: ignore[operator, union-attr]


def losses_of(task: Counted) -> int:
    return sum(call.startswith("loss") for call in task.calls)


ACCUMULATE = pytest.mark.parametrize("accumulate", [1, 3])  # batches a step; of four, the last step takes one


def train(task: Any, *, evaluate: Any = None, checkpoint: Any = None, **changes: Any) -> tuple[Any, loop.FitResult]:
    """Train a line; its state and the result."""
    network = seeded(lambda: nn.Linear(3, 1))
    options = plain_options(FitOptions, **{"batch_size": 1, "lr": 0.1, **changes})
    return network.state_dict(), train_network(network, task, options, evaluate=evaluate, checkpoint=checkpoint)


@ACCUMULATE
def test_a_batchs_factor_multiplies_the_rate_and_not_the_record_of_it(accumulate, monkeypatch) -> None:
    used, task = spy_rates(monkeypatch), Counted()
    _, fitted = train(task, accumulate=accumulate)
    assert task.calls == ["begin", "loss 0", "loss 1", "loss 2", "loss 3"] * 3
    factors = (FACTORS if accumulate == 1 else [sum(FACTORS[:3]) / 3, FACTORS[3]]) * 3  # the mean of a step's batches
    options, n_steps = FitOptions(epochs=3, batch_size=1, lr=0.1), len(factors)
    planned = [schedules.learning_rate(options, step / n_steps) for step in range(n_steps)]
    assert used == pytest.approx([lr * factor for lr, factor in zip(planned, factors, strict=True)])
    assert values_of(fitted.history, "lr") == pytest.approx(planned)


def test_the_penalised_loss_is_descended_and_the_plain_one_reported() -> None:
    plain, first = train(Counted(penalty=0.0))
    penalised, second = train(Counted(penalty=3.0))
    assert first.history[0]["train_loss"] == second.history[0]["train_loss"]  # before the first step
    assert not torch.equal(plain["weight"], penalised["weight"])
    assert penalised["weight"].norm() < plain["weight"].norm()


@ACCUMULATE
def test_the_reported_speed_counts_the_tasks_rows(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0])  # at the beginning; ever after four seconds later
    monkeypatch.setattr("time.perf_counter", lambda: next(readings, 104.0))
    _, fitted = train(Counted(), epochs=2, accumulate=accumulate)  # too few steps to leave the first ones out
    assert (fitted.rows_per_second, fitted.seconds) == (8 * 2.5 / 4.0, 4.0)  # eight batches of 2.5 rows
    assert fitted.history[-1]["step"] == {1: 8, 3: 4}[accumulate]


@pytest.mark.parametrize(
    ("accumulate", "report", "n_read", "carried"),
    [
        *((1, 1, 1, True), (1, 3, 3, True), (1, 4, 4, True), (1, 5, 4, False), (1, 6, 5, True), (1, 14, 12, True)),
        *((3, 1, 3, True), (3, 2, 4, True), (3, 3, 4, False), (3, 4, 7, True)),  # between whole steps
    ],
)
def test_what_is_carried_goes_on_where_a_training_was_cut_off(accumulate, report, n_read, carried, tmp_path) -> None:
    settings: dict[str, Any] = {"accumulate": accumulate, "evaluate": bias_of}
    whole, fitted = train(Counted(), **settings)
    settings["checkpoint"] = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    with progress.listening(raise_at(report)), pytest.raises(Killed):  # a report a step, and one an evaluation
        train(Counted(), **settings)
    task = Counted()
    resumed, again = train(task, **settings)
    assert (task.calls[:2] == ["begin", "restore"]) is carried  # nothing is carried into another epoch
    assert losses_of(task) == 12 - n_read
    assert same(resumed, whole) and again.history == fitted.history


def test_a_checkpoint_of_another_task_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    train(Counted(), checkpoint=kept)
    task = Counted(factors=[1.0] * 4)
    train(task, checkpoint=kept)
    assert len(task.calls) == 15
    assert "factors is [1.0, 0.25, 2.0, 0.5] there and [1.0, 1.0, 1.0, 1.0] here" in caplog.text
    train(task, checkpoint=kept, accumulate=3)
    assert "options.accumulate is 1 there and 3 here" in caplog.text


def test_rows_are_cut_from_a_new_permutation_each_epoch() -> None:
    values, seen = torch.arange(11.0), []
    network = nn.Identity()
    network.register_forward_hook(lambda module, inputs, output: seen.append(output))
    task = TableBatches([values, values], lambda out, target: out.sum(), batch_size=4, device=values.device)
    assert (task.n_batches, task.rows_per_batch) == (3, 11 / 3)
    order, expected = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for _ in range(2):
        task.begin_epoch(order)
        permutation = torch.randperm(11, generator=expected).float()
        seen.clear()
        for index in range(3):
            task.loss(network, index, nullcontext)
        assert [len(batch) for batch in seen] == [4, 4, 3]
        assert torch.equal(torch.cat(seen), permutation)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 6, 7, 10, 140, 255, 256, 257, 511, 512, 513])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 128, 256])
def test_batches_read_every_row_and_are_equal_but_for_one(n_rows: int, batch_size: int) -> None:
    sizes = batch_sizes(n_rows, batch_size)
    assert sum(sizes) == n_rows
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, batch_size, n_rows)  # batch-norm needs two
    assert max(sizes) <= max(batch_size, 3)
    if n_rows % batch_size == 0:
        assert sizes == [batch_size] * (n_rows // batch_size)
    elif batch_size > 2:
        assert len(sizes) == -(-n_rows // batch_size)


def test_the_loss_of_rows_is_computed_in_full_precision() -> None:
    network, batch, dtypes = seeded(lambda: nn.Linear(3, 1)), [torch.randn(6, 3), torch.randn(6, 1)], []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        dtypes.append(output.dtype)
        return F.mse_loss(output, target)

    low = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    exact, rounded = (row_loss(network, batch, loss, autocast) for autocast in (nullcontext, low))
    assert dtypes == [torch.float32] * 2
    assert exact.item() != rounded.item()
    assert exact.item() == pytest.approx(rounded.item(), rel=0.02)
