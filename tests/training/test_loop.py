"""The training loop against slow references: overfitting, determinism, records, averaging."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.training import metrics as progress
from embedline.training import optimizer as schedules
from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.optimizer import LayerGroup, optimizer_groups
from embedline.training.options import TrainingOptions


def _options(**changes: Any) -> TrainingOptions:
    values = {"epochs": 3, "batch_size": 5, "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return TrainingOptions.model_validate({**values, **changes})


def _data(n_rows: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_rows, 3, generator=generator), torch.randn(n_rows, generator=generator)


class Net(nn.Module):
    """Two layers with batch normalisation, so that there are buffers as well as parameters."""

    def __init__(self, *, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, values: Tensor) -> Tensor:
        return self.body(values).squeeze(-1)


def _net(seed: int = 0, **sizes: Any) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(**sizes)


def _fit(options: TrainingOptions, *, seed: int = 7, network: nn.Module | None = None, **more: Any) -> loop.FitResult:
    tensors = more.pop("tensors", None) or _data()
    accelerator = make_accelerator(options)
    return loop.fit(network or _net(), tensors, F.mse_loss, options, accelerator=accelerator, seed=seed, **more)


def _same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


def test_it_overfits_twenty_rows() -> None:
    fitted = _fit(_options(epochs=300, batch_size=20, lr=0.02))
    values, target = _data()
    assert F.mse_loss(fitted.network(values), target).item() < 1e-3 * target.var().item()


def test_the_same_seed_gives_the_same_weights_to_the_last_bit_and_another_does_not() -> None:
    first, again, other = (_fit(_options(), seed=seed) for seed in (7, 7, 8))
    assert _same(first.network, again.network)
    assert first.history == again.history
    assert not _same(first.network, other.network)


def test_it_equals_a_hand_written_loop() -> None:
    options = _options(epochs=4, batch_size=8, weight_decay=0.1)  # 20 rows: batches of 7, 7 and 6
    fitted = _fit(options)
    network, (values, target) = _net().train(), _data()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=options.betas, eps=options.eps)
    order, step = torch.Generator().manual_seed(7), 0
    for _ in range(4):
        permutation = torch.randperm(20, generator=order)
        for rows in (permutation[:7], permutation[7:14], permutation[14:]):
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate(options, step / 12)
                group["betas"] = (schedules.momentum(options, step / 12), 0.99)
            optimizer.zero_grad()
            F.mse_loss(network(values[rows]), target[rows]).backward()
            optimizer.step()
            step += 1
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(fitted.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_records_hold_step_epoch_rate_and_mean_loss() -> None:
    options = _options(epochs=2)
    fitted = _fit(options)
    assert [record["step"] for record in fitted.history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [record["epoch"] for record in fitted.history] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    rates = [schedules.learning_rate(options, step / 8) for step in range(8)]
    assert [record["lr"] for record in fitted.history] == pytest.approx(rates)
    values, target = _data()
    rows = torch.randperm(20, generator=torch.Generator().manual_seed(7))[:5]
    first = F.mse_loss(_net().train()(values[rows]), target[rows]).item()
    assert fitted.history[0]["train_loss"] == pytest.approx(first, rel=1e-5)


def test_a_record_of_several_steps_holds_the_mean_of_their_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    each = _fit(_options(epochs=2)).history
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)
    pairs = _fit(_options(epochs=2)).history
    assert [record["step"] for record in pairs] == [2, 4, 6, 8]
    means = [(each[k]["train_loss"] + each[k + 1]["train_loss"]) / 2 for k in (0, 2, 4, 6)]
    assert [record["train_loss"] for record in pairs] == pytest.approx(means)


def test_averaging_equals_an_average_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Tensor]] = []
    real_step = loop.optimizer_step

    def spy(value: Tensor, network: nn.Module, *arguments: Any) -> None:
        real_step(value, network, *arguments)
        states.append(copy.deepcopy(network.state_dict()))

    monkeypatch.setattr(loop, "optimizer_step", spy)
    fitted = _fit(_options(averaging={"decay": 0.4}))
    for name, start in _net().state_dict().items():
        expected = start
        for update, state in enumerate(states, start=1):
            decay = min(0.4, (1 + update) / (10 + update))  # the warm-up: 2/11, 3/12, … up to 0.4
            if start.is_floating_point():
                expected = decay * expected + (1 - decay) * state[name]
            else:
                expected = state[name]
        torch.testing.assert_close(fitted.network.state_dict()[name], expected)
    assert not _same(fitted.network, _fit(_options()).network)


def test_evaluate_is_called_once_an_epoch_and_never_changes_the_training() -> None:
    seen: list[tuple[int, float]] = []

    def evaluate(network: nn.Module) -> dict[str, float]:
        network.eval()
        weight = network.state_dict()["body.0.weight"].sum().item()
        seen.append((id(network), weight))
        return {"rmse": weight}

    options = _options(averaging={"decay": 0.5})
    watched = _fit(options, network=_net(dropout=0.3), evaluate=evaluate)
    assert len(seen) == options.epochs
    assert {network for network, _ in seen} == {id(watched.network)}  # the averaged one, which is what is stored
    assert seen[-1][1] == watched.network.state_dict()["body.0.weight"].sum().item()
    assert [record["rmse"] for record in watched.history if "rmse" in record] == [weight for _, weight in seen]
    assert [record["epoch"] for record in watched.history if "rmse" in record] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("averaging", [None, {"decay": 0.5}])
def test_a_watched_training_ends_in_the_same_weights(averaging: dict[str, float] | None) -> None:
    def train(evaluate: loop.Evaluate | None) -> loop.FitResult:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)  # of the dropout masks
            return _fit(_options(averaging=averaging), network=_net(dropout=0.3), evaluate=evaluate)

    assert _same(train(None).network, train(lambda network: {"x": float(network.eval().training)}).network)


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    network = _net()
    decayed, free = optimizer_groups([LayerGroup([network])], 0.3)
    assert [tuple(p.shape) for p in decayed["params"]] == [(32, 3), (1, 32)]
    assert [tuple(p.shape) for p in free["params"]] == [(32,), (32,), (32,), (1,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    network = nn.Linear(2, 1, bias=False)
    assert len(optimizer_groups([LayerGroup([network])], 0.1)) == 1
    network.weight.requires_grad_(False)
    assert optimizer_groups([LayerGroup([network])], 0.1) == []


def test_a_batch_larger_than_the_data_takes_all_of_it() -> None:
    fitted = _fit(_options(batch_size=1000))
    assert [record["step"] for record in fitted.history] == [1, 2, 3]
    assert _same(fitted.network, _fit(_options(batch_size=20)).network)


def test_the_gradient_is_clipped_to_the_norm() -> None:
    network, (values, target) = _net(), _data()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    loss = F.mse_loss(network(values), 100 * target)
    loop.optimizer_step(loss, network, optimizer, 0.25)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.25, rel=1e-4)


def test_clipping_reaches_the_training() -> None:
    assert not _same(_fit(_options(clip_norm=1e-4)).network, _fit(_options()).network)


def test_the_global_random_state_is_left_alone_without_dropout() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    _fit(_options())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_listeners_hear_the_labelled_figures_of_each_step() -> None:
    heard: list[tuple[dict[str, float], int]] = []
    with progress.listening(lambda figures, step: heard.append((figures, step))):
        fitted = _fit(_options(epochs=1), evaluate=lambda network: {"rmse": 4.0}, label="member1.")
    assert [step for _, step in heard] == [1, 2, 3, 4, 4]
    assert heard[0][0] == {f"member1.{name}": fitted.history[0][name] for name in ("train_loss", "lr")}
    assert heard[-1] == ({"member1.rmse": 4.0}, 4)
    n_heard = len(heard)
    _fit(_options(epochs=1))
    assert len(heard) == n_heard  # nobody listens any more


def test_speed_leaves_the_first_steps_out() -> None:
    fitted = _fit(_options(epochs=100))
    assert fitted.seconds > 0
    assert fitted.rows_per_second > 400 * 5 / fitted.seconds * 0.9
    assert _fit(_options(epochs=1)).rows_per_second > 0  # too short to leave any out
