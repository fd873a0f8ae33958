"""Which words decide: how much the log-odds of a class fall if the unknown token replaces a word (occlusion).

(Zeiler & Fergus 2014, arXiv:1311.2901; Li et al. 2016, arXiv:1612.08220.)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call

from embedline.pipelines.text.classifier import ClassifierEnsemble, TextClassifier, class_probabilities

Ids = NDArray[np.integer]
Probabilities = Callable[[Sequence[Sequence[str]]], NDArray[np.float64]]  # of documents as tokens: [N, C]

EMBEDDING = "encoder.embedding.weight"
WINDOW = 4  # tokens on each side of an occluded one: n-grams of up to five words


def occlude(
    probabilities: Probabilities, tokens: Sequence[str], positions: Sequence[int], *, label: int, unknown: str
) -> dict[int, float]:
    """Influence of each position: the decrease of the log-odds of ``label`` if ``unknown`` replaces its token."""
    documents = [tokens, *([*tokens[:at], unknown, *tokens[at + 1 :]] for at in positions)]
    odds = log_odds(probabilities(documents), label)
    return {at: float(odds[0] - after) for at, after in zip(positions, odds[1:], strict=True)}


def log_odds(probabilities: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """``log p - log(1 - p)`` [N] of one class, given probabilities [N, C].

    ``1 - p`` is the sum of the other classes: it stays exact where ``p`` rounds to 1.
    """
    tiny = np.finfo(np.float64).tiny
    others = np.delete(probabilities, label, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(probabilities[:, label], tiny)) - np.log(np.maximum(others, tiny)))


def estimate_occlusion(network: TextClassifier, unknown: int, ids: Ids, label: int) -> NDArray[np.float64]:
    """Estimate by a gradient how occluding each position of ``ids`` int64 [T] lowers a class's log-odds: float64 [T].

    ``(E[x_t] - E[unknown]) . d log-odds / d E[x_t]``, for all positions in one forward and one backward pass of a
    network in evaluation mode. The gradient stops at the borders of its chunks: it is good for a ranking only.
    """
    table = network.encoder.embedding.weight.detach()
    # A table with one row for each position gives each position its own gradient, even if a word repeats.
    own = table[torch.from_numpy(ids).to(table.device)].requires_grad_()
    places = torch.arange(len(ids), device=table.device)[None]
    # cuDNN's LSTM has a backward pass in training mode only.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        logits = functional_call(network, {EMBEDDING: own}, (places, torch.tensor([len(ids)])))[0].double()
        others = torch.cat([logits[:label], logits[label + 1 :]])
        (gradient,) = torch.autograd.grad(logits[label] - others.logsumexp(0), own)
    change = ((own.detach() - table[unknown]).double() * gradient.double()).sum(-1)
    return np.asarray(change.cpu().numpy())


def estimate_ensemble_occlusion(network: ClassifierEnsemble, unknown: int, ids: Ids, label: int) -> NDArray[np.float64]:
    """:func:`estimate_occlusion` float64 [T] for an ensemble, combined from its members.

    With the mean probability p of the class, the members' p_m and weights w_m, the log-odds change by
    ``d log(p / (1 - p)) = sum of w_m p_m (1 - p_m) d log(p_m / (1 - p_m)) / (p (1 - p))``.
    """
    members, weights = network.members, np.array(network.weights)
    changes = [estimate_occlusion(member, unknown, ids, label) for member in members]
    if len(members) == 1:
        return changes[0]
    found = np.stack([class_probabilities(member, [ids])[0] for member in members])  # [M, C]
    every = np.vstack([found, weights @ found])  # the mean in the last row
    variances = every[:, label] * np.delete(every, label, axis=1).sum(axis=1)  # 1 - p as a sum stays exact near 0
    spread = weights * variances[:-1] / max(variances[-1], np.finfo(np.float64).tiny)
    return np.asarray(spread @ np.stack(changes))


def estimate_by_windows(
    probabilities: Probabilities, unknown: str, tokens: Sequence[str], label: int
) -> NDArray[np.float64]:
    """Estimate the influence of each position, float64 [T], for a classifier of n-grams.

    Each token is occluded among its :data:`WINDOW` neighbours only, which takes time in proportion to T instead of its
    square. A linear classifier whose n-grams are divided by the root of their number in the document, as those of
    :class:`.baseline.NaiveBayesSVM` are, has smaller influences in a longer document: by the root of the lengths.
    """
    documents: list[Sequence[str]] = []
    for at in range(len(tokens)):
        before, after = tokens[max(0, at - WINDOW) : at], tokens[at + 1 : at + 1 + WINDOW]
        documents += [[*before, tokens[at], *after], [*before, unknown, *after]]
    odds = log_odds(probabilities(documents), label).reshape(-1, 2)
    lengths = np.array([len(document) for document in documents[::2]])
    return np.asarray((odds[:, 0] - odds[:, 1]) * np.sqrt(lengths / len(tokens)))
