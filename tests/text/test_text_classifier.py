"""Documents read in chunks and pooled: the same result in a batch as alone, gradients within a chunk."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.pipelines.text.awd_lstm import detached
from embedline.pipelines.text.classifier import Head, TextClassifier, read_documents
from embedline.pipelines.text.classifier_batches import ClassifierBatches
from embedline.pipelines.text.fine_tuning import discriminative
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import EncoderOptions, Rates, StageTraining
from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.optimizer import optimizer_groups

CPU = torch.device("cpu")
V, E, BPTT, MAX = 200, 4, 5, 12
NONE = Rates(input=0.0, embedding=0.0, weight=0.0, hidden=0.0, output=0.0)
SOME = Rates(input=0.2, embedding=0.1, weight=0.3, hidden=0.2, output=0.2)
LENGTHS = [60, 29, 13, 12, 11, 10, 6, 5, 4, 2, 1]  # bptt, its double, max_tokens and their neighbours; much longer


def make_network(rates: Rates = NONE, *, max_tokens: int = MAX, n_layers: int = 2, **changes: Any) -> TextClassifier:
    options = EncoderOptions(embedding_size=E, hidden_size=6, n_layers=n_layers, rates=rates)
    settings = {"layers": (7,), "head_rates": (0.0, 0.0), "n_classes": 3, "bptt": BPTT, **changes}
    network = TextClassifier(V, options, max_tokens=max_tokens, **settings)
    for weight in network.encoder.parameters():  # larger than at the start, so that the state matters
        nn.init.normal_(weight, std=0.5)
    return network


def make_documents(lengths: list[int], filling: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Documents, their ids padded with ``filling``, and their lengths."""
    documents = [torch.randint(V, (length,)) for length in lengths]
    ids = torch.full((len(lengths), max(lengths)), filling)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
    return documents, ids, torch.tensor(lengths)


def read_alone(network: TextClassifier, document: Tensor, *, detach: bool = True) -> tuple[Tensor, list[Tensor]]:
    """Features [3 E] of a document, and the pooled outputs [T, E] of each of its chunks."""
    state, chunks = network.encoder.start(1), []
    for start in range(0, len(document), network.bptt):
        output, state = network.encoder(document[None, start : start + network.bptt], state)
        chunks.append(output[0])
        if detach:
            state = detached(state)
    unread = max(0, len(document) - network.max_tokens)
    counted = [chunk[max(0, unread - place * network.bptt) :] for place, chunk in enumerate(chunks)]
    outputs = torch.cat(counted)
    assert len(outputs) == min(len(document), network.max_tokens)
    return torch.cat([outputs[-1], outputs.amax(0), outputs.mean(0)]), counted


def read(network: TextClassifier, ids: Tensor, lengths: Tensor) -> Any:
    return read_documents(network.encoder, ids, lengths, bptt=network.bptt, max_tokens=network.max_tokens)


@pytest.mark.parametrize("filling", [0, 1, 77])
@pytest.mark.parametrize("max_tokens", [1, 5, MAX, 1000])
def test_a_document_has_the_same_features_in_a_batch_as_alone(max_tokens: int, filling: int) -> None:
    network = make_network(max_tokens=max_tokens)
    documents, ids, lengths = make_documents(LENGTHS, filling)
    found = read(network, ids, lengths).features
    assert found.shape == (len(LENGTHS), 3 * E)
    for row, document in enumerate(documents):
        torch.testing.assert_close(found[row], read_alone(network, document)[0], msg=lambda m, n=row: f"row {n}: {m}")
        alone = read(network, document[None], torch.tensor([len(document)])).features
        torch.testing.assert_close(found[row], alone[0])


def test_features_are_the_last_the_highest_and_the_mean_output() -> None:
    network, document = make_network(max_tokens=3), torch.tensor([5, 9, 2, 7])
    output = network.encoder(document[None], network.encoder.start(1))[0][0]  # one chunk
    pooled = read(network, document[None], torch.tensor([4]))
    expected = torch.cat([output[3], torch.maximum(torch.maximum(output[1], output[2]), output[3]), output[1:].mean(0)])
    torch.testing.assert_close(pooled.features[0], expected)
    torch.testing.assert_close(pooled.squares, output[1:].square().mean())
    torch.testing.assert_close(pooled.differences, (output[2:] - output[1:3]).square().mean())


def test_the_penalties_leave_out_padding_and_what_does_not_count() -> None:
    network = make_network()
    documents, ids, lengths = make_documents(LENGTHS, 77)
    pooled = read(network, ids, lengths)
    counted = [chunk for document in documents for chunk in read_alone(network, document)[1]]
    torch.testing.assert_close(pooled.squares, torch.cat(counted).square().mean())
    differences = torch.cat([chunk[1:] - chunk[:-1] for chunk in counted])
    torch.testing.assert_close(pooled.differences, differences.square().mean())


def test_documents_of_one_token_have_no_differences() -> None:
    _, ids, lengths = make_documents([1, 1])
    assert read(make_network(), ids, lengths).differences.item() == 0.0


def gradients(value: Tensor, network: TextClassifier) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, list(network.encoder.parameters()))


def test_the_gradient_is_that_of_documents_whose_state_is_cut_at_each_chunk() -> None:
    network = make_network()
    documents, ids, lengths = make_documents(LENGTHS)
    weighting = torch.randn(len(LENGTHS), 3 * E)
    ours = gradients((read(network, ids, lengths).features * weighting).sum(), network)

    def reference(detach: bool) -> tuple[Tensor, ...]:
        features = torch.stack([read_alone(network, document, detach=detach)[0] for document in documents])
        return gradients((features * weighting).sum(), network)

    cut, uncut = reference(True), reference(False)
    torch.testing.assert_close(ours, cut, rtol=1e-4, atol=1e-5)
    for gradient, other in zip(ours, uncut, strict=True):
        assert (gradient - other).norm() > 1e-3 * other.norm()


def test_the_gradient_of_the_penalties_is_that_of_the_reference() -> None:
    network = make_network()
    documents, ids, lengths = make_documents(LENGTHS)
    pooled = read(network, ids, lengths)
    counted = [chunk for document in documents for chunk in read_alone(network, document)[1]]
    differences = torch.cat([chunk[1:] - chunk[:-1] for chunk in counted])
    expected = torch.cat(counted).square().mean() + 3.0 * differences.square().mean()
    ours = gradients(pooled.squares + 3.0 * pooled.differences, network)
    torch.testing.assert_close(ours, gradients(expected, network), rtol=1e-4, atol=1e-6)


def test_chunks_before_the_tokens_that_count_have_no_gradient() -> None:
    # Every token of the two documents is another word, so that the table's gradient shows which tokens were reached.
    network, (long, short) = make_network(), (28, 17)
    ids = torch.arange(2 * long).view(2, long)
    read(network, ids, torch.tensor([long, short])).features.square().sum().backward()
    table = network.encoder.embedding.weight.grad
    assert table is not None
    reached = (table != 0).any(1)[: 2 * long].view(2, long).tolist()
    # The last 12 tokens of 28 begin in the chunk 15..19, those of 17 in the chunk 5..9; the state is cut between.
    assert reached[0] == [15 <= place for place in range(long)]
    assert reached[1] == [5 <= place < short for place in range(long)]


def test_uncounted_chunks_are_read_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    network, modes = make_network(), []
    real = network.encoder.forward

    def spy(ids: Tensor, state: Any) -> Any:
        modes.append((len(ids), torch.is_grad_enabled()))
        return real(ids, state)

    monkeypatch.setattr(network.encoder, "forward", spy)
    _, ids, lengths = make_documents([42, 37, 7])
    read(network, ids, lengths)
    # The tokens that count begin at 30, 25 and 0; the third document ends in the second chunk, the second at 37.
    assert modes == [*[(3, True)] * 2, *[(2, False)] * 3, *[(2, True)] * 3, (1, True)]


def test_bfloat16_stays_close_to_float32() -> None:
    network = make_network()
    _, ids, lengths = make_documents(LENGTHS)
    exact = read(network, ids, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = read(network, ids, lengths)
    assert {tensor.dtype for tensor in low} == {torch.float32}
    # Outputs within ±1; a rounding of 2^-8 = 0.004 for each product, carried through a document's 60 steps.
    torch.testing.assert_close(low.features, exact.features, rtol=0.0, atol=0.04)
    torch.testing.assert_close(low.squares, exact.squares, rtol=0.02, atol=0.0)


def test_masks_are_drawn_anew_for_each_chunk_and_none_in_evaluation() -> None:
    network = make_network(SOME)
    _, ids, lengths = make_documents([12])
    assert not torch.equal(read(network, ids, lengths).features, read(network, ids, lengths).features)
    network.eval()
    assert torch.equal(read(network, ids, lengths).features, read(network, ids, lengths).features)


def test_the_head_is_batch_norm_dropout_linear_twice_with_relu_between() -> None:
    head = Head((6, 5, 2), (0.3, 0.1)).eval()
    assert [type(layer).__name__ for layer in head] == [
        *["BatchNorm1d", "Dropout", "Linear", "ReLU"],
        *["BatchNorm1d", "Dropout", "Linear"],
    ]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.3, 0.1]
    for tensor in head.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0)
    values, state = torch.randn(4, 6), head.state_dict()

    def layer(input: Tensor, norm: int) -> Tensor:
        scale = (state[f"{norm}.running_var"] + 1e-5).sqrt()
        normed = (input - state[f"{norm}.running_mean"]) / scale * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        return normed @ state[f"{norm + 2}.weight"].t() + state[f"{norm + 2}.bias"]

    torch.testing.assert_close(head(values), layer(layer(values, 0).relu(), 4))


def test_scores_are_the_heads_of_the_pooled_features() -> None:
    network = make_network().eval()
    _, ids, lengths = make_documents([9, 3])
    logits, pooled = network.scores(ids, lengths)
    torch.testing.assert_close(logits, network.head(read(network, ids, lengths).features))
    assert torch.equal(network(ids, lengths), logits)
    assert torch.equal(pooled.features, read(network, ids, lengths).features)


def test_every_parameter_is_in_one_group_and_the_groups_go_from_the_embedding_to_the_head() -> None:
    network = make_network(n_layers=3)
    groups = network.groups()
    expected = [[network.encoder.embedding], *([layer] for layer in network.encoder.layers), [network.head]]
    assert groups == expected
    settings = optimizer_groups(discriminative(groups, 2.6), 0.1)
    found = [id(p) for setting in settings for p in setting["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    rates = sorted({setting["rate"] for setting in settings})
    assert rates == pytest.approx([2.6**-4, 2.6**-3, 2.6**-2, 2.6**-1, 1.0])


def make_corpus() -> tuple[Corpus, NDArray[np.int64]]:
    """Twenty documents of random words; one word in each document shows its class."""
    numbers = np.random.default_rng(0)
    targets = np.arange(20) % 3
    documents = [numbers.integers(3, V, numbers.integers(3, 14)) for _ in range(20)]
    for document, target in zip(documents, targets, strict=True):
        document[numbers.integers(len(document))] = target
    return Corpus(np.concatenate(documents), np.cumsum([0, *map(len, documents)])), targets


def train(network: TextClassifier, decay: float = 2.6, **changes: Any) -> loop.FitResult:
    values = {"batch_size": 5, "epochs": 2, "lr": 0.02, "device": "cpu", "precision": "fp32", **changes}
    options = StageTraining.model_validate(values)
    task = ClassifierBatches(*make_corpus(), options, device=CPU)
    groups = discriminative(network.groups(), decay)
    return loop.train(network, task, options, accelerator=make_accelerator(options), seed=1, groups=groups)


@pytest.mark.parametrize("n_groups", [1, 2, 3, 4, 9, None])
def test_frozen_groups_keep_their_bits_and_all_others_learn(n_groups: int | None) -> None:
    network = make_network(SOME)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.unfreeze(2)  # whatever was set before
    network.unfreeze(n_groups)
    order = ["encoder.embedding.", "encoder.layers.0.", "encoder.layers.1.", "head."]
    trained = order if n_groups is None else order[-n_groups:]
    train(network)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith(tuple(trained))}
    assert {"head.0.weight", "head.0.running_mean", "head.4.bias", "head.4.num_batches_tracked"} <= changed


def test_it_learns_twenty_documents_by_heart() -> None:
    network = make_network(layers=(10,))
    fitted = train(network, decay=1.0, batch_size=20, epochs=60, lr=0.05, alpha=0.0, beta=0.0)
    corpus, targets = make_corpus()
    network.eval()
    documents = [torch.from_numpy(corpus[row])[None] for row in range(len(corpus))]
    found = [int(network(ids, torch.tensor([ids.shape[1]])).argmax()) for ids in documents]
    assert found == targets.tolist()
    assert fitted.history[-1]["train_loss"] < 0.1
