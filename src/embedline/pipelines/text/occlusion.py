"""Which words decide: how much they change the log-odds of a class, masked by the unknown token (occlusion).

(Zeiler & Fergus 2014, arXiv:1311.2901; Li et al. 2016, arXiv:1612.08220.) A masked text has the length of the text.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call

from embedline.pipelines.text.classifier import ClassifierEnsemble

Ids = NDArray[np.integer]
Tokens = Sequence[str]  # of a document

EMBEDDING = "encoder.embedding.weight"
WINDOW = 4  # tokens on each side of an occluded one: n-grams of up to five words


class Probabilities(Protocol):
    """A classifier as a function."""

    def __call__(self, documents: Sequence[Tokens], like: Tokens | None = None) -> NDArray[np.float64]:
        """Probabilities float64 [N, C] of documents; where ``like`` is given, they are masked or cut out of it."""


def occlude(
    probabilities: Probabilities,
    tokens: Tokens,
    words: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]] = (),
    *,
    label: int,
    unknown: str,
) -> list[float]:
    """Influence of each word: the change of the log-odds of ``label`` between the word and ``unknown`` in its place.

    The mean of two changes: the text without the word, and the background, in which all words are masked, with it. Of
    two words that say the same the first change alone is 0 for both, since the other one remains. The mean is the
    Shapley value where the log-odds are a sum over words and pairs of words: the influences then add up to the log-odds
    of the text minus those of the background. ``words`` are the positions of the tokens of each word, ``others`` those
    of words that are only masked in the background.
    """

    def masked(positions: Iterable[int], text: Tokens) -> list[str]:
        hidden = set(positions)
        return [unknown if at in hidden else token for at, token in enumerate(text)]

    every = {at for word in (*words, *others) for at in word}
    without = [masked(word, tokens) for word in words]
    alone = [masked(every.difference(word), tokens) for word in words]
    odds = log_odds(probabilities([tokens, masked(every, tokens), *without, *alone], like=tokens), label)
    return np.mean([odds[0] - odds[2 : 2 + len(words)], odds[2 + len(words) :] - odds[1]], axis=0).tolist()


def log_odds(probabilities: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """``log p - log(1 - p)`` [N] of one class, given probabilities [N, C].

    ``1 - p`` is the sum of the other classes: it stays exact where ``p`` rounds to 1.
    """
    tiny = np.finfo(np.float64).tiny
    others = np.delete(probabilities, label, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(probabilities[:, label], tiny)) - np.log(np.maximum(others, tiny)))


def estimate_occlusion(network: ClassifierEnsemble, unknown: int, ids: Ids, label: int) -> NDArray[np.float64]:
    """Estimate by a gradient how occluding each position of ``ids`` int64 [T] lowers a class's log-odds: float64 [T].

    ``(E[x_t] - E[unknown]) . d log-odds / d E[x_t]``, summed over the members, for all positions in one forward and one
    backward pass of networks in evaluation mode. The gradient stops at the borders of their chunks: it is good for a
    ranking only.
    """
    tables = [member.encoder.embedding.weight.detach() for member in network.members]
    # A table with one row for each position gives each position its own gradient, even if a word repeats.
    own = [table[torch.from_numpy(ids).to(table.device)].requires_grad_() for table in tables]
    document = (torch.arange(len(ids), device=tables[0].device)[None], torch.tensor([len(ids)]))
    # cuDNN's LSTM has a backward pass in training mode only.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        tensors = {f"networks.{member}.{EMBEDDING}": rows for member, rows in enumerate(own)}
        logs = functional_call(network, tensors, document)[0]
        others = torch.cat([logs[:label], logs[label + 1 :]])
        gradients = torch.autograd.grad(logs[label] - others.logsumexp(0), own)
    changes = [
        ((rows.detach() - table[unknown]).double() * gradient.double()).sum(-1)
        for rows, table, gradient in zip(own, tables, gradients, strict=True)
    ]
    return np.asarray(torch.stack(changes).sum(0).cpu().numpy())


def estimate_by_windows(probabilities: Probabilities, unknown: str, tokens: Tokens, label: int) -> NDArray[np.float64]:
    """Estimate the influence of each position, float64 [T], for a classifier of n-grams.

    Each token is occluded among its :data:`WINDOW` neighbours only, which takes time in proportion to T instead of its
    square.
    """
    documents: list[Tokens] = []
    for at in range(len(tokens)):
        before, after = tokens[max(0, at - WINDOW) : at], tokens[at + 1 : at + 1 + WINDOW]
        documents += [[*before, tokens[at], *after], [*before, unknown, *after]]
    odds = log_odds(probabilities(documents, like=tokens), label).reshape(-1, 2)
    return np.asarray(odds[:, 0] - odds[:, 1])
