"""A training that is cut off and goes on from its checkpoint ends as one that never was, to the last bit."""

import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.training import checkpoints, ensemble, loop, progress, state
from embedline.training.device import make_accelerator
from embedline.training.dropout import Dropout, seed_dropout
from embedline.training.options import TrainingOptions

N_ROWS, BATCH, EPOCHS = 50, 8, 3  # 6 batches an epoch and 2 rows left over: 18 steps
SEEDS = (3, 4)


class Killed(BaseException):
    """Stands for whatever ends a training from outside."""


def _options(**changes: Any) -> TrainingOptions:
    values = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "lr": 0.01,
        "clip_norm": 0.5,
        "averaging": {"decay": 0.9},
        "schedule": "one_cycle",
        "seeds": SEEDS,
        "device": "cpu",
        "precision": "fp32",
    }
    return TrainingOptions.model_validate({**values, **changes})


class Net(nn.Module):
    """Buffers, embeddings, and all three kinds of dropout: sparse, dense, and PyTorch's own on demand."""

    def __init__(self, *, width: int, shared_dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.body = nn.Sequential(
            Dropout(0.05),
            nn.Linear(7, width),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            Dropout(0.3),
            nn.Dropout(shared_dropout),
            nn.Linear(width, 1),
        )

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        return self.body(torch.cat([self.table(codes), values], dim=1)).squeeze(-1)


def _net(seed: int, *, width: int = 16, shared_dropout: float = 0.0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Net(width=width, shared_dropout=shared_dropout)
    seed_dropout(network, seed)
    return network


def _data(n_rows: int = N_ROWS) -> tuple[Tensor, ...]:
    numbers = torch.Generator().manual_seed(1)
    codes = torch.randint(7, (n_rows,), generator=numbers)
    return codes, torch.randn(n_rows, 3, generator=numbers), torch.randn(n_rows, generator=numbers)


def _evaluate(network: nn.Module) -> dict[str, float]:
    *inputs, target = _data(20)
    with torch.no_grad():
        return {"rmse": F.mse_loss(network.eval()(*inputs), target).sqrt().item()}


Outcome = tuple[dict[str, Tensor], dict[str, Tensor], list[state.Record]]


def _train(network: nn.Module, member: int, options: TrainingOptions, **more: Any) -> loop.Fitted:
    loss, tensors = more.pop("loss", F.mse_loss), more.pop("tensors", None) or _data()
    settings = {"evaluate": _evaluate, "checkpoint": checkpoints.current(f"member{member}"), **more}
    accelerator = make_accelerator(options)
    return loop.fit(network, tensors, loss, options, accelerator=accelerator, seed=SEEDS[member], **settings)


def _fit(member: int, options: TrainingOptions, **more: Any) -> Outcome:
    """Train a member; the averaged weights, the plain ones and the history."""
    network = more.pop("network", None) or _net(SEEDS[member])
    fitted = _train(network, member, options, **more)
    return fitted.network.state_dict(), network.state_dict(), fitted.history


def _fit_both(options: TrainingOptions) -> list[Outcome]:
    """Train two members side by side."""

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.Fitted:
        return _train(network, member, options, stop=stop, alone=False)

    networks = [_net(seed) for seed in SEEDS]
    both = ensemble.train_side_by_side(train_member, networks, workers=2, threads=1)
    return [
        (fitted.network.state_dict(), network.state_dict(), fitted.history)
        for fitted, network in zip(both, networks, strict=True)
    ]


def _assert_same(first: Outcome, second: Outcome) -> None:
    for ours, theirs in zip(first[:2], second[:2], strict=True):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first[2] == second[2]


@cache
def _whole() -> list[Outcome]:
    """Both members, never cut off, and no checkpoint near."""
    return [_fit(member, _options()) for member in (0, 1)]


def _step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state"]["step"])


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def _few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record every four steps: the running loss then matters to what a checkpoint holds."""
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)


@pytest.fixture
def n_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry for each optimiser step."""
    steps: list[int] = []
    real_step = loop.train_step

    def count(*arguments: Any) -> Tensor:
        steps.append(1)
        return real_step(*arguments)

    monkeypatch.setattr(loop, "train_step", count)
    return steps


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Precision, and a folder with the checkpoint of each member after each step, ``member0.7.pt``, and at the end."""
    folder = tmp_path_factory.mktemp("versions")
    real_save = checkpoints.Checkpoint.save

    def save(self: checkpoints.Checkpoint, kept: checkpoints.State, identity: checkpoints.Identity) -> None:
        real_save(self, kept, identity)
        when = "end" if kept["epoch"] == EPOCHS else kept["step"]
        shutil.copy(self.path, folder / f"{self.name}.{when}.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", 4)
        patch.setattr(checkpoints.Checkpoint, "save", save)
        with checkpoints.keeping(folder / "live", 0.0):
            kept = _fit_both(_options(precision=request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", 4)
        for member in (0, 1):  # keeping checkpoints changes nothing
            _assert_same(kept[member], _fit(member, _options(precision=request.param)))
    return request.param, folder


FIRST, MID_EPOCH, END_OF_EPOCH, NEXT_EPOCH, MID_RECORD, LAST_BUT_ONE, LAST = 1, 3, 6, 7, 10, 17, 18


@pytest.mark.parametrize("member1", [FIRST, LAST])
@pytest.mark.parametrize(
    "member0", [FIRST, MID_EPOCH, END_OF_EPOCH, NEXT_EPOCH, MID_RECORD, 12, LAST_BUT_ONE, LAST, "end"]
)
def test_killed_after_any_step_it_ends_in_the_same_bits(
    member0: int | str, member1: int, versions: tuple[str, Path], tmp_path: Path, n_steps: list[int]
) -> None:
    precision, folder = versions
    for name, when in (("member0", member0), ("member1", member1)):
        shutil.copy(folder / f"{name}.{when}.pt", tmp_path / f"{name}.pt")
    with checkpoints.keeping(tmp_path, 3600.0):
        resumed = _fit_both(_options(precision=precision))
    assert len(n_steps) == (LAST - (LAST if member0 == "end" else int(member0))) + (LAST - member1)
    n_steps.clear()
    for member in (0, 1):
        _assert_same(resumed[member], _fit(member, _options(precision=precision)))
    assert len(n_steps) == 2 * LAST


def test_the_reference_has_what_a_checkpoint_must_carry() -> None:
    averaged, plain, history = _whole()[0]
    assert any(not torch.equal(averaged[name], plain[name]) for name in plain)
    assert [record["step"] for record in history] == [4, 6, 8, 12, 16, 18]
    assert [record["step"] for record in history if "rmse" in record] == [6, 12, 18]


def test_a_training_killed_twice_ends_in_the_same_bits(tmp_path: Path, n_steps: list[int]) -> None:
    def killing(at: int) -> loop.Loss:
        calls: list[int] = []

        def loss(output: Tensor, target: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == at:
                raise Killed
            return F.mse_loss(output, target)

        return loss

    for at, reached in ((6, 5), (9, 13)):
        with checkpoints.keeping(tmp_path, 0.0), pytest.raises(Killed):
            _fit(0, _options(), loss=killing(at))
        assert _step_of(tmp_path / "member0.pt") == reached  # the step in which it died left no trace
    n_steps.clear()
    with checkpoints.keeping(tmp_path, 0.0):
        _assert_same(_fit(0, _options()), _whole()[0])
    assert len(n_steps) == LAST - 13


def _raise_at(call: int) -> Callable[..., None]:
    calls: list[int] = []

    def raising(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise Killed

    return raising


@pytest.mark.parametrize(
    ("report", "step", "epoch"),
    [(1, 4, 0), (2, 6, 0), (3, 6, 1), (9, 18, 3)],
    ids=["after a record", "before an evaluation", "after an evaluation", "after the last"],
)
def test_interrupted_between_two_steps_it_leaves_its_state(report: int, step: int, epoch: int, tmp_path: Path) -> None:
    with progress.listening(_raise_at(report)), checkpoints.keeping(tmp_path, 3600.0), pytest.raises(Killed):
        _fit(0, _options())
    kept = torch.load(tmp_path / "member0.pt", weights_only=True)["state"]
    assert (kept["step"], kept["epoch"]) == (step, epoch)
    with checkpoints.keeping(tmp_path, 3600.0):
        _assert_same(_fit(0, _options()), _whole()[0])


def test_an_error_of_the_evaluation_costs_no_step(tmp_path: Path, n_steps: list[int]) -> None:
    whole, fail = _whole()[0], _raise_at(2)

    def failing(network: nn.Module) -> dict[str, float]:
        fail()
        return _evaluate(network)

    n_steps.clear()
    with checkpoints.keeping(tmp_path, 3600.0), pytest.raises(Killed):
        _fit(0, _options(), evaluate=failing)
    assert len(n_steps) == 12
    with checkpoints.keeping(tmp_path, 3600.0):
        resumed = _fit(0, _options())
    assert len(n_steps) == LAST
    _assert_same(resumed, whole)


def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(tmp_path: Path, n_steps: list[int]) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if len(n_steps) == 8:
            signal.raise_signal(signal.SIGINT)
        return F.mse_loss(output, target)

    before = signal.getsignal(signal.SIGINT)
    with checkpoints.keeping(tmp_path, 3600.0), pytest.raises(KeyboardInterrupt):
        _fit(0, _options(), loss=loss)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(n_steps) == _step_of(tmp_path / "member0.pt") == 8
    with checkpoints.keeping(tmp_path, 3600.0):
        _assert_same(_fit(0, _options()), _whole()[0])


def test_the_global_random_state_goes_on_where_a_training_is_alone(tmp_path: Path) -> None:
    def fit(alone: bool = True, **more: Any) -> tuple[Outcome, Tensor]:
        torch.manual_seed(5)
        outcome = _fit(0, _options(), network=_net(3, shared_dropout=0.5), alone=alone, **more)
        return outcome, torch.get_rng_state()

    with torch.random.fork_rng(devices=[]):
        whole, after = fit()
        with progress.listening(_raise_at(4)), checkpoints.keeping(tmp_path, 3600.0), pytest.raises(Killed):
            fit()
        with checkpoints.keeping(tmp_path, 3600.0):
            resumed, later = fit()
        _assert_same(resumed, whole)
        assert torch.equal(later, after)
        with checkpoints.keeping(tmp_path, 3600.0):  # finished by now: nothing more is drawn
            torch.manual_seed(5)
            untouched = torch.get_rng_state()
            assert torch.equal(fit(alone=False)[1], untouched)


def test_a_finished_training_is_not_trained_again(tmp_path: Path, n_steps: list[int]) -> None:
    with checkpoints.keeping(tmp_path, 3600.0):
        first = _fit(0, _options())
        written = (tmp_path / "member0.pt").stat().st_mtime_ns
        assert len(n_steps) == LAST
        again = _fit(0, _options())
    assert len(n_steps) == LAST
    _assert_same(again, first)
    assert (tmp_path / "member0.pt").stat().st_mtime_ns == written


def test_a_checkpoint_is_due_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with checkpoints.keeping(tmp_path / "deep" / "folder", 60.0):
        checkpoint = checkpoints.current("member0")
    assert checkpoint is not None
    now[0] = 150.0
    assert checkpoint.load({}) is None  # the training begins here
    assert not checkpoint.due()
    now[0] = 209.0
    assert not checkpoint.due()
    now[0] = 210.0
    assert checkpoint.due()
    checkpoint.save({"step": 1}, {"seed": 3})
    assert not checkpoint.due()
    assert checkpoint.load({"seed": 3}) == {"step": 1}
    assert _files(tmp_path / "deep" / "folder") == ["member0.pt"]


def test_saving_happens_at_that_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], list[int]()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        now[0] += 1.0  # a second a step
        return F.mse_loss(output, target)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    real_save = checkpoints.Checkpoint.save

    def save(self: checkpoints.Checkpoint, kept: checkpoints.State, identity: checkpoints.Identity) -> None:
        saved.append(kept["step"])
        real_save(self, kept, identity)

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    with checkpoints.keeping(tmp_path, 5.0):
        _fit(0, _options(), loss=loss)
    assert saved == [5, 10, 15, 18]


def test_the_innermost_keeper_counts_and_none_is_left_behind(tmp_path: Path) -> None:
    assert checkpoints.current("member0") is None
    with checkpoints.keeping(tmp_path / "outer", 1.0):
        with pytest.raises(Killed), checkpoints.keeping(tmp_path / "inner", 2.0):
            inner = checkpoints.current("member0")
            raise Killed
        outer = checkpoints.current("member1")
    assert inner is not None and outer is not None
    assert (inner.path, inner.every) == (tmp_path / "inner" / "member0.pt", 2.0)
    assert (outer.path, outer.every) == (tmp_path / "outer" / "member1.pt", 1.0)
    assert checkpoints.current("member0") is None
    assert _files(tmp_path) == []


@pytest.mark.parametrize("every", [-1.0, float("nan")])
def test_impossible_paces_are_refused(every: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be 0 or more, got {every}"), checkpoints.keeping(tmp_path, every):
        pass


def test_without_a_keeper_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody keeps checkpoints")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    for ours, theirs in zip(_fit_both(_options()), _whole(), strict=True):
        _assert_same(ours, theirs)
    assert _files(tmp_path) == []


def test_going_on_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, options = _data(1003), _options(batch_size=1, epochs=2)
    with caplog.at_level(logging.INFO), checkpoints.keeping(tmp_path, 3600.0):
        with progress.listening(_raise_at(3)), pytest.raises(Killed):
            _fit(0, options, tensors=data, evaluate=None, network=_NoNorm())
        assert caplog.messages == []
        _fit(0, options, tensors=data, evaluate=None, network=_NoNorm())
    assert caplog.messages == ["Going on at step 1,003 of 2,006 of member0 from its checkpoint"]


class _NoNorm(nn.Module):
    """A line, which batches of one row can train."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, _: Tensor, values: Tensor) -> Tensor:
        return self.line(values).squeeze(-1)


def _interrupted(folder: Path, **changes: Any) -> Path:
    """A checkpoint of member 0 after its eighth step."""
    with progress.listening(_raise_at(4)), checkpoints.keeping(folder, 3600.0), pytest.raises(Killed):
        _fit(0, _options(**changes))
    path = folder / "member0.pt"
    assert _step_of(path) == 8
    return path


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    weights = torch.load(path, weights_only=True)["state"]["network"]["body.1.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weights)] ^= 1
    path.write_bytes(content)


def _pickle(path: Path) -> None:
    torch.save({"format": checkpoints.FORMAT, "identity": Path("/"), "state": {}}, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "BadZipFile: "),
        (_flip, "is damaged"),
        (lambda path: path.write_bytes(b""), "BadZipFile: "),
        (_pickle, "UnpicklingError: "),
        (lambda path: torch.save([1, 2], path), "ValueError: its format is not 'embedline-checkpoint-1'"),
        (lambda path: torch.save({"format": "embedline-checkpoint-0"}, path), "ValueError: its format is not"),
    ],
    ids=["truncated", "a flipped bit", "empty", "not plain", "another kind", "another format"],
)
def test_an_unreadable_checkpoint_is_ignored_with_a_warning(
    damage: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, n_steps: list[int]
) -> None:
    path = _interrupted(tmp_path)
    damage(path)
    n_steps.clear()
    with checkpoints.keeping(tmp_path, 3600.0):
        _assert_same(_fit(0, _options()), _whole()[0])
    assert len(n_steps) == LAST
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith(f"The checkpoint {path} cannot be read (")
    assert reason in warning.getMessage()
    assert warning.getMessage().endswith(": the training starts over")
    assert _step_of(path) == LAST  # and replaced


@pytest.mark.parametrize(
    ("there", "difference"),
    [
        ({"lr": 0.02}, "options.lr is 0.02 there and 0.01 here."),
        ({"averaging": None}, "options.averaging is None there and {'decay': 0.9} here."),
        ({"precision": "bf16"}, "precision is bf16 there and no here, options.precision is bf16 there and fp32 here."),
        (
            {"epochs": 4, "weight_decay": 0.5, "eps": 0.5, "threads": 2},
            "n_steps is 24 there and 18 here, options.epochs is 4 there and 3 here, "
            "options.weight_decay is 0.5 there and 0.0 here, and 2 more.",
        ),
    ],
)
def test_a_checkpoint_of_other_options_is_ignored_with_a_warning(
    there: dict[str, Any], difference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, n_steps: list[int]
) -> None:
    with checkpoints.keeping(tmp_path, 0.0):
        _fit(0, _options(**there))
    n_steps.clear()
    with checkpoints.keeping(tmp_path, 3600.0):
        _assert_same(_fit(0, _options()), _whole()[0])
    assert len(n_steps) == LAST
    (warning,) = caplog.messages
    path = tmp_path / "member0.pt"
    expected = f"The checkpoint {path} was made for another training: {difference} The training starts over"
    assert warning == expected


def test_so_is_one_of_another_network_or_other_rows_or_another_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _interrupted(tmp_path)
    with checkpoints.keeping(tmp_path, 3600.0):
        _fit(0, _options(), network=_net(3, width=8), tensors=_data(49))
    assert (
        "n_rows is 50 there and 49 here, shape of body.1.weight is [16, 7] there and [8, 7] here" in caplog.messages[0]
    )
    shutil.move(path, tmp_path / "member1.pt")
    with checkpoints.keeping(tmp_path, 3600.0):
        _fit(1, _options())
    assert "seed is 3 there and 4 here" in caplog.messages[1]


def _assert_survives_a_full_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train on from a checkpoint that cannot be replaced."""
    before = (folder / "member0.pt").read_bytes()
    with checkpoints.keeping(folder, 0.0):
        _assert_same(_fit(0, _options()), _whole()[0])
    assert (folder / "member0.pt").read_bytes() == before
    assert _files(folder) == ["member0.pt"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"The checkpoint {folder / 'member0.pt'} cannot be written ([Errno ")
    assert warning.endswith("): the training goes on without it")


def test_a_full_disk_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    _assert_survives_a_full_disk(tmp_path, caplog)
    assert os.strerror(errno.ENOSPC) in caplog.text


def test_a_write_that_the_system_cuts_short_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = _interrupted(tmp_path).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))  # Python ignores the signal: the write fails
    try:
        _assert_survives_a_full_disk(tmp_path, caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_folder_that_cannot_be_made_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with checkpoints.keeping(tmp_path / "file" / "folder", 0.0):
        _assert_same(_fit(0, _options()), _whole()[0])
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.messages[0]


def test_time_and_speed_are_carried_over(tmp_path: Path) -> None:
    path = _interrupted(tmp_path)
    kept = torch.load(path, weights_only=True)
    assert 0.0 < kept["state"]["seconds"] < 60.0
    kept["state"].update(seconds=1000.0, timed={"steps": 400, "seconds": 50.0})
    torch.save(kept, path)
    options = _options()
    with checkpoints.keeping(tmp_path, 3600.0):
        fitted = loop.fit(
            _net(3),
            _data(),
            F.mse_loss,
            options,
            accelerator=make_accelerator(options),
            seed=3,
            checkpoint=checkpoints.current("member0"),
        )
    assert 1000.0 < fitted.seconds < 1060.0
    assert fitted.rows_per_second == pytest.approx(400 * BATCH / 50.0)  # the ten steps of this process are its first
    assert torch.load(path, weights_only=True)["state"]["seconds"] > 1000.0


def test_checkpoints_take_no_steps_from_the_time_of_steps(tmp_path: Path) -> None:
    with checkpoints.keeping(tmp_path, 0.0):
        _fit(0, _options())
    timed = torch.load(tmp_path / "member0.pt", weights_only=True)["state"]["timed"]
    assert timed["steps"] == LAST - state.UNTIMED_STEPS
    assert timed["seconds"] > 0.0


def test_the_stopwatch_counts_steps_and_nothing_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = state.Stopwatch(steps=5, seconds=2.0, warm=20)
    watch.start(15)
    now[0] = 4.0
    watch.stop(18)  # before it is warm
    watch.stop(30)  # it stands still
    assert (watch.steps, watch.seconds) == (5, 2.0)
    watch.start(20)
    now[0] = 7.0
    watch.stop(26)
    now[0] = 100.0
    watch.stop(27)
    assert (watch.steps, watch.seconds) == (11, 5.0)


# A training of its own process, for a kill that no Python code can see.
LONG = {"epochs": 30}


def _long_training(folder: Path, every: float) -> list[Outcome]:
    with checkpoints.keeping(folder, every):
        return _fit_both(_options(**LONG))


def test_a_killed_process_goes_on_in_another(tmp_path: Path, n_steps: list[int]) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, __file__, str(tmp_path)], env=environment, stderr=subprocess.PIPE)
    paths = [tmp_path / "member0.pt", tmp_path / "member1.pt"]
    try:
        deadline = time.monotonic() + 60.0
        while not all(path.exists() and _step_of(path) > 7 for path in paths):
            assert started.poll() is None, started.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        started.kill()
        started.communicate()
    assert started.returncode == -signal.SIGKILL
    reached = [_step_of(path) for path in paths]
    total = 6 * LONG["epochs"]
    assert all(7 < step < total for step in reached)
    resumed = _long_training(tmp_path, 3600.0)
    assert len(n_steps) == 2 * total - sum(reached)
    for member in (0, 1):
        _assert_same(resumed[member], _fit(member, _options(**LONG)))


if __name__ == "__main__":
    real_step = loop.train_step

    def slow_step(*arguments: Any) -> Tensor:
        time.sleep(0.01)
        return real_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", 4)
        patch.setattr(loop, "train_step", slow_step)
        _long_training(Path(sys.argv[1]), 0.0)
