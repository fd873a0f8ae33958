"""Explain a classifier's decision by occlusion: the influence of each word, and how to display it."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from embedline.pipelines.text.classifier import TextClassifier

EMBEDDING = "encoder.embedding.weight"
Ids = NDArray[np.integer]
Probabilities = Callable[[Sequence[Ids]], NDArray[np.float64]]  # of documents: [N, C]
NUMBERED = ("xxrep", "xxwrep", "xxfld")  # special tokens that are followed by their number
CASES: dict[str, Callable[[str], str]] = {"xxup": str.upper, "xxmaj": str.capitalize}
LONGEST_REPEAT = 20  # displayed characters of `!!!!…`
MAX_GAP = 200  # characters between a word and the next one when words are located in the text


class ExplanationOptions(BaseModel):
    """Limits of the work for an explanation.

    Attributes:
        max_tokens: explain only the last ``max_tokens`` tokens of a document; None: the tokens that the classifier
            pools. Earlier tokens affect the decision only through the carried state.
        budget: approximate number of tokens to read for one explanation: number of occlusions times length.
        min_occlusions: minimum number of occlusions, even beyond the budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=1)
    budget: int = Field(default=15_000, ge=1)
    min_occlusions: int = Field(default=16, ge=1)


def estimate_occlusion(network: "TextClassifier", unknown: int, ids: Ids, label: int) -> NDArray[np.float64]:
    """Estimate by a gradient how occluding each position lowers the log-odds of a class: float64 [T].

    ``(E[x_t] - E[unknown]) . d log-odds / d E[x_t]``, for all positions in one forward and one backward pass. The
    gradient stops at the borders of the classifier's chunks, so the estimate is good for a ranking only.

    Args:
        network: in evaluation mode.
        unknown: id of the unknown token.
        ids: a document, int64 [T].
        label: index of the class.
    """
    import torch
    from torch.func import functional_call

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


def occlude(
    probabilities: Probabilities, ids: Ids, positions: Sequence[int], *, label: int, unknown: int
) -> dict[int, float]:
    """Influence of each position: the decrease of the log-odds of ``label`` if ``unknown`` replaces its token.

    Args:
        probabilities: function from documents (arrays of ids) to class probabilities float64 [N, C].
        ids: the document, integer [T].
    """
    documents = [ids]
    for at in positions:
        occluded = ids.copy()
        occluded[at] = unknown
        documents.append(occluded)
    odds = log_odds(probabilities(documents), label)
    return {at: float(odds[0] - after) for at, after in zip(positions, odds[1:], strict=True)}


def log_odds(probabilities: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """``log p - log(1 - p)`` [N] of one class, given probabilities [N, C].

    ``1 - p`` is the sum of the other classes: it stays exact where ``p`` rounds to 1.
    """
    tiny = np.finfo(np.float64).tiny
    others = np.delete(probabilities, label, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(probabilities[:, label], tiny)) - np.log(np.maximum(others, tiny)))


def readable_words(tokens: Sequence[str], specials: Iterable[str]) -> list[tuple[int, str]]:
    """Position and readable spelling of each token that is a word.

    ``xxup`` and ``xxmaj`` change the spelling of the next word, ``xxrep 3 !`` becomes ``!!!``; a word repeated by
    ``xxwrep`` is listed once.
    """
    marks = set(specials)
    found: list[tuple[int, str]] = []
    pending: list[str] = []  # special tokens since the last word
    count = 1
    for at, token in enumerate(tokens):
        if token in marks:
            pending.append(token)
            continue
        if pending and pending[-1] in NUMBERED and token.isdigit():
            count = int(token) if pending[-1] == "xxrep" else 1
            pending[-1] = ""  # the number is used: another number is a word
            continue
        word = token.replace("▁", " ").replace("\n", "↵")
        for mark in pending:
            word = CASES.get(mark, str)(word)
        found.append((at, word * min(count, LONGEST_REPEAT)))
        pending, count = [], 1
    return found


def strongest_words(explanation: pl.DataFrame, n: int) -> str:
    """The ``n`` words with the largest absolute influence, such as ``dull +1.20, fine -0.31``."""
    words = explanation.filter(pl.col("exact"), pl.col("influence") != 0.0)
    words = words.sort(pl.col("influence").abs(), descending=True, maintain_order=True).head(n)
    return ", ".join(f"{word} {influence:+.2f}" for word, influence in words.select("word", "influence").rows())


def locate_words(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Start and end of each word in ``text``, or None for a word that the token rules changed.

    The words must be in the order of the text; case is ignored.
    """
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change their length in lower case, such as the Turkish İ
        lower = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        at = lower.find(word.lower(), cursor, cursor + MAX_GAP)
        places.append((at, at + len(word)) if at >= 0 else None)
        cursor = at + len(word) if at >= 0 else cursor
    return places
