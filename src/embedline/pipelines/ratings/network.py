"""Biases and matrix factorisation with features of users and items, after LightFM (Kula 2015, arXiv:1507.08439)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.errors import DataError
from embedline.pipelines.ratings.encoder import RatingsEncoder
from embedline.pipelines.ratings.options import RatingNetwork
from embedline.pipelines.ratings.sides import Side, SideCodes, sum_of
from embedline.training.dropout import Dropout, seed_dropout

Y_RANGE_MARGIN = 0.5  # by which ``auto`` widens the rating range on either side: a sigmoid does not reach its ends
PAIRS = 2**18  # of user and item, that go through hidden layers at a time


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
        user_codes: SideCodes | None = None,
        item_codes: SideCodes | None = None,
    ) -> None:
        super().__init__()
        self.factors, self.bias, self.mean = factors, bias, mean
        self.y_range = tuple(y_range) if y_range is not None else None
        self.logit = _logit(mean, *y_range) if y_range is not None else 0.0
        self.users = Side(n_users, factors + bias, user_codes)
        self.items = Side(n_items, factors + bias, item_codes)
        self.hidden = _hidden(2 * factors, layers, dropouts) if kind == "mlp" else None
        self.users.reset_parameters(trained_users, init_std, bias)
        self.items.reset_parameters(trained_items, init_std, bias)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs."""
        return self.score(sum_of(self.users.parts(users)), sum_of(self.items.parts(items)))

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores [B] of pairs of vectors [B, W], the biases in their last columns."""
        if self.hidden is None:
            raw = _Product.apply(user, item) if self.bias else (user * item).sum(1)
        else:
            raw = self.hidden(torch.cat([user[:, : self.factors], item[:, : self.factors]], dim=1)).squeeze(-1).float()
            raw = raw + user[:, -1] + item[:, -1] if self.bias else raw
        return self._in_range(raw)

    def _in_range(self, raw: Tensor) -> Tensor:
        if self.y_range is None:
            return raw + self.mean
        low, high = self.y_range
        return torch.sigmoid(raw + self.logit) * (high - low) + low

    def user_vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [n, k] and biases [n] of users, their features included; zero biases in a model without any."""
        return self._split(sum_of(self.users.parts(rows)))

    def item_vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [n, k] and biases [n] of items, their features included."""
        return self._split(sum_of(self.items.parts(rows)))

    def user_feature_vectors(self, codes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [n, k] and biases [n] of new users, by their features alone: codes int [n, L] and weights [n, L]."""
        return self._split(self.users.of_features(codes, weights))

    def item_feature_vectors(self, codes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [n, k] and biases [n] of new items, by their features alone: codes int [n, L] and weights [n, L]."""
        return self._split(self.items.of_features(codes, weights))

    def _split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        factors = vectors[:, : self.factors]
        return factors, vectors[:, -1] if self.bias else vectors.new_zeros(len(vectors))

    def from_vectors(self, p: Tensor, b_u: Tensor, q: Tensor, b_i: Tensor) -> Tensor:
        """Scores [n] of pairs by factors [n, k] and biases [n]; ``autograd`` can follow."""
        if self.hidden is None:
            return self._in_range((p * q).sum(1) + b_u + b_i)
        return self._in_range(self.hidden(torch.cat([p, q], dim=1)).squeeze(-1).float() + b_u + b_i)

    def cross(self, p: Tensor, b_u: Tensor, q: Tensor, b_i: Tensor) -> Tensor:
        """Scores [n, m] of n users with all of m items, by factors [n, k], [m, k] and biases [n], [m]."""
        if self.hidden is None:
            return self._in_range(torch.addmm(b_u[:, None] + b_i[None, :], p, q.T))
        at_once = max(1, PAIRS // max(1, len(q)))
        blocks = []
        for vectors, biases in zip(p.split(at_once), b_u.split(at_once), strict=True):
            n, m = len(vectors), len(q)
            pairs = self.from_vectors(
                vectors.repeat_interleave(m, 0), biases.repeat_interleave(m), q.repeat(n, 1), b_i.repeat(n)
            )
            blocks.append(pairs.reshape(n, m))
        return torch.cat(blocks)


def _logit(mean: float, low: float, high: float) -> float:
    """Where the sigmoid from ``low`` to ``high`` takes the value ``mean``."""
    return math.log((mean - low) / (high - mean))


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

    Raises:
        DataError: if ``y_range`` does not hold the mean of the training ratings.
    """
    return {
        "n_users": len(encoder.users),
        "n_items": len(encoder.items),
        "trained_users": encoder.trained_users,
        "trained_items": encoder.trained_items,
        "factors": options.factors,
        "bias": options.bias,
        "kind": options.kind,
        "layers": list(options.layers),
        "dropouts": list(options.dropouts),
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
    low, high = options.y_range
    if not low < encoder.rating_mean < high:
        raise DataError(
            f"network.y_range [{low:g}, {high:g}] does not hold the mean of the training ratings, "
            f"{encoder.rating_mean:.4g}"
        )
    return [low, high]


@dataclass(frozen=True)
class BothCodes:
    """Features of the users and of the items; None where a side has none."""

    users: SideCodes | None
    items: SideCodes | None

    @classmethod
    def of(cls, encoder: RatingsEncoder) -> "BothCodes":
        """Tensors of the features that a fitted encoder knows."""
        sides = [
            (encoder.user_feature_codes, encoder.user_features),
            (encoder.item_feature_codes, encoder.item_features),
        ]
        return cls(*(SideCodes.of(codes, features) if features.size else None for codes, features in sides))


def build_network(config: dict[str, Any], codes: BothCodes, *, seed: int) -> FactorModel:
    """Network of :func:`network_config`; weights and dropout follow ``seed``, global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FactorModel(**config, user_codes=codes.users, item_codes=codes.items)
    seed_dropout(network, seed)
    return network
