"""From the files of a MovieLens release to its canonical frames: a row a rating, a film, a user."""

import polars as pl

from embedline.paths import find_source
from embedline.sources.movielens_files import acquire_files
from embedline.sources.movielens_generator import GeneratorOptions
from embedline.sources.movielens_items import read_items as items_of
from embedline.sources.movielens_ratings import read_ratings as ratings_of
from embedline.sources.movielens_users import read_users as users_of


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the files from the address ``source``, or generate them: ``path`` and ``content``, as they are."""
    return acquire_files(find_source(source), verify=verify, generator=generator)


def read_ratings(raw: pl.DataFrame) -> pl.DataFrame:
    """Read the ratings of any layout: ``user``, ``item``, ``rating``, ``timestamp`` and ``fold``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return ratings_of(raw)


def read_items(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the films of any layout, and add those that were rated but are not listed.

    Returns:
        ``item``, ``title``, ``genres``, ``year`` and ``released``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return items_of(raw, ratings)


def read_users(raw: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Read the description of the users who rated: ``user``, ``age``, ``gender`` and ``occupation``.

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return users_of(raw, ratings)
