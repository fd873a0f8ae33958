"""Small trainings that the tests cut off, and the ways to cut them."""

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fits import plain_options, seeded
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import ensemble
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.dropout import Dropout, seed_dropout
from embedline.training.options import TrainingOptions

RECORDS = 4  # of a training, instead of 200: the running loss then matters to what a checkpoint holds
N_ROWS, BATCH, EPOCHS = 45, 8, 3  # 6 batches an epoch, of 8 and of 7 rows: 18 steps
LAST = 18  # step
SEEDS = (3, 4)


class Killed(BaseException):
    """Stands for whatever ends a training from outside."""


def make_options(**changes: Any) -> TrainingOptions:
    values = {"epochs": EPOCHS, "batch_size": BATCH, "clip_norm": 0.5, "averaging": {"decay": 0.9}, "seeds": SEEDS}
    return plain_options(**{**values, "schedule": "one_cycle", **changes})


class Net(nn.Module):
    """Buffers, embeddings, and all three kinds of dropout: sparse, dense, and PyTorch's own on demand."""

    def __init__(self, *, width: int, shared_dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        hidden = (nn.Linear(7, width), nn.ReLU(), nn.BatchNorm1d(width))
        self.body = nn.Sequential(Dropout(0.05), *hidden, Dropout(0.3), nn.Dropout(shared_dropout), nn.Linear(width, 1))

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        return self.body(torch.cat([self.table(codes), values], dim=1)).squeeze(-1)


def make_net(seed: int, *, width: int = 16, shared_dropout: float = 0.0) -> Net:
    network = seeded(lambda: Net(width=width, shared_dropout=shared_dropout), seed)
    seed_dropout(network, seed)
    return network


def make_data(n_rows: int = N_ROWS) -> tuple[Tensor, ...]:
    numbers = torch.Generator().manual_seed(1)
    codes = torch.randint(7, (n_rows,), generator=numbers)
    return codes, torch.randn(n_rows, 3, generator=numbers), torch.randn(n_rows, generator=numbers)


def evaluate(network: nn.Module) -> dict[str, float]:
    *inputs, target = make_data(20)
    with torch.no_grad():
        return {"rmse": F.mse_loss(network.eval()(*inputs), target).sqrt().item()}


Outcome = tuple[dict[str, Tensor], dict[str, Tensor], list[checkpoints.Record]]


def _train(network: nn.Module, member: int, options: TrainingOptions, **more: Any) -> loop.FitResult:
    loss, tensors = more.pop("loss", F.mse_loss), more.pop("tensors", None) or make_data()
    settings = {"evaluate": evaluate, "checkpoint": checkpoints.current(f"member{member}"), **more}
    return loop.fit(network, tensors, loss, options, seed=SEEDS[member], **settings)


def train_one(member: int, options: TrainingOptions, **more: Any) -> Outcome:
    """Train a member; the averaged weights, the plain ones and the history."""
    network = more.pop("network", None) or make_net(SEEDS[member])
    fitted = _train(network, member, options, accelerator=make_accelerator(options), **more)
    return fitted.network.state_dict(), network.state_dict(), fitted.history


def train_both(options: TrainingOptions) -> list[Outcome]:
    accelerator = make_accelerator(options)  # here: Accelerate's state is no matter for two threads at a time

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.FitResult:
        return _train(network, member, options, accelerator=accelerator, stop=stop, alone=False)

    networks = [make_net(seed) for seed in SEEDS]
    both = ensemble.train_parallel(train_member, networks, workers=2, threads=1)
    pairs = zip(both, networks, strict=True)
    return [(fitted.network.state_dict(), network.state_dict(), fitted.history) for fitted, network in pairs]


def assert_same(first: Outcome, second: Outcome) -> None:
    for ours, theirs in zip(first[:2], second[:2], strict=True):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first[2] == second[2]


@cache
def uncut() -> list[Outcome]:
    """Both members, never cut off, and no checkpoint near."""
    return [train_one(member, make_options(), checkpoint=None) for member in (0, 1)]


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state"]["step"])


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def count_steps(patch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one entry for each optimiser step."""
    steps: list[int] = []
    real_step = loop.optimizer_step

    def count(*arguments: Any) -> None:
        steps.append(1)
        real_step(*arguments)

    patch.setattr(loop, "optimizer_step", count)
    return steps


def raise_at(call: int) -> Callable[..., None]:
    """A function that raises at its ``call``-th call."""
    calls: list[int] = []

    def raising(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise Killed

    return raising


def interrupted(folder: Path, report: int = 4, **changes: Any) -> Path:
    """A checkpoint of member 0, whose training ended at a report: after its eighth step unless told otherwise."""
    with progress.listening(raise_at(report)), checkpoints.checkpointing(folder, 3600.0), pytest.raises(Killed):
        train_one(0, make_options(**changes))
    path = folder / "member0.pt"
    assert report != 4 or step_of(path) == 8
    return path


def assert_ends_as_uncut(folder: Path) -> None:
    """Train member 0 on from the checkpoint in a folder: it ends as one that was never cut off."""
    with checkpoints.checkpointing(folder, 3600.0):
        assert_same(train_one(0, make_options()), uncut()[0])
