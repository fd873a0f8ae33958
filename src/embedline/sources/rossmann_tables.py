"""The seven raw tables of the Rossmann pipeline, from an address or from the generator."""

from __future__ import annotations

from embedline.sources.rossmann_files import checked_tables, read_tables
from embedline.sources.rossmann_generator import GeneratorOptions, generate_tables

GENERATED = "generated"


def acquire_tables(source: str, *, verify: bool = True, generator: GeneratorOptions) -> dict[str, bytes]:
    """Return the seven Rossmann tables as CSV bytes.

    Args:
        source: ``generated``, or the address or path of an archive or folder (`rossmann_files.read_tables`).
        verify: compare ``train.csv`` and ``test.csv`` of an address with the sha256 of Kaggle's files.
        generator: what to generate; used for ``generated`` alone.

    Returns:
        CSV bytes by table, ``train test store store_states state_names googletrend weather``: UTF-8 without
        byte-order mark, ``\\n`` line ends.

    Raises:
        DataError: the source cannot be read or lacks a file or column; the message names it.
    """
    if source == GENERATED:
        return checked_tables(generate_tables(generator), source)
    return read_tables(source, verify=verify)
