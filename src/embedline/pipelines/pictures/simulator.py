"""Simulated pictures with labels, in any of the layouts, for runs and tests without real ones.

A picture shows one of `SHAPES` in one of `COLOURS`, at a random place, size and angle, on a grey background with
noise; its sides are drawn from `SIDES`. The labels follow the true effects below: results on them say nothing about
real pictures.

1. Shape and colour are drawn independently, each value as probable as another.
2. The label is the shape, and the variety is the colour. Each of them is, with the probability ``noise``, replaced by
   one of the other values: no model can expect an accuracy above ``1 - noise``.
"""

import io
import math
from typing import Any, Literal

import numpy as np
from pydantic import Field

from embedline.training.options import Options

SHAPES = ("circle", "cross", "square", "triangle")
COLOURS = {"amber": (235, 160, 40), "blue": (50, 90, 220), "green": (40, 160, 80)}
SIDES = (40, 64)  # pixels, the least and the most
SCALE = 4  # drawn so many times as large, for smooth edges


class GeneratorOptions(Options):
    """Layout of the files, their number, and the share of labels that are replaced; used by ``source: generated`` only.

    ``names``: ``pictures/<shape>_<number>.jpg``; ``folders``: ``<split>/<shape>/<number>.png``; ``table``:
    ``train.csv`` with ``image_id``, ``label`` (shape), ``variety`` (colour), and ``train_images/<shape>/<image_id>``.
    """

    layout: Literal["names", "folders", "table"] = "names"
    n_pictures: int = Field(default=900, ge=20)
    noise: float = Field(default=0.05, ge=0.0, lt=0.5)
    seed: int = Field(default=0, ge=0)


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """The files by path; of ``folders`` a fifth lies in ``test``."""
    random = np.random.default_rng(options.seed)
    files, rows = {}, ["image_id,label,variety"]
    for number in range(options.n_pictures):
        shape, colour = int(random.integers(len(SHAPES))), int(random.integers(len(COLOURS)))
        picture = _draw(random, SHAPES[shape], [*COLOURS.values()][colour])
        label = SHAPES[_replaced(random, shape, len(SHAPES), options.noise)]
        variety = [*COLOURS][_replaced(random, colour, len(COLOURS), options.noise)]
        if options.layout == "names":
            path, kind = f"pictures/{label}_{number}.jpg", "JPEG"
        elif options.layout == "folders":
            path, kind = f"{'test' if number % 5 == 0 else 'train'}/{label}/{number:05}.png", "PNG"
        else:
            path, kind = f"train_images/{label}/{number:06}.jpg", "JPEG"
            rows.append(f"{number:06}.jpg,{label},{variety}")
        content = io.BytesIO()
        picture.save(content, kind)
        files[path] = content.getvalue()
    return files | ({"train.csv": "\n".join([*rows, ""]).encode()} if options.layout == "table" else {})


def _replaced(random: np.random.Generator, value: int, n_values: int, noise: float) -> int:
    return int((value + random.integers(1, n_values)) % n_values) if random.random() < noise else value


def _draw(random: np.random.Generator, shape: str, colour: tuple[int, int, int]) -> Any:
    """A picture of a shape, ``PIL.Image.Image``; PIL is imported only where pictures are drawn."""
    from PIL import Image, ImageDraw

    width, height = (int(side) for side in random.integers(SIDES[0], SIDES[1] + 1, 2))
    picture = Image.new("RGB", (width * SCALE, height * SCALE), (int(random.integers(120, 220)),) * 3)
    radius = random.uniform(0.3, 0.45) * min(width, height) * SCALE
    x, y = (random.uniform(radius, side * SCALE - radius) for side in (width, height))
    turn, shade = random.uniform(0, math.tau), random.uniform(0.8, 1.15)
    fill = tuple(min(255, int(value * shade)) for value in colour)
    draw = ImageDraw.Draw(picture)

    def corners(angles: list[float], lengths: list[float]) -> list[tuple[float, float]]:
        return [
            (x + radius * length * math.cos(turn + angle), y + radius * length * math.sin(turn + angle))
            for angle, length in zip(angles, lengths, strict=True)
        ]

    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "cross":  # two bars
        for quarter in (0.0, math.pi / 2):
            bar = [quarter + angle for angle in (0.3, -0.3, math.pi + 0.3, math.pi - 0.3)]
            draw.polygon(corners(bar, [1.0] * 4), fill=fill)
    else:
        n = 3 if shape == "triangle" else 4
        draw.polygon(corners([math.tau * k / n for k in range(n)], [1.0] * n), fill=fill)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX)).astype(np.float64)
    noisy = pixels + random.normal(0.0, 10.0, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
