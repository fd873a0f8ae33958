"""From the two Adult files to one table: a row a person."""

import polars as pl

from embedline.paths import find_source
from embedline.sources.adult_files import acquire_files
from embedline.sources.adult_generator import GeneratorOptions
from embedline.sources.adult_table import read_table as table_of


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> dict[str, bytes]:
    """Fetch adult.data and adult.test from the address ``source``, or generate them; as they are, by name."""
    return acquire_files(find_source(source), verify=verify, generator=generator)


def read_table(data: bytes, test: bytes) -> pl.DataFrame:
    """Read adult.data and adult.test into one table: ``Id``, the columns of the files and ``file``, "data" or "test".

    Raises:
        DataError: a line cannot be read; names file, line and value.
    """
    return table_of({"adult.data": data, "adult.test": test})
