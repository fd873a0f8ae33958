"""The AWD-LSTM encoder (Merity et al. 2017, arXiv:1708.02182): tokens in, one vector for each token out.

Its LSTM layers have dropout over whole sequences and on the recurrent matrix.
"""

import itertools
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.options import EncoderOptions

EMBEDDING_RANGE = 0.1  # the embedding starts uniform in ±0.1, as in the paper

LayerState = tuple[Tensor, Tensor]
State = tuple[LayerState, ...]
"""For each layer, the output h float [B, H] and the cell c float [B, H] after the last token that was read."""


def select_rows(state: State, rows: Tensor | slice) -> State:
    """Select sequences of the batch: by a slice, or by indices int64 [K], which may repeat."""
    return tuple((h[rows], c[rows]) for h, c in state)


def detached(state: State) -> State:
    """Detach the state, so that no gradient flows into earlier tokens."""
    return tuple((h.detach(), c.detach()) for h, c in state)


class SequenceDropout(nn.Module):
    """Dropout with one mask for all time steps ("variational"; Gal & Ghahramani 2016); each batch draws a new mask.

    **Shape**: float [T, B, D] -> float [T, B, D]; each sequence b has its own mask over D.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, input: Tensor) -> Tensor:
        """Drop the same features of a sequence at every time step; no change in evaluation mode."""
        if not self.training or self.rate == 0.0:
            return input
        mask = input.new_empty(1, *input.shape[1:]).bernoulli_(1.0 - self.rate).div_(1.0 - self.rate)
        return input * mask


def embed(ids: Tensor, table: Tensor, *, rate: float) -> Tensor:
    """Look up rows of ``table`` [V, D] for ids int64 [...]; each word is dropped with probability ``rate``.

    A dropped word is zero everywhere in the batch. The mask [V] is applied to the looked-up rows: this equals dropping
    rows of the table, without a second table (Merity et al. 2017, §4.3).
    """
    embedded = F.embedding(ids, table)
    if rate == 0.0:
        return embedded
    kept = torch.empty(len(table), device=table.device).bernoulli_(1.0 - rate).div_(1.0 - rate)
    return embedded * kept[ids].unsqueeze(-1)


class DroppedLSTM(nn.LSTM):
    """One LSTM layer, time first, with dropout on its hidden-to-hidden matrix: one mask for all steps and sequences.

    DIFF(fastai): the dropped matrix is passed to the kernel instead of being set as an attribute. The module therefore
    stays a plain ``nn.LSTM``: it can be copied, its state dictionary has the usual names, its weights do not change,
    and the fused kernels of cuDNN and oneDNN run. In mixed precision a GPU trains it in bfloat16, or float16 where its
    cuDNN is old (:func:`lstm_dtype`); otherwise in float32, on the tensor cores as TF32.

    **Shape**: float [T, B, input_size] and a :data:`LayerState` -> float [T, B, hidden_size] and the next state.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, *, weight_dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_dropout = weight_dropout

    def forward(self, input: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:  # type: ignore[override]
        """Read ``input``, starting from ``state``."""
        h, c = state[0].unsqueeze(0), state[1].unsqueeze(0)
        dropped = self.training and self.weight_dropout > 0.0
        if input.is_cuda and self.training:
            low = torch.is_autocast_enabled("cuda")
            # Autocast itself would run cuDNN's LSTM in float16 even if bfloat16 is selected, and copy its weights.
            with torch.autocast("cuda", enabled=False):
                output, h, c = self.read_in_one_block(input, h, c, lstm_dtype(cudnn_version()) if low else input.dtype)
        else:
            # oneDNN refuses a bfloat16 LSTM on processors without AVX-512: there this layer computes in float32.
            low = (
                not input.is_cuda and torch.is_autocast_enabled("cpu") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            )
            with nullcontext() if low else torch.autocast(input.device.type, enabled=False):
                given = input if low else input.float()
                if dropped:
                    output, h, c = self._read_dropped(given, h, c)
                else:
                    output, (h, c) = super().forward(given, (h, c))
        return output, (h.squeeze(0), c.squeeze(0))

    def _read_dropped(self, input: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dropped = F.dropout(self.weight_hh_l0, self.weight_dropout)
        weights = [self.weight_ih_l0, dropped, self.bias_ih_l0, self.bias_hh_l0]
        # The function that nn.LSTM calls, with another list of weights. It is private to PyTorch, so a test compares it
        # with a loop. torch.func.functional_call is no alternative: nn.LSTM would re-point its weights at every call.
        output, h, c = torch._VF.lstm(input, (h, c), weights, True, 1, 0.0, True, False, False)
        return output, h, c

    def read_in_one_block(
        self, input: Tensor, h: Tensor, c: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read in the precision ``dtype``, with the dropped weights where cuDNN takes them without a copy.

        Inputs and results are float32. In float16 the gradients are multiplied by :data:`LOSS_SCALE` inside of the
        layer alone: those of a mean over thousands of tokens would vanish (Micikevicius et al. 2018, arXiv:1710.03740).
        """
        scale = LOSS_SCALE if dtype == torch.float16 else 1.0
        given = [scale_gradient(each, 1.0 / scale).to(dtype) for each in (input, h, c)]
        weights = self.weights_in_one_block(dtype, scale)
        found = torch._VF.lstm(given[0], (given[1], given[2]), weights, True, 1, 0.0, True, False, False)
        output, h, c = (scale_gradient(each.to(input.dtype), scale) for each in found)
        return output, h, c

    def weights_in_one_block(self, dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
        """The weights, the recurrent matrix dropped, one behind the other in memory, in the order of cuDNN."""
        dropped = F.dropout(self.weight_hh_l0, self.weight_dropout, training=self.training)
        weights = [self.weight_ih_l0, dropped, self.bias_ih_l0, self.bias_hh_l0]
        block = scale_gradient(torch.cat([weight.flatten() for weight in weights]), 1.0 / scale).to(dtype)
        parts = block.split([weight.numel() for weight in weights])
        return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


CUDNN_BFLOAT16 = 91300  # the first version of cuDNN, 9.13, whose LSTM computes in bfloat16
LOSS_SCALE = 1024.0


def cudnn_version() -> int | None:
    """Version of cuDNN, such as 91300 for 9.13; None where PyTorch has none, or must not use it."""
    cudnn = torch.backends.cudnn
    return cudnn.version() if cudnn.is_available() and cudnn.enabled else None


def lstm_dtype(version: int | None) -> torch.dtype:
    """Low precision of an LSTM on a GPU, given the version of cuDNN: bfloat16 from 9.13 on, else float16.

    Without cuDNN the layers would run token by token: a DataError.
    """
    if version is None:
        raise DataError(
            "an LSTM on a GPU needs cuDNN, and PyTorch has none here: install a PyTorch with it, or set "
            "device: cpu for language_model_training and classifier_training"
        )
    return torch.bfloat16 if version >= CUDNN_BFLOAT16 else torch.float16


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(input: Tensor, factor: float) -> Tensor:
    """The tensor itself; on the way back its gradient is multiplied by ``factor``."""
    scaled: Tensor = input if factor == 1.0 else _ScaleGradient.apply(input, factor)
    return scaled


def run_layers(
    layers: Iterable[nn.Module], input: Tensor, state: State, dropout: SequenceDropout
) -> tuple[Tensor, State]:
    """Apply stacked layers to ``input`` [T, B, D], with ``dropout`` between the layers but not after the last one."""
    layers, output, states = list(layers), input, []
    for depth, (layer, before) in enumerate(zip(layers, state, strict=True)):
        output, after = layer(output, before)
        states.append(after)
        if depth < len(layers) - 1:
            output = dropout(output)
    return output, tuple(states)


class Encoder(nn.Module):
    """Embedding and stacked LSTMs; the last layer is as wide as the embedding, so that a decoder can share its weights.

    The LSTMs have PyTorch's initial weights, uniform in ±1/sqrt(hidden_size).

    **Shape**: ids int64 [B, T] and a state -> float [B, T, embedding_size] and the next state. There is no dropout on
    the output: the decoder drops its own input.
    """

    def __init__(self, vocabulary_size: int, options: EncoderOptions) -> None:
        super().__init__()
        self.options = options
        width, hidden, depth = options.embedding_size, options.hidden_size, options.n_layers
        rates = options.rates
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        sizes = [width, *[hidden] * (depth - 1), width]
        self._widths = sizes[1:]
        self.layers = nn.ModuleList(
            DroppedLSTM(before, after, weight_dropout=rates.weight) for before, after in itertools.pairwise(sizes)
        )
        self.input_dropout = SequenceDropout(rates.input)
        self.hidden_dropout = SequenceDropout(rates.hidden)

    def start(self, batch_size: int) -> State:
        """Return the state before the first token: zeros."""
        zeros = self.embedding.weight.new_zeros
        return tuple((zeros(batch_size, width), zeros(batch_size, width)) for width in self._widths)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the tokens, starting from ``state``."""
        rate = self.options.rates.embedding if self.training else 0.0
        vectors = self.input_dropout(embed(ids.t(), self.embedding.weight, rate=rate))
        output, state = run_layers(self.layers, vectors, state, self.hidden_dropout)
        return output.transpose(0, 1), tuple((h.float(), c.float()) for h, c in state)
