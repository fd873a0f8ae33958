"""Options, fits of small networks, and spies: shared by the tests of the training loop."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.training import train as loop
from embedline.training.device import make_accelerator
from embedline.training.optimizer import learning_rate, momentum
from embedline.training.options import FitOptions, TrainingOptions


def plain_options(kind: type[FitOptions] = TrainingOptions, **changes: Any) -> Any:
    """Options of three epochs on the CPU, in fp32."""
    values = {"epochs": 3, "batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "fp32", **changes}
    return kind.model_validate(values)


def fit(
    network: nn.Module, tensors: tuple[Tensor, ...], options: FitOptions, *, seed: int = 7, **more: Any
) -> loop.FitResult:
    loss = more.pop("loss", F.mse_loss)
    return loop.fit(network, tensors, loss, options, accelerator=make_accelerator(options), seed=seed, **more)


def train(network: nn.Module, batches: Any, options: FitOptions, *, seed: int = 5, **more: Any) -> loop.FitResult:
    return loop.train(network, batches, options, accelerator=make_accelerator(options), seed=seed, **more)


def noise(n_rows: int) -> tuple[Tensor, Tensor]:
    """Three values and a target a row, drawn apart."""
    numbers = torch.Generator().manual_seed(1)
    return torch.randn(n_rows, 3, generator=numbers), torch.randn(n_rows, generator=numbers)


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    """What ``make`` returns with a seed, the global generator being left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def same(first: Any, second: Any) -> bool:
    """Whether two networks, or their states, are equal to the last bit."""
    ours, theirs = (each.state_dict() if isinstance(each, nn.Module) else each for each in (first, second))
    assert ours.keys() == theirs.keys()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def assert_close(network: Any, expected: Any, *, rtol: float = 1e-4, hint: str = "") -> None:
    """The state of a network is near to that of another one."""
    ours, theirs = (each.state_dict() if isinstance(each, nn.Module) else each for each in (network, expected))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=rtol, atol=1e-6, msg=lambda m, n=name: f"{hint} {n}: {m}")


def values_of(history: list[dict[str, Any]], name: str) -> list[Any]:
    """A value of each record that has it."""
    return [record[name] for record in history if name in record]


def spy_states(patch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Weights after each step of the optimiser, as they are taken."""
    found: list[dict[str, Tensor]] = []
    real = loop.optimizer_step

    def spy(value: Tensor, network: nn.Module, *arguments: Any) -> None:
        real(value, network, *arguments)
        found.append(copy.deepcopy(network.state_dict()))

    patch.setattr(loop, "optimizer_step", spy)
    return found


def spy_rates(patch: pytest.MonkeyPatch, module: Any = loop) -> list[float]:
    """Learning rates that a module sets, as they are set."""
    used: list[float] = []
    real = module.set_rates
    patch.setattr(module, "set_rates", lambda optimizer, lr, beta1: (used.append(lr), real(optimizer, lr, beta1)))
    return used


def fit_by_hand(
    network: nn.Module, tensors: Any, options: FitOptions, sizes: list[int]
) -> tuple[list[Any], list[float]]:
    """Train with PyTorch's Adam alone on batches of these sizes; the state after each step, and its loss."""
    decoupled = options.weight_decay if options.decay == "decoupled" else 0.0
    groups = [{"params": [p], "weight_decay": decoupled if p.ndim > 1 else 0.0} for p in network.parameters()]
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=options.eps)
    order, states, losses = torch.Generator().manual_seed(7), [], []
    n_steps = options.epochs * -(-len(sizes) // options.accumulate)
    for _ in range(options.epochs):
        batches = torch.randperm(sum(sizes), generator=order).split(sizes)
        for first in range(0, len(sizes), options.accumulate):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, len(losses) / n_steps)
                group["betas"] = (momentum(options, len(losses) / n_steps), options.betas[1])
            taken = [[tensor[rows] for tensor in tensors] for rows in batches[first : first + options.accumulate]]
            loss = torch.stack([F.mse_loss(network(*inputs), target) for *inputs, target in taken]).mean()
            losses.append(loss.item())
            if options.decay == "l2":  # the lessons' penalty of the matrices, with half the weight decay
                matrices = (p for p in network.parameters() if p.ndim > 1)
                loss = loss + options.weight_decay / 2.0 * sum((matrix**2).sum() for matrix in matrices)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            states.append(copy.deepcopy(network.state_dict()))
    return states, losses
