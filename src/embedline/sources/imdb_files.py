"""Read the raw files of a text corpus into a frame: the Large Movie Review Dataset, your own, or simulated reviews."""

from __future__ import annotations

import posixpath

import polars as pl

from embedline.errors import DataError
from embedline.sources.archive import NotAnArchive, iter_members, read_file
from embedline.sources.download import fetched
from embedline.sources.imdb_generator import GeneratorOptions, generate_files

GENERATED = "generated"
TEXT_SUFFIX = ".txt"
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
RAW_SCHEMA = {"path": pl.String, "content": pl.Binary}

ORIGINAL_COUNTS = {
    "train/neg": 12_500,
    "train/pos": 12_500,
    "train/unsup": 50_000,
    "test/neg": 12_500,
    "test/pos": 12_500,
}
"""Number of reviews in each folder of the Large Movie Review Dataset (Maas et al. 2011, "Learning word vectors for
sentiment analysis"), according to its README."""


def acquire_files(source: str, *, verify: bool = True, generator: GeneratorOptions) -> pl.DataFrame:
    """Return the files of a corpus as one frame, so that there are no 100,000 small files on disk.

    Args:
        source: ``generated``; or the address or path of an archive or folder, see
            `embedline.sources.archive.iter_members`; or of one table (`TABLE_SUFFIXES`, also with ``.gz``).
        verify: compare the number of reviews in each folder with `ORIGINAL_COUNTS`; false for your own corpus.
            Simulated reviews are not compared.
        generator: options of the simulated reviews; used only if ``source`` is ``generated``.

    Returns:
        ``path: String``, with forward slashes, relative to the archive or folder, and ``content: Binary``, verbatim;
        sorted by path. Only text files and tables; hidden files and those in ``__MACOSX`` are left out.

    Raises:
        DataError: names the file or folder: the source cannot be read, has no text file or table, has a path twice, or
            the comparison fails.
    """
    if source == GENERATED:
        return _frame(generate_files(generator))
    files = read_files(source)
    if verify:
        _check_counts(files, source)
    return files


def read_files(source: str) -> pl.DataFrame:
    """Return the files of an address or path, as `acquire_files` does, without verification."""
    name = posixpath.basename(str(source).split("?")[0].replace("\\", "/").rstrip("/"))
    if name.removesuffix(".gz").lower().endswith((*TABLE_SUFFIXES, TEXT_SUFFIX)):
        with fetched(source) as path:
            if path.is_file():
                return _frame({name.removesuffix(".gz"): read_file(path, source)})
    seen: list[str] = []

    def is_wanted(member: str) -> bool:
        seen.append(member)
        return _is_wanted(member)

    contents: dict[str, bytes] = {}
    try:
        for member, content in iter_members(source, is_wanted):
            if member in contents:
                raise DataError(f"{source} holds {member} twice")
            contents[member] = content
    except NotAnArchive as error:
        kinds = ", ".join((TEXT_SUFFIX, *TABLE_SUFFIXES))
        hint = "; write JSON with one object a line, as .jsonl" if ".json" in name.lower() else ""
        raise DataError(
            f"{error}; a corpus is an archive, a folder or one file of these kinds: {kinds}{hint}"
        ) from error
    if not contents:
        wanted = ", ".join((TEXT_SUFFIX, *TABLE_SUFFIXES))
        raise DataError(f"{source} holds no file of text ({wanted}); it holds {named(seen) or 'nothing'}")
    return _frame(contents)


def named(names: list[str], most: int = 3) -> str:
    """Join the first names for a message: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_wanted(member: str) -> bool:
    hidden = any(name.startswith(".") or name == "__MACOSX" for name in member.split("/"))
    return not hidden and member.lower().endswith((TEXT_SUFFIX, *TABLE_SUFFIXES))


def _frame(contents: dict[str, bytes]) -> pl.DataFrame:
    paths = sorted(contents)
    return pl.DataFrame({"path": paths, "content": [contents[path] for path in paths]}, schema=RAW_SCHEMA)


def _check_counts(files: pl.DataFrame, source: str) -> None:
    """Raise a DataError unless each folder has as many reviews as the original dataset."""
    pattern = rf"(?:^|/)((?:train|test)/[^/]+)/[^/]+\{TEXT_SUFFIX}$"
    folders = files.select(folder=pl.col("path").str.extract(pattern)).drop_nulls()
    found = dict(folders.group_by("folder").len().rows())
    wrong = [
        f"{folder}: {found.get(folder, 0):,} instead of {count:,} reviews"
        for folder, count in ORIGINAL_COUNTS.items()
        if found.get(folder, 0) != count
    ]
    if wrong:
        raise DataError(
            f"{source} is not the whole Large Movie Review Dataset: {'; '.join(wrong)} "
            "(for your own corpus set verify: false)"
        )
