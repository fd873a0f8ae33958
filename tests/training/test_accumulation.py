"""Several batches a step: the same training as with larger batches, and what becomes of epochs that do not divide."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import Killed
from fits import assert_close, fit_by_hand, noise, plain_options, same, seeded, spy_states, values_of
from fits import fit as fit_network
from test_tasks import Counted, losses_of, train
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import train as loop
from embedline.training.options import FitOptions

KINDS: list[dict[str, Any]] = [{"decay": "decoupled", "weight_decay": 0.3}]
KINDS += [{"decay": "l2", "weight_decay": 0.3, "clip_norm": 0.2, "averaging": {"decay": 0.5}}]
VALUES, TARGET = noise(256)


def make_options(**changes: Any) -> FitOptions:
    return plain_options(FitOptions, **{"batch_size": 32, "lr": 0.02, **changes})


def make_net() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)))


def fit(n_rows: int = 256, **changes: Any) -> loop.FitResult:
    return fit_network(make_net(), noise(n_rows), make_options(**changes))


@pytest.mark.parametrize("kind", KINDS, ids=["decoupled", "l2"])
def test_two_batches_of_32_are_one_of_64_step_by_step(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    halves = fit(batch_size=32, accumulate=2, **kind)
    found = states.copy()
    states.clear()
    whole = fit(batch_size=64, **kind)
    assert len(found) == len(states) == 3 * 4
    for step, (ours, theirs) in enumerate(zip(found, states, strict=True)):
        assert_close(ours, theirs, hint=f"step {step}")
    assert_close(halves.network, whole.network)  # the averaged ones with l2
    for name in ("step", "epoch", "lr"):
        assert values_of(halves.history, name) == values_of(whole.history, name)
    losses = values_of(whole.history, "train_loss")
    assert values_of(halves.history, "train_loss") == pytest.approx(losses, rel=1e-4)
    single = fit(batch_size=32, **kind)
    assert len(single.history) == 24 and single.history[-1]["train_loss"] != pytest.approx(losses[-1], rel=1e-4)


def test_a_step_never_reaches_into_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    states = spy_states(monkeypatch)
    fitted = fit(40, batch_size=8, accumulate=100)
    assert len(states) == len(fitted.history) == 3
    assert same(fitted.network, fit(40, batch_size=8, accumulate=5).network)


def test_the_gradient_is_clipped_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[Tensor] = []
    real = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: norms.append(real(*given)) or norms[-1])
    fit(accumulate=4, clip_norm=0.1, epochs=1)
    rows = torch.randperm(256, generator=torch.Generator().manual_seed(7))[:128]
    network = make_net()
    F.mse_loss(network(VALUES[rows]), TARGET[rows]).backward()
    first = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm().item()
    assert len(norms) == 2
    assert norms[0].item() == pytest.approx(first, rel=1e-4)  # of the mean over the four batches


def test_a_half_accumulated_gradient_reaches_no_checkpoint(tmp_path: Path) -> None:
    class Failing(Counted):
        def loss(self, *arguments: Any) -> Any:
            if losses_of(self) == 5:  # the second of an epoch's first step
                raise Killed
            return super().loss(*arguments)

    kept = checkpoints.Checkpoint(tmp_path / "task.pt", 0.0)
    with pytest.raises(Killed):
        train(Failing(), accumulate=3, checkpoint=kept)
    assert torch.load(tmp_path / "task.pt", weights_only=True)["state"]["step"] == 2
    assert same(train(Counted(), accumulate=3, checkpoint=kept)[0], train(Counted(), accumulate=3)[0])


def test_l2_is_the_lessons_penalty_of_the_matrices_with_half_the_weight_decay() -> None:
    given, network = {"weight_decay": 0.4, "epochs": 2, "batch_size": 64}, make_net()
    fitted = fit(decay="l2", **given)
    fit_by_hand(network, (VALUES, TARGET), make_options(decay="l2", **given), [64] * 4)
    assert_close(fitted.network, network, rtol=1e-3)
    assert not torch.allclose(fit(**given).network[0].weight, fitted.network[0].weight, rtol=1e-2)  # type: ignore[index]
