"""Biases and matrix factorisation with features of users and items, after LightFM (Kula 2015, arXiv:1507.08439)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.errors import DataError
from embedline.pipelines.ratings.encoder import Features, RatingsEncoder
from embedline.pipelines.ratings.options import RatingNetwork
from embedline.training.dropout import Dropout, seed_dropout

Y_RANGE_MARGIN = 0.5  # by which ``auto`` widens the rating range on either side: a sigmoid does not reach its ends
DENSE_CELLS = 2**24  # features of up to this many cells are a dense matrix, whose product is faster than gathering
HIDDEN_PAIRS = 2**18  # pairs of a user and an item in one pass through the hidden layers: bounds memory
SCORED_PAIRS = 2**16  # pairs in one call of score_pairs: bounds memory


class Vectors(NamedTuple):
    """Factors float32 [N, k] and biases float32 [N] of users or of items in one network."""

    factors: Tensor
    biases: Tensor


@dataclass(frozen=True)
class FeatureCodes:
    """Features of all users, or of all items: codes int32 [n + 1, L] padded with 0, and weights float32 [n + 1, L]."""

    codes: Tensor
    weights: Tensor
    n_features: int

    @classmethod
    def of(cls, codes: NDArray[np.int32], features: Features) -> "FeatureCodes | None":
        """The tensors of codes of ``features``; None where there are no features."""
        if not features.size:
            return None
        return cls(torch.from_numpy(codes), torch.from_numpy(features.weights(codes)), features.size)

    def dense(self) -> Tensor:
        """Weight float32 [n + 1, n_features + 1] of every feature."""
        matrix = torch.zeros(len(self.codes), self.n_features + 1)
        return matrix.scatter_(1, self.codes.long(), self.weights)


class EntityEmbedding(nn.Module):
    """Embedding of all users, or of all items: the vector of the row itself, and the sum of its features' vectors.

    Row 0, the unknown user or item, is zero and gets no gradient. So is feature 0, which pads. The last column is the
    bias, where the network has biases: one gather reads both. There are ``size`` rows beside row 0, of ``width`` W.

    **Shape**: rows int [B] -> own vectors [B, W], sums of the features' vectors [B, W].
    """

    def __init__(self, size: int, width: int, features: FeatureCodes | None) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(size + 1, width))
        self.feature = nn.Parameter(torch.zeros(features.n_features + 1, width)) if features else None
        self.matrix: Tensor | None
        self.codes: Tensor | None
        self.weights: Tensor | None
        dense = features is not None and len(features.codes) * (features.n_features + 1) <= DENSE_CELLS
        gathered = None if dense else features
        self.register_buffer("matrix", features.dense() if features and dense else None, persistent=False)
        self.register_buffer("codes", gathered.codes if gathered else None, persistent=False)
        self.register_buffer("weights", gathered.weights if gathered else None, persistent=False)

    def forward(self, rows: Tensor) -> list[Tensor]:
        """The own vectors [B, W] and, where there are features, the sum of the features' vectors [B, W]."""
        own = F.embedding(rows, self.own, padding_idx=0)
        if self.matrix is not None and self.feature is not None:
            return [own, self.matrix.index_select(0, rows) @ self.feature]
        if self.codes is not None and self.weights is not None:
            return [own, self.sum_features(self.codes[rows], self.weights[rows])]
        return [own]

    def sum_features(self, codes: Tensor, weights: Tensor) -> Tensor:
        """Sum [B, W] of the vectors of features, codes int [B, L] with weights [B, L]."""
        assert self.feature is not None
        return F.embedding_bag(codes, self.feature, mode="sum", per_sample_weights=weights, padding_idx=0)

    def reset_parameters(self, trained: int, std: float, bias: bool) -> None:
        """Draw vectors from a normal distribution; biases, row 0 and rows above the ``trained`` ones start at zero."""
        with torch.no_grad():
            for table in (self.own, self.feature):
                if table is not None:
                    table.normal_(std=std)
                    table[0] = 0.0
                    if bias:
                        table[:, -1] = 0.0
            self.own[trained + 1 :] = 0.0


def add_terms(terms: Sequence[Tensor]) -> Tensor:
    """Sum [B, W] of what :class:`EntityEmbedding` gives: one term or two."""
    return terms[0] + terms[1] if len(terms) > 1 else terms[0]


class _Product(torch.autograd.Function):
    """``sum(user * item)`` over the factors plus both biases, the last column, in one node: [B, k + 1] twice -> [B].

    Slices of the columns would have autograd fill and add four matrices of zeros.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, user: Tensor, item: Tensor) -> Tensor:
        ctx.save_for_backward(user, item)
        products = user * item
        torch.add(user[:, -1], item[:, -1], out=products[:, -1])
        return products.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        user, item = ctx.saved_tensors  # type: ignore[attr-defined]
        column = gradient.unsqueeze(1)
        to_user, to_item = column * item, column * user
        to_user[:, -1] = to_item[:, -1] = gradient
        return to_user, to_item


class FactorModel(nn.Module):
    """Score of an item for a user: mean + b_u + b_i + <p_u, q_i>, or a network of p_u and q_i in place of the product.

    ``p_u`` and ``b_u`` are the sum of the user's own vector and bias and of those of the user's features, each over the
    square root of the number of features of the same column; the item's likewise. With ``y_range`` the score is
    ``low + (high - low) * sigmoid(x + logit of the mean)``. An untrained network gives about the mean.

    DIFF(fastai): the mean, which fastai leaves to the biases to learn; without features, the mean and with ``y_range``
    (0, 5.5) this is its ``EmbeddingDotBias``.

    **Shape**: user rows int [B], item rows int [B] -> float [B].
    """

    def __init__(
        self,
        *,
        n_users: int,
        n_items: int,
        trained_users: int,
        trained_items: int,
        factors: int,
        bias: bool,
        kind: str,
        layers: Sequence[int],
        dropouts: Sequence[float],
        y_range: Sequence[float] | None,
        init_std: float,
        mean: float,
        user_codes: FeatureCodes | None = None,
        item_codes: FeatureCodes | None = None,
    ) -> None:
        super().__init__()
        self.factors, self.bias, self.mean = factors, bias, mean
        self.y_range = (y_range[0], y_range[1]) if y_range is not None else None
        # The input at which the sigmoid over the range gives the mean.
        self.logit = math.log((mean - y_range[0]) / (y_range[1] - mean)) if y_range is not None else 0.0
        self.users = EntityEmbedding(n_users, factors + bias, user_codes)
        self.items = EntityEmbedding(n_items, factors + bias, item_codes)
        self.hidden = _hidden(2 * factors, layers, dropouts) if kind == "mlp" else None
        self.users.reset_parameters(trained_users, init_std, bias)
        self.items.reset_parameters(trained_items, init_std, bias)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs."""
        return self.score(add_terms(self.users(users)), add_terms(self.items(items)))

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores [B] of pairs of vectors [B, W], the biases in their last columns."""
        if self.hidden is None and self.bias:
            return self._in_range(_Product.apply(user, item))
        return self.from_vectors(*self._split(user), *self._split(item))

    def _in_range(self, raw: Tensor) -> Tensor:
        if self.y_range is None:
            return raw + self.mean
        low, high = self.y_range
        return torch.sigmoid(raw + self.logit) * (high - low) + low

    @torch.no_grad()
    def user_vectors(self, rows: NDArray[np.integer] | Tensor) -> Vectors:
        """Vectors of users by their rows, int [N], features included, without a gradient.

        Row 0 gives zeros, the row of a user without training ratings the features alone. Without biases these are zero.
        """
        return self._split(add_terms(self.users(torch.as_tensor(rows))))

    @torch.no_grad()
    def item_vectors(self, rows: NDArray[np.integer] | Tensor) -> Vectors:
        """Vectors of items by their rows, int [N]; as :meth:`user_vectors`."""
        return self._split(add_terms(self.items(torch.as_tensor(rows))))

    @torch.no_grad()
    def average_item(self, counts: NDArray[np.integer]) -> Vectors:
        """Mean of the items' own vectors over the training *ratings*, ``counts`` [n_items + 1]: [1, k] and [1]."""
        return self._split((torch.as_tensor(counts / counts.sum()).float() @ self.items.own)[None])

    def _split(self, vectors: Tensor) -> Vectors:
        factors = vectors[:, : self.factors]
        return Vectors(factors, vectors[:, -1] if self.bias else vectors.new_zeros(len(vectors)))

    @torch.no_grad()
    def score_pairs(
        self, users: Vectors, user_places: NDArray[np.integer], items: Vectors, item_places: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Scores float32 [N] of pairs of a place int [N] in ``users`` and one in ``items``."""
        scores = np.empty(len(user_places), dtype=np.float32)
        for start in range(0, len(scores), SCORED_PAIRS):
            block = slice(start, start + SCORED_PAIRS)
            user, item = torch.as_tensor(user_places[block]), torch.as_tensor(item_places[block])
            pairs = (users.factors[user], users.biases[user], items.factors[item], items.biases[item])
            scores[block] = self.from_vectors(*pairs).numpy()
        return scores

    def from_vectors(self, p: Tensor, b_u: Tensor, q: Tensor, b_i: Tensor) -> Tensor:
        """Scores [n] of pairs by factors [n, k] and biases [n]; ``autograd`` can follow."""
        if self.hidden is None:
            return self._in_range((p * q).sum(1) + b_u + b_i)
        return self._in_range(self.hidden(torch.cat([p, q], dim=1)).squeeze(-1).float() + b_u + b_i)

    def cross(self, p: Tensor, b_u: Tensor, q: Tensor, b_i: Tensor) -> Tensor:
        """Scores [n, m] of n users with all of m items, by factors [n, k], [m, k] and biases [n], [m]."""
        if self.hidden is None:
            return self._in_range(torch.addmm(b_u[:, None] + b_i[None, :], p, q.T))
        m, blocks = len(q), []
        at_once = max(1, HIDDEN_PAIRS // max(1, m))
        for vectors, biases in zip(p.split(at_once), b_u.split(at_once), strict=True):
            users, n = (vectors.repeat_interleave(m, 0), biases.repeat_interleave(m)), len(vectors)
            blocks.append(self.from_vectors(*users, q.repeat(n, 1), b_i.repeat(n)).reshape(n, m))
        return torch.cat(blocks)


def _hidden(width: int, layers: Sequence[int], dropouts: Sequence[float]) -> nn.Sequential:
    """Linear -> ReLU -> Dropout for each of ``layers``, then one output, small at first."""
    hidden = nn.Sequential()
    for index, (size, rate) in enumerate(zip(layers, dropouts, strict=True)):
        linear = nn.Linear(width, size)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        hidden.add_module(f"linear{index}", linear)
        hidden.add_module(f"relu{index}", nn.ReLU())
        if rate:
            hidden.add_module(f"dropout{index}", Dropout(rate))
        width = size
    output = nn.Linear(width, 1)
    nn.init.xavier_uniform_(output.weight, gain=0.1)
    nn.init.zeros_(output.bias)
    hidden.add_module("output", output)
    return hidden


def network_config(encoder: RatingsEncoder, options: RatingNetwork) -> dict[str, Any]:
    """Arguments of :class:`FactorModel` for a fitted encoder, but for the features; plain JSON values.

    That ``y_range`` does not hold the mean of the training ratings is a DataError.
    """
    rates = options.dropout
    return {
        "n_users": len(encoder.users),
        "n_items": len(encoder.items),
        "trained_users": encoder.trained_users,
        "trained_items": encoder.trained_items,
        "factors": options.factors,
        "bias": options.bias,
        "kind": options.kind,
        "layers": list(options.layers),
        "dropouts": list(rates) if isinstance(rates, tuple) else [rates] * len(options.layers),
        "y_range": _range(encoder, options),
        "init_std": options.init_std,
        "mean": encoder.rating_mean,
    }


def _range(encoder: RatingsEncoder, options: RatingNetwork) -> list[float] | None:
    if options.y_range is None:
        return None
    if options.y_range == "auto":
        low, high = encoder.rating_range
        return [low - Y_RANGE_MARGIN, high + Y_RANGE_MARGIN]
    (low, high), mean = options.y_range, encoder.rating_mean
    if not low < mean < high:
        raise DataError(
            f"network.y_range [{low:g}, {high:g}] does not hold the mean of the training ratings, {mean:.4g}"
        )
    return [low, high]


def feature_codes(encoder: RatingsEncoder) -> tuple[FeatureCodes | None, FeatureCodes | None]:
    """Features of the users and of the items that a fitted encoder knows; None where there are no features."""
    users = FeatureCodes.of(encoder.user_feature_codes, encoder.user_features)
    return users, FeatureCodes.of(encoder.item_feature_codes, encoder.item_features)


def build_network(
    config: dict[str, Any], codes: tuple[FeatureCodes | None, FeatureCodes | None], *, seed: int
) -> FactorModel:
    """Network of :func:`network_config` and :func:`feature_codes`; follows ``seed``, global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FactorModel(**config, user_codes=codes[0], item_codes=codes[1])
    if network.hidden is not None:
        seed_dropout(network, seed)
    return network
