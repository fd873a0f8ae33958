"""A language model from documents to a bundle and back: training texts, metrics, resume."""

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from embedline.errors import DataError
from embedline.pipelines.text import language_model as language_model_module
from embedline.pipelines.text.language_model import (
    TIED,
    LanguageModel,
    evaluator,
    load_language_model,
    train_language_model,
    with_seed,
)
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import EncoderOptions, LanguageModelOptions, LanguageModelTraining, Rates
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint as checkpoints
from embedline.training.checkpoint import Record
from embedline.training.device import make_accelerator
from embedline.training.model_file import ModelBundle
from embedline.training.train import FitResult

NETWORK = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
TOKENS = TokenOptions(workers=1)


def make_training(**changes: Any) -> LanguageModelTraining:
    values = {"batch_size": 4, "epochs": 2, "lr": 0.01, "bptt": 10, "device": "cpu", "precision": "fp32", "threads": 1}
    return LanguageModelTraining.model_validate({**values, **changes})


def train(
    ids: pl.DataFrame, vocabulary: Vocabulary, network: LanguageModelOptions = NETWORK, **changes: Any
) -> tuple[ModelBundle, list[Record]]:
    return train_language_model(ids, vocabulary, TOKENS, network, make_training(**changes))


def assert_same(first: tuple[ModelBundle, list[Record]], second: tuple[ModelBundle, list[Record]]) -> None:
    ours, theirs = first[0].weights, second[0].weights
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first[1] == second[1]


def nats_of(model: LanguageModel, stream: np.ndarray) -> tuple[float, float]:
    """Mean nats and accuracy of a stream that is read at once."""
    tokens = torch.from_numpy(stream.astype(np.int64))[None]
    with torch.no_grad():
        hidden, _ = model(tokens[:, :-1], model.start(1))
        logits = model.logits(hidden)[0].double()
    accuracy = (logits.argmax(1) == tokens[0, 1:]).double().mean().item()
    return F.cross_entropy(logits, tokens[0, 1:]).item(), accuracy


def test_it_learns_the_law_of_the_documents(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    wider = LanguageModelOptions(embedding_size=16, hidden_size=24, n_layers=1, drop_mult=0.2)
    bundle, history = train(ids, vocabulary, wider, epochs=12, lr=0.05, alpha=0.0, beta=0.0)
    # 8 of 10 words follow from the one before, the others from 18: 0.2 ln 90 + 0.8 ln (1 / 0.81) = 1.1 nats, against
    # 3.4 without any knowledge; marks and ends of documents cost some more.
    assert history[0]["train_loss"] > 3.0
    assert history[-1]["validation_loss"] < 2.2
    assert bundle.metrics["next_word_accuracy"] > 0.5


def test_a_bundle_says_what_was_trained(language_model: ModelBundle, ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    learned = ids.filter(pl.col("split").is_in(["train", "unlabelled"]))
    metrics = language_model.metrics
    assert language_model.kind == "language_model"
    assert metrics["documents"] == len(learned) == 30
    assert metrics["tokens"] == learned.get_column("ids").list.len().sum()
    assert metrics["vocabulary"] == len(vocabulary) == 29
    assert (metrics["epochs"], metrics["device"], metrics["precision"]) == (1, "cpu", "fp32")
    assert metrics["tokens_per_second"] > 0
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    assert language_model.config == {
        "vocabulary_size": 29,
        "encoder": NETWORK.encoder().model_dump(mode="json"),
        "decoder_bias": True,
    }


def random_model(deviation: float) -> LanguageModel:
    """A model for 15 words with random weights and dropout, which is off in evaluation mode."""
    rates = Rates(input=0.5, embedding=0.5, weight=0.5, hidden=0.5, output=0.5)
    options = EncoderOptions(embedding_size=4, hidden_size=6, n_layers=2, rates=rates)
    model = LanguageModel(15, options, decoder_bias=True)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=deviation)
    return model


@pytest.mark.parametrize("n_tokens", [2, 71, 139, 140, 141, 300])
def test_the_metrics_are_means_over_all_tokens(n_tokens: int) -> None:
    model = random_model(0.7)
    stream = np.random.default_rng(0).integers(0, 15, n_tokens).astype(np.uint16)
    found = evaluator(Corpus(stream, np.array([0, n_tokens])), make_accelerator(make_training()))(model)
    n_rows = max(1, n_tokens // 140)
    length = (n_tokens - 1) // n_rows
    rows = [nats_of(model, stream[row * length : (row + 1) * length + 1]) for row in range(n_rows)]
    assert found["validation_loss"] == pytest.approx(np.mean([nats for nats, _ in rows]), rel=1e-5)
    assert found["next_word_accuracy"] == pytest.approx(np.mean([hits for _, hits in rows]))
    assert found["perplexity"] == pytest.approx(math.exp(found["validation_loss"]))


def test_a_loaded_bundle_measures_what_the_training_reported(
    language_model: ModelBundle, ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    again = ModelBundle.from_bytes(language_model.to_bytes())
    model, words, tokens = load_language_model(again)
    assert not model.training
    assert words == vocabulary
    assert tokens == TOKENS
    held_out = Corpus.of(ids.filter(pl.col("split") == "validation"))
    metrics = evaluator(held_out, make_accelerator(make_training()))(model)
    assert metrics == {
        name: language_model.metrics[name] for name in ("validation_loss", "perplexity", "next_word_accuracy")
    }


@pytest.mark.parametrize("preset", ["ulmfit", "dl1"])
def test_the_tied_matrix_is_stored_once_and_is_one_object_after_loading(
    preset: str, ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    sizes = {"preset": preset, "embedding_size": 6, "hidden_size": 9, "n_layers": 2}
    bundle, _ = train(ids, vocabulary, LanguageModelOptions.model_validate(sizes), epochs=1)
    assert TIED not in bundle.weights
    assert ("decoder.bias" in bundle.weights) is (preset == "ulmfit")
    model, _, _ = load_language_model(ModelBundle.from_bytes(bundle.to_bytes()))
    assert model.decoder.weight is model.encoder.embedding.weight
    assert torch.equal(model.decoder.weight, bundle.weights["encoder.embedding.weight"])
    stored = sum(tensor.numel() for tensor in bundle.weights.values())
    assert stored == sum(p.numel() for p in model.parameters())


def test_only_the_texts_of_training_and_unlabelled_documents_are_learned_and_no_label(
    ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    whole = train(ids, vocabulary, epochs=1)
    others = ids.with_columns(
        label=pl.lit(None, dtype=pl.String),
        ids=pl.when(pl.col("split") == "test").then(pl.col("ids").list.reverse()).otherwise(pl.col("ids")),
    )
    assert_same(train(others, vocabulary, epochs=1), whole)
    validated = ids.filter(pl.col("split") != "validation")
    bundle, history = train(validated, vocabulary, epochs=1)
    assert all(torch.equal(tensor, whole[0].weights[name]) for name, tensor in bundle.weights.items())
    assert "validation_loss" not in history[-1]
    assert "validation_loss" not in bundle.metrics
    fewer, _ = train(ids.filter(pl.col("split") != "unlabelled"), vocabulary, epochs=1)
    assert not torch.equal(fewer.weights["decoder.bias"], whole[0].weights["decoder.bias"])


def test_a_seed_gives_the_same_model_to_the_last_bit_and_leaves_the_shared_numbers_alone(
    ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    before = torch.get_rng_state()
    first = train(ids, vocabulary)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert_same(train(ids, vocabulary), first)
    other, _ = train(ids, vocabulary, seed=43)
    assert not torch.equal(other.weights["decoder.bias"], first[0].weights["decoder.bias"])


def test_the_history_has_a_loss_in_nats_without_penalties_and_metrics_at_each_epochs_end(
    ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    _, plain = train(ids, vocabulary, alpha=0.0, beta=0.0)
    _, penalised = train(ids, vocabulary, alpha=50.0, beta=50.0)
    assert plain[0]["train_loss"] == penalised[0]["train_loss"] == pytest.approx(math.log(29), rel=0.05)
    assert plain[-1]["train_loss"] != penalised[-1]["train_loss"]
    assert [record["epoch"] for record in plain if "validation_loss" in record] == [1.0, 2.0]


CHANGES: list[dict[str, Any]] = [
    {},
    {"random_bptt": True, "averaging": {"decay": 0.9}, "clip_norm": 0.3, "tokens_per_epoch": 300},
]


@pytest.mark.parametrize("changes", CHANGES, ids=["plain", "all"])
@pytest.mark.parametrize("report", [1, 2, 3, 4, 6])
def test_cut_off_and_resumed_it_ends_in_the_same_bits(
    report: int,
    changes: dict[str, Any],
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    cut_off_after: Callable[[int], AbstractContextManager[None]],
    checkpoint_folder: Path,
    n_steps: list[int],
) -> None:
    whole = train(ids, vocabulary, **changes)
    total = len(n_steps)
    with cut_off_after(report):
        train(ids, vocabulary, **changes)
    kept = torch.load(checkpoint_folder / "language_model.pt", weights_only=True)["state"]
    assert 0 < kept["step"] == len(n_steps) - total
    assert (kept["task"] is not None) is (kept["step"] > kept["epoch"] * total / 2)
    n_steps.clear()
    with checkpoints.checkpointing(checkpoint_folder, 3600.0):
        resumed = train(ids, vocabulary, **changes)
    assert len(n_steps) == total - kept["step"]
    assert_same(resumed, whole)


def test_a_bundle_of_another_kind_is_refused(language_model: ModelBundle) -> None:
    other = ModelBundle("text_classifier", language_model.config, language_model.encoder, language_model.weights)
    with pytest.raises(DataError, match="the model bundle is of the kind 'text_classifier', not 'language_model'"):
        load_language_model(other)


def test_too_little_text_is_refused(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    with pytest.raises(DataError, match="tokens do not fill 4000 rows of 2 tokens: take a smaller batch_size"):
        train(ids, vocabulary, batch_size=4000)


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


def test_a_model_that_diverged_has_an_infinite_perplexity() -> None:
    model = random_model(1e4)
    metrics = evaluator(Corpus(np.arange(9) % 5, np.array([0, 9])), make_accelerator(make_training()))(model)
    assert metrics["validation_loss"] > 1000.0
    assert metrics["perplexity"] == math.inf
