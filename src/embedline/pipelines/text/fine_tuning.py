"""Fine-tune a language model's encoder into a classifier, in the stages of gradual unfreezing, for each seed."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.automatic import choose_classifier
from embedline.pipelines.text.classifier import KIND, ClassifierEnsemble, TextClassifier, build_classifier, class_logits
from embedline.pipelines.text.classifier_batches import ClassifierBatches
from embedline.pipelines.text.documents import TRAIN, VALIDATION
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.language_model import (
    MONITOR,
    NO_VALIDATION,
    direction_prefix,
    load_language_model,
    own_threads,
    training_metrics,
    with_seed,
)
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining, Direction, Stage, StageTraining
from embedline.pipelines.text.pretrained import match_embedding
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint, distributed
from embedline.training.device import AUTO, Accelerator, choose_precision, make_accelerator
from embedline.training.ensemble import member_tensors, member_weights, warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import LayerGroup, discriminative
from embedline.training.options import FinderOptions
from embedline.training.train import Evaluate, FitResult, train


@dataclass(frozen=True)
class ClassifierData:
    """Training data of a classifier, and its initial encoder.

    Attributes:
        corpus, targets: documents of the split ``train``, and the class of each, int64 [D].
        config: of the bundle, JSON values.
        encoders: weights of the language model's encoder of each direction, with the embedding for the documents'
            vocabulary.
        tokens: settings of the tokenizer that the language model was trained with.
    """

    corpus: Corpus
    targets: NDArray[np.int64]
    config: dict[str, Any]
    encoders: dict[Direction, dict[str, Tensor]]
    tokens: TokenOptions

    @classmethod
    def from_documents(
        cls,
        ids: pl.DataFrame,
        vocabulary: Vocabulary,
        classes: Sequence[str],
        language_model: ModelBundle,
        network: ClassifierOptions,
        directions: Iterable[Direction],
    ) -> "ClassifierData":
        """Build it from the arguments of :func:`train_classifier`, which lists the errors."""
        if len(classes) < 2:
            raise DataError(f"a classifier needs two classes or more, got {list(classes)}")
        documents = ids.filter(pl.col("split") == TRAIN)
        targets = class_codes(documents, classes)
        if missing := [name for place, name in enumerate(classes) if not (targets == place).any()]:
            raise DataError(f"the split 'train' has no document of the class {missing[0]!r}")
        encoders = {}
        for direction in directions:
            model, known, tokens = load_language_model(language_model, direction)
            encoder = model.encoder.state_dict()
            encoder["embedding.weight"] = match_embedding(encoder["embedding.weight"], known, vocabulary)
            encoders[direction] = encoder
        config = {
            "vocabulary_size": len(vocabulary),
            "encoder": {**language_model.config["encoder"], "rates": network.rates().model_dump()},
            "layers": list(network.layers),
            "head_rates": list(network.head_rates()),
            "n_classes": len(classes),
            "class_shares": (np.bincount(targets, minlength=len(classes)) / len(targets)).tolist(),
            "bptt": network.bptt,
            "max_tokens": network.max_tokens,
        }
        return cls(Corpus.of(documents), targets, config, encoders, tokens)

    def batches(self, options: StageTraining, accelerator: Accelerator) -> ClassifierBatches:
        """Batches for this process."""
        return ClassifierBatches(self.corpus, self.targets, options, device=accelerator.device, shard=accelerator.shard)

    def build(self, direction: Direction) -> TextClassifier:
        """Build a classifier with the language model's encoder of a direction and a head with random weights."""
        network = build_classifier(self.config, direction)
        network.encoder.load_state_dict(self.encoders[direction])
        return network


class Member(NamedTuple):
    """A classifier of the ensemble: its direction, and the place of its seed in ``training.seeds``."""

    direction: Direction
    place: int


def train_classifier(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    directions: Iterable[Direction] = ("forward",),
) -> tuple[ModelBundle, list[dict[str, Any]]]:
    """Fine-tune on the documents of the split ``train``, stage by stage; a classifier for each direction and seed.

    Those of the direction ``backward`` start from the backward language model and read the documents in reverse order.

    Returns:
        The bundle of the last stage's last epoch (with early stopping: its best epoch), and the history: records as in
        :func:`.language_model.train_language_model`, with ``direction``, ``member`` and ``stage``; the last record of
        each epoch has the metrics of the split ``validation``. The bundle's metrics are those of all members together
        (the mean of their probabilities) and, of several directions, those of each under its name.

    Raises:
        DataError: a label is not among the classes, a class has no training document, the language model lacks a
            direction, or early stopping is set and there is no split ``validation``.
    """
    n_documents = int((ids["split"] == TRAIN).sum())
    network, training, chosen = choose_classifier(network, training, n_documents=n_documents)
    data = ClassifierData.from_documents(ids, vocabulary, classes, language_model, network, directions)
    held_out = ids.filter(pl.col("split") == VALIDATION)
    if training.early_stopping and held_out.is_empty():
        raise DataError(NO_VALIDATION.format("classifier_training"))
    validation = (Corpus.of(held_out), torch.from_numpy(class_codes(held_out, classes))) if len(held_out) else None
    threads = own_threads(training)
    members, measured = distributed.run(_train_members, data, training, threads, validation, options=training)
    warn_of_few_steps(members[0], training.batch_size, "classifier_training")
    read = [member.direction for member in _members(data, training)]
    history = [
        {"direction": direction, "member": member, "stage": stage, **record}
        for member, (direction, results) in enumerate(zip(read, members, strict=True))
        for stage, result in enumerate(results)
        for record in result.history
    ]
    metrics = {
        "documents": len(data.corpus),
        "tokens": len(data.corpus.ids),
        "members": len(members),
        "member_weights": _weights(data, training),
        **({"auto": chosen} if chosen else {}),
        **measured,
        "language_model": language_model.metrics,
    }
    tokens, words = (each.model_dump(mode="json") for each in (data.tokens, vocabulary))
    encoding = {"vocabulary": words, "tokens": tokens, "classes": list(classes)}
    weights = member_tensors([results[-1].network for results in members])
    return ModelBundle(KIND, data.config | {"directions": read}, encoding, weights, metrics), history


def find_classifier_rate(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test of the first stage, with the first seed; later stages start from trained weights."""
    network, training, _ = choose_classifier(network, training, n_documents=int((ids["split"] == TRAIN).sum()))
    data = ClassifierData.from_documents(ids, vocabulary, classes, language_model, network, ["forward"])
    accelerator, stage, seed = make_accelerator(training), training.stages[0], training.seeds[0]

    def search(network: nn.Module, stop: threading.Event) -> RangeTest:
        options, groups = training.of_stage(stage), _unfreeze(network, stage, training)
        settings: dict[str, Any] = {"accelerator": accelerator, "seed": seed, "groups": groups, "stop": stop}
        return range_test(network, data.batches(options, accelerator), options, finder, **settings)

    return with_seed(seed, training.threads, partial(data.build, "forward"), search)


def _members(data: ClassifierData, training: ClassifierTraining) -> list[Member]:
    """The classifiers in the order of their training, and of the bundle: direction by direction, seed by seed."""
    return [Member(direction, place) for direction in data.encoders for place in range(len(training.seeds))]


def _weights(data: ClassifierData, training: ClassifierTraining) -> list[float]:
    """Weight of each member in the mean; each direction counts the same."""
    return [weight / len(data.encoders) for weight in member_weights(training)] * len(data.encoders)


def _train_members(
    data: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    validation: tuple[Corpus, Tensor] | None,
    stop: threading.Event,
) -> tuple[list[list[FitResult]], dict[str, Any]]:
    """Train the members, one after the other; return the results of their stages, and metrics for the bundle."""
    accelerator = _choose_precision(data, training, threads, make_accelerator(training), stop)
    evaluate = _evaluator(*validation, accelerator) if validation else None
    results = {}
    for member in _members(data, training):
        build = partial(data.build, member.direction)
        fit = partial(_train_stages, data, training, member, evaluate, accelerator)
        seed = training.seeds[member.place]
        results[member] = with_seed(seed, threads, build, fit, rank=accelerator.shard.rank, stop=stop)
    metrics = _measure([*results.values()], _weights(data, training), evaluate, accelerator)
    if len(data.encoders) > 1:
        for direction in data.encoders:
            own = [stages for member, stages in results.items() if member.direction == direction]
            metrics[direction] = _measure(own, member_weights(training), evaluate, accelerator)
    return [*results.values()], metrics


def _measure(
    members: list[list[FitResult]], weights: Sequence[float], evaluate: Evaluate | None, accelerator: Accelerator
) -> dict[str, Any]:
    """Metrics of members for the bundle: of their training, and on the validation documents."""
    results = [result for stages in members for result in stages]
    whole = FitResult(
        results[0].network,
        rows_per_second=float(np.mean([stages[-1].rows_per_second for stages in members])),
        seconds=sum(result.seconds for result in results),
        epochs=sum(result.epochs for result in results),
    )
    metrics = training_metrics(whole, accelerator)
    if evaluate is not None:
        found = members[0][-1].metrics
        if len(members) > 1:
            networks: list[Any] = [stages[-1].network for stages in members]
            found = evaluate(ClassifierEnsemble(networks, weights))
        metrics |= {"validation_loss": found["validation_loss"], "validation_accuracy": found["accuracy"]}
    return metrics


def _evaluator(corpus: Corpus, targets: Tensor, accelerator: Accelerator) -> Evaluate:
    def evaluate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, TextClassifier | ClassifierEnsemble)
        logits = class_logits(network.eval(), corpus, accelerator.device, accelerator.autocast)
        accuracy = (logits.argmax(1) == targets).double().mean()
        return {"validation_loss": F.cross_entropy(logits, targets).item(), "accuracy": accuracy.item()}

    return evaluate


def _train_stages(
    data: ClassifierData,
    training: ClassifierTraining,
    member: Member,
    evaluate: Evaluate | None,
    accelerator: Accelerator,
    network: nn.Module,
    stop: threading.Event,
) -> list[FitResult]:
    """Train a classifier in all stages; all its results have the same network."""
    results = []
    for place, (stage, kept) in enumerate(zip(training.stages, _checkpoints(training, member), strict=True)):
        options = training.of_stage(stage)
        result = train(
            network,
            data.batches(options, accelerator),
            options,
            accelerator=accelerator,
            seed=training.seeds[member.place] + place,
            groups=_unfreeze(network, stage, training),
            evaluate=evaluate,
            monitor=MONITOR,
            label=f"{_prefix(training, member)}stage{place}.",
            checkpoint=kept,
            stop=stop,
        )
        network.load_state_dict(result.network.state_dict())  # the averaged weights, if averaging is on
        results.append(replace(result, network=network))
    return results


def _choose_precision(
    data: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    accelerator: Accelerator,
    stop: threading.Event,
) -> Accelerator:
    """Choose one precision for all stages of all members: that of the last stage, in which most layers learn."""
    if accelerator.precision != AUTO:
        return accelerator
    stage = training.stages[-1]
    checkpoints = [each for member in _members(data, training) for each in _checkpoints(training, member)]

    def choose(network: nn.Module, stop: threading.Event) -> Accelerator:
        _unfreeze(network, stage, training)
        batches = data.batches(training.of_stage(stage), accelerator)
        n_batches = batches.n_batches * sum(each.epochs for each in training.stages)
        files = [each.path for each in checkpoints if each]
        return choose_precision(accelerator, network, batches, n_batches, checkpoints=files, stop=stop)

    build = partial(data.build, next(iter(data.encoders)))
    return with_seed(training.seeds[0], threads, build, choose, rank=accelerator.shard.rank, stop=stop)


def _prefix(training: ClassifierTraining, member: Member) -> str:
    return direction_prefix(member.direction) + (f"member{member.place}." if len(training.seeds) > 1 else "")


def _checkpoints(training: ClassifierTraining, member: Member) -> list[checkpoint.Checkpoint | None]:
    """Return the checkpoint of each stage of a member."""
    return [checkpoint.current(f"{_prefix(training, member)}stage{place}") for place in range(len(training.stages))]


def _unfreeze(network: nn.Module, stage: Stage, training: ClassifierTraining) -> list[LayerGroup]:
    """Freeze the other layer groups of a stage; return all groups with their learning rates."""
    assert isinstance(network, TextClassifier)
    network.unfreeze(stage.unfrozen)
    return discriminative(network.groups(), training.rate_decay)
