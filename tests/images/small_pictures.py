"""Small sets of pictures for the tests: in files, and prepared."""

import io
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from embedline.pipelines.images.options import ImageTraining, NetworkOptions

CLASSES = {"label": ["dark", "light"], "tint": ["blue", "green", "red"]}


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """A file of pixels uint8 [H, W, 3] (or [H, W])."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def tinted(n: int, side: int = 12, seed: int = 0) -> tuple[NDArray[np.uint8], pl.DataFrame]:
    """Pictures uint8 [N, side, side, 3] whose brightness and tint are their two labels, and their examples."""
    random = np.random.default_rng(seed)
    light, tint = random.integers(0, 2, n), random.integers(0, 3, n)
    pixels = random.normal(0.0, 10.0, (n, side, side, 3)) + 70.0 + 80.0 * light[:, None, None, None]
    for row in range(n):
        pixels[row, :, :, 2 - tint[row]] += 60.0
    splits = np.where(np.arange(n) % 5 == 0, "test", np.where(np.arange(n) % 5 == 1, "validation", "train"))
    examples = pl.DataFrame(
        {
            "image_id": [f"{row:03}.png" for row in range(n)],
            "split": splits,
            "label": [CLASSES["label"][k] for k in light],
            "tint": [CLASSES["tint"][k] for k in tint],
        }
    )
    return np.clip(pixels, 0, 255).astype(np.uint8), examples


def network(**settings: Any) -> NetworkOptions:
    """A network for 12 x 12 pixels."""
    return NetworkOptions(**{"arch": "resnet9", "width": 4, "size": 12, **settings})


def training(**settings: Any) -> ImageTraining:
    """A short training."""
    return ImageTraining(
        **{"epochs": 3, "lr": 0.01, "batch_size": 16, "seeds": [0], "rate_decay": 1.0, "device": "cpu", **settings}
    )
