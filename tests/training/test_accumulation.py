"""Several batches a step: the same training as with larger batches, and what becomes of epochs that do not divide."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import Killed, raise_at
from fits import assert_close, noise, plain_options, same, seeded, spy_rates, spy_states, values_of
from fits import fit as fit_network
from test_tasks import FACTORS, Counted, bias_of, losses_of, train
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import optimizer as schedules
from embedline.training import train as loop
from embedline.training.options import FitOptions

KINDS: list[dict[str, Any]] = [
    {"decay": "decoupled", "weight_decay": 0.3},
    {"decay": "l2", "weight_decay": 0.3, "clip_norm": 0.2, "averaging": {"decay": 0.5}},
]
VALUES, TARGET = noise(256)


def make_options(**changes: Any) -> FitOptions:
    return plain_options(FitOptions, **{"batch_size": 32, "lr": 0.02, **changes})


def make_net() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)))


def fit(n_rows: int = 256, **changes: Any) -> loop.FitResult:
    return fit_network(make_net(), noise(n_rows), make_options(**changes))


@pytest.mark.parametrize("kind", KINDS, ids=["decoupled", "l2"])
def test_two_batches_of_32_are_one_of_64_step_by_step(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    halves = fit(batch_size=32, accumulate=2, **kind)
    found = states.copy()
    states.clear()
    whole = fit(batch_size=64, **kind)
    assert len(found) == len(states) == 3 * 4
    for step, (ours, theirs) in enumerate(zip(found, states, strict=True)):
        assert_close(ours, theirs, hint=f"step {step}")
    assert_close(halves.network, whole.network)  # the averaged ones with l2
    for name in ("step", "epoch", "lr"):
        assert values_of(halves.history, name) == values_of(whole.history, name)
    losses = values_of(whole.history, "train_loss")
    assert values_of(halves.history, "train_loss") == pytest.approx(losses, rel=1e-4)
    single = fit(batch_size=32, **kind)
    assert len(single.history) == 24 and single.history[-1]["train_loss"] != pytest.approx(losses[-1], rel=1e-4)


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    betas = (0.9, 0.98)
    fitted = fit(40, batch_size=8, accumulate=3, epochs=2, schedule="constant", betas=betas)  # five batches: 3 + 2
    network, (values, target) = make_net(), noise(40)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, betas=betas, eps=make_options().eps, weight_decay=0.0)
    order, step, losses = torch.Generator().manual_seed(7), 0, []
    for _ in range(2):
        batches = torch.randperm(40, generator=order).split(8)
        for taken in (batches[:3], batches[3:]):
            loss = torch.stack([F.mse_loss(network(values[rows]), target[rows]) for rows in taken]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert_close(states[step], network, hint=f"step {step}")
            step += 1
            losses.append(loss.item())
    assert [(record["step"], record["epoch"]) for record in fitted.history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert values_of(fitted.history, "train_loss") == pytest.approx(losses, rel=1e-4)


def test_a_step_never_reaches_into_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    fitted = fit(40, batch_size=8, accumulate=100)
    assert len(states) == len(fitted.history) == 3
    assert same(fitted.network, fit(40, batch_size=8, accumulate=5).network)


def test_a_record_of_several_steps_holds_the_mean_over_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    each = values_of(fit(40, batch_size=8, accumulate=3, epochs=2).history, "train_loss")
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 2)
    pairs = values_of(fit(40, batch_size=8, accumulate=3, epochs=2).history, "train_loss")
    assert pairs == pytest.approx([(3 * each[k] + 2 * each[k + 1]) / 5 for k in (0, 2)])


def test_the_gradient_is_clipped_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[Tensor] = []
    real = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: norms.append(real(*given)) or norms[-1])
    fit(accumulate=4, clip_norm=0.1, epochs=1)
    rows = torch.randperm(256, generator=torch.Generator().manual_seed(7))[:128]
    network = make_net()
    F.mse_loss(network(VALUES[rows]), TARGET[rows]).backward()
    first = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm().item()
    assert len(norms) == 2
    assert norms[0].item() == pytest.approx(first, rel=1e-4)  # of the mean over the four batches


def test_a_steps_rate_has_the_mean_of_its_batches_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    used, task = spy_rates(monkeypatch), Counted()
    train(task, accumulate=3, epochs=2)
    assert task.calls == ["begin", "loss 0", "loss 1", "loss 2", "loss 3"] * 2
    planned = [schedules.learning_rate(make_options(lr=0.1, epochs=2), step / 4) for step in range(4)]
    factors = [sum(FACTORS[:3]) / 3, FACTORS[3]] * 2
    assert used == pytest.approx([lr * factor for lr, factor in zip(planned, factors, strict=True)])


def test_the_reported_speed_counts_rows_not_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0])  # at the beginning; ever after four seconds later
    monkeypatch.setattr("time.perf_counter", lambda: next(readings, 104.0))
    _, fitted = train(Counted(), accumulate=3, epochs=2)
    assert fitted.history[-1]["step"] == 4
    assert fitted.rows_per_second == 8 * 2.5 / 4.0  # eight batches of 2.5 rows


@pytest.mark.parametrize(("report", "step", "carried"), [(1, 1, True), (2, 2, True), (3, 2, False), (4, 3, True)])
def test_a_training_is_cut_off_between_whole_steps_and_resumed_to_the_same_bits(
    report: int, step: int, carried: bool, tmp_path: Path
) -> None:
    whole, fitted = train(Counted(), accumulate=3, evaluate=bias_of)
    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    with progress.listening(raise_at(report)), pytest.raises(Killed):
        train(Counted(), accumulate=3, checkpoint=kept, evaluate=bias_of)
    task = Counted()
    resumed, again = train(task, accumulate=3, checkpoint=kept, evaluate=bias_of)
    assert (task.calls[:2] == ["begin", "restore"]) is carried
    assert losses_of(task) == 12 - [0, 3, 4, 7][step]
    assert same(resumed, whole) and again.history == fitted.history


def test_a_half_accumulated_gradient_reaches_no_checkpoint(tmp_path: Path) -> None:
    class Failing(Counted):
        def loss(self, *arguments: Any) -> Any:
            if losses_of(self) == 5:  # the second of an epoch's first step
                raise Killed
            return super().loss(*arguments)

    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 0.0)
    with pytest.raises(Killed):
        train(Failing(), accumulate=3, checkpoint=kept)
    assert torch.load(tmp_path / "task.pt", weights_only=True)["state"]["step"] == 2
    assert same(train(Counted(), accumulate=3, checkpoint=kept)[0], train(Counted(), accumulate=3)[0])


def test_a_checkpoint_of_another_accumulation_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 3600.0)
    for accumulate in (2, 3):
        train(Counted(), accumulate=accumulate, checkpoint=kept)
    assert "options.accumulate is 2 there and 3 here" in caplog.text


def test_l2_is_the_lessons_penalty_of_the_matrices_with_half_the_weight_decay() -> None:
    fitted = fit(decay="l2", weight_decay=0.4, epochs=2, batch_size=64)
    network = make_net()
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0, eps=1e-5)
    options, order, step = make_options(epochs=2), torch.Generator().manual_seed(7), 0
    for _ in range(2):
        for rows in torch.randperm(256, generator=order).split(64):
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate(options, step / 8)
                group["betas"] = (schedules.momentum(options, step / 8), 0.99)
            penalty = sum((weight**2).sum() for weight in network.parameters() if weight.ndim > 1)
            optimizer.zero_grad()
            (F.mse_loss(network(VALUES[rows]), TARGET[rows]) + 0.4 / 2.0 * penalty).backward()
            optimizer.step()
            step += 1
    assert_close(fitted.network, network, rtol=1e-3)
    decoupled = fit(weight_decay=0.4, epochs=2, batch_size=64)
    assert not torch.allclose(decoupled.network[0].weight, fitted.network[0].weight, rtol=1e-2)  # type: ignore[index]
