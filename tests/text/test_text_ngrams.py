"""The n-grams of tokens, compared with scikit-learn's CountVectorizer."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from embedline.pipelines.text.ngrams import Ngrams

DOCUMENTS = [["a", "b", "a", "b"], ["b", "a", "c"], ["c"], [], ["a", "b", "a"]]
LEXICON = ["a", "b", "c", "never"]


def fitted(documents: list[list[str]], lexicon: list[str], lengths: tuple[int, int], min_df: int) -> Ngrams:
    codes = np.array([lexicon.index(word) for document in documents for word in document], np.int32)
    return Ngrams.fit(codes, np.cumsum([0, *map(len, documents)]), lexicon, lengths, min_df)


def columns(ngrams: Ngrams) -> list[tuple[str, ...]]:
    """The n-gram of each feature."""
    levels = [[(word,) for word in ngrams.words]]
    for keys in ngrams.levels:
        places = [divmod(int(key), len(ngrams.words)) for key in keys]
        levels.append([(*levels[-1][first], ngrams.words[last]) for first, last in places])
    return [each for level in levels[ngrams.shortest - 1 :] for each in level]


def test_ngrams_of_enough_documents_within_documents() -> None:
    ngrams = fitted(DOCUMENTS, LEXICON, (1, 3), 2)
    # "b a" is in three documents, "a b" and "a b a" in two; "c" ends one document and is another one.
    found = [("a",), ("b",), ("c",), ("a", "b"), ("b", "a"), ("a", "b", "a")]
    assert columns(ngrams) == found and len(ngrams) == 6
    expected = [[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [1, 1, 0, 1, 1, 1]]
    assert ngrams.matrix(DOCUMENTS).toarray().tolist() == expected
    other = [["a", "new", "b"], ["b", "a", "b", "a"]]  # an unknown word parts its neighbours
    assert ngrams.matrix(other).toarray().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1]]
    assert ngrams.matrix([]).shape == (0, 6)


@pytest.mark.parametrize(("lengths", "min_df"), [((1, 1), 1), ((1, 3), 2), ((2, 4), 1), ((3, 3), 3)])
def test_the_matrix_is_that_of_scikit_learn(lengths: tuple[int, int], min_df: int) -> None:
    random = np.random.default_rng(0)
    lexicon = [f"w{number}" for number in range(12)]
    documents = [[lexicon[k] for k in random.integers(0, 12, random.integers(0, 30))] for _ in range(60)]
    ngrams = fitted(documents, lexicon, lengths, min_df)
    theirs = CountVectorizer(analyzer="word", tokenizer=list, token_pattern=None, preprocessor=list, lowercase=False)
    theirs.set_params(ngram_range=lengths, min_df=min_df, binary=True)
    expected = theirs.fit_transform(documents).toarray()
    names = [" ".join(each) for each in columns(ngrams)]
    assert sorted(names) == sorted(theirs.vocabulary_)
    order = [theirs.vocabulary_[name] for name in names]
    np.testing.assert_array_equal(ngrams.matrix(documents).toarray(), expected[:, order])
