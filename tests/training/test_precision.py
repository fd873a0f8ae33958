"""Devices, and ``precision: auto`` on a CPU: measured where it has bfloat16, kept with the checkpoint, told why."""

import copy
import itertools
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_trainings as small
import torch
from cut_off import Killed, raise_at
from fits import plain_options, same
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.training import checkpoint as checkpoints
from embedline.training import device as precisions
from embedline.training import metrics as progress
from embedline.training.batches import Shard, Stopped, TableBatches
from embedline.training.device import (
    Accelerator,
    choose_precision,
    device_name,
    make_accelerator,
    resolve_device,
    resolve_precision,
    time_precisions,
)
from embedline.training.dropout import Dropout, generator_states, seed_dropout
from embedline.training.options import OptimizerOptions

CPU = torch.device("cpu")
AUTO = Accelerator(CPU, "auto")
Fake = Callable[..., list[int]]
Train = Callable[..., small.Trained]


def make_network() -> nn.Module:
    torch.manual_seed(0)
    dropout = (Dropout(0.5), Dropout(0.05), nn.Dropout(0.5))
    network = nn.Sequential(nn.Linear(3, 4), *dropout, nn.Linear(4, 1), nn.Flatten(0))
    seed_dropout(network, 1)
    return network


def make_batches(**settings: Any) -> TableBatches:
    tensors = [torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.ones(40)]
    return TableBatches(tensors, nn.functional.mse_loss, batch_size=4, device=CPU, **settings)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Function that fakes a processor and what is measured on it; it returns the batches timed in each measurement."""
    real = precisions.time_precisions

    def install(fp32: float = 1.0, bf16: float = 0.5, *, amx: bool = True, avx512: bool = True) -> list[int]:
        measured: list[int] = []

        def seconds(*arguments: Any) -> dict[str, float]:
            measured.append(arguments[3])
            return {"fp32": fp32, "bf16": bf16} if real(*arguments) else {}

        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        monkeypatch.setattr(precisions, "time_precisions", seconds)
        return measured

    return install


def choose(accelerator: Accelerator = AUTO, n_batches: int = 100_000, **more: Any) -> Accelerator:
    return choose_precision(accelerator, make_network(), make_batches(shard=accelerator.shard), n_batches, **more)


@pytest.mark.parametrize(
    ("fp32", "precision", "ratio"), [(1.35, "bf16", 1.35), (1.1, "bf16", 1.1), (1.09, "fp32", 1.09), (0.5, "fp32", 0.5)]
)
def test_bf16_is_chosen_where_it_is_faster_by_a_tenth(fp32: float, precision: str, ratio: float, fake: Fake) -> None:
    measured = fake(fp32, 1.0)
    chosen = choose()
    assert (chosen.precision, measured) == (precision, [4])
    assert f"{ratio:.2f} times" in chosen.precision_reason and "8 steps" in chosen.precision_reason
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    assert chosen.device == CPU


@pytest.mark.parametrize(("n_batches", "timed"), [(299, []), (300, [1]), (899, [2]), (1200, [4]), (10**6, [4])])
def test_at_most_2_percent_of_a_training_is_measured(n_batches: int, timed: list[int], fake: Fake) -> None:
    measured = fake()
    chosen = choose(n_batches=n_batches)
    assert measured == timed
    assert sum(2 * precisions.ROUNDS * each for each in timed) <= 0.02 * n_batches
    if not timed:
        assert chosen.precision == "fp32" and "299 batches" in chosen.precision_reason


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_given_precision_is_not_measured_and_auto_is_fp32_until_it_is_chosen(precision: str, fake: Fake) -> None:
    measured = fake()
    options = OptimizerOptions.model_validate({"batch_size": 1, "device": "cpu", "precision": precision})
    given = make_accelerator(options)
    assert choose(given) == given
    assert not measured and (given.precision, given.precision_reason) == (precision, "as set")
    accelerator = make_accelerator(OptimizerOptions.model_validate({"batch_size": 1, "device": "cpu"}))
    assert accelerator.precision == "auto"
    with accelerator.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_measurement_runs_real_batches_and_leaves_no_trace() -> None:
    network, batches, seen = make_network().eval(), make_batches(), []
    torch.rand(3)
    before = (torch.get_rng_state(), copy.deepcopy(network.state_dict()))

    def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Linear) and module.in_features == 3:
            seen.append((inputs[0].shape, output.dtype, module.training))

    handle = torch.nn.modules.module.register_module_forward_hook(see)
    try:
        seconds = time_precisions(AUTO, network, batches, 2)
    finally:
        handle.remove()
    assert seen == [((4, 3), dtype, True) for dtype in (torch.float32, torch.bfloat16)] * (2 * precisions.ROUNDS)
    assert set(seconds) == {"fp32", "bf16"} and min(seconds.values()) > 0.0
    assert torch.equal(torch.get_rng_state(), before[0]) and not network.training
    assert same(network, before[1])
    assert all(state is None for state in generator_states(network))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_quickest_pass_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [0.5, 0.1, 9.0, 4.0, 3.0, 5.0]  # fp32, bf16 of three rounds
    readings = itertools.accumulate(each for seconds in durations for each in (0.0, seconds))  # before and after a pass
    monkeypatch.setattr(precisions, "_clock", lambda: next(readings))
    seconds = time_precisions(AUTO, make_network(), make_batches(), 1)
    assert seconds == pytest.approx({"fp32": 3.0, "bf16": 4.0})
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        time_precisions(AUTO, make_network(), make_batches(), 1, stop)


def test_batches_that_never_lower_the_precision_are_not_timed(fake: Fake) -> None:
    fake()
    batches, passes = make_batches(), []
    real = batches.loss_of
    batches.loss_of = lambda network, rows, _: (passes.append(1), real(network, rows, AUTO.autocast))[1]
    chosen = choose_precision(AUTO, make_network(), batches, 100_000)
    assert (chosen.precision, len(passes)) == ("fp32", 1)
    assert chosen.precision_reason == "all that the network computes is in fp32"


def test_rank_0_chooses_for_all_processes(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fake()
    monkeypatch.setattr(precisions.distributed, "on_rank_0", lambda function: ("fp32", "told by rank 0"))
    chosen = choose(Accelerator(CPU, "auto", Shard(1, 2)))
    assert chosen == Accelerator(CPU, "fp32", Shard(1, 2), "told by rank 0") and not measured


LEARNERS: dict[str, Train] = {
    "table": partial(small.train_table, dropout=0.2),
    "ratings": partial(small.train_factors, dropout=0.2, seeds=(1, 2)),
    "language_model": partial(small.train_words, dropout=0.5),
    "classifier": partial(small.train_texts, dropout=0.5, seeds=(1, 2)),
}


@pytest.fixture(params=LEARNERS)
def train(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train with a learner; its training is long enough to measure, and tells of each step."""
    small.language_model()  # with a precision of its own
    monkeypatch.setattr(precisions, "BATCHES_PER_TIMED", 4)
    return LEARNERS[request.param]


@pytest.mark.parametrize(("seconds", "precision"), [((3.0, 2.0), "bf16"), ((2.0, 3.0), "fp32")])
def test_auto_trains_to_the_bits_of_the_precision_that_it_chooses_and_keeps_it(
    seconds: tuple[float, float], precision: str, train: Train, fake: Fake, tmp_path: Path, caplog: Any
) -> None:
    measured = fake(*seconds)
    ours, theirs = train(precision="auto"), train(precision=precision)
    assert len(measured) == 1, "one choice for all members and stages"
    small.assert_same(ours, theirs)
    metrics, steps = ours[0].metrics, measured[0] * (precisions.ROUNDS - 1)
    assert metrics["precision"] == theirs[0].metrics["precision"] == precision
    chosen = f"bf16 is {seconds[0] / seconds[1]:.2f} times as fast"
    assert chosen in metrics["precision_reason"] and f"{steps} steps" in metrics["precision_reason"]
    assert theirs[0].metrics["precision_reason"] == "as set"
    with progress.listening(raise_at(1)), checkpoints.checkpointing(tmp_path, 0.0), pytest.raises(Killed):
        train(precision="auto")
    measured = fake(*reversed(seconds))  # another measurement would choose the other one
    with checkpoints.checkpointing(tmp_path, 0.0):
        resumed = train(precision="auto")
    assert not measured and "starts over" not in caplog.text
    small.assert_same(resumed, theirs)
    assert resumed[0].metrics["precision"] == precision and chosen in resumed[0].metrics["precision_reason"]


def test_a_checkpoint_of_another_setting_decides_nothing(fake: Fake, tmp_path: Path) -> None:
    with checkpoints.checkpointing(tmp_path, 0.0):
        small.train_table(precision="bf16")
    (tmp_path / "member1.pt").write_bytes(b"damaged")
    older = {"format": checkpoints.FORMAT, "identity": {"options.precision": "auto", "device": "cpu"}, "state": {}}
    torch.save(older, tmp_path / "member2.pt")
    measured = fake(2.0, 3.0)
    chosen = choose(checkpoints=[tmp_path / f"member{member}.pt" for member in range(4)])
    assert (chosen.precision, measured) == ("fp32", [4])


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == device_name(CPU) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(DataError, match=r"training\.device is 'cuda' but PyTorch finds no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_a_gpu_is_the_native_one(native, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    precision, reason = resolve_precision("auto", torch.device("cuda"))
    assert precision == expected and "native" in reason


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_a_precision_by_name_is_taken(device: torch.device) -> None:
    assert resolve_precision("fp32", device) == ("fp32", "as set")
    assert resolve_precision("bf16", device) == ("bf16", "as set")
    assert resolve_precision("auto", CPU) == ("auto", "")  # left to a measurement


def test_one_process_may_train_in_two_precisions() -> None:
    modes = []
    for precision in ("fp32", "bf16", "fp32"):
        accelerator = make_accelerator(plain_options(precision=precision))
        with accelerator.autocast():
            modes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        assert accelerator.device == CPU
    assert modes == [torch.float32, torch.bfloat16, torch.float32]
