"""A training that diverges ends with one error, keeps no state to go on from, and reports no figure that is none."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_trainings as small
import torch
from fits import fit, plain_options
from torch import Tensor, nn

from embedline.datasets import JSON
from embedline.errors import DataError, TrainingError
from embedline.hooks.tracking import LiveMetrics
from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training.metrics import regression_metrics, require_finite

HUGE = 1e30
ROWS = (torch.ones(4, 1), torch.zeros(4))
LEARNERS: dict[str, Callable[..., Any]] = {
    "table": partial(small.train_table, lr=HUGE),
    "classes": partial(small.train_table, lr=HUGE, classes=True),
    "ratings": partial(small.train_factors, lr=HUGE),
    "words": partial(small.train_words, lr=HUGE, clip_norm=None),
    "texts": partial(small.train_texts, stages=({"unfrozen": None, "epochs": 2, "lr": HUGE},)),
}


@pytest.mark.parametrize("learner", [*LEARNERS, "two processes"])
def test_every_learner_names_the_epoch_and_the_rate(learner: str, tmp_path: Path) -> None:
    heard: list[float] = []
    train = LEARNERS.get(learner) or partial(LEARNERS["table"], processes=2, seeds=(1,))
    hearing = progress.listening(lambda figures, _: heard.extend(figures.values()))
    raising = pytest.raises(TrainingError, match=r"epoch 1 of 2.*lr in training.*1e\+30")
    with checkpoints.checkpointing(tmp_path / "kept", 0.0), hearing, raising:
        train()
    assert all(map(math.isfinite, heard))
    for path in (tmp_path / "kept").rglob("*.pt"):  # a state from before may be there: it is one to go on from
        state = torch.load(path, weights_only=True)["state"]
        assert all(tensor.isfinite().all() for tensor in state["network"].values())
        assert math.isfinite(state["meter"]["total"])


class Spoilt(nn.Module):
    """Its loss is a number, and its gradient is none: only the weights tell."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, values: Tensor) -> Tensor:
        return values.squeeze(-1) + torch.sqrt(self.weight)  # 0, with an infinite slope


@pytest.mark.parametrize("kept", [True, False])
def test_weights_are_looked_at_before_they_are_stored_or_measured(kept: bool, tmp_path: Path) -> None:
    checkpoint = checkpoints.Checkpoint(tmp_path / "member0.pt", 0.0) if kept else None
    measured = {"evaluate": lambda _: pytest.fail("measured"), "checkpoint": checkpoint}
    with pytest.raises(TrainingError, match=r"weights.*step 1 of 1"):
        fit(Spoilt(), ROWS, plain_options(epochs=1, batch_size=4), **measured)
    assert not (tmp_path / "member0.pt").exists()


def test_a_figure_that_is_none_is_named() -> None:
    values, network = iter([1.0, math.inf]), nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
    with pytest.raises(TrainingError, match=r"epoch 2 of 3.*exp_rmspe is inf"):
        fit(network, ROWS, plain_options(batch_size=4), evaluate=lambda _: {"exp_rmspe": next(values)})


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan")])
def test_no_metric_that_is_none_is_written_or_tracked(value: float, tmp_path: Path) -> None:
    figures = {"rmse": 1.0, "baselines": {"group_mean": [{"rmse": value}]}}
    with pytest.raises(DataError, match=r"^houses: baselines\.group_mean\[0\]\.rmse is (nan|inf)"):
        require_finite(figures, "houses")
    dataset = JSON(filepath=str(tmp_path / "metrics.json"))
    dataset.save({"rmse": 1.0})
    with pytest.raises(Exception, match=r"metrics\.json.*baselines\.group_mean\[0\]\.rmse"):
        dataset.save(figures)
    assert dataset.load() == {"rmse": 1.0}  # what was there stays
    with pytest.raises(DataError, match="train_loss"):
        LiveMetrics("run").add({"train_loss": value}, 1)
    with pytest.raises(DataError, match="row 2"):
        regression_metrics(np.array([1.0, 2.0]), np.array([1.0, value]), logarithmic=False)
