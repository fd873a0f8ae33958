"""Batches of documents of similar length: each document at most once, reproducible, the longest first."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_networks import same_rates

from embedline.pipelines.text.classifier import TextClassifier
from embedline.pipelines.text.classifier_batches import (
    ClassifierBatches,
    batches_by_length,
    by_length,
    pad,
)
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import EncoderOptions, StageTraining

CPU = torch.device("cpu")


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_lengths(n_documents: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).lognormal(5.0, 0.7, n_documents).astype(np.int64) + 1


def test_documents_are_padded_at_the_end() -> None:
    documents = [np.array([5, 6, 7], dtype=np.uint16), np.array([65_535, 8], dtype=np.uint16), np.array([9])]
    ids, lengths = pad(documents, CPU)
    assert ids.tolist() == [[5, 6, 7], [65_535, 8, 0], [9, 0, 0]]
    assert lengths.tolist() == [3, 2, 1]
    assert (ids.dtype, lengths.dtype) == (torch.int64, torch.int64)
    with pytest.raises(AssertionError, match="longest document"):
        pad(documents[::-1], CPU)


@pytest.mark.parametrize(
    ("n_documents", "batch_size", "sizes"),
    [
        *((100, 7, {6: 5, 7: 10}), (98, 7, {7: 14}), (3, 7, {3: 1}), (7, 7, {7: 1}), (8, 7, {4: 2}), (5, 1, {1: 5})),
        (711, 7, {6: 3, 7: 99}),  # more than a pool
    ],
)
def test_every_document_comes_once_in_batches_of_like_sizes(
    n_documents: int, batch_size: int, sizes: dict[int, int]
) -> None:
    batches = batches_by_length(make_lengths(n_documents), batch_size, numbers())
    assert dict(sorted(Counter(map(len, batches)).items())) == sizes
    assert sorted(np.concatenate(batches).tolist()) == list(range(n_documents))


def test_a_batch_has_documents_of_like_length_and_the_longest_comes_first() -> None:
    lengths = make_lengths(2000)
    batches = batches_by_length(lengths, 8, numbers())
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)
    firsts = [int(lengths[batch[0]]) for batch in batches]
    assert firsts[0] == max(firsts)
    assert firsts[1:] != sorted(firsts[1:], reverse=True)  # the others are shuffled

    def padded(batches: list[NDArray[np.int64]]) -> float:
        return 1.0 - lengths.sum() / sum(len(batch) * int(lengths[batch].max()) for batch in batches)

    assert padded(list(np.random.default_rng(0).permutation(2000).reshape(-1, 8))) > 0.4
    assert padded(batches) < 0.08


def test_reading_by_length_gives_all_documents_once_the_longest_first() -> None:
    lengths = make_lengths(23)
    batches = list(by_length(lengths, 5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    rows = np.concatenate(batches)
    assert sorted(rows.tolist()) == list(range(23))
    assert (np.diff(lengths[rows]) <= 0).all()
    assert [rows.tolist() for rows in by_length(np.array([2, 3, 2]), 9)] == [[1, 0, 2]]  # ties in their order
    assert list(by_length(np.empty(0, dtype=np.int64), 5)) == []


def make_task(n_documents: int = 12, **changes: Any) -> tuple[ClassifierBatches, Corpus, NDArray[np.int64]]:
    offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(1).integers(1, 20, n_documents))])
    corpus = Corpus(np.random.default_rng(2).integers(0, 30, offsets[-1]), offsets)
    targets = np.arange(n_documents) % 3
    values = {"batch_size": 4, "epochs": 1, "lr": 0.1, "device": "cpu"}
    options = StageTraining.model_validate({**values, **changes})
    return ClassifierBatches(corpus, targets, options, device=CPU), corpus, targets


def make_network() -> TextClassifier:
    encoder = EncoderOptions(embedding_size=4, hidden_size=6, n_layers=2, rates=same_rates(0.0))
    return TextClassifier(30, encoder, layers=(5,), head_rates=(0.0, 0.0), n_classes=3, bptt=6, max_tokens=10)


def test_the_loss_of_a_batch_is_that_of_its_documents_and_their_classes() -> None:
    task, corpus, targets = make_task(alpha=2.0, beta=3.0)
    task.begin_epoch(numbers())
    network = make_network().eval()
    for index, rows in enumerate(batches_by_length(corpus.lengths, 4, numbers())):
        loss = task.loss(network, index, nullcontext)
        ids, lengths = pad([corpus[row] for row in rows], CPU)
        logits, pooled = network.scores(ids, lengths)
        nats = F.cross_entropy(logits, torch.from_numpy(targets[rows]))
        assert loss.data_term.item() == pytest.approx(nats.item())
        assert not loss.data_term.requires_grad
        expected = nats + 2.0 * pooled.squares + 3.0 * pooled.differences
        assert loss.total.item() == pytest.approx(expected.item())
        assert loss.total > loss.data_term
