"""Searches: their trials, what ends them, and how they go on after a kill."""

import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from small_tables import search as search_table
from small_tables import small_table

from copies import PROJECT
from embedline.errors import DataError, TrainingError
from embedline.pipelines.tabular.options import TableTraining
from embedline.pipelines.tuning.nodes import content_digest
from embedline.pipelines.tuning.options import TuneOptions
from embedline.pipelines.tuning.space import Settings
from embedline.pipelines.tuning.study import Evaluation, TrialRecord, keeping, search
from embedline.training.metrics import listening, report

SETTINGS: Settings = {"training": TableTraining(epochs=5, batch_size=8, lr=0.5)}
SPACE = {"training.lr": {"low": 0.01, "high": 1.0, "log": True}, "training.epochs": {"low": 1, "high": 9}}


def options(**changes: Any) -> TuneOptions:
    return TuneOptions.model_validate({"trials": 8, "space": SPACE, **changes})


def bowl(settings: Settings, repetition: int) -> float:
    training = settings["training"]
    assert isinstance(training, TableTraining)
    return (math.log10(training.lr) + 1.0) ** 2 + 0.1 * abs(training.epochs - 3) + 0.01 * repetition


def run(folder: Path | None = None, measure: Any = bowl, repetitions: int = 1, **changes: Any) -> list[TrialRecord]:
    given = (SETTINGS, options(**changes), Evaluation("loss", repetitions, measure), {"data": "a"}, "adult.tune")
    if folder is None:
        return search(*given)
    with keeping(folder, lambda record: None):
        return search(*given)


def test_the_first_trial_has_the_settings_as_they_are() -> None:
    seen: list[Settings] = []

    def measure(settings: Settings, repetition: int) -> float:
        seen.append(settings)
        return bowl(settings, repetition)

    records = run(measure=measure, trials=12)
    assert seen[0] is SETTINGS and records[0].default and records[0].loss == bowl(SETTINGS, 0)
    assert records[0].values == {"training.lr": 0.5, "training.epochs": 5}
    assert not any(record.default for record in records[1:])
    assert min(record.losses[0] for record in records) < records[0].losses[0]


def test_untuned_settings_outside_of_the_space_are_tried_too() -> None:
    records = run(space={"training.lr": {"low": 0.01, "high": 0.1}}, trials=3)
    assert [record.default for record in records] == [True, False, False]
    assert records[0].values == {} and records[0].loss == bowl(SETTINGS, 0)


def test_loss_and_spread_are_over_the_repetitions() -> None:
    record = run(repetitions=3, trials=1)[0]
    assert record.losses == pytest.approx([bowl(SETTINGS, 0) + 0.01 * k for k in range(3)])
    assert record.loss == pytest.approx(bowl(SETTINGS, 0) + 0.01) and record.std == pytest.approx(0.01)


def test_a_trial_worse_than_the_median_is_pruned() -> None:
    records = run(repetitions=4, trials=25)
    pruned = [record for record in records if record.state == "pruned"]
    assert pruned and all(1 <= len(record.losses) < 4 for record in pruned)
    assert all(record.state == "complete" and len(record.losses) == 4 for record in records[:4])
    best = min(record.loss for record in records if record.state == "complete")
    assert all(record.loss > best for record in pruned)


def test_a_search_goes_on_where_it_ended_as_if_it_had_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", trials=3)
    calls: list[int] = []

    def measure(settings: Settings, repetition: int) -> float:
        calls.append(1)
        return bowl(settings, repetition)

    parts = run(tmp_path / "parts", measure)
    assert [record.values for record in parts] == [record.values for record in whole]
    assert parts[:3] == first and len(calls) == 5
    assert run(tmp_path / "parts", measure) == parts and len(calls) == 5  # all trials are there


def test_a_killed_search_repeats_the_trial_it_was_at(tmp_path: Path) -> None:
    whole, _ = search_table()
    script = PROJECT / "tests" / "tuning" / "small_tables.py"
    for at in (3, 2):  # the second run is killed too, in the middle of its third trial
        killed = subprocess.run(
            [sys.executable, str(script), str(tmp_path), str(at)],
            check=False,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(PROJECT / "src")},
        )
        assert killed.returncode == -9, killed.stderr
    before = {trial.number: trial for trial in _stored(tmp_path)}
    assert [trial.state.name for trial in before.values()] == [*["COMPLETE"] * 3, "FAIL", *["COMPLETE"] * 2, "RUNNING"]
    with keeping(tmp_path, lambda record: None):
        trials, _ = search_table()
    after = {trial.number: trial for trial in _stored(tmp_path)}
    finished = [number for number, trial in before.items() if trial.state.name == "COMPLETE"]
    assert all(after[number] == before[number] for number in finished)
    done = trials.filter(trials["state"].is_in(["complete", "pruned"]))
    assert len(done) == 6 and (trials["state"] == "interrupted").sum() == 2
    compared = [name for name in done.columns if name not in ("number", "seconds")]
    assert done.select(compared).equals(whole.select(compared))


def _stored(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(next(folder.glob("*.log"))))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend)).trials


def test_half_a_line_of_a_kill_is_dropped_and_a_damaged_study_named(tmp_path: Path) -> None:
    whole = run(tmp_path)
    journal = next(tmp_path.glob("*.log"))
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"op_code": 4, "worker')
    assert run(tmp_path) == whole and journal.read_bytes() == content
    journal.write_bytes(b"nothing\n" + content)
    with pytest.raises(DataError, match=str(journal)):
        run(tmp_path)


def test_a_diverged_trial_fails_and_the_search_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def measure(settings: Settings, repetition: int) -> float:
        training = settings["training"]
        assert isinstance(training, TableTraining)
        if training.epochs > 5:
            raise TrainingError("the loss is nan in epoch 2", training.lr)
        return math.inf if training.epochs > 4 else bowl(settings, repetition)

    with caplog.at_level(logging.WARNING):
        records = run(measure=measure)
    failed = [record for record in records if record.state == "failed"]
    assert failed and len(records) == 8 and records[0].state == "failed"  # 5 epochs: the untuned settings
    assert {record.state for record in records} >= {"complete", "failed"}
    for record in failed:
        assert ("nan" in record.reason) == (record.values["training.epochs"] > 5)
        line = next(each for each in caplog.messages if f"trial {record.number} failed" in each)
        assert record.default or f"training.epochs={record.values['training.epochs']}" in line


def test_failed_trials_alone_are_an_error_and_count(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"adult\.tune\.space.*nan"):
        run(tmp_path, lambda settings, repetition: math.nan, trials=3)
    calls: list[int] = []
    assert len(run(tmp_path, lambda *given: float(len(calls.append(1) or calls)), trials=5)) == 5
    assert len(calls) == 2


def test_what_the_untuned_settings_cannot_do_ends_the_search(tmp_path: Path) -> None:
    def measure(settings: Settings, repetition: int) -> float:
        raise DataError("the class 'x' has one row")

    with pytest.raises(DataError, match="'x'"):
        run(tmp_path, measure)
    records = run(tmp_path)  # the fault is corrected
    assert [record.state for record in records] == ["interrupted", *["complete"] * 8] and records[1].default


def test_no_trial_begins_after_the_timeout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError):
        run(tmp_path, timeout=1e-9)
    assert "adult.tune.timeout" in caplog.text
    assert len(run(tmp_path)) == 8


def test_a_trial_reports_to_nobody_and_is_told_to_listeners(tmp_path: Path) -> None:
    told: list[TrialRecord] = []
    heard: list[dict[str, float]] = []

    def measure(settings: Settings, repetition: int) -> float:
        report({"train_loss": 1.0}, 1)
        return bowl(settings, repetition)

    with listening(lambda metrics, step: heard.append(metrics)), keeping(tmp_path, told.append):
        records = search(SETTINGS, options(), Evaluation("loss", 1, measure), {}, "adult.tune")
        report({"after": 1.0}, 1)
    assert told == records and heard == [{"after": 1.0}]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"space": {"training.lr": {"low": 0.001, "high": 0.2, "log": True}}}, "space"),
        ({"inner": {"fraction": 0.2}}, "inner rows"),
        ({"seeds": [1]}, "seeds"),
        ({"training": TableTraining(epochs=2, batch_size=16, lr=0.005, device="cpu", precision="fp32")}, "settings"),
        ({"table": small_table().with_columns(heat=-small_table()["heat"])}, "data"),
    ],
)
def test_another_space_or_table_is_another_study(
    changes: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with keeping(tmp_path, lambda record: None), caplog.at_level(logging.INFO):
        search_table(trials=1)
        assert len(search_table(trials=2)[0]) == 2  # more trials of the same study
        assert len(list(tmp_path.glob("*.log"))) == 1
        assert len(search_table(trials=1, **changes)[0]) == 1
    assert len(list(tmp_path.glob("*.log"))) == 2
    assert any(f"last one {named} changed" in message for message in caplog.messages)


def test_the_content_of_frames_tells_them_apart() -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": [[1], [2, 3]], "c": ["x", None]})
    codes = frame.with_columns(pl.col("c").cast(pl.Categorical))
    assert content_digest(frame) == content_digest(frame.clone()) == content_digest(codes)
    others = [frame[::-1], frame.with_columns(c=pl.lit("x")), frame.with_columns(pl.col("a").cast(pl.Int32))]
    assert len({content_digest(frame), *map(content_digest, others)}) == 4
