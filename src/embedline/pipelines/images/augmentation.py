"""Random views of a batch of pictures, on the device of the training, each picture with draws of its own.

Flips, turns, zooms and shifts of a picture are one affine map, so that its pixels are interpolated once (torch's grid
sampling); a flip and a shift by whole pixels copy pixels.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embedline.pipelines.images.options import AugmentationOptions

GREY = 127.5


def centre(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures float [B, 3, H, W] at ``size``, without chance: resized where theirs is another."""
    if tuple(pictures.shape[2:]) == size:
        return pictures
    return F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True)


def augment(
    pictures: Tensor,
    size: tuple[int, int],
    options: AugmentationOptions,
    generator: torch.Generator,
    flipped: Tensor | None = None,
    *,
    alike: bool = False,
) -> Tensor:
    """Views float [B, 3, h, w] at ``size`` of pictures float [B, 3, H, W] from 0 to 255.

    Args:
        generator: on the CPU, so that the draws are the same on every device.
        flipped: bool [B], the pictures to mirror; None: drawn, unless ``options.flip`` is ``none``.
        alike: change all pictures in the same way, so that the view of one does not depend on the others.
    """
    n, device = len(pictures), pictures.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(1 if alike else n, *shape, generator=generator).expand(n, *shape)
        return (low + (high - low) * drawn).to(device)

    if flipped is None:
        flipped = uniform(0.0, 1.0) < (0.0 if options.flip == "none" else 0.5)
    flipped = flipped.to(device)
    same_size = tuple(pictures.shape[2:]) == size
    if options.warps or not same_size:
        views = _warp(pictures, size, flipped, options, uniform)
    else:
        views = torch.where(flipped.view(n, 1, 1, 1), pictures.flip(3), pictures)
        if options.shift:
            places = uniform(0.0, 2 * options.shift + 1, 2).long().clamp(max=2 * options.shift)
            views = _shift(views, options.shift, places)
    if options.contrast:
        mean = views.mean((1, 2, 3), keepdim=True)
        views = mean + (views - mean) * uniform(1.0 - options.contrast, 1.0 + options.contrast, 1, 1, 1)
    if options.brightness:
        views = views * uniform(1.0 - options.brightness, 1.0 + options.brightness, 1, 1, 1)
    if options.contrast or options.brightness:
        views = views.clamp(0.0, 255.0)
    if options.cutout:
        middle = torch.stack([uniform(0.0, side) for side in size], dim=1)
        inside = [
            ((torch.arange(side, device=device) + 0.5 - middle[:, axis, None]).abs() < options.cutout / 2)
            for axis, side in enumerate(size)
        ]
        views = views.masked_fill((inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1), GREY)
    return views


def _shift(pictures: Tensor, reach: int, places: Tensor) -> Tensor:
    """Cut a view out of each picture, padded by ``reach`` reflected pixels, at ``places`` int64 [B, 2]."""
    height, width = pictures.shape[2:]
    padded = F.pad(pictures, (reach,) * 4, mode="reflect").permute(0, 2, 3, 1)  # channels last: a gather of rows
    rows = places[:, 0, None] + torch.arange(height, device=pictures.device)
    columns = places[:, 1, None] + torch.arange(width, device=pictures.device)
    picture = torch.arange(len(pictures), device=pictures.device)
    return padded[picture[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _warp(
    pictures: Tensor,
    size: tuple[int, int],
    flipped: Tensor,
    options: AugmentationOptions,
    uniform: Callable[[float, float], Tensor],
) -> Tensor:
    """One affine map a picture, from the view to the picture, in coordinates from -1 to 1."""
    height, width = pictures.shape[2:]
    angle = uniform(-math.radians(options.rotate), math.radians(options.rotate))
    side = uniform(options.zoom, 1.0)
    # A view that is zoomed lies anywhere in the picture; shifts are in pixels of the view.
    room = 1.0 - side
    reach = [2.0 * options.shift / length for length in size]
    y, x = (room * uniform(-1.0, 1.0) + reach[axis] * uniform(-1.0, 1.0) for axis in (0, 1))
    mirror, aspect = 1.0 - 2.0 * flipped.to(pictures.dtype), width / height
    cos, sin = side * angle.cos(), side * angle.sin()
    first = torch.stack([cos * mirror, -sin / aspect, x], dim=1)
    second = torch.stack([sin * mirror * aspect, cos, y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), [len(pictures), 3, *size], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def mix(
    views: Tensor, targets: Tensor, options: AugmentationOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each view with another one of the batch: views float [B, 3, h, w], and label probabilities float [B, C].

    One share a batch is drawn from ``Beta(a, a)``. Of ``cutmix`` it is the area that stays, of a box at a random place.
    """
    alpha = options.mixup or options.cutmix
    if not alpha:
        return views, targets
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))  # torch has no beta generator
    share, partner = float(numbers.beta(alpha, alpha)), torch.randperm(len(views), generator=generator).to(views.device)
    if options.mixup:
        mixed = share * views + (1.0 - share) * views[partner]
    else:
        height, width = views.shape[2:]
        cut = [round(side * math.sqrt(1.0 - share)) for side in (height, width)]
        top, left = (
            int(torch.randint(0, side - length + 1, (), generator=generator))
            for side, length in zip((height, width), cut, strict=True)
        )
        box = (slice(None), slice(None), slice(top, top + cut[0]), slice(left, left + cut[1]))
        mixed = views.clone()
        mixed[box] = views[partner][box]
        share = 1.0 - cut[0] * cut[1] / (height * width)
    return mixed, share * targets + (1.0 - share) * targets[partner]
