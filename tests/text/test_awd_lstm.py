"""Recurrent layers and their dropout, compared with a loop over the time steps."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import (
    DroppedLSTM,
    SequenceDropout,
    State,
    cudnn_version,
    detached,
    embed,
    lstm_dtype,
    run_layers,
    select_rows,
)

STEPS, ROWS, WIDTH, HIDDEN, RATE = 7, 3, 5, 6, 0.4
WEIGHTS = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def loop(input: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """Outputs, last output and last cell [T + 2, B, H] of an LSTM, a step at a time."""
    outputs = []
    for step in input:
        gates = step @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh
        entering, forgotten, candidate, shown = gates.chunk(4, dim=1)
        c = forgotten.sigmoid() * c + entering.sigmoid() * candidate.tanh()
        h = shown.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack([*outputs, h, c])


def together(output: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([output, torch.stack(state)])


def make_layer(rate: float = RATE) -> tuple[DroppedLSTM, Tensor, tuple[Tensor, Tensor]]:
    """A layer with weights large enough for its gates to differ, an input and a state that require a gradient."""
    layer = DroppedLSTM(WIDTH, HIDDEN, weight_dropout=rate)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.5)
    state = (torch.randn(ROWS, HIDDEN, requires_grad=True), torch.randn(ROWS, HIDDEN, requires_grad=True))
    return layer, torch.randn(STEPS, ROWS, WIDTH, requires_grad=True), state


def gradients(outputs: Tensor, wanted: list[Tensor], weighting: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((outputs.float() * weighting).sum(), wanted))


def seeded(compute: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(1)
    return compute()


def test_a_dropped_layer_equals_a_loop_over_the_steps_with_the_dropped_matrix_and_so_do_its_gradients() -> None:
    layer, input, state = make_layer()
    weights = [getattr(layer, name) for name in WEIGHTS]
    found = seeded(lambda: together(*layer(input, state)))
    dropped = seeded(lambda: F.dropout(layer.weight_hh_l0, RATE))
    expected = loop(input, *state, weights[0], dropped, *weights[2:])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, loop(input, *state, *weights), atol=0.05)  # the matrix matters here
    weighting = torch.randn(found.shape)
    ours, theirs = (gradients(outputs, [input, *weights, *state], weighting) for outputs in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours[2] == 0.0, dropped == 0.0)  # no gradient for what was dropped, some for all the rest
    assert 0.2 < (dropped == 0.0).float().mean() < 0.6
    assert not torch.equal(together(*layer(input, state)), found)  # each call drops anew


@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_it_is_pytorchs_layer(training: bool) -> None:
    layer, input, (h, c) = make_layer(0.0 if training else RATE)
    plain = nn.LSTM(WIDTH, HIDDEN)
    plain.load_state_dict(layer.state_dict())  # the names are the plain ones
    output, (last, cell) = plain(input, (h[None], c[None]))
    assert torch.equal(together(*layer.train(training)(input, (h, c))), torch.cat([output, last, cell]))


def test_weights_are_as_they_were_and_the_module_can_be_copied_after_a_forward_and_a_backward_pass() -> None:
    layer, input, state = make_layer()
    before = copy.deepcopy(layer.state_dict())
    together(*layer(input, state)).sum().backward()
    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()] == WEIGHTS
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    twin = copy.deepcopy(layer)
    assert twin.weight_hh_l0 is not layer.weight_hh_l0
    assert torch.equal(together(*twin.eval()(input, state)), together(*layer.eval()(input, state)))


@pytest.mark.parametrize(
    ("version", "dtype"),
    [(91300, torch.bfloat16), (91900, torch.bfloat16), (91200, torch.float16), (8907, torch.float16)],
)
def test_the_precision_of_a_gpus_lstm_is_by_the_version_of_cudnn(version: int, dtype: torch.dtype) -> None:
    assert lstm_dtype(version) == dtype


def test_a_gpu_without_cudnn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    with pytest.raises(DataError, match=r"cuDNN.*device: cpu"):
        lstm_dtype(cudnn_version())


def test_the_dropped_weights_lie_in_one_block_in_the_order_of_cudnn() -> None:
    layer, _, _ = make_layer()
    found = seeded(lambda: layer.weights_in_one_block(torch.float32))
    dropped = seeded(lambda: F.dropout(layer.weight_hh_l0, RATE))
    expected = [layer.weight_ih_l0, dropped, layer.bias_ih_l0, layer.bias_hh_l0]
    place = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) and ours.is_contiguous()
        assert ours.untyped_storage().data_ptr() == found[0].untyped_storage().data_ptr()
        assert ours.storage_offset() == place
        place += theirs.numel()
    assert found[0].untyped_storage().nbytes() == 4 * place
    assert layer.weights_in_one_block(torch.bfloat16)[1].dtype == torch.bfloat16
    assert torch.equal(layer.eval().weights_in_one_block(torch.float32)[1], layer.weight_hh_l0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_a_layer_in_one_block_is_the_layer_and_tiny_gradients_survive_in_float16(
    dtype: torch.dtype, bound: float
) -> None:
    layer, input, state = make_layer()
    weights = [getattr(layer, name) for name in WEIGHTS]
    states = [each.unsqueeze(0) for each in state]
    exact = seeded(lambda: together(*layer(input, state)))
    output, h, c = seeded(lambda: layer.read_in_one_block(input, states[0], states[1], dtype))
    low = together(output, (h.squeeze(0), c.squeeze(0)))
    torch.testing.assert_close(low, exact, rtol=0.0, atol=bound)
    weighting = 2e-6 * torch.randn(exact.shape)  # as of a mean over many tokens: float16 ends at 6e-8
    for ours, theirs in zip(*(gradients(each, [input, *weights], weighting) for each in (low, exact)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < bound * theirs.norm()


def test_one_mask_of_a_sequence_holds_for_all_its_steps_and_scales_the_gradient_too() -> None:
    dropout, input = SequenceDropout(0.3), torch.randn(STEPS, 4, 50, requires_grad=True)
    output = dropout(input)
    kept = output[0] != 0
    torch.testing.assert_close(output, torch.where(kept, input / 0.7, 0.0))  # constant over time, scaled
    (gradient,) = torch.autograd.grad(output.sum(), input)
    torch.testing.assert_close(gradient, torch.where(kept, 1 / 0.7, 0.0).expand_as(input))
    assert len({tuple(row.tolist()) for row in kept}) == 4  # each sequence has a mask of its own
    assert not torch.equal(dropout(input), output)  # a new one at each call
    assert torch.equal(dropout.eval()(input), input)
    assert torch.equal(SequenceDropout(0.0)(input), input)


def test_dropping_words_equals_dropping_rows_of_the_table_and_so_does_the_gradient() -> None:
    table, ids = torch.randn(30, 5, requires_grad=True), torch.randint(30, (6, 20))
    found = seeded(lambda: embed(ids, table, rate=0.3))
    mask = seeded(lambda: torch.empty(30).bernoulli_(0.7)) / 0.7
    expected = F.embedding(ids, table * mask[:, None])
    torch.testing.assert_close(found, expected)
    weighting = torch.randn(found.shape)
    torch.testing.assert_close(gradients(found, [table], weighting), gradients(expected, [table], weighting))


def stacked(depth: int) -> tuple[list[DroppedLSTM], State]:
    layers = [DroppedLSTM(WIDTH, WIDTH) for _ in range(depth)]
    return layers, tuple((torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)) for _ in layers)


class Marked(SequenceDropout):
    """Adds 1 instead of dropout, and counts its calls."""

    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return input + 1.0


@pytest.mark.parametrize("depth", [1, 3])
def test_layers_are_stacked_with_dropout_between_them_and_not_after_the_last(depth: int) -> None:
    layers, state = stacked(depth)
    input, dropout = torch.randn(STEPS, ROWS, WIDTH), Marked(0.5)
    output, states = run_layers(layers, input, state, dropout)
    expected, kept = input, []
    for place, (layer, before) in enumerate(zip(layers, state, strict=True)):
        expected, after = layer(expected + 1.0 if place else expected, before)
        kept.append(torch.stack(after))
    assert torch.equal(output, expected)
    assert dropout.calls == depth - 1
    assert torch.equal(torch.stack([torch.stack(after) for after in states]), torch.stack(kept))
    with pytest.raises(ValueError, match="shorter"):
        run_layers(layers, input, state[:-1], dropout)


@pytest.mark.parametrize("rows", [torch.tensor([2, 0, 2, 2]), slice(0, 2)])
def test_rows_of_a_state_may_repeat_and_be_left_out(rows: Tensor | slice) -> None:
    _, state = stacked(2)
    for before, after in zip(state, select_rows(state, rows), strict=True):
        assert torch.equal(torch.stack(after), torch.stack(before)[:, rows])


def test_a_detached_state_has_the_values_and_no_past() -> None:
    layers, state = stacked(2)
    _, after = run_layers(layers, torch.randn(STEPS, ROWS, WIDTH), state, SequenceDropout(0.0))
    for ours, theirs in zip(detached(after), after, strict=True):
        assert torch.equal(torch.stack(ours), torch.stack(theirs))
        assert [tensor.requires_grad for tensor in (*theirs, *ours)] == [True, True, False, False]
