"""Several batches a step: the same training as with larger batches, and what becomes of epochs that do not divide."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import Killed, raise_at
from test_tasks import FACTORS, Counted
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import optimizer as schedules
from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.options import FitOptions

KINDS: list[dict[str, Any]] = [
    {"decay": "decoupled", "weight_decay": 0.3},
    {"decay": "l2", "weight_decay": 0.3, "clip_norm": 0.2, "averaging": {"decay": 0.5}},
]


def make_options(**changes: Any) -> FitOptions:
    values = {"epochs": 3, "batch_size": 32, "lr": 0.02, "device": "cpu", "precision": "fp32"}
    return FitOptions.model_validate({**values, **changes})


def make_data(n_rows: int = 256) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return torch.randn(n_rows, 3, generator=numbers), torch.randn(n_rows, generator=numbers)


def make_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Weights after each step of the optimiser."""
    found: list[dict[str, Tensor]] = []
    real = loop.optimizer_step

    def spy(value: Tensor, network: nn.Module, *arguments: Any) -> None:
        real(value, network, *arguments)
        found.append(copy.deepcopy(network.state_dict()))

    monkeypatch.setattr(loop, "optimizer_step", spy)
    return found


def fit(options: FitOptions, tensors: tuple[Tensor, Tensor], **more: Any) -> loop.FitResult:
    accelerator = make_accelerator(options)
    return loop.fit(make_net(), tensors, F.mse_loss, options, accelerator=accelerator, seed=7, **more)


@pytest.mark.parametrize("kind", KINDS, ids=["decoupled", "l2"])
def test_two_batches_of_32_are_one_of_64_step_by_step(kind: dict[str, Any], states: list[dict[str, Tensor]]) -> None:
    halves = fit(make_options(batch_size=32, accumulate=2, **kind), make_data())
    found = states.copy()
    states.clear()
    whole = fit(make_options(batch_size=64, **kind), make_data())
    assert len(found) == len(states) == 3 * 4
    for step, (ours, theirs) in enumerate(zip(found, states, strict=True)):
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6, msg=f"step {step}, {name}")
    for name, tensor in whole.network.state_dict().items():  # the averaged one with l2
        torch.testing.assert_close(halves.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert [(r["step"], r["epoch"], r["lr"]) for r in halves.history] == [
        (r["step"], r["epoch"], r["lr"]) for r in whole.history
    ]
    losses = [record["train_loss"] for record in whole.history]
    assert [record["train_loss"] for record in halves.history] == pytest.approx(losses, rel=1e-4)
    single = fit(make_options(batch_size=32, **kind), make_data())
    assert len(single.history) == 24 and single.history[-1]["train_loss"] != pytest.approx(losses[-1], rel=1e-4)


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(states: list[dict[str, Tensor]]) -> None:
    options = make_options(batch_size=8, accumulate=3, epochs=2, schedule="constant", betas=(0.9, 0.98))
    fitted = fit(options, make_data(40))  # five batches: a step of three, a step of two
    network, (values, target) = make_net(), make_data(40)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, betas=(0.9, 0.98), eps=options.eps, weight_decay=0.0)
    order, step, losses = torch.Generator().manual_seed(7), 0, []
    for _ in range(2):
        batches = torch.randperm(40, generator=order).split(8)
        for taken in (batches[:3], batches[3:]):
            each = [F.mse_loss(network(values[rows]), target[rows]) for rows in taken]
            optimizer.zero_grad()
            torch.stack(each).mean().backward()
            optimizer.step()
            for name, tensor in network.state_dict().items():
                torch.testing.assert_close(states[step][name], tensor, rtol=1e-4, atol=1e-6, msg=f"step {step}, {name}")
            step += 1
            losses.append(torch.stack(each).mean().item())
    assert [(record["step"], record["epoch"]) for record in fitted.history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert [record["train_loss"] for record in fitted.history] == pytest.approx(losses, rel=1e-4)


def test_a_step_never_reaches_into_the_next_epoch(states: list[dict[str, Tensor]]) -> None:
    fitted = fit(make_options(batch_size=8, accumulate=100), make_data(40))
    assert len(states) == len(fitted.history) == 3
    same = fit(make_options(batch_size=8, accumulate=5), make_data(40))
    assert all(torch.equal(t, same.network.state_dict()[name]) for name, t in fitted.network.state_dict().items())


def test_a_record_of_several_steps_holds_the_mean_over_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    options = make_options(batch_size=8, accumulate=3, epochs=2)
    each = fit(options, make_data(40)).history
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 2)
    pairs = fit(options, make_data(40)).history
    means = [(3 * each[k]["train_loss"] + 2 * each[k + 1]["train_loss"]) / 5 for k in (0, 2)]
    assert [record["train_loss"] for record in pairs] == pytest.approx(means)


def test_the_gradient_is_clipped_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    accelerator = make_accelerator(make_options())
    real = nn.utils.clip_grad_norm_

    def spy(parameters: Any, most: float) -> Tensor:
        norms.append(float(real(parameters, most)))
        return torch.tensor(norms[-1])

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    options = make_options(batch_size=32, accumulate=4, clip_norm=0.1, epochs=1)
    values, target = make_data()
    loop.fit(make_net(), (values, target), F.mse_loss, options, accelerator=accelerator, seed=7)
    rows = torch.randperm(256, generator=torch.Generator().manual_seed(7))[:128]
    network = make_net()
    F.mse_loss(network(values[rows]), target[rows]).backward()
    first = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm().item()
    assert len(norms) == 2
    assert norms[0] == pytest.approx(first, rel=1e-4)  # of the mean over the four batches


def train(task: Counted, options: dict[str, Any], **more: Any) -> tuple[dict[str, Tensor], loop.FitResult]:
    values = make_options(batch_size=1, lr=0.1, **options)
    network = nn.Linear(3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.3, -0.2, 0.1]]))
        network.bias.zero_()
    fitted = loop.train(network, task, values, accelerator=make_accelerator(values), seed=5, **more)
    return network.state_dict(), fitted


def test_a_steps_rate_has_the_mean_of_its_batches_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    real = loop.set_rates

    def spy(optimizer: torch.optim.Optimizer, lr: float, beta1: float) -> None:
        used.append(lr)
        real(optimizer, lr, beta1)

    monkeypatch.setattr(loop, "set_rates", spy)
    task = Counted()
    train(task, {"accumulate": 3, "epochs": 2})
    assert task.calls == ["begin", "loss 0", "loss 1", "loss 2", "loss 3"] * 2
    planned = [schedules.learning_rate(make_options(lr=0.1, epochs=2), step / 4) for step in range(4)]
    factors = [sum(FACTORS[:3]) / 3, FACTORS[3]] * 2
    assert used == pytest.approx([lr * factor for lr, factor in zip(planned, factors, strict=True)])


def test_the_reported_speed_counts_rows_not_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0])  # at the beginning; ever after four seconds later
    monkeypatch.setattr("time.perf_counter", lambda: next(readings, 104.0))
    _, fitted = train(Counted(), {"accumulate": 3, "epochs": 2})
    assert fitted.history[-1]["step"] == 4
    assert fitted.rows_per_second == 8 * 2.5 / 4.0  # eight batches of 2.5 rows


@pytest.mark.parametrize(("report", "step", "carried"), [(1, 1, True), (2, 2, True), (3, 2, False), (4, 3, True)])
def test_a_training_is_cut_off_between_whole_steps_and_resumed_to_the_same_bits(
    report: int, step: int, carried: bool, tmp_path: Path
) -> None:
    def evaluate(network: nn.Module) -> dict[str, float]:
        return {"bias": network.bias.item()}  # type: ignore[operator, union-attr]

    whole, fitted = train(Counted(), {"accumulate": 3}, evaluate=evaluate)
    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    with progress.listening(raise_at(report)), pytest.raises(Killed):
        train(Counted(), {"accumulate": 3}, checkpoint=kept, evaluate=evaluate)
    task = Counted()
    resumed, again = train(task, {"accumulate": 3}, checkpoint=kept, evaluate=evaluate)
    assert (task.calls[:2] == ["begin", "restore"]) is carried
    assert len([call for call in task.calls if call.startswith("loss")]) == 12 - [0, 3, 4, 7][step]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert again.history == fitted.history


def test_a_half_accumulated_gradient_reaches_no_checkpoint(tmp_path: Path) -> None:
    class Failing(Counted):
        def loss(self, *arguments: Any) -> Any:
            if (
                len([call for call in self.calls if call.startswith("loss")]) == 5
            ):  # the second of an epoch's first step
                raise Killed
            return super().loss(*arguments)

    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 0.0)
    with pytest.raises(Killed):
        train(Failing(), {"accumulate": 3}, checkpoint=kept)
    assert torch.load(tmp_path / "task.pt", weights_only=True)["state"]["step"] == 2
    whole, _ = train(Counted(), {"accumulate": 3})
    resumed, _ = train(Counted(), {"accumulate": 3}, checkpoint=kept)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_a_checkpoint_of_another_accumulation_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    train(Counted(), {"accumulate": 2}, checkpoint=kept)
    train(Counted(), {"accumulate": 3}, checkpoint=kept)
    assert "options.accumulate is 2 there and 3 here" in caplog.text


def test_l2_is_the_lessons_penalty_of_the_matrices_with_half_the_weight_decay() -> None:
    weight_decay = 0.4
    wd = weight_decay / 2.0
    fitted = fit(make_options(decay="l2", weight_decay=weight_decay, epochs=2, batch_size=64), make_data())
    network, (values, target) = make_net(), make_data()
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0, eps=1e-5)
    options, order, step = make_options(epochs=2), torch.Generator().manual_seed(7), 0
    for _ in range(2):
        for rows in torch.randperm(256, generator=order).split(64):
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate(options, step / 8)
                group["betas"] = (schedules.momentum(options, step / 8), 0.99)
            loss = F.mse_loss(network(values[rows]), target[rows])
            for weight in (p for p in network.parameters() if p.ndim > 1):
                loss += wd * (weight**2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(fitted.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    decoupled = fit(make_options(weight_decay=weight_decay, epochs=2, batch_size=64), make_data())
    assert not torch.allclose(decoupled.network[0].weight, fitted.network[0].weight, rtol=1e-2)  # type: ignore[index]
