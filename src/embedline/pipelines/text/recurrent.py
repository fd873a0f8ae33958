"""Dropout over sequences, and an LSTM layer with a dropped recurrent matrix (Merity et al. 2017, arXiv:1708.02182)."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LayerState = tuple[Tensor, Tensor]
State = tuple[LayerState, ...]
"""Of each layer the output h [B, H] and the cell c [B, H] after the last token read."""


def select_rows(state: State, rows: Tensor | slice) -> State:
    """The state of some sequences of the batch: indices int64 [K], which may repeat, or a slice."""
    return tuple((h[rows], c[rows]) for h, c in state)


def detached(state: State) -> State:
    """The state as a value: no gradient reaches what was read before."""
    return tuple((h.detach(), c.detach()) for h, c in state)


class SequenceDropout(nn.Module):
    """Dropout with one mask for all time steps ("variational"; Gal & Ghahramani 2016), new for each batch.

    **Shape**: [T, B, D] -> the same; each sequence b has a mask of its own over D.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, input: Tensor) -> Tensor:
        """Drop the same features of a sequence at every step; the identity in evaluation."""
        if not self.training or self.rate == 0.0:
            return input
        mask = input.new_empty(1, *input.shape[1:]).bernoulli_(1.0 - self.rate).div_(1.0 - self.rate)
        return input * mask

    def extra_repr(self) -> str:
        """For ``print(network)``."""
        return f"rate={self.rate}"


def embed(ids: Tensor, table: Tensor, *, rate: float) -> Tensor:
    """Rows of ``table`` [V, D] for ids int64 [...], whole words dropped with probability ``rate``.

    A dropped word vanishes everywhere in the batch. The mask [V] is applied to the rows that are read, which equals
    dropping rows of the table and needs no second table (Merity et al. 2017, §4.3).
    """
    embedded = F.embedding(ids, table)
    if rate == 0.0:
        return embedded
    kept = torch.empty(len(table), device=table.device).bernoulli_(1.0 - rate).div_(1.0 - rate)
    return embedded * kept[ids].unsqueeze(-1)


class DroppedLSTM(nn.LSTM):
    """One LSTM layer, time first, with dropout on its hidden-to-hidden matrix: one mask for all steps and sequences.

    DIFF(fastai): the matrix is dropped on its way into the kernel instead of being set as an attribute, so that the
    module stays a plain ``nn.LSTM``: it can be copied, its state dictionary has the usual names, its weights are
    untouched, and cuDNN's and oneDNN's fused kernels run.

    **Shape**: [T, B, input_size] and a :data:`LayerState` -> [T, B, hidden_size] and the next one.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, *, weight_dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_dropout = weight_dropout

    def forward(self, input: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:  # type: ignore[override]
        """Read ``input`` from ``state`` on."""
        h, c = state[0].unsqueeze(0), state[1].unsqueeze(0)
        if self.training and self.weight_dropout > 0.0:
            output, h, c = self._read_dropped(input, h, c)
        else:
            output, (h, c) = super().forward(input, (h, c))
        return output, (h.squeeze(0), c.squeeze(0))

    def _read_dropped(self, input: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dropped = F.dropout(self.weight_hh_l0, self.weight_dropout)
        weights = [self.weight_ih_l0, dropped, self.bias_ih_l0, self.bias_hh_l0]
        # What nn.LSTM itself calls, with a list of weights of our own. It is private to PyTorch, so a test compares it
        # with a loop. Not torch.func.functional_call: that has nn.LSTM re-point its weights at every call.
        # cuDNN wants the weights in one piece, and warns that it copies them there: the dropped ones are new anyhow.
        with warnings.catch_warnings(action="ignore", category=UserWarning) if input.is_cuda else nullcontext():
            output, h, c = torch._VF.lstm(input, (h, c), weights, True, 1, 0.0, True, False, False)
        return output, h, c


def run_layers(
    layers: Iterable[DroppedLSTM], input: Tensor, state: State, dropout: SequenceDropout
) -> tuple[Tensor, State]:
    """Read ``input`` [T, B, D] through stacked layers with ``dropout`` between them, not after the last."""
    layers, output, states = list(layers), input, []
    for depth, (layer, before) in enumerate(zip(layers, state, strict=True)):
        output, after = layer(output, before)
        states.append(after)
        if depth < len(layers) - 1:
            output = dropout(output)
    return output, tuple(states)
