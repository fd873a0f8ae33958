"""Batches of documents of similar length, for the classifier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import TextSettings
from embedline.training.batches import WHOLE, Autocast, Batches, BatchLoss, Fingerprint, Shard, batch_sizes

POOL_BATCHES = 50  # batches in a pool of documents that is sorted by length: a trade-off of speed and randomness


def pad(documents: Sequence[NDArray[np.integer]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad documents, the longest first, to ids int64 [B, T]; also return their lengths int64 [B] on the CPU."""
    lengths = torch.tensor([len(document) for document in documents])
    assert bool((lengths.diff() <= 0).all()), "the longest document must come first"
    ids = np.zeros((len(documents), int(lengths[0])), dtype=np.int64)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
    return torch.from_numpy(ids).to(device), lengths


def batches_by_length(lengths: NDArray[np.int64], batch_size: int, order: torch.Generator) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of an epoch: random documents of similar length, the longest of a batch first.

    The documents are shuffled, sorted by length within pools of 50 batches, and cut into batches
    (:func:`embedline.training.batches.batch_sizes`); then the batches are shuffled. The batch with the longest document
    comes first, so that a lack of memory shows at once.
    """
    rows = torch.randperm(len(lengths), generator=order, device=order.device).cpu().numpy()
    ends = np.cumsum(batch_sizes(len(lengths), batch_size))
    pools = np.split(rows, ends[POOL_BATCHES - 1 : -1 : POOL_BATCHES])
    ordered = np.concatenate([pool[np.argsort(-lengths[pool], kind="stable")] for pool in pools])
    batches = np.split(ordered, ends[:-1])
    longest = batches.pop(max(range(len(batches)), key=lambda index: lengths[batches[index][0]]))
    shuffled = torch.randperm(len(batches), generator=order, device=order.device).tolist()
    return [longest, *(batches[index] for index in shuffled)]


def by_length(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Return the rows of all documents, the longest first, ``batch_size`` at a time: for prediction."""
    rows = np.argsort(-lengths, kind="stable")
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def pooled_counts(lengths: NDArray[np.int64], *, bptt: int, max_tokens: int) -> tuple[int, int]:
    """Count what AR and TAR are means over, for documents of ``lengths`` int64 [B]: pooled tokens, and pairs of them.

    The last ``max_tokens`` tokens of a document are pooled; two consecutive ones are a pair unless a chunk of ``bptt``
    tokens starts between them.
    """
    first = np.maximum(lengths - max_tokens, 0)
    borders = (lengths - 1) // bptt - first // bptt
    tokens = int((lengths - first).sum())
    return tokens, tokens - len(lengths) - int(borders.sum())


class ClassifierBatches(Batches):
    """Batches for training a classifier, of a corpus of documents with a token at least and their classes int64 [D].

    This process has every n-th document of a batch, by ``shard``: all processes then have similar lengths.
    """

    unit = "tokens"

    def __init__(
        self,
        corpus: Corpus,
        targets: NDArray[np.int64],
        options: TextSettings,
        *,
        device: torch.device,
        shard: Shard = WHOLE,
    ) -> None:
        self._corpus, self._options, self._device, self._shard = corpus, options, device, shard
        self._targets = torch.from_numpy(targets).to(device)
        self.batch_size = min(options.batch_size, len(corpus))
        sizes = batch_sizes(len(corpus), self.batch_size)
        self.n_batches = len(sizes)
        shard.check(min(sizes), "document(s)")
        self.rows_per_batch = len(corpus.ids) / self.n_batches
        self._batches: Sequence[NDArray[np.int64]] = ()

    def fingerprint(self) -> Fingerprint:
        """Number of documents and of tokens."""
        return {"n_documents": len(self._corpus), "n_tokens": len(self._corpus.ids), "batch_size": self.batch_size}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Shuffle the documents into new batches."""
        self._batches = batches_by_length(self._corpus.lengths, self.batch_size, order)

    def loss(self, network: Any, index: int, autocast: Autocast) -> BatchLoss:
        """Cross-entropy of the batch's documents under a ``TextClassifier``; the total also has AR and TAR."""
        batch = self._batches[index]
        rows = batch[self._shard.rank :: self._shard.size]
        ids, lengths = pad([self._corpus[row] for row in rows], self._device)
        with autocast():
            logits, pooled = network.scores(ids, lengths)
        nats = F.cross_entropy(logits, self._targets[torch.from_numpy(rows).to(self._device)])
        alpha, beta = self._options.alpha, self._options.beta
        if self._shard.size > 1:
            # The processes' losses add up to the mean of the whole batch: weight each mean by its share of the count.
            limits = {"bptt": network.bptt, "max_tokens": network.max_tokens}
            counts = (pooled_counts(self._corpus.lengths[each], **limits) for each in (rows, batch))
            (tokens, pairs), (all_tokens, all_pairs) = counts
            nats = nats * (len(rows) / len(batch))
            alpha, beta = alpha * tokens / all_tokens, beta * pairs / max(1, all_pairs)
        return BatchLoss(nats + alpha * pooled.squares + beta * pooled.differences, nats.detach())
