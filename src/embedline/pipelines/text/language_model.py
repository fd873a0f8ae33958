"""The AWD-LSTM language model (Merity et al. 2017, arXiv:1708.02182): network, training, evaluation, and its bundle."""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import polars as pl
import torch
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.automatic import choose_language_model
from embedline.pipelines.text.awd_lstm import Encoder, SequenceDropout, State, cudnn_version, lstm_dtype
from embedline.pipelines.text.chunked_loss import count_nats, cross_entropy
from embedline.pipelines.text.documents import TRAIN, UNLABELLED, VALIDATION
from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches, to_rows
from embedline.pipelines.text.options import (
    Direction,
    EncoderOptions,
    LanguageModelOptions,
    LanguageModelTraining,
    TextSettings,
)
from embedline.pipelines.text.pretrained import initial_weights, stage_names, train_stages, unfreeze_stage
from embedline.pipelines.text.sampled_softmax import Sample, sampled_cross_entropy
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import checkpoint, distributed
from embedline.training.device import Accelerator, choose_precision, device_name, make_accelerator
from embedline.training.dropout import RANK_STRIDE
from embedline.training.ensemble import available_cores, train_parallel, warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions
from embedline.training.progress import Progress
from embedline.training.train import FitResult, train

Result = TypeVar("Result")

KIND = "language_model"
EVALUATION_ROWS = 64  # parallel rows of the token stream in an evaluation
EVALUATION_TOKENS = 70  # tokens of each row in a forward pass of an evaluation
TIED = "decoder.weight"  # the same tensor as the encoder's embedding: not stored twice
NO_VALIDATION = "{}.early_stopping needs documents of the split 'validation': set split.validation above 0"
PLACE = ("step", "epoch", "stage", "lr", "monitor")  # of a record, beside its metrics
MONITOR = "validation_loss"  # metric that early stopping monitors, for both text networks


def activation_penalty(output: Tensor) -> Tensor:
    """Activation regularisation (AR), ``mean(h^2)`` float [], of outputs [B, T, D] (Merity et al. 2017, §4.7)."""
    return output.float().square().mean()


def temporal_penalty(output: Tensor) -> Tensor:
    """Temporal activation regularisation (TAR), ``mean((h_t - h_(t-1))^2)`` float []; 0 for a single step."""
    if output.shape[1] < 2:
        return output.new_zeros(())
    return output.float().diff(dim=1).square().mean()


class LanguageModel(nn.Module):
    """Predicts the next token; the decoder's weights are the embedding (Press & Wolf 2017), its bias starts at 0."""

    def __init__(self, vocabulary_size: int, options: EncoderOptions, *, decoder_bias: bool) -> None:
        super().__init__()
        self.encoder = Encoder(vocabulary_size, options)
        self.output_dropout = SequenceDropout(options.rates.output)
        self.decoder = nn.Linear(options.embedding_size, vocabulary_size, bias=decoder_bias)
        self.decoder.weight = self.encoder.embedding.weight
        if decoder_bias:
            nn.init.zeros_(self.decoder.bias)

    def start(self, batch_size: int) -> State:
        """Return the state before the first token: zeros."""
        return self.encoder.start(batch_size)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the last layer's outputs [B, T, E] for ids int64 [B, T], and the next state; see :meth:`logits`."""
        output: tuple[Tensor, State] = self.encoder(ids, state)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores [..., V] of the next token, given outputs [..., E]."""
        scores: Tensor = self.decoder(hidden)
        return scores

    def losses(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State,
        *,
        alpha: float,
        beta: float,
        samples: Sequence[Sample] | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """Return the loss with AR and TAR float [], the cross-entropy float [] in nats a token, and the next state.

        Args:
            ids, targets: int64 [B, T], the tokens, and the token that follows each.
            alpha: weight of AR, on the outputs after dropout, as in the authors' code.
            beta: weight of TAR, on the outputs before dropout.
            samples: words of :meth:`.WordSampler.draw` to estimate the cross-entropy from; None: the whole vocabulary.
        """
        output, state = self(ids, state)
        dropped = self.output_dropout(output.transpose(0, 1))  # time first, as SequenceDropout expects
        scored = (dropped.flatten(0, 1), self.decoder.weight, self.decoder.bias, targets.t().flatten())
        nats = cross_entropy(*scored) if samples is None else sampled_cross_entropy(*scored, samples)
        loss = nats + alpha * activation_penalty(dropped) if alpha else nats
        loss = loss + beta * temporal_penalty(output) if beta else loss
        return loss, nats.detach(), state

    def count(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return the sum of nats [], the number of hits [] (see :func:`count_nats`), and the next state."""
        output, state = self(ids, state)
        nats, hits = count_nats(output.flatten(0, 1), self.decoder.weight, self.decoder.bias, targets.flatten())
        return nats, hits, state

    def groups(self) -> list[list[nn.Module]]:
        """Layer groups from the first to the last: each LSTM, then the embedding and the decoder that shares it."""
        return [*([layer] for layer in self.encoder.layers), [self.encoder.embedding, self.decoder]]


def build_language_model(config: dict[str, Any], weights: dict[str, Tensor] | None = None) -> LanguageModel:
    """Build the network of a bundle's ``config``, with a bundle's ``weights``: those without :data:`TIED`, if any."""
    options = EncoderOptions.model_validate(config["encoder"])
    network = LanguageModel(config["vocabulary_size"], options, decoder_bias=config["decoder_bias"])
    if weights:
        network.load_state_dict({**weights, TIED: weights["encoder.embedding.weight"]})
    return network


def language_config(vocabulary: Vocabulary, network: LanguageModelOptions) -> dict[str, Any]:
    """The ``config`` of a bundle; JSON values."""
    encoder = network.encoder().model_dump(mode="json")
    return {"vocabulary_size": len(vocabulary), "encoder": encoder, "decoder_bias": network.has_bias}


def train_language_model(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    tokens: TokenOptions,
    network: LanguageModelOptions,
    training: LanguageModelTraining,
    directions: Iterable[Direction] = ("forward",),
    pretrained: ModelBundle | None = None,
) -> tuple[ModelBundle, list[dict[str, Any]]]:
    """Train on the texts of the splits ``train`` and ``unlabelled`` of a frame of :func:`.vocabulary.numericalize`.

    A language model for each direction, one after the other. The backward one reads the tokens of each document in
    reverse order; its tensors, checkpoints and metrics have the prefix ``backward.``. ``pretrained`` are language
    models to start from (see :mod:`.pretrained`); None: from random weights.

    Returns:
        The bundle of the last epoch (with early stopping: of the best epoch), and the history: a record every few steps
        with ``direction``, ``step``, ``epoch``, ``lr`` and ``train_loss`` (nats a token, with dropout); the last record
        of each epoch also has the metrics of the split ``validation``. Early stopping without this split is a
        DataError. With stages the records have ``stage``, from 0; steps and epochs count on from stage to stage. The
        bundle's metrics are those of the forward model, and under ``backward`` those of the other.
    """
    corpora = [_training_corpus(ids), Corpus.of(ids.filter(pl.col("split") == VALIDATION))]
    if training.early_stopping and not len(corpora[1]):
        raise DataError(NO_VALIDATION.format("language_model_training"))
    network, training, chosen = choose_language_model(
        network, training, n_tokens=len(corpora[0].ids), n_words=len(vocabulary), pretrained=pretrained
    )
    config, threads = language_config(vocabulary, network), own_threads(training)
    metrics: dict[str, Any] = {
        "tokens": len(corpora[0].ids),
        "documents": len(corpora[0]),
        "vocabulary": len(vocabulary),
        **({"auto": chosen} if chosen else {}),
    }
    weights: dict[str, Tensor] = {}
    history: list[dict[str, Any]] = []
    directions = list(directions)
    starts = initial_weights(pretrained, vocabulary, config, directions)
    for direction in directions:
        given = corpora if direction == "forward" else [corpus.reversed() for corpus in corpora]
        prefix = direction_prefix(direction)
        fit = partial(train_network, start=starts.get(direction), prefix=prefix)
        result, measured = distributed.run(fit, *given, training, config, threads, options=training)
        warn_of_few_steps([result], training.batch_size, "language_model_training")
        measured |= {name: value for name, value in result.metrics.items() if name not in PLACE}
        metrics |= measured if direction == "forward" else {direction: measured}
        state = result.network.state_dict()
        weights |= {f"{prefix}{name}": tensor for name, tensor in state.items() if name != TIED}
        history += [{"direction": direction, **record} for record in result.history]
    encoder = {"vocabulary": vocabulary.model_dump(mode="json"), "tokens": tokens.model_dump(mode="json")}
    return ModelBundle(KIND, config | {"directions": directions}, encoder, weights, metrics), history


def direction_prefix(direction: str) -> str:
    """Prefix of the names of a direction's tensors, checkpoints and metrics: none for ``forward``."""
    return "" if direction == "forward" else f"{direction}."


def train_network(
    corpus: Corpus,
    held_out: Corpus,
    training: LanguageModelTraining,
    config: dict[str, Any],
    threads: int,
    stop: threading.Event,
    *,
    start: dict[str, Tensor] | None = None,
    prefix: str = "",
) -> tuple[FitResult, dict[str, Any]]:
    """Train in one process, until the end or until ``stop`` is set; return the result and the bundle's metrics.

    There may be no validation documents in ``held_out``; ``threads`` are PyTorch's; ``start`` are the initial weights,
    None: random ones; ``prefix`` is that of the names of checkpoints and of the metrics that are reported.
    """
    accelerator, names = make_accelerator(training), [f"{prefix}{name}" for name in stage_names(training)]
    batches = LanguageModelBatches(corpus, training, device=accelerator.device, shard=accelerator.shard)

    def fit(network: nn.Module, stop: threading.Event) -> tuple[FitResult, Accelerator]:
        n_batches = sum(stage.epochs for stage in training.stages or [training]) * batches.n_batches
        files = [kept.path for kept in map(checkpoint.current, names) if kept]
        chosen = choose_precision(accelerator, network, batches, n_batches, checkpoints=files, stop=stop)
        settings: dict[str, Any] = {
            "accelerator": chosen,
            "evaluate": evaluator(held_out, chosen) if len(held_out) else None,
            "monitor": MONITOR,
            "stop": stop,
        }
        if training.stages:
            return train_stages(network, batches, training, names, settings), chosen
        own: dict[str, Any] = {"label": f"{names[0]}.", "checkpoint": checkpoint.current(names[0])}
        return train(network, batches, training, seed=training.seed, **own, **settings), chosen

    build, rank = partial(build_language_model, config, start), accelerator.shard.rank
    result, chosen = with_seed(training.seed, threads, build, fit, rank=rank, stop=stop)
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
    pretrained: ModelBundle | None = None,
) -> RangeTest:
    """Learning-rate range test of a language model on its training texts; with stages, of the first one."""
    corpus = _training_corpus(ids)
    network, training, _ = choose_language_model(
        network, training, n_tokens=len(corpus.ids), n_words=len(vocabulary), pretrained=pretrained
    )
    config, accelerator = language_config(vocabulary, network), make_accelerator(training)
    start = initial_weights(pretrained, vocabulary, config, ("forward", "backward")).get("forward")
    batches = LanguageModelBatches(corpus, training, device=accelerator.device)

    def search(network: nn.Module, stop: threading.Event) -> RangeTest:
        groups = unfreeze_stage(network, training.stages[0], training) if training.stages else None
        settings: dict[str, Any] = {"accelerator": accelerator, "seed": training.seed, "groups": groups, "stop": stop}
        return range_test(network, batches, training, finder, **settings)

    return with_seed(training.seed, training.threads, partial(build_language_model, config, start), search)


def _training_corpus(ids: pl.DataFrame) -> Corpus:
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
        threads = threads or available_cores()
        (result,) = train_parallel(lambda _, *given: fit(*given), [network], workers=1, threads=threads, stop=stop)
    return result


def training_metrics(result: FitResult, accelerator: Accelerator) -> dict[str, Any]:
    """Metrics of a training for the bundle: epochs, seconds, tokens per second, device and precision."""
    processes, low = accelerator.shard.size, accelerator.device.type == "cuda" and accelerator.precision == "bf16"
    return {
        "epochs": result.epochs,
        **({"best_epoch": result.best_epoch} if result.best_epoch else {}),
        **({"processes": processes} if processes > 1 else {}),
        "seconds": result.seconds,
        "tokens_per_second": result.rows_per_second,
        "device": device_name(accelerator.device),
        "precision": accelerator.precision,
        "precision_reason": accelerator.precision_reason,
        **({"lstm_precision": str(lstm_dtype(cudnn_version()))} if low else {}),
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
        nats, hits = (torch.zeros((), dtype=t, device=accelerator.device) for t in (torch.float64, torch.int64))
        last = rows.shape[1] - 1
        progress = Progress("evaluation of the language model", n_rows * last, "token")
        for start in range(0, last, EVALUATION_TOKENS):
            progress.update(n_rows * start)
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


def load_language_model(
    bundle: ModelBundle, direction: Direction = "forward"
) -> tuple[LanguageModel, Vocabulary, TokenOptions]:
    """Load the network of a direction, in evaluation mode, its vocabulary and tokenizer settings.

    A bundle of another kind, or without a network of this direction, is a DataError.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    there = bundle.config.get("directions", ["forward"])  # bundles of former versions do not say it
    if direction not in there:
        raise DataError(
            f"directions names {direction!r}, but the language model has {', '.join(there)} only: leave {direction!r} "
            f"out of directions, or train the language model with directions: [{', '.join([*there, direction])}]"
        )
    prefix = direction_prefix(direction)
    others = tuple(direction_prefix(other) for other in there if other not in ("forward", direction))
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in bundle.weights.items()
        if name.startswith(prefix) and not name.startswith(others)
    }
    network = build_language_model(bundle.config, weights)
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"])
