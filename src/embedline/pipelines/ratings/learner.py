"""Train the network (or several, over seeds), store it as a bundle, and predict from the bundle alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import TEST, TRAIN, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW, RatingsEncoder
from embedline.pipelines.ratings.network import (
    FactorModel,
    FeatureCodes,
    add_terms,
    build_network,
    feature_codes,
    network_config,
)
from embedline.pipelines.ratings.options import Penalty, RatingNetwork, RatingsTraining
from embedline.training import lr_finder
from embedline.training.batches import WHOLE, Autocast, BatchLoss, Loss, TableBatches
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, make_accelerator
from embedline.training.early_stopping import hold_out, row_monitor
from embedline.training.ensemble import in_threads, train_ensemble, weighted_mean
from embedline.training.lr_finder import RandomRows, RangeTest
from embedline.training.metrics import regression_metrics
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions
from embedline.training.train import Evaluate, FitResult, train

KIND = "ratings"
PREDICT_ROWS = 65_536  # pairs of one forward pass when predicting: bounds memory, large enough to be quick
LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}


class _Squares(torch.autograd.Function):
    """Sum of ``weights * square`` over some matrices [B, W], weights [W], in one node: -> []."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *matrices)
        total = matrices[0].new_zeros(weights.shape)
        for matrix in matrices:
            total += (matrix * matrix).sum(0)
        return torch.dot(total, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *matrices = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled = weights * (2.0 * gradient)
        return None, *(matrix * scaled for matrix in matrices)


def penalty_weights(penalty: Penalty, factors: int, bias: bool) -> Tensor | None:
    """Weight of the square of each column of the vectors, float32 [W]; None without a penalty."""
    if not penalty.factors and not penalty.biases:
        return None
    return torch.tensor([penalty.factors] * factors + [penalty.biases] * bias)


class RatingBatches(TableBatches):
    """Batches cut by index from user rows, item rows (int32 [N] each) and ratings (float32 [N]).

    The loss of a batch is the mean over its rows, plus the penalty (:class:`.options.Penalty`): the mean over its rows
    of the weighted squares of the user's and the item's own vectors and of their features' sums, by ``weights`` of
    :func:`penalty_weights`. The reported loss leaves the penalty out.
    """

    def __init__(
        self, tensors: Sequence[Tensor], loss: Loss, weights: Tensor | None, *, device: torch.device, **settings: Any
    ) -> None:
        super().__init__(tensors, loss, device=device, **settings)
        self._weights = weights.to(device) if weights is not None else None

    def loss_of(self, network: nn.Module, rows: Tensor, autocast: Autocast) -> BatchLoss:
        """Loss of some rows, int64 [B]."""
        assert isinstance(network, FactorModel)
        users, items, ratings = self.gather(rows)
        user_terms, item_terms = network.users(users), network.items(items)
        user, item = add_terms(user_terms), add_terms(item_terms)
        if network.hidden is None:  # nothing of a product gains by low precision
            score = network.score(user, item)
        else:
            with autocast():
                score = network.score(user, item)
        value = self._loss(score, ratings)
        if self._weights is None:
            return BatchLoss(value, value)
        return BatchLoss(value + _Squares.apply(self._weights / len(rows), *user_terms, *item_terms), value)


class RandomRatings(RandomRows, RatingBatches):
    """Batches of ratings drawn with replacement, for a learning-rate range test."""


def train_ratings(
    encoded: pl.DataFrame,
    encoder: RatingsEncoder,
    network: RatingNetwork,
    training: RatingsTraining,
    *,
    name: str = "",
    evaluated: bool = True,
) -> tuple[ModelBundle, list[Record]]:
    """Train one network for each of ``training.seeds`` on the rows of the split ``train`` of :func:`.encoder.encode`.

    ``name`` is that of this training among several of one node, such as a fold, and prefix of its checkpoints and
    metrics; ``evaluated``: measure the split ``test``, where there is one, at the end of each epoch.

    Returns:
        The bundle, and the history: a record every few steps with ``member``, ``step``, ``epoch``, ``lr`` and
            ``train_loss`` (without the penalty); the last of each epoch also has the metrics on the split ``test``.
            These do not decide which network is stored: that of the last epoch, or of early stopping.
    """
    spec = _network_spec(encoded, encoder, network, training, evaluated)
    result = train_ensemble(spec, rows=len(spec.tensors[-1]), name=name)
    stored = encoder.model_dump(mode="json")
    return ModelBundle(KIND, spec.config, stored, result.weights, result.metrics), result.history


def range_test(
    encoded: pl.DataFrame,
    encoder: RatingsEncoder,
    network: RatingNetwork,
    training: RatingsTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test on the training rows with the first seed's network."""
    spec, seed = _network_spec(encoded, encoder, network, training, False), training.seeds[0]
    built, accelerator = spec.build(seed), make_accelerator(training)
    batches = spec.batches(built, accelerator, RandomRatings, shard=WHOLE)
    return in_threads(
        training.threads,
        lambda: lr_finder.range_test(built, batches, training, finder, accelerator=accelerator, seed=seed),
    )


@dataclass(frozen=True)
class RatingNetworkSpec:
    """Ratings and settings of the networks of an ensemble.

    ``held_out``, if any, are measured at the end of each epoch, predictions clipped to ``rating_range``.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    held_out: tuple[Tensor, Tensor, Tensor] | None
    rating_range: tuple[float, float]
    training: RatingsTraining
    config: dict[str, Any]
    codes: tuple[FeatureCodes | None, FeatureCodes | None]

    def build(self, seed: int) -> FactorModel:
        """The network of a seed."""
        return build_network(self.config, self.codes, seed=seed)

    def batches(
        self, network: nn.Module, accelerator: Accelerator, kind: type[RatingBatches] = RatingBatches, **settings: Any
    ) -> RatingBatches:
        """Batches of all ratings, those held out for early stopping included; ``settings`` of :class:`TableBatches`."""
        assert isinstance(network, FactorModel)
        training, weights = self.training, penalty_weights(self.training.penalty, network.factors, network.bias)
        settings = {"batch_size": training.batch_size, "shard": accelerator.shard, **settings}
        return kind(self.tensors, LOSSES[training.loss], weights, device=accelerator.device, **settings)

    def fit(self, network: nn.Module, *, accelerator: Accelerator, **settings: Any) -> FitResult:
        """Train it; ``settings`` are those of :func:`embedline.training.train.train`.

        Too few ratings to hold any out for early stopping are a DataError.
        """
        training, learned = self.training, None
        if training.early_stopping:
            learned, held_out = hold_out(len(self.tensors[-1]), training.early_stopping)
            settings["monitor"] = row_monitor(self.tensors, LOSSES[training.loss], accelerator.device, held_out)
        batches = self.batches(network, accelerator, rows=learned)
        return train(network, batches, training, accelerator=accelerator, **settings)

    def evaluator(self, accelerator: Accelerator) -> Evaluate | None:
        """Metrics of the held-out ratings; None without any."""
        if self.held_out is None:
            return None
        users, items, actual = (tensor.numpy() for tensor in self.held_out)

        def evaluate(network: nn.Module) -> dict[str, float]:
            network.eval()
            predicted = pair_scores(network, users, items, accelerator.device)
            return rating_metrics(actual, np.clip(predicted, *self.rating_range))

        return evaluate


def _network_spec(
    encoded: pl.DataFrame, encoder: RatingsEncoder, network: RatingNetwork, training: RatingsTraining, evaluated: bool
) -> RatingNetworkSpec:
    tensors, held_out = rating_tensors(subset(encoded, TRAIN)), subset(encoded, TEST)
    measured = rating_tensors(held_out) if evaluated and len(held_out) else None
    config, codes = network_config(encoder, network), feature_codes(encoder)
    return RatingNetworkSpec(tensors, measured, encoder.rating_range, training, config, codes)


def rating_tensors(rows: pl.DataFrame) -> tuple[Tensor, Tensor, Tensor]:
    """User rows int32 [N], item rows int32 [N] and ratings float32 [N] of encoded rows."""
    users, items, ratings = (
        torch.from_numpy(rows.get_column(name).to_numpy(writable=True)) for name in (USER_ROW, ITEM_ROW, RATING)
    )
    return users, items, ratings


@dataclass(frozen=True)
class RatingModel:
    """A bundle ready to predict: its encoder, and its members with their weights in the mean."""

    encoder: RatingsEncoder
    networks: list[FactorModel]
    weights: list[float]

    def predict(self, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Ratings float64 [N] of pairs: the members' mean, within the rating range."""
        outputs = [pair_scores(network, user_rows, item_rows, torch.device("cpu")) for network in self.networks]
        return np.clip(weighted_mean(outputs, self.weights), *self.encoder.rating_range)

    def scores(self, user_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores float32 [n, n_items] of all items, row 0 left out, for some users.

        The members' mean; not cut off at the rating range, where the best items would be equal.
        """
        total = np.zeros((len(user_rows), len(self.encoder.items)), dtype=np.float32)
        users, items = torch.tensor(user_rows), torch.arange(1, len(self.encoder.items) + 1)
        with torch.inference_mode():
            for network, weight in zip(self.networks, self.weights, strict=True):
                total += weight * network.cross(*network.user_vectors(users), *network.item_vectors(items)).numpy()
        return total


def load_model(bundle: ModelBundle) -> RatingModel:
    """Rebuild the members of a ratings bundle, in evaluation mode; a bundle of another learner is a DataError."""
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    encoder = RatingsEncoder.model_validate(bundle.encoder)
    codes, members = feature_codes(encoder), int(bundle.metrics["members"])
    networks = [build_network(bundle.config, codes, seed=0) for _ in range(members)]
    nn.ModuleList(networks).eval().load_state_dict(bundle.weights)
    return RatingModel(encoder, networks, list(bundle.metrics["member_weights"]))


def rating_metrics(actual: NDArray[np.floating], predicted: NDArray[np.floating]) -> dict[str, float]:
    """MSE, RMSE, MAE and, where the ratings differ, R² of float arrays [N]."""
    metrics = regression_metrics(actual, predicted, logarithmic=False)
    return {"mse": metrics["rmse"] ** 2, **metrics}


def pair_scores(
    network: nn.Module, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer], device: torch.device
) -> NDArray[np.float32]:
    """Scores float32 [N] of pairs by a network in evaluation mode, in full precision."""
    scores = np.empty(len(user_rows), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(user_rows), PREDICT_ROWS):
            block = slice(start, start + PREDICT_ROWS)
            users, items = (torch.tensor(rows[block]) for rows in (user_rows, item_rows))
            scores[block] = network(users.to(device), items.to(device)).cpu().numpy()
    return scores
