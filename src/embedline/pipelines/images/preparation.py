"""Files of pictures to arrays: decoded once, turned upright, in RGB, at the size of the network's items.

Pillow decodes. PyTorch is not imported here, since the processes of :func:`prepare` need none.
"""

import io
import itertools
import logging
import math
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from embedline.errors import DataError, one_line
from embedline.pipelines.images.options import ImageShape, PreparationOptions, Resize
from embedline.training.processes import granted_cores, map_in_processes
from embedline.training.progress import Progress

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

FEW = 1_000  # pictures that are decoded in this process: others take seconds to start
CHUNK = 200  # pictures that a process decodes at a time
SHOWN = 5  # bad files that a message names


class BadImage(DataError):
    """A file that is no readable picture, or too large; the message begins with its name."""


def open_picture(content: bytes, name: str, max_pixels: int, least: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture: upright by its EXIF orientation, in RGB; the first frame of an animated one.

    16-bit greys are scaled to 8 bits; what is transparent becomes white.

    Args:
        least: height and width at which it is needed: a JPEG that is more than twice as large is decoded at a half, a
            quarter or an eighth.

    Raises:
        BadImage: if it is empty, truncated, damaged, of an unknown kind, or has more than ``max_pixels``.
    """
    try:
        if not content:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > max_pixels:  # known from the header: nothing is decoded
                raise ValueError(f"it has {picture.width:,} x {picture.height:,} pixels, more than {max_pixels:,}")
            if least is not None:
                picture.draft("RGB", (2 * max(least), 2 * max(least)))
            picture.load()
            return _as_rgb(ImageOps.exif_transpose(picture))
    except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError, MemoryError) as error:
        raise BadImage(f"{name} is no readable picture: {one_line(error, 200)}") from error
    except Exception as error:  # damaged files make Pillow's plugins raise nearly anything, struct.error among them
        raise BadImage(f"{name} is damaged: {type(error).__name__} {one_line(error, 200)}") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        scale = 255.0 if picture.mode == "F" and values.max(initial=0.0) <= 1.0 else 1.0
        scale = 255.0 / 65535.0 if picture.mode.startswith("I;16") or values.max(initial=0.0) > 255.0 else scale
        picture = Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")


def resize(picture: Image.Image, size: tuple[int, int], how: Resize) -> Pixels:
    """Pixels uint8 [H, W, 3] of a picture at ``size`` (height, width): squished, cropped in the middle, or padded."""
    wanted = (size[1], size[0])
    if picture.size == wanted:
        pass
    elif how == "crop":
        picture = ImageOps.fit(picture, wanted, Image.Resampling.BICUBIC)
    elif how == "pad":
        picture = ImageOps.pad(picture, wanted, Image.Resampling.BICUBIC, color="black")
    else:
        picture = picture.resize(wanted, Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.uint8)


def shapes_by_key(shapes: Iterable[ImageShape]) -> dict[str, ImageShape]:
    """The different shapes, by the names of their arrays."""
    return {shape.key: shape for shape in shapes}


def decode(
    files: Sequence[tuple[str, bytes]], shapes: Sequence[ImageShape], max_pixels: int
) -> tuple[list[Pixels], dict[int, str]]:
    """Decode files, each a name and its content, for each of ``shapes``.

    Returns:
        For each shape uint8 [N, H, W, 3], zeros where a file is bad; and what is wrong with these, by their place.
    """
    least = tuple(max(shape.stored[axis] for shape in shapes) for axis in (0, 1))
    arrays = [np.zeros((len(files), *shape.stored, 3), np.uint8) for shape in shapes]
    bad = {}
    for place, (name, content) in enumerate(files):
        try:
            picture = open_picture(content, name, max_pixels, (least[0], least[1]))
        except BadImage as error:
            bad[place] = str(error)
            continue
        for array, shape in zip(arrays, shapes, strict=True):
            array[place] = resize(picture, shape.stored, shape.resize)
    return arrays, bad


def prepare(
    files: Iterable[tuple[str, bytes]], n_files: int, shapes: Iterable[ImageShape], options: PreparationOptions
) -> tuple[dict[str, Pixels], list[int]]:
    """Decode all files in several processes, for each of ``shapes``.

    Returns:
        By :attr:`.options.ImageShape.key` uint8 [M, H, W, 3] on disk, in the order of the files, and the places of
        those that were left out.

    Raises:
        BadImage: names the first bad files and their number, with ``on_bad_image: error``; or no file is good.
    """
    from tqdm import tqdm

    wanted = shapes_by_key(shapes)
    stored = {key: _scratch((n_files, *shape.stored, 3)) for key, shape in wanted.items()}
    bad: dict[int, str] = {}
    done = kept = 0
    progress = Progress("preparing pictures", n_files, "picture")
    with tqdm(total=n_files, desc="pictures", unit="picture", leave=False, disable=None) as bar:
        for arrays, faults in _decoded(files, n_files, [*wanted.values()], options):
            bad |= {done + place: fault for place, fault in faults.items()}
            rows = [place for place in range(len(arrays[0])) if place not in faults]
            for array, found in zip(stored.values(), arrays, strict=True):
                array[kept : kept + len(rows)] = found[rows]
            kept, done = kept + len(rows), done + len(arrays[0])
            bar.update(done - bar.n)
            progress.update(done)
    if bad:
        text = f"{len(bad):,} of {n_files:,} pictures cannot be read: " + "; ".join([*bad.values()][:SHOWN])
        if options.on_bad_image == "error" or not kept:
            raise BadImage(f"{text} (preparation.on_bad_image: skip leaves them out)")
        logger.warning("%s; they are left out", text)
    return {key: array[:kept] for key, array in stored.items()}, [*bad]


def _scratch(shape: tuple[int, ...]) -> Pixels:
    """Zeros in a file that has no name any more: the system removes it when nobody reads it."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape) if math.prod(shape) else np.zeros(shape, np.uint8)


def _decoded(
    files: Iterable[tuple[str, bytes]], n_files: int, shapes: list[ImageShape], options: PreparationOptions
) -> Iterator[tuple[list[Pixels], dict[int, str]]]:
    rest = iter(files)
    chunks = iter(lambda: [*itertools.islice(rest, CHUNK)], [])
    processes = options.processes or granted_cores()
    work = partial(decode, shapes=shapes, max_pixels=options.max_pixels)
    if n_files <= FEW or processes == 1 or multiprocessing.current_process().daemon:
        return map(work, chunks)
    return map_in_processes(work, chunks, processes, "preparation of pictures")
