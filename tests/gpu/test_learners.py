"""Every learner on a CUDA device does what it does on the CPU."""

import itertools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import small_trainings as small
import torch
from cut_off import Killed, raise_at
from small_trainings import Trained
from torch import Tensor, nn

from embedline.pipelines.ratings import learner as ratings_learner
from embedline.pipelines.tabular import learner as tables_learner
from embedline.pipelines.tabular import model as models
from embedline.pipelines.text.awd_lstm import DroppedLSTM, cudnn_version, lstm_dtype
from embedline.pipelines.text.classifier import class_probabilities, load_classifier
from embedline.pipelines.text.language_model import load_language_model
from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training.device import resolve_device, resolve_precision
from embedline.training.model_file import ModelBundle

pytestmark = pytest.mark.gpu

CUDA = {"device": "cuda"}
LEARNERS: dict[str, Callable[..., Trained]] = {
    "table": small.train_table,
    "ratings": small.train_factors,
    "language model": small.train_words,
    "classifier": small.train_texts,
}
TEXTS = ["language model", "classifier"]
METRIC = {"table": "exp_rmspe", "ratings": "rmse", "language model": "validation_loss", "classifier": "validation_loss"}


def same_orders(patch: pytest.MonkeyPatch) -> None:
    """Have both devices draw the same permutations: their generators have nothing in common."""
    numbers = itertools.count()

    def permutation(n: int, *, device: Any = None, generator: torch.Generator | None = None, **_: Any) -> Tensor:
        drawn = torch.from_numpy(np.random.default_rng(next(numbers)).permutation(n))
        return drawn.to(device or (generator.device if generator is not None else "cpu"))

    patch.setattr(torch, "randperm", permutation)


def assert_close(ours: Trained, theirs: Trained, rel: float) -> None:
    """Nearly the same weights, each tensor by its norm, and nearly the same records."""
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    for name, expected in theirs[0].weights.items():
        found, wanted = ours[0].weights[name].double().cpu(), expected.double().cpu()
        apart = (found - wanted).norm() / wanted.norm().clamp_min(1e-3)
        assert apart < rel, f"{name}: {apart:.2g} of its norm apart"
    assert len(ours[1]) == len(theirs[1])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert mine == pytest.approx(other, rel=rel, abs=1e-4)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_training_ends_where_it_does_on_the_cpu(
    learner: str, full_precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {}
    for device in ("cuda", "cpu"):
        same_orders(monkeypatch)
        trained[device] = LEARNERS[learner](device=device)
    assert trained["cuda"][0].metrics["device"] == torch.cuda.get_device_name()
    assert trained["cuda"][0].metrics["precision"] == "fp32"
    assert_close(trained["cuda"], trained["cpu"], rel=0.01)


@pytest.mark.parametrize("learner", LEARNERS)
def test_it_learns_the_same_from_more_data(learner: str) -> None:
    """With TF32 and orders of its own, as it is used."""
    settings: dict[str, Any] = {} if learner == "classifier" else {"epochs": 10}
    ours, theirs = (LEARNERS[learner](device=device, **settings)[1][-1] for device in ("cuda", "cpu"))
    assert ours[METRIC[learner]] == pytest.approx(theirs[METRIC[learner]], rel=0.15)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("report", [1, 4])
def test_a_training_that_is_cut_off_goes_on(
    learner: str,
    report: int,
    full_precision: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = {**CUDA, "dropout": 0.3, **({"seeds": (1,)} if learner == "table" else {})}
    whole = LEARNERS[learner](**settings)
    with progress.listening(raise_at(report)), checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(Killed):
        LEARNERS[learner](**settings)
    assert list(tmp_path.glob("*.pt"))
    with checkpoints.checkpointing(tmp_path, 3600.0), caplog.at_level(logging.INFO):
        resumed = LEARNERS[learner](**settings)
    assert "Going on at step" in caplog.text
    # Sums on a GPU are taken in any order: not to the last bit, but with the very masks of dropout.
    assert_close(resumed, whole, rel=0.01)


@pytest.mark.parametrize("learner", LEARNERS)
def test_mixed_precision_comes_close(learner: str) -> None:
    bundle, history = LEARNERS[learner](**CUDA, precision="bf16")
    assert bundle.metrics["precision"] == "bf16"
    assert {tensor.dtype for tensor in bundle.weights.values()} <= {torch.float32, torch.int64}
    exact = LEARNERS[learner](**CUDA)[1][-1][METRIC[learner]]
    assert history[-1][METRIC[learner]] == pytest.approx(exact, rel=0.1)


def test_auto_takes_bfloat16_where_the_device_has_it() -> None:
    device = resolve_device("auto")
    assert device.type == "cuda"
    native = torch.cuda.get_device_capability()[0] >= 8
    assert resolve_precision("auto", device)[0] == ("bf16" if native else "fp32")
    metrics = small.train_table(**CUDA, precision="auto")[0].metrics
    assert metrics["precision"] == ("bf16" if native else "fp32") and "native" in metrics["precision_reason"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("learner", TEXTS)
def test_the_lstm_is_cudnns_and_its_weights_are_not_copied(learner: str, precision: str, dropout: float) -> None:
    assert torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()
    small.language_model()  # on the CPU, before anybody counts
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            LEARNERS[learner](**CUDA, dropout=dropout, precision=precision)
    names = {event.key for event in profile.key_averages()}
    assert "aten::_cudnn_rnn" in names and "aten::_cudnn_rnn_backward" in names
    assert not {"aten::_thnn_fused_lstm_cell", "aten::lstm_cell"} & names
    assert not [str(warning.message) for warning in caught if "contiguous chunk" in str(warning.message)]


@pytest.mark.parametrize("dtype", [lstm_dtype(cudnn_version() or 0), torch.float16])
def test_a_layer_in_low_precision_is_nearly_that_in_full(dtype: torch.dtype, full_precision: None) -> None:
    layer = DroppedLSTM(40, 56, weight_dropout=0.3).cuda()
    input = torch.randn(70, 32, 40, device="cuda", requires_grad=True)
    start = torch.zeros(1, 32, 56, device="cuda")
    found = {}
    for each in (torch.float32, dtype):
        torch.manual_seed(1)
        output, *_ = layer.read_in_one_block(input, start, start, each)
        wanted = [input, *layer.parameters()]
        found[each] = [output, *torch.autograd.grad(1e-5 * output.square().mean(), wanted)]
    for ours, theirs in zip(found[dtype], found[torch.float32], strict=True):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_prediction_is_that_of_the_cpu(learner: str, full_precision: None) -> None:
    bundle, _ = LEARNERS[learner](**CUDA, dropout=0.1)
    stored = ModelBundle.from_bytes(bundle.to_bytes())
    assert all(tensor.device.type == "cpu" for tensor in stored.weights.values())
    ours, theirs = (outputs(learner, stored, torch.device(name)) for name in ("cuda", "cpu"))
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def outputs(learner: str, bundle: ModelBundle, device: torch.device) -> np.ndarray:
    """What the stored networks say of the held-out rows, or of documents."""
    if learner == "table":
        encoded, encoder = small.table()
        arrays = tables_learner.to_arrays(encoded, encoder)
        networks: list[nn.Module] = list(models.load_model(bundle).networks)
        each = [models.network_outputs(network.to(device), arrays, device) for network in networks]
        return np.stack(each)
    if learner == "ratings":
        rows, _ = small.ratings()
        users, items, _ = (tensor.numpy() for tensor in ratings_learner.rating_tensors(rows))
        (factors,) = ratings_learner.load_model(bundle).networks
        return ratings_learner.pair_scores(factors.to(device), users, items, device)
    documents = small.documents()
    if learner == "classifier":
        texts = [np.array(ids) for ids in documents["ids"].to_list()]
        return class_probabilities(load_classifier(bundle)[0].to(device), texts)
    network = load_language_model(bundle)[0].to(device)
    ids = torch.from_numpy(documents["ids"].explode().cast(pl.Int64).to_numpy()[:400].copy()).reshape(8, 50).to(device)
    with torch.inference_mode():
        nats, hits, state = network.count(ids[:, :-1], ids[:, 1:], network.start(8))
    return np.array([nats.item(), hits.item(), *(h.double().sum().item() for h, _ in state)])


@pytest.mark.parametrize("learner", LEARNERS)
def test_two_gpus_train_as_one(learner: str, full_precision: None) -> None:
    if torch.cuda.device_count() < 2 or not torch.distributed.is_nccl_available():
        pytest.skip(f"{torch.cuda.device_count()} CUDA device(s): NCCL needs two")
    ours, theirs = (LEARNERS[learner](**CUDA, processes=processes) for processes in (2, 1))
    assert ours[0].metrics["processes"] == 2
    assert ours[1][-1][METRIC[learner]] == pytest.approx(theirs[1][-1][METRIC[learner]], rel=0.05)
