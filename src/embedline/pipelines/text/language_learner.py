"""Train a language model, store it as a bundle, and read it back."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
import torch
from torch import nn

from embedline.errors import DataError
from embedline.pipelines.text.language_model import LanguageModel
from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches, to_rows
from embedline.pipelines.text.options import EncoderOptions, LanguageModelOptions, LanguageModelTraining, TextSettings
from embedline.pipelines.text.splits import TRAIN, UNLABELLED, VALIDATION
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import checkpoint, distributed
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, device_name, make_accelerator
from embedline.training.dropout import RANK_STRIDE
from embedline.training.ensemble import available_cores, train_parallel, warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle, library_versions
from embedline.training.options import FinderOptions
from embedline.training.precision import choose_precision
from embedline.training.train import FitResult, train

Result = TypeVar("Result")

KIND = "language_model"
EVALUATION_ROWS = 64  # parallel rows of a stream that is read without learning
EVALUATION_TOKENS = 70  # of each row at a time
TIED = "decoder.weight"  # the same tensor as the encoder's embedding: stored once
NO_VALIDATION = "{}.early_stopping needs documents of the split 'validation': set split.validation above 0"
MONITOR = "validation_loss"  # figure of both text networks' evaluations that early stopping goes by


def build_language_model(config: dict[str, Any]) -> LanguageModel:
    """Network of a bundle's ``config``."""
    options = EncoderOptions.model_validate(config["encoder"])
    return LanguageModel(config["vocabulary_size"], options, decoder_bias=config["decoder_bias"])


def language_config(vocabulary: Vocabulary, network: LanguageModelOptions) -> dict[str, Any]:
    """Arguments of :class:`LanguageModel`; plain JSON values."""
    return {
        "vocabulary_size": len(vocabulary),
        "encoder": network.encoder().model_dump(mode="json"),
        "decoder_bias": network.has_bias,
    }


def train_language_model(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    tokens: TokenOptions,
    network: LanguageModelOptions,
    training: LanguageModelTraining,
) -> tuple[ModelBundle, list[Record]]:
    """Train on the texts of the splits ``train`` and ``unlabelled``; labels are not used.

    Args:
        ids: frame of :func:`.vocabulary.numericalize`.

    Returns:
        The bundle of the last epoch, or of the best one with early stopping, and the history: a record every few steps
        with ``step``, ``epoch``, ``lr`` and ``train_loss`` (nats a token, with dropout); the last record of each epoch
        also has the metrics of the split ``validation``, if there is one.

    Raises:
        DataError: if early stopping is set and there is no split ``validation``.
    """
    learned = _learned(ids)
    held_out = Corpus.of(ids.filter(pl.col("split") == VALIDATION))
    if training.early_stopping and not len(held_out):
        raise DataError(NO_VALIDATION.format("language_model_training"))
    config = language_config(vocabulary, network)
    spec = LanguageModelSpec(learned, held_out, training, config, own_threads(training))
    run, metrics = distributed.run(spec.train, options=training)
    warn_of_few_steps([run], training.batch_size, "language_model_training")
    figures = {
        "tokens": len(learned.ids),
        "documents": len(learned),
        "vocabulary": len(vocabulary),
        **metrics,
        **{name: value for name, value in run.metrics.items() if name not in ("step", "epoch", "lr", "monitor")},
    }
    weights = {name: tensor for name, tensor in run.network.state_dict().items() if name != TIED}
    encoder = {"vocabulary": vocabulary.model_dump(mode="json"), "tokens": tokens.model_dump(mode="json")}
    return ModelBundle(KIND, config, encoder, weights, figures, library_versions()), run.history


@dataclass(frozen=True)
class LanguageModelSpec:
    """Documents and settings of a language model; each process trains it with ``threads`` of PyTorch.

    Attributes:
        held_out: documents to measure it on at the end of each epoch; there may be none.
    """

    corpus: Corpus
    held_out: Corpus
    training: LanguageModelTraining
    config: dict[str, Any]
    threads: int

    def train(self, stop: threading.Event) -> tuple[FitResult, dict[str, Any]]:
        """Train it from its seed until ``stop`` is set; the result, and what the bundle says of the training."""
        training, accelerator = self.training, make_accelerator(self.training)
        batches = LanguageModelBatches(self.corpus, training, device=accelerator.device, shard=accelerator.shard)
        kept = checkpoint.current("language_model")

        def fit(built: nn.Module, stop: threading.Event) -> tuple[FitResult, Accelerator]:
            n_batches = training.epochs * batches.n_batches
            chosen = choose_precision(accelerator, built, batches, n_batches, checkpoints=[kept], stop=stop)
            evaluate = evaluator(self.held_out, chosen) if len(self.held_out) else None
            run = train(
                built,
                batches,
                training,
                accelerator=chosen,
                seed=training.seed,
                evaluate=evaluate,
                monitor=MONITOR,
                label="language_model.",
                checkpoint=kept,
                stop=stop,
            )
            return run, chosen

        def build() -> nn.Module:
            return build_language_model(self.config)

        run, chosen = with_seed(training.seed, self.threads, build, fit, rank=accelerator.shard.rank, stop=stop)
        return run, training_figures(run, chosen)


def own_threads(training: TextSettings) -> int:
    """PyTorch threads of each process: those of the settings, or all cores, shared out among ``training.processes``.

    A launcher has shared them out already.
    """
    return training.threads or max(1, available_cores() // training.processes)


def find_language_model_rate(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    network: LanguageModelOptions,
    training: LanguageModelTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test of a language model on the texts that it would learn from."""
    learned, config, accelerator = _learned(ids), language_config(vocabulary, network), make_accelerator(training)

    def search(built: nn.Module, stop: threading.Event) -> RangeTest:
        task = LanguageModelBatches(learned, training, device=accelerator.device)
        return range_test(built, task, training, finder, accelerator=accelerator, seed=training.seed, stop=stop)

    return with_seed(training.seed, training.threads, lambda: build_language_model(config), search)


def _learned(ids: pl.DataFrame) -> Corpus:
    """The texts that a language model learns from."""
    return Corpus.of(ids.filter(pl.col("split").is_in([TRAIN, UNLABELLED])))


def with_seed(
    seed: int,
    threads: int | None,
    build: Callable[[], nn.Module],
    fit: Callable[[nn.Module, threading.Event], Result],
    *,
    rank: int = 0,
    stop: threading.Event | None = None,
) -> Result:
    """Build a network and train it with ``threads`` PyTorch threads (all cores when None), all from one seed.

    Of several processes, the networks are the same, and the masks of dropout go by the ``rank``.

    PyTorch's global generator, which dropout masks come from, is put back afterwards. Ctrl-C ends the training.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        network = build()
        if rank:
            torch.manual_seed(seed + rank * RANK_STRIDE)
        (run,) = train_parallel(
            lambda _, built, stop: fit(built, stop),
            [network],
            workers=1,
            threads=threads or available_cores(),
            stop=stop,
        )
    return run


def training_figures(run: FitResult, accelerator: Accelerator) -> dict[str, Any]:
    """What a bundle says of its training."""
    processes = accelerator.shard.size
    return {
        "epochs": run.epochs,
        **({"best_epoch": run.best_epoch} if run.best_epoch else {}),
        **({"processes": processes} if processes > 1 else {}),
        "seconds": run.seconds,
        "tokens_per_second": run.rows_per_second,
        "device": device_name(accelerator.device),
        "precision": accelerator.precision,
        "precision_reason": accelerator.precision_reason,
    }


def evaluator(corpus: Corpus, accelerator: Accelerator) -> Callable[[nn.Module], dict[str, float]]:
    """Function that measures a language model on a corpus: nats a token, perplexity and next-word accuracy.

    The documents are read in their order as one stream, with a carried state. Sums are divided once, by the tokens.
    """
    n_rows = min(EVALUATION_ROWS, max(1, len(corpus.ids) // (2 * EVALUATION_TOKENS)))
    rows = torch.from_numpy(to_rows(corpus.ids, n_rows).astype("int32"))

    @torch.no_grad()
    def evaluate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, LanguageModel)
        network.eval()
        state = network.start(n_rows)
        nats = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        hits = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        last = rows.shape[1] - 1
        for start in range(0, last, EVALUATION_TOKENS):
            tokens = rows[:, start : min(start + EVALUATION_TOKENS, last) + 1].long().to(accelerator.device)
            with accelerator.autocast():
                more, found, state = network.count(tokens[:, :-1], tokens[:, 1:], state)
            nats += more
            hits += found
        mean = nats.item() / (n_rows * last)
        return {
            "validation_loss": mean,
            "perplexity": math.exp(mean) if mean < 700.0 else math.inf,  # math.exp raises beyond 709
            "next_word_accuracy": hits.item() / (n_rows * last),
        }

    return evaluate


def load_language_model(bundle: ModelBundle) -> tuple[LanguageModel, Vocabulary, TokenOptions]:
    """The network, in evaluation mode, with its vocabulary and token rules.

    Raises:
        DataError: if the bundle holds no language model.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    network = build_language_model(bundle.config)
    network.load_state_dict({**bundle.weights, TIED: bundle.weights["encoder.embedding.weight"]})
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"])
