"""The training loop against slow references: overfitting, determinism, records, averaging."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fits import assert_close, fit, fit_by_hand, noise, plain_options, same, seeded, spy_states, values_of
from torch import Tensor, nn

from embedline.training import metrics as progress
from embedline.training import optimizer as schedules
from embedline.training import train as loop
from embedline.training.optimizer import LayerGroup, optimizer_groups

VALUES, TARGET = noise(20)


class Net(nn.Module):
    """Two layers with batch normalisation, so that there are buffers as well as parameters."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = (nn.Linear(3, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(dropout))
        self.body = nn.Sequential(*hidden, nn.Linear(32, 1), nn.Flatten(0))

    def forward(self, values: Tensor) -> Tensor:
        return self.body(values)


def _fit(*, dropout: float = 0.0, seed: int = 7, evaluate: Any = None, label: str = "", **changes: Any) -> Any:
    options = plain_options(batch_size=changes.pop("batch_size", 5), **changes)
    network = seeded(lambda: Net(dropout))
    return fit(network, (VALUES, TARGET), options, seed=seed, evaluate=evaluate, label=label)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit_and_another_does_not() -> None:
    first, again, other = (_fit(seed=seed) for seed in (7, 7, 8))
    assert same(first.network, again.network)
    assert first.history == again.history
    assert not same(first.network, other.network)


def test_it_equals_a_hand_written_loop() -> None:
    fitted, network = _fit(epochs=4, batch_size=8, weight_decay=0.1), seeded(Net).train()
    options = plain_options(epochs=4, weight_decay=0.1)
    fit_by_hand(network, (VALUES, TARGET), options, [7, 7, 6])  # 20 rows in batches of 8 at most
    assert_close(fitted.network, network)


def test_records_hold_step_epoch_rate_and_mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    each = _fit(epochs=2).history
    assert values_of(each, "step") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert values_of(each, "epoch") == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    rates = [schedules.learning_rate(plain_options(epochs=2), step / 8) for step in range(8)]
    assert values_of(each, "lr") == pytest.approx(rates)
    rows = torch.randperm(20, generator=torch.Generator().manual_seed(7))[:5]
    first = F.mse_loss(seeded(Net).train()(VALUES[rows]), TARGET[rows]).item()
    assert each[0]["train_loss"] == pytest.approx(first, rel=1e-5)
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)
    pairs = _fit(epochs=2).history
    assert values_of(pairs, "step") == [2, 4, 6, 8]
    means = [(each[k]["train_loss"] + each[k + 1]["train_loss"]) / 2 for k in (0, 2, 4, 6)]
    assert values_of(pairs, "train_loss") == pytest.approx(means)


def test_averaging_equals_an_average_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    fitted = _fit(averaging={"decay": 0.4})
    for name, start in seeded(Net).state_dict().items():
        expected = start
        for update, state in enumerate(states, start=1):
            decay = min(0.4, (1 + update) / (10 + update))  # the warm-up: 2/11, 3/12, … up to 0.4
            mean = decay * expected + (1 - decay) * state[name]
            expected = mean if start.is_floating_point() else state[name]
        torch.testing.assert_close(fitted.network.state_dict()[name], expected)
    assert not same(fitted.network, _fit().network)


def test_evaluate_is_called_once_an_epoch_and_measures_what_is_stored() -> None:
    seen: list[tuple[int, float]] = []

    def evaluate(network: nn.Module) -> dict[str, float]:
        weight = network.eval().state_dict()["body.0.weight"].sum().item()
        seen.append((id(network), weight))
        return {"rmse": weight}

    watched = _fit(averaging={"decay": 0.5}, dropout=0.3, evaluate=evaluate)
    assert len(seen) == 3
    assert {network for network, _ in seen} == {id(watched.network)}  # the averaged one, which is what is stored
    assert seen[-1][1] == watched.network.state_dict()["body.0.weight"].sum().item()
    assert values_of(watched.history, "rmse") == [weight for _, weight in seen]
    assert [record["epoch"] for record in watched.history if "rmse" in record] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("averaging", [None, {"decay": 0.5}])
def test_a_watched_training_ends_in_the_same_weights(averaging: dict[str, float] | None) -> None:
    def train(evaluate: loop.Evaluate | None) -> loop.FitResult:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)  # of the dropout masks
            return _fit(averaging=averaging, dropout=0.3, evaluate=evaluate)

    assert same(train(None).network, train(lambda network: {"x": float(network.eval().training)}).network)


def test_matrices_are_decayed_vectors_are_not_and_frozen_parameters_are_left_out() -> None:
    decayed, free = optimizer_groups([LayerGroup([Net()])], 0.3)
    assert [tuple(p.shape) for p in decayed["params"]] == [(32, 3), (1, 32)]
    assert [tuple(p.shape) for p in free["params"]] == [(32,), (32,), (32,), (1,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    network = nn.Linear(2, 1, bias=False)
    assert len(optimizer_groups([LayerGroup([network])], 0.1)) == 1  # no empty group of vectors
    network.weight.requires_grad_(False)
    assert optimizer_groups([LayerGroup([network])], 0.1) == []


def test_the_gradient_is_clipped_to_the_norm() -> None:
    network = seeded(Net)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    loop.optimizer_step(F.mse_loss(network(VALUES), 100 * TARGET), network, optimizer, 0.25)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.25, rel=1e-4)
    assert not same(_fit(clip_norm=1e-4).network, _fit().network)  # and clipping reaches the training


def test_the_global_random_state_is_left_alone_without_dropout() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    _fit()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_listeners_hear_the_labelled_figures_of_each_step() -> None:
    heard: list[tuple[dict[str, float], int]] = []
    with progress.listening(lambda figures, step: heard.append((figures, step))):
        fitted = _fit(epochs=1, evaluate=lambda network: {"rmse": 4.0}, label="member1.")
    assert [step for _, step in heard] == [1, 2, 3, 4, 4]
    assert heard[0][0] == {f"member1.{name}": fitted.history[0][name] for name in ("train_loss", "lr")}
    assert heard[-1] == ({"member1.rmse": 4.0}, 4)
    _fit(epochs=1)
    assert len(heard) == 5  # nobody listens any more
