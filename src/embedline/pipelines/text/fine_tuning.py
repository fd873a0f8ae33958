"""Fine-tune a language model's encoder into a classifier, in the stages of gradual unfreezing."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.classifier import TextClassifier
from embedline.pipelines.text.classifier_batches import ClassifierBatches
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.language_learner import MONITOR, load_language_model, with_seed
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import (
    ClassifierOptions,
    ClassifierTraining,
    EncoderOptions,
    Stage,
    StageTraining,
)
from embedline.pipelines.text.splits import TRAIN
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint
from embedline.training.device import AUTO, Accelerator, choose_precision
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import LayerGroup
from embedline.training.train import Evaluate, FitResult, train

logger = logging.getLogger(__name__)


def match_embedding(weights: Tensor, known: Vocabulary, wanted: Vocabulary) -> Tensor:
    """Convert an embedding [K, E] for the vocabulary ``known`` to one [V, E] for the vocabulary ``wanted``.

    Words that are not in ``known`` get the mean row, as in Howard & Ruder's code and fastai's ``match_embeds``.

    Raises:
        DataError: if the token rules of the vocabularies differ, or they share under 10 % of the words.
    """
    if known.rules != wanted.rules:
        raise DataError(
            f"the language model's vocabulary was made with the token rules {known.rules!r}, the documents' with "
            f"{wanted.rules!r}: set tokens.rules to {known.rules!r}"
        )
    place = {token: row for row, token in enumerate(known.tokens)}
    rows = [place.get(token, -1) for token in wanted.tokens]
    words = rows[len(wanted.specials) :]  # all vocabularies of these rules have the special tokens
    shared = sum(row >= 0 for row in words) / max(1, len(words))
    if shared < 0.1:
        raise DataError(
            f"the language model knows {shared:.1%} of the documents' {len(words):,} words: it is of another corpus"
        )
    if shared < 1.0:
        logger.info(
            "%.1f%% of %s words are unknown to the language model: mean embedding", 100 * (1 - shared), len(words)
        )
    index = torch.tensor(rows)
    matched = weights[index.clamp(min=0)]
    matched[index < 0] = weights.mean(0)
    return matched


def build_classifier(config: dict[str, Any]) -> TextClassifier:
    """Build the network of a bundle's ``config``."""
    return TextClassifier(
        config["vocabulary_size"],
        EncoderOptions.model_validate(config["encoder"]),
        layers=tuple(config["layers"]),
        head_rates=tuple(config["head_rates"]),
        n_classes=config["n_classes"],
        bptt=config["bptt"],
        max_tokens=config["max_tokens"],
    )


def classifier_config(
    bundle: ModelBundle, vocabulary: Vocabulary, options: ClassifierOptions, n_classes: int
) -> dict[str, Any]:
    """Arguments of :class:`TextClassifier` for the language model in ``bundle``; JSON values."""
    return {
        "vocabulary_size": len(vocabulary),
        "encoder": {**bundle.config["encoder"], "rates": options.rates().model_dump()},
        "layers": list(options.layers),
        "head_rates": list(options.head_rates()),
        "n_classes": n_classes,
        "bptt": options.bptt,
        "max_tokens": options.max_tokens,
    }


@dataclass(frozen=True)
class ClassifierData:
    """Training data of a classifier, and its initial encoder.

    Attributes:
        corpus: documents of the split ``train``.
        targets: class of each document, int64 [D].
        config: see :func:`classifier_config`.
        encoder: weights of the language model's encoder, with the embedding for the documents' vocabulary.
        tokens: settings of the tokenizer that the language model was trained with.
    """

    corpus: Corpus
    targets: NDArray[np.int64]
    config: dict[str, Any]
    encoder: dict[str, Tensor]
    tokens: TokenOptions

    @classmethod
    def from_documents(
        cls,
        ids: pl.DataFrame,
        vocabulary: Vocabulary,
        classes: Sequence[str],
        language_model: ModelBundle,
        network: ClassifierOptions,
    ) -> "ClassifierData":
        """Build it from the arguments of :func:`.classifier_learner.train_classifier`, which lists the errors."""
        if len(classes) < 2:
            raise DataError(f"a classifier needs two classes or more, got {list(classes)}")
        documents = ids.filter(pl.col("split") == TRAIN)
        targets = class_codes(documents, classes)
        if missing := [name for place, name in enumerate(classes) if not (targets == place).any()]:
            raise DataError(f"the split 'train' has no document of the class {missing[0]!r}")
        model, known, tokens = load_language_model(language_model)
        encoder = model.encoder.state_dict()
        encoder["embedding.weight"] = match_embedding(encoder["embedding.weight"], known, vocabulary)
        config = classifier_config(language_model, vocabulary, network, len(classes))
        return cls(Corpus.of(documents), targets, config, encoder, tokens)

    def batches(self, options: StageTraining, accelerator: Accelerator) -> ClassifierBatches:
        """Batches of the documents, for this process."""
        return ClassifierBatches(self.corpus, self.targets, options, device=accelerator.device, shard=accelerator.shard)

    def build(self) -> TextClassifier:
        """Build a classifier with the language model's encoder and a head with random weights."""
        network = build_classifier(self.config)
        network.encoder.load_state_dict(self.encoder)
        return network


def discriminative(groups: Sequence[Sequence[nn.Module]], decay: float) -> list[LayerGroup]:
    """Return groups from the first layers to the last, each learning ``decay`` times slower than the next.

    Discriminative fine-tuning (Howard & Ruder 2018, arXiv:1801.06146, §3.2; the paper's factor is 2.6).

    >>> [round(group.rate, 3) for group in discriminative([[], [], []], decay=2.0)]
    [0.25, 0.5, 1.0]
    """
    last = len(groups) - 1
    return [LayerGroup(modules, decay ** (place - last)) for place, modules in enumerate(groups)]


def unfrozen_groups(network: TextClassifier, stage: Stage, training: ClassifierTraining) -> list[LayerGroup]:
    """Freeze the other layer groups of a stage; return all groups with their learning rates."""
    network.unfreeze(stage.unfrozen)
    return discriminative(network.groups(), training.rate_decay)


def train_stages(
    data: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    accelerator: Accelerator,
    evaluate: Evaluate | None = None,
    stop: threading.Event | None = None,
) -> list[list[FitResult]]:
    """Train a classifier for each seed, one after the other; return the results of its stages, for each seed."""
    fitters = [stage_fitter(data, training, member, evaluate, accelerator) for member in range(len(training.seeds))]
    return [
        with_seed(seed, threads, data.build, fit, rank=accelerator.shard.rank, stop=stop)
        for seed, fit in zip(training.seeds, fitters, strict=True)
    ]


def choose_stage_precision(
    data: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    accelerator: Accelerator,
    stop: threading.Event | None = None,
) -> Accelerator:
    """Choose one precision for all stages of all members: that of the last stage, in which most layers learn."""
    if accelerator.precision != AUTO:
        return accelerator
    stage = training.stages[-1]
    checkpoints = [each for member in range(len(training.seeds)) for each in _checkpoints(training, member)]

    def choose(network: nn.Module, stop: threading.Event) -> Accelerator:
        assert isinstance(network, TextClassifier)
        unfrozen_groups(network, stage, training)
        batches = data.batches(training.of_stage(stage), accelerator)
        n_batches = batches.n_batches * sum(each.epochs for each in training.stages)
        files = [each.path for each in checkpoints if each]
        return choose_precision(accelerator, network, batches, n_batches, checkpoints=files, stop=stop)

    return with_seed(training.seeds[0], threads, data.build, choose, rank=accelerator.shard.rank, stop=stop)


def _prefix(training: ClassifierTraining, member: int) -> str:
    return f"member{member}." if len(training.seeds) > 1 else ""


def _checkpoints(training: ClassifierTraining, member: int) -> list[checkpoint.Checkpoint | None]:
    """Return the checkpoint of each stage of a member."""
    return [checkpoint.current(f"{_prefix(training, member)}stage{place}") for place in range(len(training.stages))]


def stage_fitter(
    data: ClassifierData,
    training: ClassifierTraining,
    member: int,
    evaluate: Evaluate | None,
    accelerator: Accelerator,
) -> Callable[[nn.Module, threading.Event], list[FitResult]]:
    """Return a function that trains a classifier in all stages; all its results have the same network."""
    prefix, checkpoints = _prefix(training, member), _checkpoints(training, member)

    def fit(network: nn.Module, stop: threading.Event) -> list[FitResult]:
        assert isinstance(network, TextClassifier)
        results = []
        for place, stage in enumerate(training.stages):
            options = training.of_stage(stage)
            result = train(
                network,
                data.batches(options, accelerator),
                options,
                accelerator=accelerator,
                seed=training.seeds[member] + place,
                groups=unfrozen_groups(network, stage, training),
                evaluate=evaluate,
                monitor=MONITOR,
                label=f"{prefix}stage{place}.",
                checkpoint=checkpoints[place],
                stop=stop,
            )
            network.load_state_dict(result.network.state_dict())  # the averaged weights, if averaging is on
            results.append(replace(result, network=network))
        return results

    return fit
