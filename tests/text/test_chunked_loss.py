"""The chunked cross-entropy and its gradients equal PyTorch's, and it never holds the logits of all tokens."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from embedline.pipelines.text import chunked_loss
from embedline.pipelines.text.chunked_loss import chunk_length, count_nats, cross_entropy

N, V, E = 70, 23, 9


def make_data(n: int = N, *, bias: bool = True, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    hidden = (scale * torch.randn(n, E)).requires_grad_()
    weight, offset = torch.randn(V, E, requires_grad=True), torch.randn(V, requires_grad=True)
    return hidden, weight, offset if bias else None, torch.randint(V, (n,))


@pytest.fixture(params=[16, 20, 35, 69, 70, 71])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunk lengths for 70 tokens: whole chunks, a short last one, a last one of one token, a single chunk."""
    length: int = request.param
    monkeypatch.setitem(chunked_loss.CHUNK_LOGITS, "cpu", length * V)
    assert chunk_length(V, torch.device("cpu")) == length
    return length


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked_loss.CHUNK_LOGITS, "cpu", 0)  # 16 tokens: the least
    monkeypatch.setitem(chunked_loss.GROUPS, "cpu", 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("in_group", [1, 2, 3, 8])
def test_it_equals_pytorchs_with_all_gradients_wherever_the_chunks_end(
    step: int, bias: bool, in_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked_loss.GROUPS, "cpu", in_group)
    hidden, weight, offset, targets = make_data(bias=bias)
    found, expected = cross_entropy(hidden, weight, offset, targets), reference(hidden, weight, offset, targets)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    wanted = [hidden, weight] + ([offset] if offset is not None else [])
    torch.testing.assert_close(
        torch.autograd.grad(3.0 * found, wanted), torch.autograd.grad(3.0 * expected, wanted), rtol=1e-5, atol=1e-7
    )


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets)


def test_a_value_and_its_gradients_by_hand() -> None:
    # Logits (ln 3, 0) and (0, ln 3): probabilities 3/4 and 1/4.
    ln3 = 1.0986123
    weight, bias = torch.tensor([[ln3], [0.0]], requires_grad=True), torch.zeros(2, requires_grad=True)
    found = cross_entropy(torch.tensor([[1.0], [-1.0], [1.0]]), weight, None, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx(-(torch.tensor([0.75, 0.25, 0.25]).log().mean().item()))
    hidden = torch.tensor([[1.0]], requires_grad=True)
    made = torch.autograd.grad(cross_entropy(hidden, weight, bias, torch.tensor([1])), [bias, weight, hidden])
    for gradient, expected in zip(made, ([0.75, -0.75], [[0.75], [-0.75]], [[0.75 * ln3]]), strict=True):
        torch.testing.assert_close(gradient, torch.tensor(expected))


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2)])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(
    frozen: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    *tensors, targets = make_data()
    expected = torch.autograd.grad(reference(*tensors, targets), tensors)
    for place in frozen:
        tensors[place].requires_grad_(False)
    cross_entropy(*tensors, targets).backward()
    for place, (tensor, gradient) in enumerate(zip(tensors, expected, strict=True)):
        if place in frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-7)


def test_a_matrix_that_is_also_the_input_gets_the_sum_of_both_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    _, weight, bias, targets = make_data()
    ids = torch.randint(V, (N,))
    found = cross_entropy(F.embedding(ids, weight), weight, bias, targets)
    expected = reference(F.embedding(ids, weight), weight, bias, targets)
    torch.testing.assert_close(
        torch.autograd.grad(found, weight), torch.autograd.grad(expected, weight), rtol=1e-5, atol=1e-7
    )


def test_extreme_logits_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    hidden, weight, bias, targets = make_data(scale=1e4)
    found, expected = cross_entropy(hidden, weight, bias, targets), reference(hidden, weight, bias, targets)
    assert found.item() > 1e3
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(value, [hidden, weight, bias]) for value in (found, expected))
    assert all(bool(gradient.isfinite().all()) for gradient in ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_float32_and_its_softmax_is_taken_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    *tensors, targets = make_data(scale=0.5)
    exact = cross_entropy(*tensors, targets)
    lowered = [tensor.detach().bfloat16() for tensor in tensors]
    low_hidden = lowered[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cross_entropy(*tensors, targets)
        (of_low_hidden,) = torch.autograd.grad(cross_entropy(low_hidden, *tensors[1:], targets), low_hidden)
    assert found.dtype == torch.float32
    assert found.item() != exact.item()  # it did run in low precision
    # Logits of about 5 are rounded to 2^-8 of themselves, 0.02; their mean error over 70 tokens is far smaller.
    assert found.item() == pytest.approx(exact.item(), abs=0.02)
    logits = (lowered[0] @ lowered[1].t() + lowered[2]).float()
    assert found.item() == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(value, tensors) for value in (found, exact))
    for low, full in zip(ours, theirs, strict=True):
        assert low.dtype == torch.float32
        assert (low - full).norm() < 0.02 * full.norm()
    assert of_low_hidden.dtype == torch.bfloat16
    assert (of_low_hidden.float() - theirs[0]).norm() < 0.03 * theirs[0].norm()


@pytest.mark.parametrize("bias", [True, False])
def test_sums_of_nats_and_hits_are_those_of_all_logits(step: int, bias: bool) -> None:
    hidden, weight, offset, targets = make_data(bias=bias)
    targets[::3] = F.linear(hidden, weight, offset).argmax(1)[::3]
    nats, hits = count_nats(hidden, weight, offset, targets)
    logits = F.linear(hidden, weight, offset)
    torch.testing.assert_close(nats, F.cross_entropy(logits, targets, reduction="sum").detach())
    assert hits.item() == (logits.argmax(1) == targets).sum().item() >= 24
    assert not nats.requires_grad


class Sizes(TorchDispatchMode):
    """Elements of the largest tensor that any operation of PyTorch returns."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        made = function(*arguments, **(more or {}))
        tensors = [each for each in tree_leaves(made) if isinstance(each, Tensor)]
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return made


def test_the_logits_of_all_tokens_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    hidden, weight, bias, targets = make_data(64)
    with Sizes() as chunked:
        cross_entropy(hidden, weight, bias, targets).backward()
        count_nats(hidden.detach(), weight, bias, targets)
    with Sizes() as whole:
        reference(hidden, weight, bias, targets).backward()
    assert whole.largest == 64 * V  # the mode does see logits
    assert chunked.largest == max(2 * 16 * V, 64 * E)
