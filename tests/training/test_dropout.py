"""Dropout drops what it says, independently, and scales what it keeps."""

import math

import pytest
import torch
from torch import Tensor

from embedline.training.dropout import Dropout, seed_dropout


def mask(rate: float, *shape: int) -> Tensor:
    return Dropout(rate)(torch.ones(shape)) == 0


@pytest.mark.parametrize("rate", [0.0005, 0.001, 0.01, 0.04, 0.1, 0.5])
def test_dropped_share_and_scale_are_those_of_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    out = Dropout(rate)(torch.ones(1000, 1003))
    deviation = math.sqrt(rate * (1 - rate) / out.numel())
    assert abs((out == 0).double().mean().item() - rate) < 4 * deviation
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - rate)])


def test_every_position_is_as_likely_and_the_count_is_binomial() -> None:
    torch.manual_seed(0)
    rate, draws, width = 0.05, 20_000, 37
    dropped = torch.stack([mask(rate, width) for _ in range(draws)]).double()
    assert (dropped.mean(0) - rate).abs().max() < 4.5 * math.sqrt(rate * (1 - rate) / draws)
    assert dropped.sum(1).var().item() == pytest.approx(width * rate * (1 - rate), rel=0.05)


def test_gradient_passes_through_the_kept_elements_alone() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(33, 640).t().requires_grad_()  # not contiguous
    out = Dropout(0.1)(inputs)
    out.sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, (out != 0).float() / 0.9)
    torch.testing.assert_close(out, torch.where(out != 0, inputs / 0.9, 0.0))


def test_masks_follow_the_seed_and_evaluation_is_the_identity() -> None:
    layer, inputs = Dropout(0.1), torch.randn(70, 50)
    torch.manual_seed(3)
    first = layer(inputs)
    torch.manual_seed(3)
    assert torch.equal(layer(inputs), first)
    assert not torch.equal(layer(inputs), first)
    assert torch.equal(layer.eval()(inputs), inputs)
    out = Dropout(0.1)(torch.full((1000,), math.inf, dtype=torch.bfloat16))  # the type is kept, infinity dropped
    assert out.dtype == torch.bfloat16
    assert set(out.tolist()) == {0.0, math.inf}


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_a_generator_of_its_own_owes_nothing_to_the_global_one(rate: float) -> None:
    def masks(seed: int) -> Tensor:
        network = torch.nn.Sequential(Dropout(rate), Dropout(rate))
        seed_dropout(network, seed)
        before = torch.get_rng_state()
        drawn = torch.stack([layer(torch.ones(500)) for layer in network])
        assert torch.equal(torch.get_rng_state(), before)
        return drawn

    first = masks(1)
    torch.rand(3)
    assert torch.equal(masks(1), first)
    assert not torch.equal(masks(2), first)
    assert not torch.equal(first[0], first[1])
