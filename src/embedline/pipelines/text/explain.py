"""Which words moved a classifier's decision: occlusion, and how to show it to a reader."""

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
COUNTED = ("xxrep", "xxwrep", "xxfld")  # special tokens whose next token is a number that belongs to them
CASES: dict[str, Callable[[str], str]] = {"xxup": str.upper, "xxmaj": str.capitalize}
LONGEST_REPEAT = 20  # characters shown of `!!!!…`
REACH = 200  # characters after one word in which the next one is looked for


class ExplanationOptions(BaseModel):
    """How much work an explanation may take.

    Attributes:
        max_tokens: explain only so many last tokens of a document; as many as the classifier pools over if None. What
            comes before reaches it through the carried state only.
        budget: tokens to read for the occlusions of one explanation, about: their number times the length.
        least: occlusions in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=1)
    budget: int = Field(default=15_000, ge=1)
    least: int = Field(default=16, ge=1)


def first_order(network: "TextClassifier", unknown: int, ids: Ids, label: int) -> NDArray[np.float64]:
    """What occluding each position would do to the log-odds of a class, to first order: float64 [T].

    ``(E[x_t] - E[unknown]) . d log-odds / d E[x_t]``, all positions in one pass forward and back. The gradient ends at
    the borders of the chunks in which the classifier reads, so that it ranks and does not measure.

    Args:
        network: in evaluation mode.
        unknown: id of the unknown token.
        ids: a document, int64 [T].
        label: index of the class.
    """
    import torch
    from torch.func import functional_call

    table = network.encoder.embedding.weight.detach()
    # A table of their own gives each position its own gradient, also where a word stands twice.
    own = table[torch.from_numpy(ids).to(table.device)].requires_grad_()
    places = torch.arange(len(ids), device=table.device)[None]
    # cuDNN's LSTM goes back in training mode only.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        logits = functional_call(network, {EMBEDDING: own}, (places, torch.tensor([len(ids)])))[0].double()
        others = torch.cat([logits[:label], logits[label + 1 :]])
        (gradient,) = torch.autograd.grad(logits[label] - others.logsumexp(0), own)
    change = ((own.detach() - table[unknown]).double() * gradient.double()).sum(-1)
    return np.asarray(change.cpu().numpy())


def occlude(
    probabilities: Probabilities, ids: Ids, positions: Sequence[int], *, label: int, unknown: int
) -> dict[int, float]:
    """Influence of each position: the fall in the log-odds of ``label`` when it is replaced by ``unknown``.

    Args:
        probabilities: classifier of documents, each an array of ids.
        ids: the document, [T].
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

    ``1 - p`` is summed from the other classes: it keeps its digits where ``p`` rounds to 1.
    """
    tiny = np.finfo(np.float64).tiny
    others = np.delete(probabilities, label, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(probabilities[:, label], tiny)) - np.log(np.maximum(others, tiny)))


def readable_words(tokens: Sequence[str], specials: Iterable[str]) -> list[tuple[int, str]]:
    """Position and reader's spelling of each token that stands for a word.

    ``xxup`` and ``xxmaj`` go into the spelling of the next word, ``xxrep 3 !`` reads ``!!!``; a word repeated by
    ``xxwrep`` is named once.
    """
    marks = set(specials)
    found: list[tuple[int, str]] = []
    pending: list[str] = []  # special tokens since the last word
    count = 1
    for at, token in enumerate(tokens):
        if token in marks:
            pending.append(token)
            continue
        if pending and pending[-1] in COUNTED and token.isdigit():
            count = int(token) if pending[-1] == "xxrep" else 1
            pending[-1] = ""  # the number is taken: a second one is a word
            continue
        word = token.replace("▁", " ").replace("\n", "↵")
        for mark in pending:
            word = CASES.get(mark, str)(word)
        found.append((at, word * min(count, LONGEST_REPEAT)))
        pending, count = [], 1
    return found


def moved_by(explanation: pl.DataFrame, n: int) -> str:
    """The ``n`` words with the largest influence either way, such as ``dull +1.20, fine -0.31``."""
    words = explanation.filter(pl.col("exact"), pl.col("influence") != 0.0)
    words = words.sort(pl.col("influence").abs(), descending=True, maintain_order=True).head(n)
    return ", ".join(f"{word} {influence:+.2f}" for word, influence in words.select("word", "influence").rows())


def place_words(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where each word stands in ``text``: start and end, or None for one that the rules have changed.

    The words come in the order of the text; upper and lower case do not matter.
    """
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change their length in lower case, such as the Turkish İ
        lower = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        at = lower.find(word.lower(), cursor, cursor + REACH)
        places.append((at, at + len(word)) if at >= 0 else None)
        cursor = at + len(word) if at >= 0 else cursor
    return places
