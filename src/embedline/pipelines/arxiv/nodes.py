"""From arXiv's snapshot to files of JSON lines; the reading of tables makes documents of them."""

import polars as pl

from embedline.paths import GENERATED, find_source
from embedline.pipelines.arxiv.simulator import GeneratorOptions, generate_snapshot
from embedline.pipelines.arxiv.snapshot import SelectionOptions, read_snapshot, select_papers


def acquire(source: str, selection: SelectionOptions, generator: GeneratorOptions) -> pl.DataFrame:
    """Choose papers from the snapshot at ``source``, or simulate one: columns ``path`` and ``content``, JSON lines."""
    if source == GENERATED:
        return select_papers(generate_snapshot(generator).split(b"\n"), GENERATED, selection)
    return read_snapshot(find_source(source), selection)
