"""Simulated papers: the layout and the quirks of the snapshot, and the law of their words."""

import json
import re
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from embedline.pipelines.arxiv.simulator import (
    CATEGORIES,
    GeneratorOptions,
    generate_snapshot,
)

KEYS = (
    "id submitter authors title comments journal-ref doi report-no categories license abstract versions update_date "
    "authors_parsed"
).split()  # of the real snapshot, in its order


@cache
def papers(n_papers: int = 3000) -> list[dict[str, Any]]:
    options = GeneratorOptions(n_papers=n_papers, min_words=20, max_words=60)
    return [json.loads(line) for line in generate_snapshot(options).splitlines()]


def test_equal_options_give_equal_bytes_and_more_papers_the_same_first_ones() -> None:
    few, many = GeneratorOptions(n_papers=5), GeneratorOptions(n_papers=9)
    assert generate_snapshot(few) == generate_snapshot(few)
    assert generate_snapshot(many).startswith(generate_snapshot(few))
    assert generate_snapshot(few) != generate_snapshot(few.model_copy(update={"seed": 1}))


def test_lines_have_the_keys_and_the_quirks_of_the_snapshot() -> None:
    content = generate_snapshot(GeneratorOptions(n_papers=50))
    assert content.isascii() and content.endswith(b"}\n") and content.count(b"\n") == 50
    for paper in papers():
        assert list(paper) == KEYS
        assert re.fullmatch(r"\d{4}\.\d{4}", paper["id"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", paper["update_date"])
        assert re.fullmatch(r"  [A-Z].*\.\n", paper["abstract"], re.DOTALL)
        assert all(len(line) <= 78 for text in (paper["title"], paper["abstract"]) for line in text.splitlines())
        assert {*paper["categories"].split()} <= {*CATEGORIES}
    assert papers()[0]["id"] == "0704.0001" and papers()[40]["id"] == "0705.0001"
    assert len({paper["id"] for paper in papers()}) == 3000
    assert re.fullmatch(r"[A-Z][a-z]{2}, \d\d Apr 2007 12:00:00 GMT", papers()[0]["versions"][0]["created"])
    titles, abstracts = ("\n\n".join(paper[key] for paper in papers()) for key in ("title", "abstract"))
    assert titles.count("\n  ") > 100 and len(re.findall(r"\S\n\S", abstracts)) > 1000
    assert len(re.findall(r"\.  [A-Z]", abstracts)) > 100
    for quirk in (r"$O(n \log n)$", r"K\"ahler", r"Erd\H{o}s"):
        assert quirk in abstracts and (quirk in titles or "$" in quirk)
    assert not re.search(r"\b[Aa] [aeio]|[{][a-z]{2,}[}]| ,| :", titles + abstracts)


def test_lengths_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="max_words"):
        GeneratorOptions(min_words=10, max_words=9)
