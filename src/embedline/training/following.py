"""One training in several processes: gradients are summed, and the processes after the first follow its orders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedline.training.processes import Order, Stopped, Team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedline.training.state import TrainingState


class GradientSum:
    """Sums the gradients, and the losses to report, over the processes: one buffer, one exchange a step.

    Every process runs the same program on its rows, so that the same parameters have a gradient in all of them.
    """

    def __init__(self, team: Team, optimizer: torch.optim.Optimizer) -> None:
        self._team, self._optimizer = team, optimizer
        self._buffer = torch.empty(0)

    def __call__(self, reported: list[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, and the losses [] in the list by theirs."""
        groups = self._optimizer.param_groups
        learned = [p for group in groups for p in group["params"] if p.grad is not None]
        sizes = [p.numel() for p in learned]
        total = sum(sizes) + len(reported)
        if self._buffer.numel() != total:
            self._buffer = torch.empty(total, device=learned[0].device)
        *parts, losses = self._buffer.split([*sizes, len(reported)])
        views = [part.view_as(p) for part, p in zip(parts, learned, strict=True)]
        torch._foreach_copy_(views, [p.grad for p in learned])
        losses.copy_(torch.stack(reported))
        self._team.sum(self._buffer)
        for p, view in zip(learned, views, strict=True):
            p.grad = view
        reported[:] = losses.clone().unbind()


def follow(training: "TrainingState", step: "Callable[[range], Sequence[Tensor]]") -> None:
    """Take part in a training that rank 0 leads: begin where it does, do what it orders, end with its network.

    Args:
        step: takes a step with some batches; the losses [] of these.
    """
    team = training.team
    assert team is not None
    state, weights = team.share_out()
    if state is not None:
        training.restore(state)
    else:
        training.network.load_state_dict(weights)
    training.network.train()
    steps: Iterator[range] | None = None
    while (order := team.order()) is not Order.END:
        if order is Order.STOP:
            raise Stopped("with the training of rank 0")
        if order is Order.KEEP:
            team.gather(training.own_state())
            continue
        if steps is None:
            steps = training.begin_epoch()
        while (batches := next(steps, None)) is None:
            training.turn_epoch()
            steps = training.begin_epoch()
        training.count_step(step(batches))
    training.network.load_state_dict(team.share_out())
