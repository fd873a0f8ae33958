"""The classifier: the same result for a document in a batch as alone, gradients within a chunk; stored, predicting."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_networks import CLASSES, IDS, VOCABULARY, alone, classifier, language_model, pair, same_rates
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import detached
from embedline.pipelines.text.classifier import (
    ClassifierEnsemble,
    Head,
    TextClassifier,
    class_probabilities,
    load_classifier,
    read_documents,
)
from embedline.pipelines.text.classifier_batches import ClassifierBatches, pad
from embedline.pipelines.text.ensemble import predict_split
from embedline.pipelines.text.language_model import load_language_model
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.occlusion import estimate_occlusion, log_odds
from embedline.pipelines.text.options import EncoderOptions, Rates, StageTraining
from embedline.pipelines.text.predict import Predictor
from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import discriminative, optimizer_groups

CPU = torch.device("cpu")
V, E, BPTT, MAX = 200, 4, 5, 12
NONE, SOME = same_rates(0.0), same_rates(0.2)
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
    return (
        documents,
        nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=filling),
        torch.tensor(lengths),
    )


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


def penalties_alone(network: TextClassifier, documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean squares of the pooled outputs and of their differences within a chunk."""
    counted = [chunk for document in documents for chunk in read_alone(network, document)[1]]
    differences = torch.cat([chunk[1:] - chunk[:-1] for chunk in counted])
    return torch.cat(counted).square().mean(), differences.square().mean()


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


def gradients(value: Tensor, network: TextClassifier) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, list(network.encoder.parameters()))


def test_the_penalties_and_their_gradients_leave_out_padding_and_what_does_not_count() -> None:
    network = make_network()
    documents, ids, lengths = make_documents(LENGTHS, 77)
    pooled, (squares, differences) = read(network, ids, lengths), penalties_alone(network, documents)
    torch.testing.assert_close(pooled.squares, squares)
    torch.testing.assert_close(pooled.differences, differences)
    ours = gradients(pooled.squares + 3.0 * pooled.differences, network)
    torch.testing.assert_close(ours, gradients(squares + 3.0 * differences, network), rtol=1e-4, atol=1e-6)
    _, ids, lengths = make_documents([1, 1])
    assert read(network, ids, lengths).differences.item() == 0.0


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


def test_masks_are_drawn_anew_for_each_chunk_and_none_in_evaluation() -> None:
    network = make_network(SOME)
    _, ids, lengths = make_documents([12])
    assert not torch.equal(read(network, ids, lengths).features, read(network, ids, lengths).features)
    network.eval()
    assert torch.equal(read(network, ids, lengths).features, read(network, ids, lengths).features)


def test_the_head_is_batch_norm_dropout_linear_twice_with_relu_between() -> None:
    head = Head((6, 5, 2), (0.3, 0.1)).eval()
    block = ["BatchNorm1d", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in head] == [*block, "ReLU", *block]
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
    assert groups == [[network.encoder.embedding], *([layer] for layer in network.encoder.layers), [network.head]]
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


def test_a_loaded_bundle_predicts_what_the_network_did() -> None:
    bundle = ModelBundle.from_bytes(classifier()[0].to_bytes())
    network, words, tokens, classes = load_classifier(bundle)
    assert not network.training
    assert (words, tokens.rules, classes) == (VOCABULARY, "ulmfit", CLASSES)
    assert predict_split(IDS, bundle)[0].equals(predict_split(IDS, classifier()[0])[0])
    old = ModelBundle(bundle.kind, bundle.config, bundle.encoder, bundle.member(0))  # without the number of a member
    assert predict_split(IDS, old)[0].equals(predict_split(IDS, bundle)[0])


def test_bundles_of_the_other_kind_and_documents_that_cannot_be_predicted_are_refused() -> None:
    bundle = classifier()[0]
    with pytest.raises(DataError, match="'language_model', not 'text_classifier'"):
        load_classifier(language_model())
    with pytest.raises(DataError, match="'text_classifier', not 'language_model'"):
        load_language_model(bundle)
    with pytest.raises(DataError, match="no document is in the split 'test'"):
        predict_split(IDS.filter(pl.col("split") != "test"), bundle)
    with pytest.raises(DataError, match=r"token id \d+, but the model knows 29"):
        predict_split(IDS.with_columns(ids=pl.col("ids").list.eval(pl.element() + 9)), bundle)
    network, *_ = load_classifier(bundle)
    with pytest.raises(ValueError, match="no token"):
        class_probabilities(network, [np.array([2, 3]), np.array([], dtype=np.int64)])
    assert class_probabilities(network, []).shape == (0, 2)


def test_predictions_name_the_most_probable_class_of_each_document_in_its_order() -> None:
    bundle = classifier()[0]
    documents = IDS.filter(pl.col("split") == "test")
    found = predict_split(IDS, bundle)[0]
    assert found.columns == ["document_id", "label", "predicted", "confidence", "p_neg", "p_pos"]
    assert found.schema["p_pos"] == found.schema["confidence"] == pl.Float64
    assert found.select("document_id", "label").equals(documents.select("document_id", "label"))
    network, *_ = load_classifier(bundle)
    for row, document in zip(found.iter_rows(named=True), documents.get_column("ids"), strict=True):
        tokens, lengths = pad([document.to_numpy()], CPU)
        with torch.no_grad():
            expected = F.softmax(network(tokens, lengths).double(), dim=1)[0].tolist()
        assert [row["p_neg"], row["p_pos"]] == pytest.approx(expected, rel=1e-5)
        assert row["confidence"] == max(row["p_neg"], row["p_pos"])
        assert row["predicted"] == CLASSES[int(row["p_pos"] > row["p_neg"])]
    again = predict_split(IDS.sample(fraction=1.0, shuffle=True, seed=1), bundle)[0].sort("document_id")
    assert again["p_pos"].to_list() == pytest.approx(found.sort("document_id")["p_pos"].to_list(), rel=1e-5)


def test_probabilities_do_not_depend_on_the_documents_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    network, *_ = load_classifier(classifier()[0])
    numbers = np.random.default_rng(0)
    documents = [numbers.integers(0, 29, length) for length in (1, 40, 6, 7, 12, 13, 3, 25, 5)]
    expected = np.concatenate([class_probabilities(network, [document]) for document in documents])
    assert (expected.shape, expected.dtype) == ((9, 2), np.float64)
    assert expected.sum(1) == pytest.approx(np.ones(9))
    assert len(np.unique(expected[:, 0].round(6))) == 9
    for batch_size in (1, 2, 4, 64):
        monkeypatch.setattr("embedline.pipelines.text.classifier.PREDICT_DOCUMENTS", batch_size)
        for order in (np.arange(9), numbers.permutation(9)):
            found = class_probabilities(network, [documents[place] for place in order])
            np.testing.assert_allclose(found, expected[order], rtol=1e-5)
    corpus = Corpus(np.concatenate(documents).astype(np.uint16), np.cumsum([0, *map(len, documents)]))
    np.testing.assert_allclose(class_probabilities(network, corpus), expected, rtol=1e-5)
    np.testing.assert_allclose(class_probabilities(network.train(), corpus), expected, rtol=1e-5)  # no dropout


WORDS = "word1 word4 word5 word6".split()
DOCUMENT = np.array(VOCABULARY.ids(["xxbos", *WORDS]))  # within a chunk: no border ends it


def test_a_predictor_reads_one_member_or_several() -> None:
    texts = [" ".join(WORDS), "word0 word9 word3"]
    found = [Predictor.from_bundle(bundle).predict(texts)["p_pos"].to_numpy() for bundle, _ in (pair(), *alone())]
    np.testing.assert_allclose(found[0], 0.75 * found[1] + 0.25 * found[2], rtol=1e-9)
    predictor = Predictor.from_bundle(pair()[0])
    explained = predictor.explain(texts[0])
    assert explained["word"].to_list() == WORDS
    assert explained["exact"].all()
    without, background, single = DOCUMENT.copy(), DOCUMENT.copy(), DOCUMENT.copy()
    without[1], background[1:], single[2:] = [VOCABULARY.unknown] * 3
    documents = [VOCABULARY.words(ids) for ids in (DOCUMENT, without, single, background)]
    label = int(predictor.probabilities(documents)[0].argmax())
    odds = log_odds(predictor.probabilities(documents), label)
    assert explained["influence"][0] == pytest.approx((odds[0] - odds[1] + odds[2] - odds[3]) / 2, abs=1e-6)


def test_the_estimate_of_an_ensemble_is_the_slope_of_its_log_odds() -> None:
    network, *_ = load_classifier(pair()[0])
    unknown = VOCABULARY.unknown
    estimate = estimate_occlusion(network, unknown, DOCUMENT, 1)
    step, slopes = 1e-2, []
    for token in DOCUMENT:  # each stands once: a row of the table is a position of the document
        ends = []
        for way in (step, -step):
            moved, *_ = load_classifier(pair()[0])
            for member in moved.members:
                table = member.encoder.embedding.weight.data
                table[token] += way * (table[unknown] - table[token])
            ends.append(log_odds(class_probabilities(moved, [DOCUMENT]), 1)[0])
        slopes.append((ends[1] - ends[0]) / (2 * step))
    np.testing.assert_allclose(estimate, slopes, rtol=0.02, atol=1e-4)
    single = [estimate_occlusion(ClassifierEnsemble([each], [1.0]), unknown, DOCUMENT, 1) for each in network.members]
    assert not np.allclose(estimate, 0.75 * single[0] + 0.25 * single[1], rtol=0.02)  # no mere mean
    for member in network.members:  # sure members
        member.head[-1].bias.data += torch.tensor([-500.0, 500.0])  # type: ignore[operator, union-attr]
    assert np.isfinite(estimate_occlusion(network, unknown, DOCUMENT, 1)).all()
