"""The n-grams of tokens that enough documents contain, and the binary matrix of the documents that contain them.

The n-grams form a trie: one of n words is the number of its first n - 1 words and the number of its last word, packed
into one integer of 64 bits. Arrays of the tokens of all documents are therefore searched at once, without a string for
each n-gram: 20 million of them take seconds, and those of scikit-learn's ``CountVectorizer`` minutes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Matrix = Any  # scipy.sparse.csr_array
Ints = NDArray[np.int64]
ABSENT = -1  # of a token or n-gram that is none of the words or n-grams


@dataclass(frozen=True)
class Ngrams:
    """The n-grams that are features, of ``shortest`` to ``1 + len(levels)`` words.

    Attributes:
        words: the known tokens; a token's number is its place. They are the n-grams of one word.
        levels: of 2, 3, … words, the keys int64 of the known n-grams, ascending: ``first * len(words) + last``, where
            ``first`` is the number of the n-gram without its last word, which is known too, and ``last`` is the number
            of that word. An n-gram's number is its place.
        shortest: words of the shortest n-gram that is a feature.
    """

    words: tuple[str, ...]
    levels: tuple[Ints, ...]
    shortest: int = 1

    @classmethod
    def fit(cls, codes: Ints, offsets: Ints, lexicon: Sequence[str], lengths: tuple[int, int], min_df: int) -> Self:
        """Find the n-grams of ``lengths[0]`` to ``lengths[1]`` tokens that at least ``min_df`` documents contain.

        ``codes`` int [T] are the tokens of all documents as rows of ``lexicon``, ``offsets`` int64 [D + 1]: document
        ``d`` is ``codes[offsets[d]:offsets[d + 1]]``.
        """
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        known = _frequent(codes.astype(np.int64), rows, min_df)
        numbers = np.full(len(lexicon), ABSENT)
        numbers[known] = np.arange(len(known))
        words = tuple(lexicon[code] for code in known.tolist())
        ids, levels = numbers[codes], list[Ints]()
        found = ids
        for length in range(2, lengths[1] + 1):
            keys = _longer(found, ids, rows, length, len(words))
            # No n-gram is in more documents than its first words are, so that rarer ones need not be looked at.
            levels.append(_frequent(keys, rows, min_df))
            found = _places(keys, levels[-1])
        return cls(words, tuple(levels), lengths[0])

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return sum(self._sizes)

    def __contains__(self, word: object) -> bool:
        return word in self._number

    @property
    def _sizes(self) -> list[int]:
        """Number of features of each length."""
        return [len(level) for level in (self.words, *self.levels)][self.shortest - 1 :]

    def numbers(self, tokens: Iterable[str]) -> Ints:
        """Numbers int64 [T] of the words, or :data:`ABSENT`."""
        return np.array([self._number.get(token, ABSENT) for token in tokens], np.int64)

    def matrix(self, documents: Iterable[Sequence[str]]) -> Matrix:
        """As :meth:`matrix_of_ids`, of documents as sequences of tokens."""
        listed = list(documents)
        offsets = np.cumsum([0, *map(len, listed)], dtype=np.int64)
        return self.matrix_of_ids(self.numbers(chain.from_iterable(listed)), offsets)

    def matrix_of_ids(self, ids: Ints, offsets: Ints) -> Matrix:
        """Binary float32 matrix [D, features]: 1 where a document contains the n-gram.

        ``ids`` int64 [T] are numbers of words as of :meth:`numbers`; document ``d`` is ``ids[offsets[d]:offsets[d +
        1]]``.
        """
        from scipy.sparse import coo_array

        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        places, columns, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for found, size in zip(self._found(ids, rows), self._sizes, strict=True):
            present = found != ABSENT
            places.append(rows[present])
            columns.append(found[present] + start)
            start += size
        at = (np.concatenate(places).astype(np.int32), np.concatenate(columns).astype(np.int32))
        matrix = coo_array((np.ones(len(at[0]), np.float32), at), shape=(len(offsets) - 1, start)).tocsr()
        matrix.data[:] = 1.0  # the conversion has added the occurrences up
        return matrix

    def _found(self, ids: Ints, rows: Ints) -> Iterator[Ints]:
        """Of each length that is a feature, the number int64 [T] of the n-gram that starts at each token."""
        found = ids
        for length in range(1, len(self.levels) + 2):
            if length > 1:
                found = _places(_longer(found, ids, rows, length, len(self.words)), self.levels[length - 2])
            if length >= self.shortest:
                yield found


def _longer(found: Ints, ids: Ints, rows: Ints, length: int, n_words: int) -> Ints:
    """Keys of the n-grams of ``length`` words that start at each token; ``found`` are those of one word less."""
    keys, last = np.full(len(ids), ABSENT), length - 1
    if length <= len(ids):
        start, end = slice(0, len(ids) - last), slice(last, None)
        inside = (found[start] != ABSENT) & (ids[end] != ABSENT) & (rows[start] == rows[end])
        keys[start] = np.where(inside, found[start] * n_words + ids[end], ABSENT)
    return keys


def _places(keys: Ints, known: Ints) -> Ints:
    """Places int64 of the keys in ``known``, which is sorted, or :data:`ABSENT`."""
    if not len(known):
        return np.full(len(keys), ABSENT)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, places, ABSENT)


def _frequent(keys: Ints, rows: Ints, min_df: int) -> Ints:
    """The keys, ascending, that stand in at least ``min_df`` rows; :data:`ABSENT` is no key."""
    pairs = pl.DataFrame({"key": keys, "row": rows}).filter(pl.col("key") != ABSENT).unique()
    return pairs.group_by("key").len().filter(pl.col("len") >= min_df)["key"].sort().to_numpy()
