"""The two raw files of the Adult data, from an archive or folder or from the generator."""

from __future__ import annotations

import posixpath

from embedline.errors import DataError
from embedline.sources.adult_generator import GeneratorOptions, generate_files
from embedline.sources.adult_table import FILES
from embedline.sources.archive import read_members
from embedline.sources.checksums import check_sha256
from embedline.sources.imdb_files import named

GENERATED = "generated"

ORIGINAL_SHA256 = {
    "adult.data": "df25a4e32ed6f1bd4b3910d21a7bd661a09061eced7cb45555a519d9667cc87b",
    "adult.test": "ceb625d3b5aeddf1e04cd5eec3268e18af4140fbde5a853a11223deeebcfe0f5",
}
"""Of the files that the UCI repository gives out."""


def acquire_files(source: str, *, verify: bool = True, generator: GeneratorOptions) -> dict[str, bytes]:
    """Return ``adult.data`` and ``adult.test``, verbatim, by these names.

    Args:
        source: ``generated``; or the address or path of an archive or folder that holds the two at the top or in a
            sub-folder, see `embedline.sources.archive.iter_members`.
        verify: compare the files of an address with the sha256 of UCI's. Turn it off for another version of the data.
        generator: what to generate; used for ``generated`` alone.

    Raises:
        DataError: the source cannot be read, lacks a file, holds one twice, or fails the comparison; the message names
            the file.
    """
    if source == GENERATED:
        return generate_files(generator)
    seen: list[str] = []

    def is_wanted(member: str) -> bool:
        seen.append(member)
        return posixpath.basename(member) in FILES and "__MACOSX" not in member

    members = read_members(source, is_wanted)
    files = {}
    for name in FILES:
        places = [member for member in members if posixpath.basename(member) == name]
        if not places:
            raise DataError(f"{source} has no {name}; it holds {named(seen) or 'nothing'}")
        if len(places) > 1:
            raise DataError(f"{source} holds {name} more than once: {', '.join(places)}")
        files[name] = members[places[0]]
    if verify:
        for name, expected in ORIGINAL_SHA256.items():
            check_sha256(name, files[name], expected, source=source, whose="UCI's file")
    return files
