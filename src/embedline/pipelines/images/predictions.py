"""Predict pictures with a stored model: networks averaged by weight, over views of each picture."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.images.augmentation import augment
from embedline.pipelines.images.batches import Pictures, View, compute, plain_view
from embedline.pipelines.images.evaluation import answer_columns, prediction_frame
from embedline.pipelines.images.examples import ID, TEST, Classes
from embedline.pipelines.images.learner import KIND
from embedline.pipelines.images.network import ImageClassifier, build_network
from embedline.pipelines.images.options import (
    Architecture,
    AugmentationOptions,
    PreparationOptions,
    TestTimeOptions,
)
from embedline.pipelines.images.preparation import BadImage, decode, shapes_by_key
from embedline.training.ensemble import weighted_mean
from embedline.training.model_file import ModelBundle

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
MAX_PIXELS = PreparationOptions().max_pixels
CHUNK = 500  # files that are decoded and predicted at a time


@dataclass(frozen=True)
class ImageModel:
    """A stored image model, ready to predict.

    Attributes:
        networks: in evaluation mode, each with its architecture and its weight in the mean; the weights sum to 1.
        classes: labels of each target, in the order of the probabilities.
        views: how each picture is seen.
        augmentation: what the random views are drawn from.
    """

    networks: tuple[tuple[ImageClassifier, Architecture, float], ...]
    names: tuple[str, ...]
    classes: Classes
    views: TestTimeOptions
    augmentation: AugmentationOptions

    @classmethod
    def from_bundle(cls, bundle: ModelBundle) -> Self:
        """Load a bundle, on the GPU if there is one; another kind is a DataError."""
        if bundle.kind != KIND:
            raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        architectures = [Architecture.model_validate(each) for each in bundle.config["architectures"]]
        classes: dict[str, list[str]] = bundle.encoder["classes"]
        networks = []
        for member, place in enumerate(bundle.config["members"]):
            network = build_network(architectures[place], [len(names) for names in classes.values()], trained=True)
            network.load_state_dict(bundle.member(member))
            weight = bundle.metrics["member_weights"][member]
            networks.append((network.to(device).eval(), architectures[place], weight))
        views = TestTimeOptions.model_validate(bundle.config.get("tta", {}))
        augmentation = AugmentationOptions.model_validate(bundle.config.get("augmentation", {}))
        return cls(tuple(networks), tuple(bundle.metrics["names"]), classes, views, augmentation)

    @property
    def shapes(self) -> dict[str, Architecture]:
        """The shapes in which it needs pictures, by the keys of their arrays."""
        return shapes_by_key(architecture for _, architecture, _ in self.networks)  # type: ignore[return-value]

    def member_probabilities(self, arrays: Mapping[str, NDArray[np.uint8]]) -> list[Array]:
        """Probabilities float64 [N, C], target beside target, of each network, given pictures by key."""
        found = []
        for network, architecture, _ in self.networks:
            pixels = arrays[architecture.key]
            pictures = Pictures.of(pixels, np.arange(len(pixels)), np.zeros((len(pixels), 1), np.int64), network.sizes)
            device = next(network.parameters()).device
            views = _views(architecture.size, self.views, self.augmentation)
            seen = [compute(network, pictures, view, device).double() for view, _ in views]
            probabilities = [torch.cat([F.softmax(part, 1) for part in network.split(each)], 1) for each in seen]
            found.append(weighted_mean([each.numpy() for each in probabilities], [weight for _, weight in views]))
        return found

    def probabilities(self, arrays: Mapping[str, NDArray[np.uint8]]) -> Array:
        """Probabilities float64 [N, C] of the model: the mean of its networks'."""
        return self.combined(self.member_probabilities(arrays))

    def combined(self, members: Sequence[Array]) -> Array:
        """Mean float64 [N, C] of the networks' probabilities, by their weights."""
        return weighted_mean(members, [weight for *_, weight in self.networks])

    def predict_files(self, files: Sequence[tuple[str, bytes]], max_pixels: int = MAX_PIXELS) -> pl.DataFrame:
        """Predict pictures, each a name and its content: a row each, ``predicted``, ``confidence``, ``p_<class>``, ….

        A file that is no readable picture, or has more than ``max_pixels``, is a BadImage that names it.
        """
        shapes, blocks = self.shapes, []
        for start in range(0, len(files), CHUNK):
            arrays, bad = decode(files[start : start + CHUNK], [*shapes.values()], max_pixels)
            if bad:
                raise BadImage(next(iter(bad.values())))
            blocks.append(self.probabilities(dict(zip(shapes, arrays, strict=True))))
        n_classes = sum(len(names) for names in self.classes.values())
        return pl.DataFrame(answer_columns(np.concatenate([np.zeros((0, n_classes)), *blocks]), self.classes))


def _views(size: tuple[int, int], options: TestTimeOptions, drawn: AugmentationOptions) -> list[tuple[View, float]]:
    """The views of test-time augmentation with their weights: the picture, its mirror image, and random ones."""
    fixed = drawn.model_copy(update={"cutout": 0, "mixup": 0.0, "cutmix": 0.0})
    if fixed.flip == "alternate":
        fixed = fixed.model_copy(update={"flip": "random"})

    def random_view(number: int) -> View:
        def view(pictures: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(1_000_003 * options.seed + number)
            return augment(pictures, size, fixed, generator, alike=True)

        return view

    plain = plain_view(size)
    more = [lambda pictures: plain(pictures).flip(3)] if options.flip else []
    more += [random_view(number) for number in range(options.n)]
    first = 1.0 / (1 + len(more)) if options.weight is None or not more else options.weight
    return [(plain, first), *((view, (1.0 - first) / len(more)) for view in more if first < 1.0)]


def with_views(bundle: ModelBundle, views: TestTimeOptions, augmentation: AugmentationOptions) -> ModelBundle:
    """The model of trained networks that sees each picture in these views."""
    seen = {"tta": views.model_dump(mode="json"), "augmentation": augmentation.model_dump(mode="json")}
    return replace(bundle, config=bundle.config | seen, versions={})


def predict_split(
    arrays: Mapping[str, NDArray[np.uint8]], examples: pl.DataFrame, bundle: ModelBundle, *, split: str = TEST
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predict the pictures of a split: the model's predictions, and those of each network, with a column ``member``."""
    model = ImageModel.from_bundle(bundle)
    rows = np.flatnonzero(examples["split"].to_numpy() == split)
    if not len(rows):
        raise DataError(f"there is nothing to predict: no picture is in the split {split!r}")
    chosen = {key: arrays[key][rows] for key in model.shapes}
    images, members = examples[rows.tolist()], model.member_probabilities(chosen)
    frames = [
        prediction_frame(images, found, model.classes).with_columns(member=pl.lit(name))
        for name, found in zip(model.names, members, strict=True)
    ]
    return prediction_frame(images, model.combined(members), model.classes), pl.concat(frames)


def class_activations(network: ImageClassifier, pictures: Tensor, place: NDArray[np.integer]) -> NDArray[np.float32]:
    """Class activation maps float32 [B, h, w] from 0 to 1 of logits ``place`` int [B]: Grad-CAM.

    ``relu(sum over channels of a_k A_k)``, where ``A_k`` are the body's maps and ``a_k`` the mean of the logit's
    gradient by them (Selvaraju et al. 2017, arXiv:1610.02391), divided by its maximum.

    Args:
        pictures: the network's input float [B, 3, H, W], from 0 to 255.
    """
    with torch.enable_grad():
        maps = network.body((pictures - network.mean) / network.std).detach().requires_grad_(True)
        logits = network.head(network.pool(maps))
        chosen = logits.gather(1, torch.from_numpy(np.asarray(place, np.int64)).to(logits.device)[:, None])
        (slopes,) = torch.autograd.grad(chosen.sum(), maps)
    found = F.relu((slopes.mean((2, 3), keepdim=True) * maps.detach()).sum(1))
    return (found / found.amax((1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy()


def explain_pictures(
    model: ImageModel,
    arrays: Mapping[str, NDArray[np.uint8]],
    rows: Sequence[int],
    target: str,
    predicted: Sequence[str],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures uint8 [B, H, W, 3] as the first network sees them, and activation maps of their predicted classes."""
    network, architecture, _ = model.networks[0]
    device = next(network.parameters()).device
    pixels = np.asarray(arrays[architecture.key][list(rows)])
    pictures = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    names, before = list(model.classes), 0
    for name in names[: names.index(target)]:
        before += len(model.classes[name])
    place = np.array([before + list(model.classes[target]).index(name) for name in predicted])
    seen = plain_view(architecture.size)(pictures)
    maps = class_activations(network, seen, place)
    return seen.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy(), maps


def picture_features(model: ImageModel, arrays: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Pooled features of the first network, float32 [N, 2 F], of all pictures."""
    network, architecture, _ = model.networks[0]
    pixels = arrays[architecture.key]
    pictures = Pictures.of(pixels, np.arange(len(pixels)), np.zeros((len(pixels), 1), np.int64), network.sizes)
    device = next(network.parameters()).device
    found: NDArray[np.float32] = compute(network.features, pictures, plain_view(architecture.size), device).numpy()
    return found


def image_row(examples: pl.DataFrame, ids: Sequence[Any]) -> list[int]:
    """Rows of pictures by their ids."""
    places = {name: row for row, name in enumerate(examples[ID])}
    return [places[name] for name in ids]
