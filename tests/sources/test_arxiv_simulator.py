"""Simulated papers: the layout and the quirks of the snapshot, and the law of their words."""

import json
import math
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from embedline.pipelines.arxiv.simulator import (
    CATEGORIES,
    CROSS,
    SHARED,
    TOPICS,
    GeneratorOptions,
    generate_snapshot,
    own_share,
    topic_counts,
)

KEYS = (
    "id submitter authors title comments journal-ref doi report-no categories license abstract versions update_date "
    "authors_parsed"
).split()  # of the real snapshot, in its order


@cache
def papers(n_papers: int = 3000) -> list[dict[str, Any]]:
    options = GeneratorOptions(n_papers=n_papers, min_words=20, max_words=60)
    return [json.loads(line) for line in generate_snapshot(options).splitlines()]


def nouns_of(text: str) -> list[str]:
    known = {noun for kinds in TOPICS.values() for noun in kinds["{noun}"]}
    return [word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower()) if word.removesuffix("s") in known]


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
    assert not re.search(r"\b[Aa] [aeio]|[{]\w+[}]s| ,| :", titles + abstracts)


def test_topics_share_no_word() -> None:
    words = [word for kinds in TOPICS.values() for words in kinds.values() for word in words]
    assert len(words) == len({*words}) == 5 * 12
    assert topic_counts("Packets of a\n bipartite router.") == {"cs.NI": 2, "math.CO": 1}
    assert own_share() == pytest.approx(0.9 + 0.1 / 5)


def test_papers_follow_the_probabilities() -> None:
    """Over 3,000 papers, within 4 standard errors; words of one paper are nearly independent."""
    own = total = crossed = repeated = n_nouns = 0
    primary: Counter[str] = Counter()
    expected = 0.0
    for paper in papers():
        first, *others = paper["categories"].split()
        primary[first] += 1
        crossed += len(others)
        counts = topic_counts(paper["title"] + paper["abstract"])
        own, total = own + counts[first], total + sum(counts.values())
        titled, nouns = nouns_of(paper["title"]), nouns_of(paper["abstract"])
        repeated, n_nouns = repeated + sum(noun in titled for noun in nouns), n_nouns + len(nouns)
        # A noun that is not taken from the title is one of its nouns by chance.
        weights = [1 / rank for rank in range(1, 9)]
        chance = sum(
            weights[TOPICS[first]["{noun}"].index(noun)] / sum(weights) * own_share()
            for noun in {*titled}
            if noun in TOPICS[first]["{noun}"]
        )
        expected += len(nouns) * (SHARED + (1 - SHARED) * chance)
    assert total > 20_000
    # Nouns that are repeated make the own share of a paper vary more than that of independent words.
    assert abs(own / total - own_share()) < 8 * math.sqrt(own_share() * (1 - own_share()) / total)
    assert abs(crossed / 3000 - CROSS) < 4 * math.sqrt(CROSS * (1 - CROSS) / 3000)
    assert all(abs(count - 600) < 4 * math.sqrt(480) for count in primary.values()) and len(primary) == 5
    assert repeated / n_nouns == pytest.approx(expected / n_nouns, abs=0.01)


def test_lengths_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="max_words"):
        GeneratorOptions(min_words=10, max_words=9)
