"""Early stopping: which epoch is the best, when it ends, what it measures, and that it goes on from a checkpoint."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import N_ROWS, Killed, make_data, make_net, raise_at
from fits import fit as fit_network
from fits import plain_options, same, values_of
from fits import train as train_network
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.early_stopping import BestEpoch, hold_out, row_monitor
from embedline.training.options import EarlyStopping, HeldOutStopping, TrainingOptions


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "best", "ended"),
    [
        ([3.0, 2.0, 1.0, 1.5, 1.2, 0.5], 2, 0.0, 3, 5),  # two without an improvement: the sixth is never reached
        ([3.0, 2.0, 1.0, 1.5, 0.5, 0.7, 0.6], 2, 0.0, 5, 7),
        ([1.0, 1.0, 1.0, 1.0], 3, 0.0, 1, 4),  # as low is no improvement, and the first of them is kept
        ([1.0, 0.95, 0.9], 2, 0.2, 3, 3),  # small gains: the patience ends, but the lowest is used
        ([1.0, 0.9, 0.75, 0.7, 0.6], 2, 0.2, 5, 5),  # two of them together are an improvement
        ([math.nan, 4.0, math.nan, 3.0, math.inf, math.nan], 2, 0.0, 4, 6),
        ([math.nan, math.nan], 2, 0.0, 1, 2),
        ([math.inf, 5.0, 6.0], 2, 0.1, 2, None),
        ([math.inf, 5.0], 1, 0.0, 1, 1),
        ([2.0, 3.0], 1, 0.0, 1, 2),
    ],
)
def test_the_best_epoch_and_the_end(losses, patience, min_delta, best, ended) -> None:
    found = BestEpoch(EarlyStopping(patience=patience, min_delta=min_delta))
    network = nn.Linear(1, 1)
    for epoch, loss in enumerate(losses, start=1):
        with torch.no_grad():
            network.weight.fill_(epoch)
        found.see(loss, epoch, network)
        if found.over:
            break
    assert found.epoch == best
    assert found.weights["weight"].item() == best
    assert (epoch if found.over else None) == ended


def make_options(**changes: Any) -> TrainingOptions:
    stopping = {"patience": 2, "fraction": 0.2, **changes.pop("early_stopping", {})}
    values = {"epochs": 12, "lr": 0.02, "schedule": "constant", "early_stopping": stopping, **changes}
    return plain_options(**values)


def unstopped(options: TrainingOptions) -> TrainingOptions:
    return options.model_copy(update={"early_stopping": None})


def fit(options: TrainingOptions, tensors: Any) -> loop.FitResult:
    return fit_network(make_net(3), tensors, options)


class Scripted:
    """A monitor with losses of its own, which keeps the weights that it is shown."""

    def __init__(self, *losses: float) -> None:
        self.losses = list(losses)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, network: nn.Module) -> float:
        self.seen.append(copy.deepcopy(network.state_dict()))
        return self.losses[len(self.seen) - 1]


def train(options: TrainingOptions, monitor: Any, **more: Any) -> loop.FitResult:
    batches = loop.TableBatches(make_data(), F.mse_loss, batch_size=8, device=torch.device("cpu"))
    return train_network(make_net(3), batches, options, seed=7, monitor=monitor, **more)


@pytest.mark.parametrize("averaging", [None, {"decay": 0.9}])
def test_the_network_of_the_best_epoch_is_used(averaging: dict[str, float] | None) -> None:
    monitor, options = Scripted(5.0, 4.0, 3.0, 3.5, 3.0, 1.0), make_options(averaging=averaging)
    fitted = train(options, monitor)
    assert (len(monitor.seen), fitted.epochs, fitted.best_epoch) == (5, 5, 3)
    assert same(fitted.network, monitor.seen[2])
    assert not same(monitor.seen[2], monitor.seen[4])
    measured = [(record["epoch"], record["monitor"]) for record in fitted.history if "monitor" in record]
    assert measured == [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0), (4.0, 3.5), (5.0, 3.0)]
    assert fitted.metrics is next(record for record in fitted.history if record["epoch"] == 3.0)
    # Of twelve epochs, five were trained: as those of a training that is never stopped.
    plain = train(unstopped(options), None)
    losses = values_of(fitted.history, "train_loss")
    assert values_of(plain.history, "train_loss")[: len(losses)] == losses and len(losses) == len(fitted.history)
    assert (plain.epochs, plain.best_epoch, plain.metrics) == (12, None, plain.history[-1])


def test_a_figure_of_the_evaluation_may_be_the_monitor() -> None:
    losses, heard = iter([3.0, 2.0, 4.0, 5.0]), []
    with progress.listening(lambda figures, step: heard.append(figures)):
        fitted = train(make_options(), "loss", evaluate=lambda network: {"loss": next(losses), "rmse": 1.0})
    assert (fitted.epochs, fitted.best_epoch, fitted.metrics["loss"]) == (4, 2, 2.0)
    assert heard[-1] == {"loss": 5.0, "rmse": 1.0, "monitor": 5.0}
    with pytest.raises(KeyError, match="'los'"):
        train(make_options(), "los", evaluate=lambda network: {"loss": 1.0})
    for monitor in (None, "loss"):  # without anything to go by
        with pytest.raises(ValueError, match="early_stopping needs a monitor"):
            train(make_options(), monitor)


@pytest.mark.parametrize(("n_rows", "fraction", "held_out"), [(50, 0.2, 10), (50, 0.01, 1), (3, 0.5, 2), (2, 0.1, 1)])
def test_a_share_of_the_rows_is_held_out_the_same_for_every_member(n_rows, fraction, held_out) -> None:
    learned, held = hold_out(n_rows, HeldOutStopping(fraction=fraction, seed=5))
    assert (len(learned), len(held)) == (n_rows - held_out, held_out)
    assert sorted([*learned.tolist(), *held.tolist()]) == list(range(n_rows))
    again, _ = hold_out(n_rows, HeldOutStopping(fraction=fraction, seed=5))
    assert torch.equal(learned, again)
    if n_rows == 50:
        assert not torch.equal(held, hold_out(n_rows, HeldOutStopping(fraction=fraction, seed=6))[1])
    with pytest.raises(DataError, match=r"early_stopping\.fraction 0\.9 of 3 training row"):  # none is left
        fit(make_options(early_stopping={"fraction": 0.9}), make_data(3))


def test_the_held_out_rows_are_measured_and_never_learned_from() -> None:
    options, tensors = make_options(epochs=3), make_data()
    learned, held = hold_out(N_ROWS, options.early_stopping)
    fitted = fit(options, tensors)
    alone = fit(unstopped(options), tuple(tensor[learned] for tensor in tensors))
    losses = values_of(fitted.history, "train_loss")
    assert losses == values_of(alone.history, "train_loss") and len(losses) == len(fitted.history) == 3 * 5
    codes, values, target = (tensor[held] for tensor in tensors)
    expected = F.mse_loss(fitted.network.eval()(codes, values), target).item()
    assert fitted.metrics["monitor"] == pytest.approx(expected, rel=1e-6)
    other = fit(options, (*tensors[:2], tensors[2].index_fill(0, held, 100.0)))
    assert values_of(other.history, "train_loss") == losses
    assert other.metrics["monitor"] > 1000.0


def test_the_held_out_loss_is_the_mean_over_rows_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tensors = make_net(3, shared_dropout=0.5).train(), make_data(50)
    expected = F.mse_loss(network.eval()(*tensors[:2]), tensors[2]).item()
    for size in (7, 50, 1000):
        monkeypatch.setattr("embedline.training.early_stopping.MEASURED_ROWS", size)
        monitor = row_monitor(tensors, F.mse_loss, torch.device("cpu"), torch.arange(50))
        assert monitor(network.train()) == pytest.approx(expected, rel=1e-6)


def stopped(folder: Path | None, *, done: int = 0, **changes: Any) -> loop.FitResult:
    """A training of seven epochs (the best is the fifth) with accumulation, dropout and an average."""
    options = make_options(accumulate=2, averaging={"decay": 0.9}, schedule="one_cycle", **changes)
    losses = iter([5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 2.0][done:])  # a resumed training goes on in the script

    def evaluate(network: nn.Module) -> dict[str, float]:
        return {"rmse": sum(tensor.double().sum().item() for tensor in network.state_dict().values())}

    kept = checkpoints.Checkpoint(folder / "member0.pt", 3600.0) if folder else None
    return train(options, lambda network: next(losses), evaluate=evaluate, checkpoint=kept)


@pytest.mark.usefixtures("few_records")
@pytest.mark.parametrize("report", range(1, 15))
def test_cut_off_anywhere_and_resumed_it_ends_with_the_same_network(report: int, tmp_path: Path) -> None:
    whole = stopped(None)
    assert (whole.epochs, whole.best_epoch) == (7, 5)
    with progress.listening(raise_at(report)), pytest.raises(Killed):
        stopped(tmp_path)
    state = torch.load(tmp_path / "member0.pt", weights_only=True)["state"]
    resumed = stopped(tmp_path, done=state["epoch"])
    assert same(resumed.network, whole.network) and resumed.history == whole.history
    assert (resumed.epochs, resumed.best_epoch) == (7, 5)


def test_one_that_was_stopped_early_is_not_trained_again_but_with_another_patience(tmp_path, n_steps, caplog) -> None:
    first = stopped(tmp_path)
    assert len(n_steps) == 7 * 3  # six batches an epoch, two a step
    written = (tmp_path / "member0.pt").stat().st_mtime_ns
    again = stopped(tmp_path, done=7)
    assert len(n_steps) == 7 * 3
    assert same(again.network, first.network)
    assert (again.history, again.epochs, again.best_epoch) == (first.history, 7, 5)
    assert (tmp_path / "member0.pt").stat().st_mtime_ns == written
    stopped(tmp_path, early_stopping={"patience": 1})
    assert "options.early_stopping is {'patience': 2," in caplog.text
