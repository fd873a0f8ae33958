"""The language model: its layers, its penalties computed by hand, its tied weights, and that it can overfit."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_networks import same_rates
from torch import Tensor, nn

from embedline.pipelines.text.awd_lstm import EMBEDDING_RANGE, State
from embedline.pipelines.text.language_model import LanguageModel, activation_penalty, temporal_penalty
from embedline.pipelines.text.options import EncoderOptions, LanguageModelOptions, Preset, Rates
from embedline.training.optimizer import average_weights

V, E, H = 20, 6, 9
NONE = same_rates(0.0)
SOME = Rates(input=0.3, embedding=0.2, weight=0.4, hidden=0.25, output=0.35)


def make_model(rates: Rates = NONE, *, bias: bool = True) -> LanguageModel:
    options = EncoderOptions(embedding_size=E, hidden_size=H, n_layers=3, rates=rates)
    return LanguageModel(V, options, decoder_bias=bias)


def make_batch(rows: int = 4, steps: int = 10) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(V, (rows, steps + 1))
    return tokens[:, :-1], tokens[:, 1:]


def flat(state: State) -> list[Tensor]:
    return [tensor for layer in state for tensor in layer]


def preset_model(preset: Preset, vocabulary_size: int) -> LanguageModel:
    options = LanguageModelOptions(preset=preset)
    with torch.device("meta"):
        return LanguageModel(vocabulary_size, options.encoder(), decoder_bias=options.has_bias)


def test_the_number_of_weights_is_the_originals() -> None:
    # fastai v2's AWD-LSTM has 44,333,280 with 60,000 words, 400 wide, 1152 hidden; the layers as counted there.
    model = preset_model("ulmfit", 60_000)
    assert sum(p.numel() for p in model.parameters()) == 44_333_280
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.encoder.layers]
    assert layers == [4 * 1152 * (400 + 1152 + 2), 4 * 1152 * (1152 + 1152 + 2), 4 * 400 * (1152 + 400 + 2)]
    assert preset_model("dl1", 34_945).decoder.bias is None


def test_it_starts_as_in_the_paper() -> None:
    options = EncoderOptions(embedding_size=30, hidden_size=50, n_layers=2, rates=NONE)
    model = LanguageModel(500, options, decoder_bias=True)
    table = model.encoder.embedding.weight
    assert EMBEDDING_RANGE * 0.99 < table.abs().max() <= EMBEDDING_RANGE == 0.1
    assert table.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert model.decoder.bias.eq(0.0).all()
    for layer, hidden in zip(model.encoder.layers, (50, 30), strict=True):
        assert all(0.9 / hidden**0.5 < p.abs().max() <= 1 / hidden**0.5 for p in layer.parameters() if p.ndim > 1)


def test_in_evaluation_it_is_the_plain_stack_of_layers_and_carries_its_state() -> None:
    model = make_model(SOME).eval()
    ids, _ = make_batch(steps=14)
    hidden, state = model(ids, model.start(4))
    vectors, kept = F.embedding(ids, model.encoder.embedding.weight), []
    for before, after, layer in zip((E, H, H), (H, H, E), model.encoder.layers, strict=True):
        plain = nn.LSTM(before, after, batch_first=True)
        plain.load_state_dict(layer.state_dict())
        vectors, (h, c) = plain(vectors)
        kept += [h[0], c[0]]
    torch.testing.assert_close(hidden, vectors)
    torch.testing.assert_close(flat(state), kept)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.encoder.embedding.weight.t() + model.decoder.bias)
    first, between = model(ids[:, :7], model.start(4))
    second, end = model(ids[:, 7:], between)
    torch.testing.assert_close(torch.cat([first, second], dim=1), hidden)
    torch.testing.assert_close(flat(end), kept)
    lost, _ = model(ids[:, 7:], model.start(4))
    assert (lost - second).abs().max() > 1e-3  # the state matters


def test_each_place_drops_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, _) = make_model(SOME), make_batch()
    assert [layer.weight_dropout for layer in model.encoder.layers] == [SOME.weight] * 3
    assert model.encoder.input_dropout.rate == SOME.input
    assert model.encoder.hidden_dropout.rate == SOME.hidden
    assert model.output_dropout.rate == SOME.output
    seen: list[float] = []

    def spy(ids: Tensor, table: Tensor, *, rate: float) -> Tensor:
        seen.append(rate)
        return F.embedding(ids, table)

    monkeypatch.setattr("embedline.pipelines.text.awd_lstm.embed", spy)
    model(ids, model.start(4))
    model.eval()(ids, model.start(4))
    assert seen == [SOME.embedding, 0.0]


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 3.0), (0.0, 0.0), (0.0, 1.0), (2.0, 0.0)])
def test_the_loss_is_that_of_dropped_outputs_with_both_penalties(alpha: float, beta: float) -> None:
    model, (ids, targets) = make_model(SOME), make_batch()
    torch.manual_seed(1)
    loss, nats, state = model.losses(ids, targets, model.start(4), alpha=alpha, beta=beta)
    torch.manual_seed(1)
    output, after = model(ids, model.start(4))
    mask = torch.empty(1, 4, E).bernoulli_(1 - SOME.output) / (1 - SOME.output)  # drawn next
    dropped = output * mask.transpose(0, 1)
    entropy = F.cross_entropy(model.logits(dropped).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(nats, entropy.detach())
    assert not nats.requires_grad
    expected = entropy + alpha * dropped.square().mean() + beta * (output[:, 1:] - output[:, :-1]).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(flat(state), flat(after))
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_penalties_by_hand_and_a_single_step() -> None:
    # Two sequences of three steps, two features.
    output = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [0.0, -1.0]], [[0.0, 0.0], [1.0, -1.0], [1.0, 1.0]]])
    assert activation_penalty(output).item() == pytest.approx((1 + 4 + 9 + 4 + 0 + 1 + 0 + 0 + 1 + 1 + 1 + 1) / 12)
    assert temporal_penalty(output).item() == pytest.approx((4 + 0 + 9 + 9 + 1 + 1 + 0 + 4) / 8)
    assert temporal_penalty(output[:, :1]).item() == 0.0
    assert activation_penalty(output.bfloat16()).dtype == torch.float32
    model, (ids, targets) = make_model(), make_batch(steps=1)
    loss, nats, _ = model.losses(ids, targets, model.start(4), alpha=0.0, beta=1.0)
    assert loss.item() == nats.item() and loss.isfinite()


def test_counts_are_those_of_all_logits() -> None:
    model, (ids, targets) = make_model(SOME).eval(), make_batch()
    with torch.no_grad():
        logits = model.logits(model(ids, model.start(4))[0])
        nats, hits, _ = model.count(ids, targets, model.start(4))
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert nats.item() == pytest.approx(expected.item())
    assert hits.item() == (logits.argmax(-1) == targets).sum().item()


@pytest.mark.parametrize("bias", [True, False])
def test_the_decoders_matrix_is_the_embedding_whatever_is_done_to_the_model(bias: bool) -> None:
    model, other = make_model(bias=bias), make_model(bias=bias)
    assert (model.decoder.bias is None) is not bias
    model.load_state_dict(other.state_dict())
    averaged = average_weights(model, 0.5)
    averaged.update_parameters(model)
    for each in (model, copy.deepcopy(model), averaged.module, model.to("cpu")):
        assert isinstance(each, LanguageModel)
        assert each.decoder.weight is each.encoder.embedding.weight
        assert torch.equal(each.encoder.embedding.weight, other.encoder.embedding.weight)
    assert len(list(model.parameters())) == 1 + 3 * 4 + bias  # the matrix once


def test_an_average_of_tied_weights_moves_them_once() -> None:
    model = make_model()
    averaged = average_weights(model, 0.999)
    before = model.encoder.embedding.weight.detach().clone()
    with torch.no_grad():
        model.encoder.embedding.weight.add_(1.0)
    averaged.update_parameters(model)  # decay 2/11 in the warm-up: 9/11 of the way
    torch.testing.assert_close(averaged.module.encoder.embedding.weight, before + 9 / 11)


def test_an_output_depends_on_the_tokens_of_its_row_so_far_and_on_nothing_else() -> None:
    model = make_model().eval()
    ids, _ = make_batch()
    whole, _ = model(ids, model.start(4))
    for place in range(ids.shape[1]):
        changed = ids.clone()
        changed[:2, place] = (changed[:2, place] + 1) % V
        output, _ = model(changed, model.start(4))
        differs = (output - whole).abs().amax(2) > 0
        assert differs.tolist() == [[row < 2 and step >= place for step in range(ids.shape[1])] for row in range(4)]
    alone, _ = model(ids[1:2], model.start(1))
    torch.testing.assert_close(alone[0], whole[1])
