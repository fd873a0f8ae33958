"""The search of a study: its trials, kept in a file from which the next run goes on."""

import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from embedline.errors import DataError, TrainingError, one_line
from embedline.pipelines.tuning.options import Dimension, TuneOptions
from embedline.pipelines.tuning.space import Settings, put_in, untuned_parameters
from embedline.training.metrics import unreported

NAME = "tuning"
RANDOM_TRIALS = 5  # before the sampler learns from those that are there
UNPRUNED_TRIALS = 4  # that run to their end, whatever they lose
PARTS = "identity"  # what a study's trials have in common, among its attributes
DEFAULT, LOSSES, SECONDS, REASON = "default", "losses", "seconds", "reason"  # attributes of a trial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How the settings of a trial are measured.

    Attributes:
        loss: its name; lower is better.
        repetitions: inner windows or folds, times seeds.
        measure: the loss of settings in one repetition, counted from 0.
    """

    loss: str
    repetitions: int
    measure: Callable[[Settings, int], float]


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        state: ``complete``, ``pruned``, ``failed`` (it diverged) or ``interrupted`` (its run was killed).
        default: whether its settings are those that are not tuned.
        values: of the space, by setting; where ``default``, none if they lie outside of it.
        losses: of its repetitions, as far as it went.
        reason: why it failed.
    """

    number: int
    state: str
    default: bool
    values: Mapping[str, Any]
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    reason: str = ""

    @property
    def loss(self) -> float | None:
        """Mean over the repetitions; None without any."""
        return float(np.mean(self.losses)) if self.losses else None

    @property
    def std(self) -> float | None:
        """Standard deviation of the repetitions; None of a single one."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else None


Listener = Callable[[TrialRecord], None]


class _NotFinite(ArithmeticError):
    """The loss of a trial is no finite number."""


@dataclass
class _Keepers:
    folders: list[Path] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)


@functools.cache
def _keepers() -> _Keepers:
    """Those of this process; a cache, as what a module holds counts as code of the nodes that use it."""
    return _Keepers()


@contextmanager
def keeping(folder: Path, listener: Listener) -> Iterator[None]:
    """Have studies inside the ``with`` block keep their trials in ``folder``, and tell ``listener`` of each at its end.

    The folder has a file for each study, ``<digest of its identity>.log``, Optuna's journal.
    """
    _keepers().folders.append(folder)
    _keepers().listeners.append(listener)
    try:
        yield
    finally:
        _keepers().folders.remove(folder)
        _keepers().listeners.remove(listener)


def search(
    settings: Settings, options: TuneOptions, evaluation: Evaluation, identity: Mapping[str, Any], key: str
) -> list[TrialRecord]:
    """Run the trials that are missing, the first with the settings as they are; all trials of the study in order.

    The sampler of a trial is seeded by the number of those before it, so that a search that was killed and goes on
    tries what an undisturbed one does. ``identity`` are JSON values that the trials of one study have in common, such
    as the rows; ``key`` is that of the options in YAML, for messages.

    Raises:
        DataError: every trial failed, or the untuned settings are at fault otherwise than by diverging.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial has a line of ours
    with _open_study(identity, key) as study:
        _repeat_interrupted(study, options.dimensions)
        began = time.monotonic()
        if kept := _n_finished(study):
            logger.info("%s: %d of %d trials are there from an earlier run", key, kept, options.trials)
        while (number := _n_finished(study)) < options.trials:
            if options.timeout is not None and time.monotonic() - began >= options.timeout:
                message = "%s.timeout: %g s have passed, with %d of %d trials; another run with --force goes on"
                logger.warning(message, key, options.timeout, number, options.trials)
                break
            study.sampler = _sampler(options.seed, number)
            _log(_run_trial(study, settings, options.dimensions, evaluation, number == 0), evaluation, key)
        records = [_record(trial) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    if not any(record.state == "complete" for record in records):
        failed = [record for record in records if record.state == "failed"]
        reason = f"; the last one: {failed[-1].reason}" if failed else ""
        raise DataError(f"{key}.space: none of {len(failed)} trials came to an end{reason}")
    return records


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=drawn, n_startup_trials=RANDOM_TRIALS, constant_liar=False)


def _n_finished(study: optuna.Study) -> int:
    return sum(_record(trial).state in ("complete", "pruned", "failed") for trial in study.get_trials(deepcopy=False))


def _run_trial(
    study: optuna.Study,
    settings: Settings,
    dimensions: Mapping[str, Dimension],
    evaluation: Evaluation,
    is_default: bool,
) -> TrialRecord:
    untuned = untuned_parameters(settings, dimensions) if is_default else {}
    if untuned and not _waiting(study):
        study.enqueue_trial(untuned)
    trial = study.ask()
    trial.set_user_attr(DEFAULT, is_default)
    asked = {} if is_default and not untuned else dimensions
    values = {name: dimension.suggest(trial, name) for name, dimension in asked.items()}
    losses: list[float] = []
    state, began = TrialState.COMPLETE, time.perf_counter()
    try:
        chosen = settings if is_default else put_in(settings, values)
        for repetition in range(evaluation.repetitions):
            with unreported():
                losses.append(float(evaluation.measure(chosen, repetition)))
            if not math.isfinite(losses[-1]):
                raise _NotFinite(f"its {evaluation.loss} is {losses.pop()}")
            trial.report(float(np.mean(losses)), repetition)
            if repetition + 1 < evaluation.repetitions and trial.should_prune():
                state = TrialState.PRUNED
                break
    except (DataError, ValidationError, _NotFinite) as error:
        if is_default and not isinstance(error, TrainingError | _NotFinite):
            raise  # no fault of the space: every trial would end so
        state = TrialState.FAIL
        trial.set_user_attr(REASON, one_line(error, 500))
    trial.set_user_attr(LOSSES, losses)
    trial.set_user_attr(SECONDS, time.perf_counter() - began)
    value = float(np.mean(losses)) if state == TrialState.COMPLETE else None
    record = _record(study.tell(trial, value, state=state))
    for listener in _keepers().listeners:
        listener(record)
    return record


def _repeat_interrupted(study: optuna.Study, dimensions: Mapping[str, Dimension]) -> None:
    """Mark trials that a kill left running as failed, and have their values tried again.

    The untuned settings need no place in the queue: they come first as long as no trial has ended.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        is_whole = trial.params.keys() == dimensions.keys()  # else the sampler draws the same again
        if is_whole and not trial.user_attrs.get(DEFAULT) and trial.params not in _waiting(study):
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
        logger.info("Trial %d was interrupted: it is repeated", trial.number)


def _waiting(study: optuna.Study) -> list[dict[str, Any]]:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial.system_attrs.get("fixed_params", {}) for trial in waiting]


def _record(trial: FrozenTrial) -> TrialRecord:
    state = trial.state.name.lower()
    if trial.state == TrialState.FAIL:
        state = "failed" if REASON in trial.user_attrs else "interrupted"
    values = {
        name: json.loads(value) if isinstance(trial.distributions[name], CategoricalDistribution) else value
        for name, value in trial.params.items()
    }
    told = trial.user_attrs
    losses, seconds = tuple(told.get(LOSSES, ())), told.get(SECONDS, 0.0)
    return TrialRecord(trial.number, state, told.get(DEFAULT, False), values, losses, seconds, told.get(REASON, ""))


def _log(record: TrialRecord, evaluation: Evaluation, key: str) -> None:
    tried = "the settings as they are" if record.default else ", ".join(f"{k}={v}" for k, v in record.values.items())
    if record.state == "failed":
        logger.warning("%s: trial %d failed with %s: %s", key, record.number, tried, record.reason)
        return
    spread = f" ± {record.std:.4f}" if record.std is not None else ""
    message = "%s: trial %d, %s: %s %.4f%s with %s"
    logger.info(message, key, record.number, record.state, evaluation.loss, record.loss, spread, tried)


class _Held:
    """Stands for Optuna's lock of a journal, which would outlive a kill: another lock is held all along."""

    def acquire(self) -> bool:
        """Nothing to wait for."""
        return True

    def release(self) -> None:
        """Nothing to give back."""


@contextmanager
def _open_study(identity: Mapping[str, Any], key: str) -> Iterator[optuna.Study]:
    """The study of this identity, from its file where there is one; in memory alone where nobody keeps any."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
    if not _keepers().folders:
        yield optuna.create_study(study_name=NAME, pruner=pruner)
        return
    folder, parts = _keepers().folders[-1], {name: _digest(part) for name, part in identity.items()}
    path = folder / f"{_digest(parts)}.log"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # the system releases it after a kill
        if others := sorted(set(folder.glob("*.log")) - {path}, key=lambda other: other.stat().st_mtime):
            if not path.exists():
                _announce(others, parts, key)
        if path.exists():
            _cut_half_line(path)
        study = _read_journal(path, pruner)
        if PARTS not in study.user_attrs:
            study.set_user_attr(PARTS, parts)
        yield study


def _read_journal(path: Path, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    held: Any = _Held()
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=held))
        is_there = NAME in optuna.get_all_study_names(storage)  # each try to create it would add a line
        open_one = optuna.load_study if is_there else optuna.create_study
        return open_one(storage=storage, study_name=NAME, pruner=pruner)
    except (ValueError, KeyError) as error:
        raise DataError(f"the study {path} cannot be read ({one_line(error, 200)}): delete it to begin anew") from error


def _announce(others: list[Path], parts: Mapping[str, str], key: str) -> None:
    before = _read_journal(others[-1]).user_attrs.get(PARTS, {})
    changed = [name for name in parts if before.get(name) != parts[name]] or list(parts)
    message = "%s: a new study begins, as of the last one %s changed; the trials of %d other(s) stay where they are"
    logger.info(message, key, " and ".join(changed), len(others))


def _cut_half_line(path: Path) -> None:
    """Drop what a kill left of a line: Optuna would write the next one behind it."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
