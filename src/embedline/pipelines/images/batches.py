"""Batches of pictures for a training, the loss of all targets, and the logits of stored pictures."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.images.augmentation import augment, centre, mix
from embedline.pipelines.images.options import AugmentationOptions
from embedline.training.batches import WHOLE, Autocast, Batches, BatchLoss, Fingerprint, Shard, batch_sizes

PREDICTED_AT_ONCE = 256  # pictures of a forward pass without gradient

View = Callable[[Tensor], Tensor]
"""Function from stored pictures float [B, 3, H, W] to a network's input."""


@dataclass(frozen=True)
class Pictures:
    """Stored pictures uint8 [N, H, W, 3], and the ``rows`` int64 [M] of them that count, with their classes.

    Attributes:
        codes: classes int64 [M, T] of each target.
        sizes: number of classes of each target.
    """

    pixels: Tensor
    rows: Tensor
    codes: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(
        cls, pixels: NDArray[np.uint8], rows: NDArray[np.integer], codes: NDArray[np.int64], sizes: Sequence[int]
    ) -> "Pictures":
        """From arrays; ``codes`` [N, T] are those of all rows."""
        chosen = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
        return cls(torch.from_numpy(pixels), chosen, torch.from_numpy(codes)[chosen], tuple(sizes))

    def __len__(self) -> int:
        """Rows that count."""
        return len(self.rows)

    def gather(self, places: Tensor, device: torch.device) -> Tensor:
        """Pictures float [B, 3, H, W], from 0 to 255, channels last, at some of the rows that count."""
        return self.pixels[self.rows[places]].to(device).permute(0, 3, 1, 2).float()


def one_hot(codes: Tensor, sizes: Sequence[int], smoothing: float = 0.0) -> Tensor:
    """Probabilities float [B, C] of classes int64 [B, T], target beside target; ``smoothing`` is spread over all."""
    parts = [F.one_hot(codes[:, t], size) * (1.0 - smoothing) + smoothing / size for t, size in enumerate(sizes)]
    return torch.cat(parts, dim=1)


def target_loss(logits: Tensor, targets: Tensor, sizes: Sequence[int], weights: Tensor | None = None) -> Tensor:
    """Mean over rows of the summed cross-entropies [] of all targets, in nats.

    Args:
        logits, targets: float [B, C], target beside target; the latter are probabilities.
        weights: of the classes, float [C].
    """
    logs = torch.cat([F.log_softmax(part, dim=1) for part in logits.split(list(sizes), dim=1)], dim=1)
    return -(targets * logs * (1.0 if weights is None else weights)).sum(1).mean()


def class_weights(codes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Weights float [C] inverse to the frequency of each class, with a mean of 1 over the rows of each target."""
    counts = [torch.bincount(codes[:, t], minlength=size).clamp(min=1) for t, size in enumerate(sizes)]
    return torch.cat([len(codes) / (len(count) * count.float()) for count in counts])


class ImageBatches(Batches):
    """Batches of independent pictures; each epoch cuts a fresh permutation, and draws fresh views.

    The draws of a batch depend on the epoch and on its place there alone: a training that goes on from a checkpoint
    sees the views that it would have seen.
    """

    unit = "pictures"

    def __init__(
        self,
        pictures: Pictures,
        size: tuple[int, int],
        augmentation: AugmentationOptions,
        *,
        batch_size: int,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
        device: torch.device,
        shard: Shard = WHOLE,
    ) -> None:
        self._pictures, self._size, self._augmentation = pictures, size, augmentation
        self._smoothing, self._device, self._shard = smoothing, device, shard
        self._weights = None if weights is None else weights.to(device)
        self._sizes = batch_sizes(len(pictures), min(batch_size, len(pictures)))
        self.n_batches, self.rows_per_batch = len(self._sizes), len(pictures) / len(self._sizes)
        shard.check(min(self._sizes), "picture(s)")
        if augmentation.shift >= min(size):
            raise DataError(f"augmentation.shift {augmentation.shift} must be below network.size {list(size)}")
        first = torch.rand(len(pictures), generator=torch.Generator().manual_seed(0)) < 0.5
        self._mirrored = first if augmentation.flip == "alternate" else None
        self._batches: Sequence[Tensor] = ()
        self._seed = 0

    def fingerprint(self) -> Fingerprint:
        """Numbers of rows and batches, the size, and how views are drawn."""
        drawn = {f"augmentation.{name}": value for name, value in self._augmentation.model_dump().items()}
        return {"n_rows": len(self._pictures), "n_batches": self.n_batches, "size": list(self._size), **drawn}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Cut a fresh permutation into batches."""
        permutation = torch.randperm(len(self._pictures), generator=order, device=order.device).cpu()
        self._batches = permutation.split(self._sizes)
        self._seed = int(torch.randint(2**62, (), generator=order, device=order.device))

    def views(self, index: int) -> tuple[Tensor, Tensor]:
        """Views float [B, 3, h, w] and label probabilities float [B, C] of batch ``index`` of the epoch."""
        places, numbers = self._batches[index], torch.Generator().manual_seed(self._seed + index)
        flipped = None if self._mirrored is None else self._mirrored[places] ^ bool(self.epoch % 2)
        pictures = self._pictures.gather(places, self._device)
        views = augment(pictures, self._size, self._augmentation, numbers, flipped)
        codes = self._pictures.codes[places].to(self._device)
        return mix(views, one_hot(codes, self._pictures.sizes, self._smoothing), self._augmentation, numbers)

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        """Loss of this process's rows of the batch."""
        views, targets = self.views(index)
        part, shard = self._shard.slice(len(views)), self._shard
        with autocast():
            logits = network(views[part])
        value = target_loss(logits.float(), targets[part], self._pictures.sizes, self._weights)
        return BatchLoss(value, value) if shard.size == 1 else BatchLoss(value, value).times(shard.weight(len(views)))


@torch.inference_mode()
def compute(
    function: Callable[[Tensor], Tensor],
    pictures: Pictures,
    view: View,
    device: torch.device,
    autocast: Callable[[], Any] = nullcontext,
) -> Tensor:
    """A function's values float32 [M, …] of a view of each picture, on the CPU."""
    found = []
    for places in torch.arange(len(pictures)).split(PREDICTED_AT_ONCE):
        with autocast():
            found.append(function(view(pictures.gather(places, device))).float().cpu())
    return torch.cat(found)


def plain_view(size: tuple[int, int]) -> View:
    """The picture itself at ``size``."""
    return lambda pictures: centre(pictures, size)
