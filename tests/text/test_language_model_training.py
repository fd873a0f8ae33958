"""A language model from documents to a bundle and back: training texts, metrics, early stopping, range test, resume."""

import math
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from small_networks import (
    IDS,
    LANGUAGE,
    TOKENS,
    VOCABULARY,
    Resume,
    assert_same,
    different,
    language_model,
    language_training,
    same_rates,
    train_language,
)

from embedline.errors import DataError
from embedline.pipelines.text import language_model as language_model_module
from embedline.pipelines.text.language_model import (
    TIED,
    LanguageModel,
    build_language_model,
    evaluator,
    find_language_model_rate,
    load_language_model,
    with_seed,
)
from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches
from embedline.pipelines.text.options import EncoderOptions, LanguageModelOptions
from embedline.training import optimizer as schedules
from embedline.training.device import make_accelerator
from embedline.training.lr_finder import RangeTest
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions
from embedline.training.train import FitResult

LEARNED = IDS.filter(pl.col("split").is_in(["train", "unlabelled"]))
HELD_OUT = Corpus.of(IDS.filter(pl.col("split") == "validation"))
MEASURED = ("validation_loss", "perplexity", "next_word_accuracy")


def measure(model: LanguageModel, corpus: Corpus = HELD_OUT) -> dict[str, float]:
    return evaluator(corpus, make_accelerator(language_training()))(model)


def test_it_learns_the_law_of_the_documents() -> None:
    wider = LanguageModelOptions(embedding_size=16, hidden_size=24, n_layers=1, drop_mult=0.2)
    bundle, history = train_language(network=wider, epochs=12, lr=0.05, alpha=0.0, beta=0.0)
    # 8 of 10 words follow from the one before, the others from 18: 0.2 ln 90 + 0.8 ln (1 / 0.81) = 1.1 nats, against
    # 3.4 without any knowledge; marks and ends of documents cost some more.
    assert history[0]["train_loss"] > 3.0
    assert history[-1]["validation_loss"] < 2.2
    assert bundle.metrics["next_word_accuracy"] > 0.5


def test_a_bundle_says_what_was_trained_and_a_loaded_one_measures_the_same() -> None:
    bundle = language_model()
    metrics = bundle.metrics
    assert bundle.kind == "language_model"
    assert metrics["documents"] == len(LEARNED) == 30
    assert metrics["tokens"] == LEARNED.get_column("ids").list.len().sum()
    assert metrics["vocabulary"] == len(VOCABULARY) == 29
    assert (metrics["epochs"], metrics["device"], metrics["precision"]) == (1, "cpu", "fp32")
    assert metrics["tokens_per_second"] > 0
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    encoder = LANGUAGE.encoder().model_dump(mode="json")
    assert bundle.config == {"vocabulary_size": 29, "encoder": encoder, "decoder_bias": True, "directions": ["forward"]}
    model, words, tokens = load_language_model(ModelBundle.from_bytes(bundle.to_bytes()))
    assert not model.training
    assert (words, tokens) == (VOCABULARY, TOKENS)
    assert measure(model) == {name: metrics[name] for name in MEASURED}


def random_model(deviation: float) -> LanguageModel:
    """A model for 15 words with random weights and dropout, which is off in evaluation mode."""
    options = EncoderOptions(embedding_size=4, hidden_size=6, n_layers=2, rates=same_rates(0.5))
    model = LanguageModel(15, options, decoder_bias=True)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=deviation)
    return model


@pytest.mark.parametrize("n_tokens", [2, 71, 139, 140, 141, 300])
def test_the_metrics_are_means_over_all_tokens(n_tokens: int) -> None:
    model = random_model(0.7)
    stream = np.random.default_rng(0).integers(0, 15, n_tokens).astype(np.uint16)
    found = measure(model, Corpus(stream, np.array([0, n_tokens])))
    n_rows = max(1, n_tokens // 140)
    length = (n_tokens - 1) // n_rows
    rows = [torch.from_numpy(stream[r * length : (r + 1) * length + 1].astype(np.int64)) for r in range(n_rows)]
    tokens = torch.stack(rows)
    with torch.no_grad():
        hidden, _ = model(tokens[:, :-1], model.start(n_rows))  # read at once
        logits, targets = model.logits(hidden).double().flatten(0, 1), tokens[:, 1:].flatten()
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
    assert found["next_word_accuracy"] == pytest.approx((logits.argmax(1) == targets).double().mean().item())
    assert found["perplexity"] == pytest.approx(math.exp(found["validation_loss"]))


def test_a_model_that_diverged_has_an_infinite_perplexity() -> None:
    metrics = measure(random_model(1e4), Corpus(np.arange(9) % 5, np.array([0, 9])))
    assert metrics["validation_loss"] > 1000.0
    assert metrics["perplexity"] == math.inf


@pytest.mark.parametrize("preset", ["ulmfit", "dl1"])
def test_the_tied_matrix_is_stored_once_and_is_one_object_after_loading(preset: str) -> None:
    network = LanguageModelOptions.model_validate(LANGUAGE.model_dump() | {"preset": preset})
    bundle, _ = train_language(network=network, epochs=1)
    assert TIED not in bundle.weights
    assert ("decoder.bias" in bundle.weights) is (preset == "ulmfit")
    model, _, _ = load_language_model(ModelBundle.from_bytes(bundle.to_bytes()))
    assert model.decoder.weight is model.encoder.embedding.weight
    assert torch.equal(model.decoder.weight, bundle.weights["encoder.embedding.weight"])
    assert sum(t.numel() for t in bundle.weights.values()) == sum(p.numel() for p in model.parameters())


def test_only_the_texts_of_training_and_unlabelled_documents_are_learned_and_no_label() -> None:
    whole = train_language(epochs=1)
    is_test = pl.col("split") == "test"
    reversed_test = pl.when(is_test).then(pl.col("ids").list.reverse()).otherwise(pl.col("ids"))
    others = IDS.with_columns(label=pl.lit(None, dtype=pl.String), ids=reversed_test)
    assert_same(train_language(others, epochs=1), whole)
    bundle, history = train_language(LEARNED, epochs=1)
    assert different(bundle.weights, whole[0].weights) == []
    assert "validation_loss" not in history[-1].keys() | bundle.metrics.keys()
    fewer, _ = train_language(IDS.filter(pl.col("split") != "unlabelled"), epochs=1)
    assert "decoder.bias" in different(fewer.weights, whole[0].weights)


def test_the_history_has_a_loss_in_nats_without_penalties_and_metrics_at_each_epochs_end() -> None:
    _, plain = train_language(alpha=0.0, beta=0.0)
    _, penalised = train_language(alpha=50.0, beta=50.0)
    assert plain[0]["train_loss"] == penalised[0]["train_loss"] == pytest.approx(math.log(29), rel=0.05)
    assert plain[-1]["train_loss"] != penalised[-1]["train_loss"]
    assert [record["epoch"] for record in plain if "validation_loss" in record] == [1.0, 2.0]


def test_a_step_reads_on_through_its_batches() -> None:
    network = LANGUAGE.model_copy(update={"drop_mult": 0.0})
    options = language_training(accumulate=5, random_bptt=True, epochs=1, alpha=0.5, clip_norm=0.2, weight_decay=0.1)
    bundle, history = train_language(network=network, **options.model_dump(exclude_unset=True))
    torch.manual_seed(options.seed)
    model = build_language_model(bundle.config).train()
    task = LanguageModelBatches(Corpus.of(LEARNED), options, device=torch.device("cpu"))
    task.begin_epoch(torch.Generator().manual_seed(options.seed))
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, eps=options.eps)
    steps = [range(at, min(at + 5, task.n_batches)) for at in range(0, task.n_batches, 5)]
    assert len(steps[-1]) < 5 and len({task.rate(index) for index in range(task.n_batches)}) > 1
    losses = []
    for step, batches in enumerate(steps):
        found = [task.loss(model, index, nullcontext) for index in batches]
        factor = sum(task.rate(index) for index in batches) / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = schedules.learning_rate(options, step / len(steps)) * factor
            group["betas"] = (schedules.momentum(options, step / len(steps)), 0.99)
        optimizer.zero_grad()
        torch.stack([loss.total for loss in found]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        losses.append(sum(loss.data_term.item() for loss in found) / len(found))
    assert [record["train_loss"] for record in history] == pytest.approx(losses, rel=1e-5)
    for name, tensor in bundle.weights.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


# A rate that is far too high: the loss on held-out text rises before the training is over.
HASTY = {"lr": 0.3, "epochs": 8, "schedule": "constant", "early_stopping": {"patience": 2}}


TOOLS = {"random_bptt": True, "averaging": {"decay": 0.9}, "clip_norm": 0.3}


@pytest.mark.parametrize(
    ("changes", "reports"),
    [
        *(({}, reports) for reports in (1, 2, 3, 4, 6)),
        *((TOOLS | {"tokens_per_epoch": 300}, reports) for reports in (1, 2, 3, 4, 6)),
        *((HASTY | TOOLS | {"accumulate": 2, "averaging": {"decay": 0.5}}, reports) for reports in (1, 5, 7, 10)),
    ],
)
def test_killed_and_resumed_it_ends_in_the_same_bits(reports: int, changes: dict[str, Any], resume: Resume) -> None:
    states, total, metrics = resume(lambda: train_language(**changes), reports)
    assert [*states] == ["language_model"]
    state = states["language_model"]
    assert (state["task"] is not None) is (state["step"] > state["epoch"] * total / metrics["epochs"])
    if "early_stopping" in changes:
        assert metrics["best_epoch"] < metrics["epochs"] < 8


def test_texts_and_bundles_that_cannot_be_used_are_refused() -> None:
    bundle = language_model()
    other = ModelBundle("text_classifier", bundle.config, bundle.encoder, bundle.weights)
    with pytest.raises(DataError, match="'text_classifier', not 'language_model'"):
        load_language_model(other)
    for train in (train_language, find_rate):
        with pytest.raises(DataError, match=r"4000 rows of 2 tokens: .* batch_size"):
            train(batch_size=4000)
    with pytest.raises(DataError, match=r"^language_model_training\.early_stopping .* split\.validation"):
        train_language(LEARNED, early_stopping={})


def test_a_network_is_built_and_trained_from_one_seed_with_the_threads_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def fit(network: torch.nn.Module, stop: threading.Event) -> FitResult:
        return FitResult(network, [{"drawn": torch.rand(()).item(), "threads": torch.get_num_threads()}])

    monkeypatch.setattr(language_model_module, "available_cores", lambda: 3)
    first, again, other = (with_seed(seed, threads, build, fit) for seed, threads in ((1, 2), (1, None), (2, 2)))
    assert [run.history[0]["threads"] for run in (first, again, other)] == [2, 3, 2]
    assert first.history[0]["drawn"] == again.history[0]["drawn"] != other.history[0]["drawn"]
    assert torch.equal(first.network.weight, again.network.weight)
    assert not torch.equal(first.network.weight, other.network.weight)
    assert torch.get_num_threads() == 1


def find_rate(ids: pl.DataFrame = IDS, **changes: Any) -> RangeTest:
    finder = FinderOptions(low=1e-4, high=10.0, steps=40)
    return find_language_model_rate(ids, VOCABULARY, LANGUAGE, language_training(**changes), finder)


def test_a_range_test_starts_from_the_loss_of_the_training_and_reads_the_same_texts() -> None:
    test = find_rate()
    assert test.losses[0] == pytest.approx(train_language()[1][0]["train_loss"])  # the same first batch
    assert test.suggestion in test.rates
    assert 1e-4 < test.suggestion < 1.0
    torch.rand(3)  # whatever else draws from the shared numbers
    before = torch.get_rng_state()
    assert find_rate(LEARNED) == test
    assert torch.equal(torch.get_rng_state(), before)
    assert find_rate(accumulate=2, seed=3) != test
