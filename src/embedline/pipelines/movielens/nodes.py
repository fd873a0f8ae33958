"""From the files of a MovieLens release to its canonical frames: a row a rating, a film, a user."""

import polars as pl

from embedline.archive import files_frame
from embedline.paths import GENERATED, find_source
from embedline.pipelines.movielens import files, items
from embedline.pipelines.movielens.simulator import GeneratorOptions, generate_files


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the files from the address ``source``, or simulate them: ``path`` and ``content``, as they are."""
    if source == GENERATED:
        return files_frame(generate_files(generator))
    return files.read_files(find_source(source), verify=verify)


def read_ratings(raw: pl.DataFrame) -> pl.DataFrame:
    """Read the ratings of any layout: ``user``, ``item``, ``rating``, ``timestamp`` and ``fold``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return files.read_ratings(raw)


def read_items(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the films of any layout, and add those that were rated but are not listed.

    Returns:
        ``item``, ``title``, ``genres``, ``year`` and ``released``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return items.read_items(raw, ratings)


def read_users(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the description of the users who rated: ``user``, ``age``, ``gender`` and ``occupation``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return items.read_users(raw, ratings)
