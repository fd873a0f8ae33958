"""The public snapshot of arXiv's metadata: JSON, a paper a line, some of which are chosen while the file is read."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random

import polars as pl
from pydantic import Field, field_validator

from embedline.archive import files_frame, first_names, read_blocks
from embedline.download import fetched
from embedline.errors import DataError
from embedline.training.options import Options

logger = logging.getLogger(__name__)

FIELDS = ("id", "categories", "title", "abstract")
"""What is kept of a paper; all are text, ``categories`` has the primary one first: ``cs.NI cs.DC``."""

LONGEST_LINE = 16 * 1024**2  # bytes; the real ones have some thousand
PIECE = 32 * 1024**2  # bytes, about, of one file of :func:`read_snapshot`

Paper = dict[str, str]


class SelectionOptions(Options):
    """Which papers of the snapshot become documents.

    Attributes:
        categories: prefixes of a category: ``cs`` is ``cs.NI`` and ``cs.LG``, ``cs.NI`` is itself only. A paper is kept
            if one of its categories has one of them; empty: all papers.
        limit: most papers, a random sample of them drawn with ``seed``: the snapshot is in the order of the papers'
            numbers, and its first ones are all of one year. Memory grows with it alone. None: all papers, which takes
            some 4 GB for the real ones.
    """

    categories: tuple[str, ...] = ()
    limit: int | None = Field(default=100_000, ge=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("categories")
    @classmethod
    def _one_word_each(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        for category in categories:
            if category.split() != [category]:
                raise ValueError(f"categories lists {category!r}, which is no prefix of a category such as cs or cs.NI")
        return categories

    def keeps(self, categories: Iterable[str]) -> bool:
        """Whether a paper of these categories is kept."""
        wanted = self.categories
        return not wanted or any(one == each or one.startswith(f"{each}.") for one in categories for each in wanted)


def read_snapshot(source: str, options: SelectionOptions) -> pl.DataFrame:
    """Choose papers from the snapshot at an address, also packed by gzip, bzip2 or xz, line by line.

    Returns:
        ``path: String`` and ``content: Binary``, as :func:`embedline.pipelines.imdb.corpus.read_documents` takes them:
        JSON lines with the :data:`FIELDS` of the papers, in the snapshot's order, in files of about :data:`PIECE`.

    Raises:
        DataError: the source is no such file, a line is no paper (named), or no paper is left.
    """
    with fetched(source) as path:
        if path.is_dir():
            raise DataError(f"{source} is a folder: give the snapshot, the file with a JSON object a line, in it")
        return select_papers(_lines(read_blocks(path, source), source), source, options)


def _lines(blocks: Iterator[bytes], source: str) -> Iterator[bytes]:
    """Lines of a file, given its blocks."""
    rest, first = b"", True
    for block in blocks:
        if first and block.startswith(b"PK\x03\x04"):
            raise DataError(f"{source} is a zip: unpack it, and give the file in it (.json)")
        first = False
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise DataError(f"{source} is no snapshot of arXiv: a line has more than {LONGEST_LINE:,} bytes")
    yield rest


def select_papers(lines: Iterable[bytes], source: str, options: SelectionOptions) -> pl.DataFrame:
    """Choose papers from the lines of a snapshot; see :func:`read_snapshot`. Blank lines are skipped.

    The sample is that of Vitter (1985, "Random sampling with a reservoir", algorithm R): one pass, and never more than
    ``limit`` papers in memory.
    """
    rng, chosen, archives = Random(options.seed), list[tuple[int, bytes]](), Counter[str]()
    total = found = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        paper, total = _read_paper(line, source, number), total + 1
        categories = paper["categories"].split()
        if not options.keeps(categories):
            archives.update({category.split(".")[0] for category in categories})
            continue
        found += 1
        place = len(chosen) if options.limit is None or found <= options.limit else rng.randrange(found)
        if options.limit is None or place < options.limit:
            chosen[place : place + 1] = [(number, json.dumps(paper, ensure_ascii=False).encode())]
    if not total:
        raise DataError(f"{source} holds no paper: it is empty")
    if not chosen:
        held = ", ".join(name for name, _ in archives.most_common(12))
        raise DataError(f"no paper of {source} has a category of {', '.join(options.categories)}; it has {held}")
    logger.info("Chose %s of %s papers, %s of them in the categories", *(f"{n:,}" for n in (len(chosen), total, found)))
    return files_frame(_pieces([line for _, line in sorted(chosen)]))


def _read_paper(line: bytes, source: str, number: int) -> Paper:
    """The :data:`FIELDS` of a line."""
    try:
        paper = json.loads(line)
        if not isinstance(paper, dict):
            raise ValueError("it is no object, {…}")
    except ValueError as error:
        raise DataError(f"{source}: line {number:,} is no JSON object ({error})") from error
    if wrong := [name for name in FIELDS if not isinstance(paper.get(name), str)]:
        there = first_names(list(paper), 12) or "none"
        raise DataError(f"{source}: line {number:,} has no text under {wrong[0]!r}; its keys are {there}")
    return {name: paper[name] for name in FIELDS}


def _pieces(lines: list[bytes]) -> dict[str, bytes]:
    """Join lines to files by name: one parser has no gigabytes at a time."""
    pieces: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if size + len(line) > PIECE and pieces[-1]:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line)
    return {f"papers-{place:05}.jsonl": b"\n".join(piece) for place, piece in enumerate(pieces)}
