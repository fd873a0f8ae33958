"""The embedding of a classifier that starts from a language model with another vocabulary."""

import pytest
import torch

from embedline.errors import DataError
from embedline.pipelines.text.fine_tuning import match_embedding
from embedline.pipelines.text.preprocessing import RULES
from embedline.pipelines.text.vocabulary import Vocabulary


def words_of(*words: str, rules: str = "ulmfit") -> Vocabulary:
    preset = RULES[rules]  # type: ignore[index]
    return Vocabulary(
        rules=preset.name,
        tokens=(*preset.specials, *words),
        specials=preset.specials,
        unknown=preset.specials.index(preset.unknown),
        padding=preset.specials.index(preset.padding),
        fitted_on=("train",),
        min_freq=1,
    )


def test_rows_of_the_embedding_go_by_word_and_unknown_words_get_the_mean() -> None:
    known, wanted = words_of("a", "b", "c"), words_of("c", "new", "a", "other")
    weights = torch.randn(len(known), 4)
    kept = weights.clone()
    matched = match_embedding(weights, known, wanted)
    n = len(known.specials)
    mean = weights.mean(0)
    expected = torch.cat([weights[:n], torch.stack([weights[n + 2], mean, weights[n], mean])])
    torch.testing.assert_close(matched, expected)
    assert torch.equal(weights, kept)
    assert torch.equal(match_embedding(weights, known, known), weights)


def test_a_vocabulary_of_other_rules_or_of_another_corpus_is_refused() -> None:
    known, other = words_of("a", "b"), words_of("a", "b", rules="dl1")
    with pytest.raises(DataError, match=r"the token rules 'ulmfit', .* 'dl1': set tokens\.rules to 'ulmfit'$"):
        match_embedding(torch.randn(len(known), 4), known, other)
    foreign = words_of(*(f"x{number}" for number in range(100)))
    with pytest.raises(DataError, match=r"knows 0\.0% of the documents' 100 words: it is of another corpus"):
        match_embedding(torch.randn(len(known), 4), known, foreign)
