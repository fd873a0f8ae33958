"""The raw files of a MovieLens release as one frame: from an archive or folder in any of its layouts, or generated."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from embedline.errors import DataError
from embedline.sources.archive import iter_members
from embedline.sources.checksums import check_sha256
from embedline.sources.imdb_files import named
from embedline.sources.movielens_generator import GeneratorOptions, generate_files

GENERATED = "generated"
RAW_SCHEMA = {"path": pl.String, "content": pl.Binary}
FOLD_FILES = tuple(f"u{fold}.test" for fold in range(1, 6))


@dataclass(frozen=True)
class Layout:
    """The names of a release's files. Only these distinguish the layouts: the archive may have any name."""

    ratings: str
    items: str
    others: tuple[str, ...] = ()  # read where they are there

    @property
    def files(self) -> tuple[str, ...]:
        """All that is read."""
        return (self.ratings, self.items, *self.others)


ML_100K = Layout("u.data", "u.item", ("u.genre", "u.user", *FOLD_FILES))
"""ml-100k: tabs, no header, genres as flags, the five canonical folds."""

COLONS = Layout("ratings.dat", "movies.dat", ("users.dat",))
"""ml-1m and ml-10m: ``::`` between the fields, no header."""

CSV = Layout("ratings.csv", "movies.csv")
"""Every newer release (ml-20m, ml-25m, ml-32m, ml-latest, ml-latest-small): CSV with a header, UTF-8."""

LAYOUTS = (ML_100K, COLONS, CSV)

ORIGINAL_SHA256 = {
    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
}
"""Of MovieLens 100k."""

OTHER_RELEASE = "for another release, turn the check off (verify: false)"


def acquire_files(source: str, *, verify: bool = True, generator: GeneratorOptions) -> pl.DataFrame:
    """Return the files of a release that say who rated what and what there is to rate.

    Args:
        source: ``generated``; or the address or path of an archive or folder, see
            `embedline.sources.archive.iter_members`, with the files of one of `LAYOUTS` at the top or in a sub-folder.
        verify: compare ``u.data`` and ``u.item`` of an address with the sha256 of MovieLens 100k. Turn it off for
            another release. Generated files are not compared.
        generator: what to generate; used for ``generated`` alone.

    Returns:
        ``path: String``, the name of the file without folders, and ``content: Binary``, verbatim; sorted by path.

    Raises:
        DataError: the source cannot be read, lacks a file, holds the ratings more than once, or fails the comparison;
            the message names the file.
    """
    if source == GENERATED:
        return _frame(generate_files(generator))
    files = _read_files(source)
    if verify:
        for name, expected in ORIGINAL_SHA256.items():
            if name not in files:
                raise DataError(f"{source} is not MovieLens 100k: it has no {name}; {OTHER_RELEASE}")
            check_sha256(name, files[name], expected, source=source, whose="MovieLens 100k's")
    return _frame(files)


def layout_of(raw: pl.DataFrame) -> Layout:
    """Return the layout of the files of `acquire_files`."""
    paths = set(raw["path"])
    for layout in LAYOUTS:
        if layout.ratings in paths:
            return layout
    raise DataError(f"the raw files hold no ratings ({_ratings_files()}); they are {named(sorted(paths)) or 'none'}")


def content_of(raw: pl.DataFrame, name: str) -> bytes | None:
    """Return the content of a file, None where there is no such file."""
    found = raw.filter(pl.col("path") == name)["content"]
    return found[0] if len(found) else None


def _read_files(source: str) -> dict[str, bytes]:
    """Return the files of the one folder of an archive that holds ratings, by name."""
    seen: list[str] = []

    def is_wanted(member: str) -> bool:
        seen.append(member)
        return any(posixpath.basename(member) in layout.files for layout in LAYOUTS) and "__MACOSX" not in member

    members = dict(iter_members(source, is_wanted))
    ratings = [name for name in members if any(posixpath.basename(name) == layout.ratings for layout in LAYOUTS)]
    if not ratings:
        raise DataError(f"{source} holds no ratings ({_ratings_files()}); it holds {named(seen) or 'nothing'}")
    depth = min(name.count("/") for name in ratings)
    highest = sorted(name for name in ratings if name.count("/") == depth)
    if len(highest) > 1:
        raise DataError(f"{source} holds ratings more than once: {', '.join(highest)}")
    folder, name = posixpath.split(highest[0])
    layout = next(layout for layout in LAYOUTS if layout.ratings == name)
    if posixpath.join(folder, layout.items) not in members:
        raise DataError(f"{source} has no {posixpath.join(folder, layout.items)}, the items of {highest[0]}")
    wanted = {file: posixpath.join(folder, file) for file in layout.files}
    return {file: members[member] for file, member in wanted.items() if member in members}


def _ratings_files() -> str:
    return ", ".join(layout.ratings for layout in LAYOUTS)


def _frame(files: Mapping[str, bytes]) -> pl.DataFrame:
    paths = sorted(files)
    return pl.DataFrame({"path": paths, "content": [files[path] for path in paths]}, schema=RAW_SCHEMA)
