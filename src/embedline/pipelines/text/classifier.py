"""The ULMFiT classifier (Howard & Ruder 2018, arXiv:1801.06146): encoder, pooling and head; predictions of a bundle."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import Encoder, detached, select_rows
from embedline.pipelines.text.classifier_batches import by_length, pad
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import Direction, EncoderOptions
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import unfreeze

KIND = "text_classifier"
PREDICT_DOCUMENTS = 64  # documents of a forward pass in prediction


class Pooled(NamedTuple):
    """Pooled outputs of the encoder for a batch of documents.

    Attributes:
        features: float [B, 3 E]: output at the last token, maximum and mean over the pooled tokens.
        squares: mean square float [] of these outputs, for AR.
        differences: mean square float [] of their differences between consecutive tokens of a chunk, for TAR.
    """

    features: Tensor
    squares: Tensor
    differences: Tensor


def read_documents(encoder: Encoder, ids: Tensor, lengths: Tensor, *, bptt: int, max_tokens: int) -> Pooled:
    """Read documents in chunks of ``bptt`` tokens and pool the outputs of the last ``max_tokens`` tokens of each.

    The chunks start at each document's first token. The state is carried from chunk to chunk, the gradient is not: it
    reaches a chunk only through pooling. Chunks without pooled tokens are read without a gradient.

    DIFF(fastai): documents are padded at the end and masked by length in one code path, so that a document has the same
    features in a batch as alone. fastai v2 pads in front by whole chunks and loses tokens where lengths differ (fastai
    issue 3379). AR and TAR ignore the padding, too.

    Args:
        ids: int64 [B, T], the longest documents first; values after the end of a document are ignored.
        lengths: int64 [B] on the CPU, in descending order, at least 1.
    """
    n_documents, width = len(ids), encoder.embedding.embedding_dim
    device = ids.device
    first = (lengths - max_tokens).clamp(min=0)  # first pooled token
    state = encoder.start(n_documents)
    zeros = torch.zeros(n_documents, width, device=device)
    last, total, highest = zeros, zeros, zeros.new_full(zeros.shape, -torch.inf)
    squares, differences, n_pairs = zeros.new_zeros(()), zeros.new_zeros(()), 0
    for start in range(0, int(lengths[0]), bptt):
        active = int((lengths > start).sum())  # documents that have not ended: a chunk reads only the first rows
        end = min(start + bptt, int(lengths[0]))
        chunk, before = ids[:active, start:end], select_rows(state, slice(0, active))
        if end <= int(first[:active].min()):
            with torch.no_grad():
                _, state = encoder(chunk, before)
            continue
        output, state = encoder(chunk, before)
        state, output = detached(state), output.float()
        place = torch.arange(start, end)
        counts = (place >= first[:active, None]) & (place < lengths[:active, None])
        mask = counts.to(device).unsqueeze(-1)
        kept = output * mask
        total = _combine(torch.add, total, kept.sum(1))
        highest = _combine(torch.maximum, highest, output.masked_fill(~mask, -torch.inf).amax(1))
        at_end = F.one_hot((lengths[:active] - 1 - start).clamp(max=end - start), end - start + 1)[:, :-1]
        last = _combine(torch.add, last, torch.einsum("bte,bt->be", output, at_end.to(device, output.dtype)))
        pairs = counts[:, 1:] & counts[:, :-1]
        squares = squares + kept.square().sum()
        differences = differences + (output.diff(dim=1) * pairs.to(device).unsqueeze(-1)).square().sum()
        n_pairs += int(pairs.sum())
    n_counted = (lengths - first).to(device)
    features = torch.cat([last, highest, total / n_counted.unsqueeze(-1)], dim=1)
    return Pooled(features, squares / (n_counted.sum() * width), differences / max(1, n_pairs * width))


def _combine(function: Callable[[Tensor, Tensor], Tensor], pooled: Tensor, chunk: Tensor) -> Tensor:
    """Combine the first rows of ``pooled`` [B, E] with the rows of ``chunk`` [A, E]."""
    return torch.cat([function(pooled[: len(chunk)], chunk), pooled[len(chunk) :]])


class Head(nn.Sequential):
    """Blocks of batch-norm, dropout and a linear layer, with ReLU between the blocks.

    As fastai v2's ``PoolingLinearClassifier``, except that the linear layers have biases.

    **Shape**: float [B, 3 E] -> logits float [B, C].
    """

    def __init__(self, sizes: tuple[int, ...], rates: tuple[float, ...]) -> None:
        layers: list[nn.Module] = []
        for place, (before, after, rate) in enumerate(zip(sizes, sizes[1:], rates, strict=False)):
            layers += [nn.BatchNorm1d(before), nn.Dropout(rate), nn.Linear(before, after)]
            if place < len(sizes) - 2:
                layers.append(nn.ReLU())
        super().__init__(*layers)


def reverse(ids: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each document of ids int64 [B, T]: its token t becomes token ``length - 1 - t``; any id pads."""
    place = lengths[:, None] - 1 - torch.arange(ids.shape[1])
    return ids.gather(1, place.clamp(min=0).to(ids.device))


class TextClassifier(nn.Module):
    """Class scores of documents: the encoder of a language model, and a head with hidden ``layers``.

    ``head_rates`` are the dropout rates before its linear layers; for ``bptt`` and ``max_tokens`` see
    :func:`read_documents`. A network of the direction ``backward`` takes the same ids and reads them from the last to
    the first.
    """

    def __init__(
        self,
        vocabulary_size: int,
        encoder: EncoderOptions,
        *,
        layers: tuple[int, ...],
        head_rates: tuple[float, ...],
        n_classes: int,
        bptt: int,
        max_tokens: int,
        direction: Direction = "forward",
    ) -> None:
        super().__init__()
        self.direction = direction
        self.encoder = Encoder(vocabulary_size, encoder)
        self.head = Head((3 * encoder.embedding_size, *layers, n_classes), head_rates)
        self.n_classes, self.bptt, self.max_tokens = n_classes, bptt, max_tokens

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits float32 [B, C]; arguments as in :func:`read_documents`."""
        return self.scores(ids, lengths)[0]

    def scores(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Pooled]:
        """Return logits float32 [B, C], and the pooled outputs."""
        if self.direction == "backward":
            ids = reverse(ids, lengths)
        pooled = read_documents(self.encoder, ids, lengths, bptt=self.bptt, max_tokens=self.max_tokens)
        logits: Tensor = self.head(pooled.features)
        return logits.float(), pooled

    def groups(self) -> list[list[nn.Module]]:
        """Layer groups from the first to the last: the embedding, each LSTM, the head."""
        return [[self.encoder.embedding], *([layer] for layer in self.encoder.layers), [self.head]]

    def unfreeze(self, n_groups: int | None) -> None:
        """Train only the last ``n_groups`` layer groups, all if None; all batch-norm is in the head: the last group."""
        unfreeze(self, self.groups(), n_groups)


class ClassifierEnsemble(nn.Module):
    """Average of the probabilities of one classifier or more; only the ratios of ``weights`` matter."""

    def __init__(self, members: Sequence[TextClassifier], weights: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(members)
        self.members, self.n_classes = tuple(members), members[0].n_classes
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return log-probabilities float64 [B, C] of the mean probabilities; arguments as in :func:`read_documents`."""
        logs = [
            F.log_softmax(member(ids, lengths).double(), dim=1) + math.log(weight)
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        return torch.stack(logs).logsumexp(0)


def build_classifier(config: dict[str, Any], direction: Direction = "forward") -> TextClassifier:
    """Build the network of a direction by a bundle's ``config``."""
    sizes = {name: config[name] for name in ("n_classes", "bptt", "max_tokens")}
    layers, head_rates = tuple(config["layers"]), tuple(config["head_rates"])
    encoder = EncoderOptions.model_validate(config["encoder"])
    shape: dict[str, Any] = {"layers": layers, "head_rates": head_rates, "direction": direction, **sizes}
    return TextClassifier(config["vocabulary_size"], encoder, **shape)


def load_classifier(bundle: ModelBundle) -> tuple[ClassifierEnsemble, Vocabulary, TokenOptions, list[str]]:
    """Load the classifiers, in evaluation mode, vocabulary, tokenizer settings and classes; refuse other bundles."""
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    # Old bundles hold one network, whose weights have no number of a member in their names.
    weights = bundle.metrics.get("member_weights")
    states = [bundle.member(member) for member in range(len(weights))] if weights else [bundle.weights]
    # Bundles of former versions do not say the directions.
    members = [
        build_classifier(bundle.config, each) for each in bundle.config.get("directions", ["forward"] * len(states))
    ]
    for member, state in zip(members, states, strict=True):
        member.load_state_dict(state)
    network = ClassifierEnsemble(members, weights or [1.0])
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"]), bundle.encoder["classes"]


def class_probabilities(
    network: TextClassifier | ClassifierEnsemble, documents: Sequence[NDArray[np.integer]] | Corpus
) -> NDArray[np.float64]:
    """Predict probabilities float64 [D, C] of documents, in full precision, on the network's device.

    The network stays as it is, apart from evaluation mode: other threads may be reading with it.
    """
    device = next(network.parameters()).device
    if not isinstance(documents, Corpus):
        offsets = np.cumsum([0, *map(len, documents)])
        documents = Corpus(np.concatenate([np.empty(0, np.int64), *documents]), offsets)
    return F.softmax(class_logits(network.eval(), documents, device), dim=1).numpy()


@torch.inference_mode()
def class_logits(
    network: TextClassifier | ClassifierEnsemble,
    corpus: Corpus,
    device: torch.device,
    autocast: Callable[[], Any] = nullcontext,
) -> Tensor:
    """Logits, or log-probabilities of an ensemble, float64 [D, C] on the CPU; the network is in evaluation mode.

    A document without a token is a ValueError; an empty text has at least its start token.
    """
    if len(corpus) and corpus.lengths.min() == 0:
        raise ValueError("a document has no token")
    logits = torch.empty(len(corpus), network.n_classes, dtype=torch.float64)
    for rows in by_length(corpus.lengths, PREDICT_DOCUMENTS):
        ids, lengths = pad([corpus[row] for row in rows], device)
        with autocast():
            found = network(ids, lengths)
        logits[torch.from_numpy(rows)] = found.double().cpu()
    return logits
