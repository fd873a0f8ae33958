"""From the files of labelled pictures to their canonical frame: a row a picture."""

import polars as pl

from embedline.archive import files_frame
from embedline.paths import GENERATED, find_source
from embedline.pipelines.images.options import Targets
from embedline.pipelines.pictures import files
from embedline.pipelines.pictures.files import ReadingOptions
from embedline.pipelines.pictures.simulator import GeneratorOptions, generate_files


def acquire(source: str, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the files from the address ``source``, or simulate them: columns ``path`` and ``content`` (verbatim)."""
    if source == GENERATED:
        return files_frame(generate_files(generator))
    return files.read_files(find_source(source))


def read_images(raw: pl.DataFrame, reading: ReadingOptions, targets: Targets) -> pl.DataFrame:
    """Split and labels of each picture: columns ``image_id``, ``path``, ``split``, and the targets.

    Raises:
        DataError: see :func:`.files.read_images`.
    """
    return files.read_images(raw, reading, list(targets))


def measure_ceiling(source: str, generator: GeneratorOptions) -> dict[str, float]:
    """The highest ``accuracy`` that a model of generated pictures can expect, of any target; empty for real ones."""
    return {"accuracy": 1.0 - generator.noise} if source == GENERATED else {}
