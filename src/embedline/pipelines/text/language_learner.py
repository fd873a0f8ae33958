"""Train a language model, and convert it to a bundle and back."""

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
from embedline.training.device import Accelerator, choose_precision, device_name, make_accelerator
from embedline.training.dropout import RANK_STRIDE
from embedline.training.ensemble import available_cores, train_parallel, warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions
from embedline.training.train import FitResult, train

Result = TypeVar("Result")

KIND = "language_model"
EVALUATION_ROWS = 64  # parallel rows of the token stream in an evaluation
EVALUATION_TOKENS = 70  # tokens of each row in a forward pass of an evaluation
TIED = "decoder.weight"  # the same tensor as the encoder's embedding: not stored twice
NO_VALIDATION = "{}.early_stopping needs documents of the split 'validation': set split.validation above 0"
MONITOR = "validation_loss"  # metric that early stopping monitors, for both text networks


def build_language_model(config: dict[str, Any]) -> LanguageModel:
    """Build the network of a bundle's ``config``."""
    options = EncoderOptions.model_validate(config["encoder"])
    return LanguageModel(config["vocabulary_size"], options, decoder_bias=config["decoder_bias"])


def language_config(vocabulary: Vocabulary, network: LanguageModelOptions) -> dict[str, Any]:
    """Arguments of :class:`LanguageModel`; JSON values."""
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
        The bundle of the last epoch (with early stopping: of the best epoch), and the history: a record every few steps
        with ``step``, ``epoch``, ``lr`` and ``train_loss`` (nats a token, with dropout); the last record of each epoch
        also has the metrics of the split ``validation``, if there is one.

    Raises:
        DataError: if early stopping is set and there is no split ``validation``.
    """
    corpus = _training_corpus(ids)
    held_out = Corpus.of(ids.filter(pl.col("split") == VALIDATION))
    if training.early_stopping and not len(held_out):
        raise DataError(NO_VALIDATION.format("language_model_training"))
    config = language_config(vocabulary, network)
    spec = LanguageModelSpec(corpus, held_out, training, config, own_threads(training))
    result, measured = distributed.run(spec.train, options=training)
    warn_of_few_steps([result], training.batch_size, "language_model_training")
    metrics = {
        "tokens": len(corpus.ids),
        "documents": len(corpus),
        "vocabulary": len(vocabulary),
        **measured,
        **{name: value for name, value in result.metrics.items() if name not in ("step", "epoch", "lr", "monitor")},
    }
    weights = {name: tensor for name, tensor in result.network.state_dict().items() if name != TIED}
    encoder = {"vocabulary": vocabulary.model_dump(mode="json"), "tokens": tokens.model_dump(mode="json")}
    return ModelBundle(KIND, config, encoder, weights, metrics), result.history


@dataclass(frozen=True)
class LanguageModelSpec:
    """Documents and settings for training a language model.

    Attributes:
        corpus: training documents.
        held_out: validation documents, may be empty.
        config: see :func:`language_config`.
        threads: PyTorch threads of each process.
    """

    corpus: Corpus
    held_out: Corpus
    training: LanguageModelTraining
    config: dict[str, Any]
    threads: int

    def train(self, stop: threading.Event) -> tuple[FitResult, dict[str, Any]]:
        """Train in one process, until the end or until ``stop`` is set; return the result and the bundle's metrics."""
        training, accelerator = self.training, make_accelerator(self.training)
        batches = LanguageModelBatches(self.corpus, training, device=accelerator.device, shard=accelerator.shard)
        kept = checkpoint.current("language_model")

        def fit(network: nn.Module, stop: threading.Event) -> tuple[FitResult, Accelerator]:
            n_batches = training.epochs * batches.n_batches
            chosen = choose_precision(
                accelerator, network, batches, n_batches, checkpoints=[kept.path] if kept else [], stop=stop
            )
            evaluate = evaluator(self.held_out, chosen) if len(self.held_out) else None
            result = train(
                network,
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
            return result, chosen

        def build() -> nn.Module:
            return build_language_model(self.config)

        result, chosen = with_seed(training.seed, self.threads, build, fit, rank=accelerator.shard.rank, stop=stop)
        return result, training_metrics(result, chosen)


def own_threads(training: TextSettings) -> int:
    """PyTorch threads of each process: ``training.threads``, or all cores divided by ``training.processes``.

    With a launcher, ``available_cores`` are already those of one process.
    """
    return training.threads or max(1, available_cores() // training.processes)


def find_language_model_rate(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    network: LanguageModelOptions,
    training: LanguageModelTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test of a language model on its training texts."""
    corpus, config, accelerator = (
        _training_corpus(ids),
        language_config(vocabulary, network),
        make_accelerator(training),
    )

    def search(network: nn.Module, stop: threading.Event) -> RangeTest:
        batches = LanguageModelBatches(corpus, training, device=accelerator.device)
        return range_test(network, batches, training, finder, accelerator=accelerator, seed=training.seed, stop=stop)

    return with_seed(training.seed, training.threads, lambda: build_language_model(config), search)


def _training_corpus(ids: pl.DataFrame) -> Corpus:
    """The training texts of a language model: the splits ``train`` and ``unlabelled``."""
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
    """Build a network and train it with ``threads`` PyTorch threads (None: all cores), both from ``seed``.

    All processes build the same network; their dropout masks differ by ``rank``. The global generator of PyTorch, which
    draws the masks, is restored afterwards. Ctrl-C ends the training.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        network = build()
        if rank:
            torch.manual_seed(seed + rank * RANK_STRIDE)
        (result,) = train_parallel(
            lambda _, network, stop: fit(network, stop),
            [network],
            workers=1,
            threads=threads or available_cores(),
            stop=stop,
        )
    return result


def training_metrics(result: FitResult, accelerator: Accelerator) -> dict[str, Any]:
    """Metrics of a training for the bundle: epochs, seconds, tokens per second, device and precision."""
    processes = accelerator.shard.size
    return {
        "epochs": result.epochs,
        **({"best_epoch": result.best_epoch} if result.best_epoch else {}),
        **({"processes": processes} if processes > 1 else {}),
        "seconds": result.seconds,
        "tokens_per_second": result.rows_per_second,
        "device": device_name(accelerator.device),
        "precision": accelerator.precision,
        "precision_reason": accelerator.precision_reason,
    }


def evaluator(corpus: Corpus, accelerator: Accelerator) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that evaluates a language model on a corpus: nats a token, perplexity and next-word accuracy.

    The documents are read in order as one token stream with a carried state. Each token has the same weight.
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
    """Load the network, in evaluation mode, its vocabulary and tokenizer settings.

    Raises:
        DataError: if the bundle is not a language model.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    network = build_language_model(bundle.config)
    network.load_state_dict({**bundle.weights, TIED: bundle.weights["encoder.embedding.weight"]})
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"])
