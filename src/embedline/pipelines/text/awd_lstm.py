"""The AWD-LSTM encoder (Merity et al. 2017, arXiv:1708.02182): tokens in, a vector for each token out."""

import itertools
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from embedline.pipelines.text.options import EncoderOptions
from embedline.pipelines.text.recurrent import DroppedLSTM, SequenceDropout, State, embed, run_layers

EMBEDDING_RANGE = 0.1  # the table starts uniform in ±0.1, as in the paper


class Encoder(nn.Module):
    """Embedding and stacked LSTMs; the last one's outputs are as wide as the embedding, so that a decoder can share it.

    The LSTMs start as PyTorch makes them, uniform in ±1/sqrt(hidden_size).

    **Shape**: ids int64 [B, T] and a state -> float [B, T, embedding_size] and the next state. What it returns is not
    dropped: the decoder drops its input itself.
    """

    def __init__(self, vocabulary_size: int, options: EncoderOptions) -> None:
        super().__init__()
        self.options = options
        width, hidden, depth = options.embedding_size, options.hidden_size, options.n_layers
        rates = options.rates
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        sizes = [width, *[hidden] * (depth - 1), width]
        self.layers = nn.ModuleList(
            DroppedLSTM(before, after, weight_dropout=rates.weight) for before, after in itertools.pairwise(sizes)
        )
        self.input_dropout = SequenceDropout(rates.input)
        self.hidden_dropout = SequenceDropout(rates.hidden)

    def start(self, batch_size: int) -> State:
        """The state before the first token: zeros."""
        table = self.embedding.weight
        return tuple(
            (table.new_zeros(batch_size, layer.hidden_size), table.new_zeros(batch_size, layer.hidden_size))
            for layer in self._layers
        )

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the tokens from ``state`` on."""
        rate = self.options.rates.embedding if self.training else 0.0
        vectors = self.input_dropout(embed(ids.t(), self.embedding.weight, rate=rate))
        with _full_precision_on_cuda(vectors.device):
            output, state = run_layers(self._layers, vectors, state, self.hidden_dropout)
        return output.transpose(0, 1), tuple((h.float(), c.float()) for h, c in state)

    @property
    def _layers(self) -> list[DroppedLSTM]:
        return list(self.layers)  # type: ignore[arg-type]


def _full_precision_on_cuda(device: torch.device) -> Any:
    """Leave autocast on a GPU: it has cuDNN's LSTM compute in float16 even where bfloat16 is asked for.

    Float32 runs on the tensor cores as TF32 (``torch.backends.cudnn.allow_tf32``, on by default).
    """
    return torch.autocast("cuda", enabled=False) if device.type == "cuda" else nullcontext()
