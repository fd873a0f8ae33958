"""Batches for the language model: the documents as one token stream, cut into rows that are read in parallel."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import State, detached
from embedline.pipelines.text.options import LanguageModelTraining
from embedline.pipelines.text.sampled_softmax import Sample, WordSampler, count_samples
from embedline.pipelines.text.tokenizer import flat_lists
from embedline.training.batches import WHOLE, Autocast, BatchLoss, Fingerprint, Shard

SHORTEST = 5  # shortest random length in tokens, as in Merity et al. 2017
HALVED = 0.05  # probability that a random length is drawn around half of bptt
DEVIATION = 5.0  # standard deviation of the random lengths


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token ids integer [N] of all documents; document d is ``ids[offsets[d] : offsets[d + 1]]``; offsets int64."""

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Corpus":
        """Corpus of a frame with a list column ``ids``; contiguous ids are not copied."""
        ids, offsets = flat_lists(frame.get_column("ids"))
        return cls(ids, offsets)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> NDArray[np.integer]:
        """Ids of one document."""
        return self.ids[self.offsets[document] : self.offsets[document + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each document, int64 [D]."""
        return np.diff(self.offsets)

    def reversed(self) -> "Corpus":
        """The same documents in the same order, each with its tokens in reverse order (fastai's ``backwards=True``)."""
        ids = np.empty_like(self.ids)
        for start, end in itertools.pairwise(self.offsets):
            ids[start:end] = self.ids[start:end][::-1]
        return Corpus(ids, self.offsets)

    def stream(self, documents: NDArray[np.int64]) -> NDArray[np.integer]:
        """Concatenated ids of ``documents``, in this order."""
        return np.concatenate([self.ids[:0], *(self[document] for document in documents)])


def to_rows(stream: NDArray[np.integer], n_rows: int) -> NDArray[np.integer]:
    """Cut a token stream [N] into consecutive rows [n_rows, L + 1]: inputs ``[:, :L]``, targets ``[:, 1:]``.

    L = floor((N - 1) / n_rows). The last token of a row is the first token of the next one; fewer than ``n_rows``
    tokens at the end are left out. A stream with fewer than two tokens for each row is a DataError.
    """
    length = (len(stream) - 1) // n_rows
    if length < 1:
        raise DataError(
            f"{len(stream):,} tokens do not fill {n_rows} rows of 2 tokens: take a smaller batch_size or more text"
        )
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[: n_rows * length : length]


def to_covering_rows(stream: NDArray[np.integer], n_rows: int) -> NDArray[np.integer]:
    """Cut a token stream [N] into rows [n_rows, L + 1] such that each token except the first is a target.

    L = ceil((N - 1) / n_rows). The rows overlap by a few tokens where :func:`to_rows`, whose errors it has, would leave
    tokens out.
    """
    to_rows(stream, n_rows)  # raises
    length = math.ceil((len(stream) - 1) / n_rows)
    starts = np.arange(n_rows) * (len(stream) - 1 - length) // max(1, n_rows - 1)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[starts]


def random_cuts(length: int, n_batches: int, bptt: int, numbers: torch.Generator) -> list[int]:
    """Return the ends of ``n_batches`` batches of random lengths in a row of ``length`` tokens.

    Each length is drawn from Normal(base, 5), at least 5, where base is bptt or, in one of 20 cases, bptt / 2. The
    lengths are then scaled to add up to the row's length. The number of batches is therefore the same in each epoch,
    as a learning-rate schedule requires (the authors' loop ends where the row ends).
    """
    halved = torch.rand(n_batches, generator=numbers, device=numbers.device) < HALVED
    base = torch.where(halved, bptt / 2, float(bptt))
    drawn = torch.normal(base, DEVIATION, generator=numbers).clamp(min=float(SHORTEST)).cpu().double()
    ends: list[int] = (drawn.cumsum(0) * (length / drawn.sum())).round().long().tolist()
    for place in range(n_batches):  # no batch is empty
        least = ends[place - 1] + 1 if place else 1
        ends[place] = min(max(ends[place], least), length - (n_batches - 1 - place))
    return ends


class LanguageModelBatches:
    """Batches for training a language model: parallel rows of a token stream, ``bptt`` tokens at a time.

    Row r of a batch continues row r of the batch before, with its state. The documents are shuffled in each epoch, and
    every token is read; each process has the rows of its ``shard``.
    """

    unit = "tokens"
    epoch = 0

    def __init__(
        self, corpus: Corpus, options: LanguageModelTraining, *, device: torch.device, shard: Shard = WHOLE
    ) -> None:
        shard.check(options.batch_size, "stream(s)")
        self._corpus, self._options, self._device, self._shard = corpus, options, device, shard
        self._n_tokens = min(options.tokens_per_epoch or len(corpus.ids), len(corpus.ids))
        self._length = to_covering_rows(corpus.ids[: self._n_tokens], options.batch_size).shape[1] - 1
        if options.random_bptt:
            self.n_batches = max(1, round(self._length / (options.bptt * (1.0 - HALVED / 2.0))))
        else:
            self.n_batches = math.ceil(self._length / options.bptt)
        self.rows_per_batch = options.batch_size * self._length / self.n_batches
        self._rows = torch.empty(0)
        self._ends: Sequence[int] = ()
        self._state: State | None = None
        self._sampler: WordSampler | None = None

    def fingerprint(self) -> Fingerprint:
        """Number of tokens of an epoch and of a row; everything else is in the options."""
        return {"n_tokens": self._n_tokens, "row_length": self._length}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Shuffle the documents, cut them into rows, and draw the lengths of the batches."""
        documents = torch.randperm(len(self._corpus), generator=order, device=order.device).cpu().numpy()
        if self._n_tokens < len(self._corpus.ids):
            last = int(np.searchsorted(np.cumsum(self._corpus.lengths[documents]), self._n_tokens)) + 1
            documents = documents[:last]
        stream = self._corpus.stream(documents)[: self._n_tokens]
        rows = to_covering_rows(stream, self._options.batch_size)[self._shard.slice(self._options.batch_size)]
        self._rows = torch.from_numpy(np.ascontiguousarray(rows.astype(np.int32))).to(self._device)
        if self._options.random_bptt:
            self._ends = random_cuts(self._length, self.n_batches, self._options.bptt, order)
        else:
            self._ends = [min((k + 1) * self._options.bptt, self._length) for k in range(self.n_batches)]
        self._state = None

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [batch_size, T] of a batch of the current epoch; only the rows of this process."""
        start, end = self._ends[index - 1] if index else 0, self._ends[index]
        tokens = self._rows[:, start : end + 1].long()
        return tokens[:, :-1], tokens[:, 1:]

    def rate(self, index: int) -> float:
        """Learning-rate factor of a batch: with random lengths, its length divided by ``bptt``; else 1."""
        if not self._options.random_bptt:
            return 1.0
        return (self._ends[index] - (self._ends[index - 1] if index else 0)) / self._options.bptt

    def loss(self, network: Any, index: int, autocast: Autocast) -> BatchLoss:
        """Loss of a batch under a ``LanguageModel``, which starts from the state after the batch before."""
        ids, targets = self.batch(index)
        state = self._state if self._state is not None else network.start(len(ids))
        penalties = {"alpha": self._options.alpha, "beta": self._options.beta}
        samples = self._draw_words(network, targets.numel())
        with autocast():
            value, nats, state = network.losses(ids, targets, state, **penalties, samples=samples)
        self._state = detached(state)
        loss = BatchLoss(value, nats)
        return loss if self._shard.size == 1 else loss.times(self._shard.weight(self._options.batch_size))

    def _draw_words(self, network: Any, n_tokens: int) -> list[Sample] | None:
        """Words to estimate a batch's loss from; None where the softmax is over the whole vocabulary."""
        size = network.encoder.embedding.num_embeddings
        if self._options.softmax == "full" or self._options.sampled_words >= size:
            return None
        if self._sampler is None:
            self._sampler = WordSampler(size, self._options.sampled_words, self._device)
        return self._sampler.draw(count_samples(n_tokens))

    def state(self) -> list[list[Tensor]] | None:
        """Return the carried state, as lists."""
        return [list(layer) for layer in self._state] if self._state is not None else None

    def restore(self, state: list[list[Tensor]]) -> None:
        """Restore the state that :meth:`state` returned."""
        self._state = tuple((h.to(self._device), c.to(self._device)) for h, c in state)
