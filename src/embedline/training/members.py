"""The members of an ensemble of networks on rows, one for each seed: trained, measured and packed for a bundle."""

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from embedline.training import checkpoint
from embedline.training.device import device_name, make_accelerator
from embedline.training.ensemble import count_workers, in_threads, parallel_seconds, train_parallel
from embedline.training.options import TrainingOptions
from embedline.training.processes import current
from embedline.training.state import Record
from embedline.training.train import Evaluate, FitResult

FEW_STEPS = 100  # of a training, all epochs together

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """What the trainings leave.

    Attributes:
        weights: tensors of all members, under ``0.``, ``1.``, … as a bundle has them.
        metrics: ``rows``, ``epochs``, ``members``, ``member_weights``, ``workers`` (members side by side),
            ``processes`` where there are several, ``seconds`` of all together, ``rows_per_second``, ``device``,
            ``precision`` and, with early stopping, ``best_epochs``.
        history: records of all members, each with its ``member``.
    """

    weights: dict[str, Tensor]
    metrics: dict[str, Any]
    history: list[Record]


class Job(Protocol):
    """What every process needs to train a network for each of ``training.seeds``; it goes through pickle."""

    @property
    def training(self) -> TrainingOptions:
        """How to train them."""

    def build(self, seed: int) -> nn.Module:
        """The network of a seed, as it is before the training."""

    def fit(self, network: nn.Module, *, accelerator: Accelerator, seed: int, **settings: Any) -> FitResult:
        """Train it; ``settings`` are others of :func:`embedline.training.train.train`."""


def train_members(
    job: Job, *, accelerator: Accelerator, rows: int, evaluate: Evaluate | None = None, name: str = ""
) -> Members:
    """Train a network for each of ``job.training.seeds``, several at a time where the processor has the cores.

    Processes of a team train one after the other together.

    Args:
        rows: of the training part.
        evaluate: see :func:`embedline.training.train.train`.
        name: of this ensemble among several of one node, such as a fold; prefix of its checkpoints and figures.
    """
    training, team = job.training, current()
    networks = [job.build(seed) for seed in training.seeds]
    prefix = f"{name}." if name else ""
    kept = [checkpoint.current(f"{prefix}member{member}") for member in range(len(networks))]
    workers = 1 if team else count_workers(len(networks), training.threads, accelerator.device)

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> FitResult:
        return job.fit(
            network,
            accelerator=accelerator,
            seed=training.seeds[member],
            evaluate=evaluate,
            label=prefix + (f"member{member}." if len(networks) > 1 else ""),
            position=member,
            checkpoint=kept[member],
            stop=stop,
            alone=workers == 1,
        )

    with team.following(follow_members, job) if team else nullcontext():
        runs = train_parallel(train_member, networks, workers=workers, threads=training.threads)
    warn_of_few_steps(runs[:1], training.batch_size, "training")
    metrics = {
        "rows": rows,
        "epochs": max(run.epochs for run in runs),
        "members": len(runs),
        "member_weights": list(training.member_weights),
        "workers": workers,
        **({"processes": team.size} if team else {}),
        "seconds": parallel_seconds([run.seconds for run in runs], workers),
        "rows_per_second": workers * float(np.mean([run.rows_per_second for run in runs])),
        "device": device_name(accelerator.device),
        "precision": accelerator.mixed_precision,
        **({"best_epochs": [run.best_epoch for run in runs]} if training.early_stopping else {}),
    }
    states = enumerate(run.network.state_dict() for run in runs)
    return Members(
        weights={f"{member}.{key}": tensor for member, state in states for key, tensor in state.items()},
        metrics=metrics,
        history=[{"member": member, **record} for member, run in enumerate(runs) for record in run.history],
    )


def follow_members(job: Job) -> None:
    """The part of :func:`train_members` of a process that does not lead."""
    accelerator = make_accelerator(job.training)
    for seed in job.training.seeds:
        in_threads(job.training.threads, partial(job.fit, job.build(seed), accelerator=accelerator, seed=seed))


def warn_of_few_steps(stages: Sequence[FitResult], batch_size: int, block: str) -> None:
    """Warn of a training whose stages have fewer than :data:`FEW_STEPS` steps; ``block`` is that of its settings."""
    steps = sum(int(stage.history[-1]["step"]) for stage in stages)
    if steps < FEW_STEPS:
        logger.warning(
            "The training took %d step(s) in all, too few for most networks to learn much: lower %s.batch_size, which "
            "is %d, or raise the epochs",
            steps,
            block,
            batch_size,
        )


def describe(metrics: dict[str, Any]) -> str:
    """One line of the ``metrics`` for the log."""
    return (
        f"Trained {metrics['members']} network(s) on {metrics['rows']:,} rows for {metrics['epochs']} epochs in "
        f"{metrics['seconds']:.0f} s: {metrics['rows_per_second']:,.0f} rows/s on {metrics['device']} in "
        f"{metrics['precision']}"
    )
