"""The AWD-LSTM language model: an encoder, and a decoder that shares its embedding."""

from torch import Tensor, nn

from embedline.pipelines.text.awd_lstm import Encoder, SequenceDropout, State
from embedline.pipelines.text.chunked_loss import count_nats, cross_entropy
from embedline.pipelines.text.options import EncoderOptions


def activation_penalty(output: Tensor) -> Tensor:
    """Activation regularisation (AR), ``mean(h^2)`` float [], of outputs [B, T, D] (Merity et al. 2017, §4.7)."""
    return output.float().square().mean()


def temporal_penalty(output: Tensor) -> Tensor:
    """Temporal activation regularisation (TAR), ``mean((h_t - h_(t-1))^2)`` float []; 0 for a single step."""
    if output.shape[1] < 2:
        return output.new_zeros(())
    return output.float().diff(dim=1).square().mean()


class LanguageModel(nn.Module):
    """Predicts the next token of a text (Merity et al. 2017, arXiv:1708.02182).

    The decoder's weights are the embedding (Press & Wolf 2017); its bias, if any, starts at 0.

    Args:
        decoder_bias: whether the decoder has a bias for each token.
    """

    def __init__(self, vocabulary_size: int, options: EncoderOptions, *, decoder_bias: bool) -> None:
        super().__init__()
        self.encoder = Encoder(vocabulary_size, options)
        self.output_dropout = SequenceDropout(options.rates.output)
        self.decoder = nn.Linear(options.embedding_size, vocabulary_size, bias=decoder_bias)
        self.decoder.weight = self.encoder.embedding.weight
        if decoder_bias:
            nn.init.zeros_(self.decoder.bias)

    def start(self, batch_size: int) -> State:
        """Return the state before the first token: zeros."""
        return self.encoder.start(batch_size)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the last layer's outputs [B, T, E] for ids int64 [B, T], and the next state; see :meth:`logits`."""
        output: tuple[Tensor, State] = self.encoder(ids, state)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores [..., V] of the next token, given outputs [..., E]."""
        scores: Tensor = self.decoder(hidden)
        return scores

    def losses(
        self, ids: Tensor, targets: Tensor, state: State, *, alpha: float, beta: float
    ) -> tuple[Tensor, Tensor, State]:
        """Return the loss with AR and TAR float [], the cross-entropy float [] in nats a token, and the next state.

        Args:
            ids: int64 [B, T].
            targets: int64 [B, T], the token that follows each.
            alpha: weight of AR, on the outputs after dropout, as in the authors' code.
            beta: weight of TAR, on the outputs before dropout.
        """
        output, state = self(ids, state)
        dropped = self.output_dropout(output.transpose(0, 1))  # time first, as SequenceDropout expects
        nats = cross_entropy(dropped.flatten(0, 1), self.decoder.weight, self.decoder.bias, targets.t().flatten())
        loss = nats
        if alpha:
            loss = loss + alpha * activation_penalty(dropped)
        if beta:
            loss = loss + beta * temporal_penalty(output)
        return loss, nats.detach(), state

    def count(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return the sum of nats [], the number of hits [] (see :func:`count_nats`), and the next state."""
        output, state = self(ids, state)
        nats, hits = count_nats(output.flatten(0, 1), self.decoder.weight, self.decoder.bias, targets.flatten())
        return nats, hits, state
