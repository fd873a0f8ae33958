"""Documents as one stream of tokens, read in parallel by rows that go on where they stopped."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.language_model import LanguageModel
from embedline.pipelines.text.options import LanguageModelTraining
from embedline.pipelines.text.recurrent import State, detached
from embedline.pipelines.text.tokenizer import flat_lists
from embedline.training.batches import WHOLE, Autocast, BatchLoss, Fingerprint, Shard

SHORTEST = 5  # tokens of a random length, as in Merity et al. 2017
HALVED = 0.05  # part of the random lengths that are drawn around half of bptt
DEVIATION = 5.0


class Corpus:
    """Token ids of documents, end to end.

    Attributes:
        ids: integer [N], of all documents.
        offsets: int64 [D + 1]: document d is ``ids[offsets[d] : offsets[d + 1]]``.
    """

    def __init__(self, ids: NDArray[np.integer], offsets: NDArray[np.int64]) -> None:
        self.ids, self.offsets = ids, offsets

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Corpus":
        """Corpus of a frame with a column ``ids`` of lists; the ids are not copied where they lie in one piece."""
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
        """Tokens of each document [D]."""
        return np.diff(self.offsets)

    def stream(self, documents: NDArray[np.int64]) -> NDArray[np.integer]:
        """Ids of some documents, end to end, in their order."""
        return gather_ranges(self.ids, self.offsets[documents], self.lengths[documents])


def gather_ranges(
    values: NDArray[np.integer], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.integer]:
    """``values[s : s + n]`` of each start s and length n, end to end.

    >>> gather_ranges(np.arange(10), np.array([7, 0]), np.array([2, 3]))
    array([7, 8, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return values[np.arange(total) + np.repeat(starts - ends + lengths, lengths)]


def to_rows(stream: NDArray[np.integer], n_rows: int) -> NDArray[np.integer]:
    """The stream as rows [n_rows, L + 1] that follow each other: inputs ``[:, :L]``, targets ``[:, 1:]``.

    L = floor((N - 1) / n_rows): the last tokens of a row are the first of the next; fewer than ``n_rows`` are left out.

    Raises:
        DataError: if the stream has not two tokens a row.
    """
    length = (len(stream) - 1) // n_rows
    if length < 1:
        raise DataError(
            f"{len(stream):,} tokens do not fill {n_rows} rows of 2 tokens: take a smaller batch_size or more text"
        )
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[: n_rows * length : length]


def to_covering_rows(stream: NDArray[np.integer], n_rows: int) -> NDArray[np.integer]:
    """The stream as rows [n_rows, L + 1] of which every token but the first is a target, in one row or in two.

    L = ceil((N - 1) / n_rows): where the rows of :func:`to_rows` would leave tokens out, these overlap by a few.

    Raises:
        DataError: if the stream has not two tokens a row.
    """
    to_rows(stream, n_rows)  # raises
    length = math.ceil((len(stream) - 1) / n_rows)
    starts = np.arange(n_rows) * (len(stream) - 1 - length) // max(1, n_rows - 1)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[starts]


def random_cuts(length: int, n_batches: int, bptt: int, numbers: torch.Generator) -> list[int]:
    """Ends of ``n_batches`` batches of random lengths over a row of ``length`` tokens.

    Each length is drawn from Normal(base, 5), at least 5, with base = bptt or, in one of 20, bptt / 2. The lengths are
    then scaled so that all batches together have the row's length: their number is the same in every epoch, which a
    schedule wants to know beforehand (the authors' loop ends where the row does).
    """
    halved = torch.rand(n_batches, generator=numbers, device=numbers.device) < HALVED
    base = torch.where(halved, bptt / 2, float(bptt))
    drawn = torch.normal(base, DEVIATION, generator=numbers).clamp(min=float(SHORTEST)).cpu().double()
    ends: list[int] = (drawn.cumsum(0) * (length / drawn.sum())).round().long().tolist()
    for place in range(n_batches):  # no batch is empty, however short they are
        least = ends[place - 1] + 1 if place else 1
        ends[place] = min(max(ends[place], least), length - (n_batches - 1 - place))
    return ends


class LanguageModelBatches:
    """Batches of a language model's training: parallel rows of a stream, read ``bptt`` tokens at a time.

    Row r of a batch goes on where row r of the batch before it ended, and so does the state that is carried. Documents
    are put into a new order in every epoch, and every token is read.

    Args:
        corpus: documents to learn from.
        shard: which of the parallel rows are this process's.
    """

    def __init__(
        self, corpus: Corpus, options: LanguageModelTraining, *, device: torch.device, shard: Shard = WHOLE
    ) -> None:
        shard.check(options.batch_size, "stream(s)")
        self._shard = shard
        self._corpus, self._options, self._device = corpus, options, device
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

    def fingerprint(self) -> Fingerprint:
        """Tokens of an epoch and of a row; the rest is in the options."""
        return {"n_tokens": self._n_tokens, "row_length": self._length}

    def begin_epoch(self, order: torch.Generator) -> None:
        """Shuffle the documents, lay them into rows, draw the batches' lengths."""
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
        """Inputs and targets int64 [batch_size, T] of a batch of the present epoch; this process's rows of it."""
        start, end = self._ends[index - 1] if index else 0, self._ends[index]
        tokens = self._rows[:, start : end + 1].long()
        return tokens[:, :-1], tokens[:, 1:]

    def rate(self, index: int) -> float:
        """With random lengths, the batch's length in units of ``bptt``: a short batch is a smaller step."""
        if not self._options.random_bptt:
            return 1.0
        return (self._ends[index] - (self._ends[index - 1] if index else 0)) / self._options.bptt

    def loss(self, network: nn.Module, index: int, autocast: Autocast) -> BatchLoss:
        """Loss of a batch, read on from the state that the one before it left."""
        assert isinstance(network, LanguageModel)
        ids, targets = self.batch(index)
        state = self._state if self._state is not None else network.start(len(ids))
        with autocast():
            value, nats, state = network.losses(ids, targets, state, alpha=self._options.alpha, beta=self._options.beta)
        self._state = detached(state)
        if self._shard.size == 1:
            return BatchLoss(value, nats)
        return BatchLoss(value, nats).times(self._shard.weight(self._options.batch_size))

    def state(self) -> list[list[Tensor]] | None:
        """The carried state, as lists."""
        return [list(layer) for layer in self._state] if self._state is not None else None

    def restore(self, state: list[list[Tensor]]) -> None:
        """Carry on from :meth:`state`."""
        self._state = tuple((h.to(self._device), c.to(self._device)) for h, c in state)
