"""Batches of a token stream: each token once, rows that continue in the next batch, and a carried state."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from small_networks import same_rates
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.language_model import LanguageModel
from embedline.pipelines.text.lm_batches import (
    Corpus,
    LanguageModelBatches,
    to_covering_rows,
    to_rows,
)
from embedline.pipelines.text.options import EncoderOptions, LanguageModelTraining

CPU = torch.device("cpu")
LENGTHS = (7, 1, 12, 30, 0, 4, 19, 8, 25, 3, 11)  # 120 tokens


def make_corpus(lengths: tuple[int, ...] = LENGTHS, dtype: type[np.integer] = np.uint16) -> Corpus:
    """Token k of the corpus is k, so that a token shows its position."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(np.arange(offsets[-1]).astype(dtype), offsets)


def make_task(corpus: Corpus | None = None, **changes: Any) -> LanguageModelBatches:
    values = {"batch_size": 3, "bptt": 5, "epochs": 1, "lr": 0.1, "device": "cpu"}
    options = LanguageModelTraining.model_validate({**values, **changes})
    return LanguageModelBatches(corpus or make_corpus(), options, device=CPU)


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epoch(task: LanguageModelBatches, order: torch.Generator) -> tuple[Tensor, Tensor, list[int]]:
    """Inputs and targets [rows, L] of all batches of an epoch concatenated, and the batches' lengths."""
    task.begin_epoch(order)
    batches = [task.batch(index) for index in range(task.n_batches)]
    assert all(ids.dtype == torch.int64 and ids.shape == targets.shape for ids, targets in batches)
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    return inputs, targets, [ids.shape[1] for ids, _ in batches]


def test_a_corpus_keeps_the_documents_of_a_frame() -> None:
    lists = [[5, 6], [], [7], [300, 65535, 0]]
    frame = pl.DataFrame({"ids": pl.Series(lists, dtype=pl.List(pl.UInt16))})
    corpus = Corpus.of(frame)
    assert len(corpus) == 4
    assert [corpus[place].tolist() for place in range(4)] == lists
    assert corpus.lengths.tolist() == [2, 0, 1, 3]
    stream = corpus.stream(np.array([3, 1, 0]))
    assert (stream.tolist(), stream.dtype) == ([300, 65535, 0, 5, 6], np.uint16)
    chosen = Corpus.of(pl.concat([frame, frame], rechunk=False).filter(pl.Series([False, True, True, False] * 2)))
    assert chosen.ids.tolist() == [7, 7]  # of a frame in several pieces
    assert len(Corpus.of(frame.clear())) == 0
    assert corpus.stream(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(("n_tokens", "n_rows", "length"), [(13, 3, 4), (12, 3, 3), (14, 3, 4), (2, 1, 1), (11, 1, 10)])
def test_rows_follow_each_other_and_share_their_border(n_tokens: int, n_rows: int, length: int) -> None:
    rows = to_rows(np.arange(n_tokens), n_rows)
    assert rows.tolist() == [list(range(row * length, (row + 1) * length + 1)) for row in range(n_rows)]


def test_a_stream_too_short_for_its_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 tokens do not fill 3 rows .* batch_size"):
        to_rows(np.arange(3), 3)
    with pytest.raises(DataError, match="4 tokens do not fill 4 rows"):
        make_task(make_corpus((4,)), batch_size=4)


@pytest.mark.parametrize("random_bptt", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_inputs_are_the_stream_and_the_targets_the_tokens_that_follow(batch_size: int, random_bptt: bool) -> None:
    corpus = make_corpus()
    task = make_task(corpus, batch_size=batch_size, random_bptt=random_bptt)
    inputs, targets, lengths = epoch(task, numbers())
    order = torch.randperm(len(corpus), generator=numbers()).numpy()
    stream = corpus.stream(order).astype(np.int64)
    place = {int(token): index for index, token in enumerate(stream)}
    rows = [[place[token] for token in row] for row in inputs.tolist()]
    assert all(row == list(range(row[0], row[0] + len(row))) for row in rows)  # in order
    assert [[place[token] - 1 for token in row] for row in targets.tolist()] == rows
    read = Counter(index for row in rows for index in row)
    assert set(read) == set(range(119))  # every token is followed by one that is learned
    assert sum(read.values()) == batch_size * -(-119 // batch_size)  # and few of them twice
    assert max(read.values()) <= 2
    assert len(lengths) == task.n_batches
    assert task.rows_per_batch == pytest.approx(inputs.numel() / task.n_batches)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 40, 63, 64])
@pytest.mark.parametrize("n_tokens", [65, 100, 127, 128, 129])
def test_covering_rows_leave_no_token_out(n_tokens: int, n_rows: int) -> None:
    rows = to_covering_rows(np.arange(n_tokens), n_rows)
    assert rows.shape == (n_rows, -(-(n_tokens - 1) // n_rows) + 1)
    assert (np.diff(rows, axis=1) == 1).all()
    assert set(rows[:, 1:].flatten().tolist()) == set(range(1, n_tokens))
    if (n_tokens - 1) % n_rows == 0:
        assert np.array_equal(rows, to_rows(np.arange(n_tokens), n_rows))


def test_batches_of_a_fixed_length_end_with_a_shorter_one() -> None:
    task = make_task(bptt=6)  # rows of 40 tokens
    assert epoch(task, numbers())[2] == [6] * 6 + [4]
    assert [task.rate(index) for index in range(7)] == [1.0] * 7
    assert epoch(make_task(bptt=10), numbers())[2] == [10] * 4
    assert epoch(make_task(bptt=1000), numbers())[2] == [40]


RANDOM = {"random_bptt": True, "batch_size": 1, "bptt": 20}


@pytest.mark.parametrize("changes", [{}, RANDOM])
def test_every_epoch_has_another_order_and_other_lengths_and_the_same_ones_from_the_same_numbers(
    changes: dict[str, Any],
) -> None:
    order, task = numbers(4), make_task(**changes)
    kept = order.get_state()
    first, *_, lengths = epoch(task, order)
    after = order.get_state()
    second, *_, others = epoch(task, order)
    assert not torch.equal(first, second)
    assert (lengths != others) is bool(changes)
    again = make_task(**changes)
    for state, expected in ((after, (second, others)), (kept, (first, lengths))):  # as a checkpoint does
        order.set_state(state)
        inputs, _, found = epoch(again, order)
        assert torch.equal(inputs, expected[0]) and found == expected[1]
    assert [again.rate(index) for index in range(again.n_batches)] == (
        [length / 20 for length in lengths] if changes else [1.0] * again.n_batches  # a short batch is a small step
    )
    assert (len(set(lengths)) > 1) is bool(changes)


def test_an_epoch_of_fewer_tokens_takes_whole_documents_in_another_order_each_time() -> None:
    corpus, order = make_corpus(), numbers()
    task = make_task(corpus, tokens_per_epoch=40, batch_size=1)
    document = np.repeat(np.arange(len(corpus)), corpus.lengths)
    chosen: list[set[int]] = []
    for _ in range(30):
        inputs, targets, _ = epoch(task, order)
        stream = [*inputs.flatten().tolist(), targets[0, -1].item()]
        assert len(stream) == 40
        found = [int(document[token]) for token in stream]
        runs = [place for place, after in zip(found, [*found[1:], -1], strict=True) if place != after]
        assert len(set(runs)) == len(runs)  # no document comes twice, nor in pieces
        for each in runs[:-1]:
            assert [t for t, d in zip(stream, found, strict=True) if d == each] == corpus[each].tolist()
        chosen.append(set(runs))
    assert set.union(*chosen) == set(range(len(corpus))) - {4}  # in the end all but the empty one
    assert task.fingerprint() == {"n_tokens": 40, "row_length": 39}
    assert make_task(tokens_per_epoch=10_000).fingerprint() == {"n_tokens": 120, "row_length": 40}


def make_model() -> LanguageModel:
    options = EncoderOptions(embedding_size=4, hidden_size=6, n_layers=2, rates=same_rates(0.0))
    return LanguageModel(120, options, decoder_bias=True)


def test_the_state_goes_on_from_batch_to_batch_and_starts_anew_with_an_epoch() -> None:
    task, model = make_task(alpha=0.0, beta=0.0), make_model().eval()
    order = numbers()
    for _ in range(2):
        inputs, targets, lengths = epoch(task, order)
        found = [task.loss(model, index, nullcontext).data_term.item() for index in range(task.n_batches)]
        hidden, _ = model(inputs, model.start(3))
        nats = torch.nn.functional.cross_entropy(
            model.logits(hidden).flatten(0, 1), targets.flatten(), reduction="none"
        ).view(3, -1)
        assert found == pytest.approx([part.mean().item() for part in nats.split(lengths, dim=1)], rel=1e-5)


def test_no_gradient_reaches_the_batch_before_and_the_penalties_are_descended_but_not_reported() -> None:
    model, found = make_model(), []
    for alpha, beta in ((0.0, 0.0), (2.0, 1.0)):
        task = make_task(alpha=alpha, beta=beta)
        task.begin_epoch(numbers())
        assert task.state() is None
        found.append(task.loss(model, 0, nullcontext))
    assert found[0].total.item() == found[0].data_term.item() == found[1].data_term.item()
    assert found[1].total > found[1].data_term
    state = task.state()
    assert state is not None and not any(tensor.requires_grad for layer in state for tensor in layer)
    task.loss(model, 1, nullcontext).total.backward()  # the first batch's graph is not needed
    assert model.encoder.embedding.weight.grad is not None


def test_a_restored_state_goes_on_as_the_kept_one() -> None:
    model = make_model().eval()

    def read(task: LanguageModelBatches, batches: range) -> list[float]:
        return [task.loss(model, index, nullcontext).data_term.item() for index in batches]

    whole, other, lost = make_task(), make_task(), make_task()
    for task in (whole, other, lost):
        task.begin_epoch(numbers())
    read(whole, range(3))
    kept = whole.state()
    expected = read(whole, range(3, 8))
    assert kept is not None
    other.restore([[tensor.clone() for tensor in layer] for layer in kept])
    assert read(other, range(3, 8)) == expected
    assert read(lost, range(3, 4)) != expected[:1]
