"""Train the networks of an image model: each architecture, with each seed, in the stages of gradual unfreezing."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.images.batches import (
    ImageBatches,
    Pictures,
    class_weights,
    compute,
    one_hot,
    plain_view,
    target_loss,
)
from embedline.pipelines.images.examples import TRAIN, VALIDATION, Classes, class_codes
from embedline.pipelines.images.network import (
    AIRBENCH,
    RESIDUAL,
    WHITENED_PATCHES,
    AirBench,
    ImageClassifier,
    build_network,
)
from embedline.pipelines.images.options import Architecture, AugmentationOptions, ImageTraining, NetworkOptions, Stage
from embedline.training.batches import Batches, TableBatches
from embedline.training.checkpoint import Checkpoint
from embedline.training.device import Accelerator, resolve_device
from embedline.training.dropout import seed_dropout
from embedline.training.ensemble import EnsembleResult, describe, train_ensemble
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import discriminative, unfreeze
from embedline.training.train import Evaluate, FitResult, train

logger = logging.getLogger(__name__)

KIND = "images"
MONITOR = "validation_loss"
STATISTICS_OF = 5_000  # training pictures that mean and deviation of the channels are taken from


@dataclass(frozen=True)
class ImageSpec:
    """Data and settings of the networks of one architecture, for :func:`embedline.training.ensemble.train_ensemble`.

    Attributes:
        train, validation: the pictures to learn from, and those held out; None without any.
        activations: pooled features of the frozen body, float32 [N, 2 F] of all pictures; None: computed anew.
    """

    architecture: Architecture
    training: ImageTraining
    augmentation: AugmentationOptions
    train: Pictures
    validation: Pictures | None
    activations: Tensor | None = None

    def build(self, seed: int) -> nn.Module:
        """The network of a seed, as it is before the training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(self.architecture, self.train.sizes)
        seed_dropout(network, seed)
        if isinstance(network.body, AirBench):
            few = Pictures(self.train.pixels, self.train.rows[:WHITENED_PATCHES], self.train.codes, self.train.sizes)
            pictures = few.gather(torch.arange(len(few)), torch.device("cpu"))
            network.body.whiten((plain_view(self.architecture.size)(pictures) - network.mean) / network.std)
        return network

    def batches(self, network: nn.Module, accelerator: Accelerator) -> Batches:
        """Batches of the last stage, in which most layers learn."""
        _unfreeze(cast(ImageClassifier, network), self.training.all_stages()[-1])
        return self._image_batches(accelerator)

    def fit(self, network: nn.Module, *, accelerator: Accelerator, seed: int, **settings: Any) -> FitResult:
        """Train it stage by stage; the result is that of the last one, with the records of all."""
        classifier, results = cast(ImageClassifier, network), list[FitResult]()
        stages = self.training.all_stages()
        label, kept = settings.pop("label", ""), settings.pop("checkpoint", None)
        monitor = MONITOR if self.validation else None
        for place, stage in enumerate(stages):
            options, several = self.training.of_stage(stage), len(stages) > 1
            groups = _unfreeze(classifier, stage)
            batches: Batches = self._image_batches(accelerator)
            learned: nn.Module = classifier
            own = dict(settings)
            if self.training.precompute and stage.unfrozen == 1:
                batches, learned = self._head_batches(classifier, accelerator), classifier.head
                own["evaluate"] = self._head_evaluator(classifier, accelerator)
                layers = None
            else:
                layers = discriminative(groups, self.training.rate_decay)
            result = train(
                learned,
                batches,
                options,
                accelerator=accelerator,
                seed=seed + place,
                groups=layers,
                monitor=monitor,
                label=f"{label}stage{place}." if several else label,
                checkpoint=_of_stage(kept, place) if several else kept,
                **own,
            )
            learned.load_state_dict(result.network.state_dict())  # the averaged or the best weights
            if several:
                result.history[:] = [{"stage": place, **record} for record in result.history]
            results.append(result)
        return FitResult(
            classifier,
            [record for result in results for record in result.history],
            results[-1].rows_per_second,
            sum(result.seconds for result in results),
            sum(result.epochs for result in results),
            results[-1].best_epoch,
        )

    def evaluator(self, accelerator: Accelerator) -> Evaluate | None:
        """Loss and accuracy on the split ``validation``."""
        pictures, view = self.validation, plain_view(self.architecture.size)
        if pictures is None:
            return None

        def evaluate(network: nn.Module) -> dict[str, float]:
            logits = compute(network.eval(), pictures, view, accelerator.device, accelerator.autocast)
            return _metrics(logits, pictures)

        return evaluate

    def _image_batches(self, accelerator: Accelerator) -> ImageBatches:
        return ImageBatches(
            self.train,
            self.architecture.size,
            self.augmentation,
            batch_size=self.training.batch_size,
            smoothing=self.training.label_smoothing,
            weights=self._class_weights(),
            device=accelerator.device,
            shard=accelerator.shard,
        )

    def _class_weights(self) -> Tensor | None:
        return class_weights(self.train.codes, self.train.sizes) if self.training.class_weights else None

    def _features(self, network: ImageClassifier, pictures: Pictures, accelerator: Accelerator) -> Tensor:
        """Pooled features float [M, 2 F] of the frozen body."""
        if self.activations is not None:
            return self.activations[pictures.rows]
        view = plain_view(self.architecture.size)
        return compute(network.eval().features, pictures, view, accelerator.device)

    def _head_batches(self, network: ImageClassifier, accelerator: Accelerator) -> Batches:
        """Batches of the features of the frozen body, for the head alone."""
        features = self._features(network.to(accelerator.device), self.train, accelerator)
        targets = one_hot(self.train.codes, self.train.sizes, self.training.label_smoothing)
        weights = self._class_weights()
        weights = None if weights is None else weights.to(accelerator.device)

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            return target_loss(logits, targets, self.train.sizes, weights)

        size, place = self.training.batch_size, {"device": accelerator.device, "shard": accelerator.shard}
        return TableBatches([features, targets], loss, batch_size=size, **place)  # type: ignore[arg-type]

    def _head_evaluator(self, network: ImageClassifier, accelerator: Accelerator) -> Evaluate | None:
        pictures = self.validation
        if pictures is None:
            return None
        features = self._features(network, pictures, accelerator)

        @torch.no_grad()
        def evaluate(head: nn.Module) -> dict[str, float]:
            return _metrics(head.eval()(features.to(accelerator.device)).float().cpu(), pictures)

        return evaluate


def _metrics(logits: Tensor, pictures: Pictures) -> dict[str, float]:
    """Summed cross-entropies of all targets, and their mean accuracy."""
    parts, codes = logits.double().split(list(pictures.sizes), dim=1), pictures.codes
    loss = sum(F.cross_entropy(part, codes[:, t]).item() for t, part in enumerate(parts))
    right = torch.stack([part.argmax(1) == codes[:, t] for t, part in enumerate(parts)]).double().mean()
    return {MONITOR: loss, "accuracy": right.item()}


def _unfreeze(network: ImageClassifier, stage: Stage) -> list[list[nn.Module]]:
    groups = network.groups()
    unfreeze(network, groups, stage.unfrozen)
    if isinstance(network.body, AirBench):
        network.body.whitening.requires_grad_(False)
    return groups


def _of_stage(checkpoint: Checkpoint | None, place: int) -> Checkpoint | None:
    if checkpoint is None:
        return None
    return Checkpoint(checkpoint.path.with_name(f"{checkpoint.path.stem}.stage{place}.pt"), checkpoint.every)


def with_statistics(architecture: Architecture, train: Pictures) -> Architecture:
    """The architecture with mean and deviation of the training pictures' channels, where it has none of its own."""
    if architecture.mean is not None or architecture.arch not in (RESIDUAL, AIRBENCH):
        return architecture
    pixels = train.pixels[train.rows[:STATISTICS_OF]].double() / 255.0
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)).clamp(min=1e-3)
    return architecture.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})


def member_names(architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[str]:
    """A name for each network: its architecture, and what tells it from others of the same name."""
    names = [each.arch for each in architectures]
    for detail in (lambda each: f"{each.size[0]}x{each.size[1]}", lambda each: each.resize):
        if len(set(names)) < len(names):
            names = [f"{name}_{detail(each)}" for name, each in zip(names, architectures, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}_{place}" for place, name in enumerate(names)]
    return [f"{name}_seed{seed}" if len(seeds) > 1 else name for name in names for seed in seeds]


def train_networks(
    arrays: Mapping[str, NDArray[np.uint8]],
    examples: pl.DataFrame,
    classes: Classes,
    network: NetworkOptions,
    augmentation: AugmentationOptions,
    training: ImageTraining,
    activations: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[ModelBundle, list[dict[str, Any]]]:
    """Train the networks of all architectures and seeds, one architecture after the other.

    Args:
        arrays: stored pictures by :attr:`.options.ImageShape.key`, in the order of ``examples``.
        activations: of :func:`compute_activations`.

    Returns:
        The bundle (tensors of network ``k`` under ``k.``) and the history, a record for each member and report.

    Raises:
        DataError: early stopping is set and there is no split ``validation``, or a network does not fit.
    """
    codes, sizes = class_codes(examples, classes), [len(names) for names in classes.values()]
    splits = examples["split"].to_numpy()
    if training.early_stopping and not (splits == VALIDATION).any():
        raise DataError("training.early_stopping needs held-out pictures: set split.validation above 0")
    results: list[EnsembleResult] = []
    built: list[Architecture] = []
    architectures = network.architectures()
    for place, given in enumerate(architectures):
        pictures = {
            split: Pictures.of(arrays[given.key], np.flatnonzero(splits == split), codes, sizes)
            for split in (TRAIN, VALIDATION)
        }
        validation = pictures[VALIDATION] if len(pictures[VALIDATION]) else None
        architecture = with_statistics(given, pictures[TRAIN])
        stored = (activations or {}).get(str(place))
        spec = ImageSpec(
            architecture,
            training,
            augmentation,
            pictures[TRAIN],
            validation,
            None if stored is None else torch.from_numpy(stored),
        )
        result = train_ensemble(spec, rows=len(spec.train), name=f"network{place}" if len(architectures) > 1 else "")
        logger.info("%s: %s", architecture.arch, describe(result.metrics))
        results.append(result)
        built.append(architecture)
    return _bundle(results, built, classes, training)


def _bundle(
    results: Sequence[EnsembleResult], architectures: Sequence[Architecture], classes: Classes, training: ImageTraining
) -> tuple[ModelBundle, list[dict[str, Any]]]:
    seeds = training.seeds
    weights = [
        architecture.weight * weight
        for architecture, result in zip(architectures, results, strict=True)
        for weight in result.metrics["member_weights"]
    ]
    tensors, history = {}, []
    for place, result in enumerate(results):
        for name, tensor in result.weights.items():
            member, _, rest = name.partition(".")
            tensors[f"{place * len(seeds) + int(member)}.{rest}"] = tensor
        history += [{**record, "member": place * len(seeds) + int(record["member"])} for record in result.history]
    metrics = {
        **results[0].metrics,
        "epochs": max(result.metrics["epochs"] for result in results),
        "members": len(weights),
        "member_weights": [weight / sum(weights) for weight in weights],
        "seconds": sum(result.metrics["seconds"] for result in results),
        "rows_per_second": float(np.mean([result.metrics["rows_per_second"] for result in results])),
        "names": member_names(architectures, seeds),
    }
    config = {
        "architectures": [each.model_dump(mode="json", exclude={"weights"}) for each in architectures],
        "members": [place for place in range(len(results)) for _ in seeds],
    }
    encoder = {"classes": {target: list(names) for target, names in classes.items()}}
    return ModelBundle(KIND, config, encoder, tensors, metrics), history


def compute_activations(
    arrays: Mapping[str, NDArray[np.uint8]], examples: pl.DataFrame, network: NetworkOptions, training: ImageTraining
) -> dict[str, NDArray[np.float32]]:
    """Pooled features of the frozen body of each architecture with weights, float32 [N, 2 F] by its place.

    Raises:
        DataError: ``training.precompute`` is set and a body has no weights: what it makes of pictures would be chance.
    """
    found: dict[str, NDArray[np.float32]] = {}
    device = resolve_device(training.device)
    for place, architecture in enumerate(network.architectures()):
        if architecture.weights is None:
            if not training.precompute:
                continue
            raise DataError(f"training.precompute needs network.weights: {architecture.arch} begins with random ones")
        pixels, codes = arrays[architecture.key], np.zeros((len(examples), 1), np.int64)
        train = Pictures.of(pixels, np.flatnonzero(examples["split"].to_numpy() == TRAIN), codes, [2])
        classifier = build_network(with_statistics(architecture, train), [2]).to(device).eval()
        pictures = Pictures.of(pixels, np.arange(len(pixels)), codes, [2])
        values = compute(classifier.features, pictures, plain_view(architecture.size), device, nullcontext)
        found[str(place)] = values.numpy()
    return found
