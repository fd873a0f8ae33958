"""A factor network with a ranking loss, which knows items and users by their features too.

A user is the sum of what was chosen, so that a new one needs no training; an item that nobody has chosen is the sum of
its features. Trained as it is used: some of a user's choices are given, the others are to be ranked above the rest.
"""

import logging
import math
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.pipelines.ratings.encoder import RatingsEncoder
from embedline.pipelines.ratings.network import EntityEmbedding, FeatureCodes, feature_codes
from embedline.pipelines.ratings.options import FactorsTraining
from embedline.training.batches import Autocast, BatchLoss, TableBatches
from embedline.training.device import make_accelerator
from embedline.training.train import train

logger = logging.getLogger(__name__)

STD = 0.05  # of the normal distribution that vectors are drawn from
NEVER = -1e9  # score of an item that is no rival; not -inf, whose gradient is none where all are chosen
GIVEN = (0.2, 0.8)  # share of a user's choices that are given in a step, drawn anew for each


class FactorNetwork(nn.Module):
    """Score of an item for a user: ``<p_u, q_i> + b_i``.

    ``q_i`` and ``b_i`` are an own vector plus the sum over the item's features; ``p_u`` is the sum over the user's
    features plus that of another vector of each chosen item, likewise with features, weighted by the choices' values
    (row of length 1): after SVD++'s implicit feedback (Koren 2008) and LightFM (Kula 2015, arXiv:1507.08439).
    """

    def __init__(
        self, trained_items: int, factors: int, items: FeatureCodes | None, users: FeatureCodes | None
    ) -> None:
        super().__init__()
        n_items = trained_items if items is None else len(items.codes) - 1
        self.trained_items = trained_items
        self.chosen = EntityEmbedding(n_items, factors, items)
        self.items = EntityEmbedding(n_items, factors + 1, items)
        self.chosen.reset_parameters(trained_items, STD, False)
        self.items.reset_parameters(trained_items, STD, True)
        self.users = nn.Parameter(STD * torch.randn(users.n_features + 1, factors)) if users else None
        self._of_users = users

    def item_vectors(self, kept: Tensor | None = None, *, own: bool = True) -> Tensor:
        """Vectors and, last, biases [I, k + 1] of all items.

        Those that are not ``kept``, bool [I], have their features alone, as all have without ``own``.
        """
        return self._sum(self.items, kept if own else torch.zeros(len(self.items.own) - 1, dtype=torch.bool))

    def user_vectors(self, rows: sp.csr_array, users: Tensor, kept: Tensor | None = None) -> Tensor:
        """Vectors [B, k] by rows of interactions, CSR [B, trained_items], and the users' rows int64 [B], 0: unknown."""
        lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        weights = rows.data / np.repeat(np.maximum(lengths, 1e-9), np.diff(rows.indptr))
        table = self._sum(self.chosen, kept)
        places, starts = torch.from_numpy(rows.indices.astype(np.int64)), torch.from_numpy(rows.indptr[:-1].astype(int))
        per_item = torch.from_numpy(weights.astype(np.float32))
        vectors = F.embedding_bag(places, table, starts, mode="sum", per_sample_weights=per_item)
        if self.users is None or self._of_users is None:
            return vectors
        codes, of_feature = self._of_users.codes[users].long(), self._of_users.weights[users]
        return vectors + F.embedding_bag(codes, self.users, mode="sum", per_sample_weights=of_feature)

    @staticmethod
    def _sum(embedding: EntityEmbedding, kept: Tensor | None) -> Tensor:
        own, *features = embedding(torch.arange(1, len(embedding.own)))
        own = own if kept is None else own * kept[:, None]
        return own + features[0] if features else own


class ChoiceBatches(TableBatches):
    """Batches of users by their rows of interactions, CSR [n_users + 1, trained_items].

    The loss is the softmax of each wanted item against items that the user has not chosen, ``negatives`` of them drawn
    at random (all, where there are no more), each weighted so that the sum stands for all items (sampled softmax,
    Bengio & Senécal 2008); the mean over the wanted items, weighted by the choices' values.

    ``item_dropout`` of the items have their features alone in a step, so that these learn to stand for an item that
    nobody has chosen (DropoutNet, Volkovs, Yu & Poutanen 2017).
    """

    def __init__(self, matrix: sp.csr_array, options: FactorsTraining, seed: int, device: torch.device) -> None:
        users = torch.from_numpy(np.flatnonzero(np.diff(matrix.indptr) > 1))  # of one choice nothing is left to rank
        super().__init__([users], F.cross_entropy, batch_size=options.batch_size, device=device)
        self._matrix, self._options = matrix, options
        self._random = np.random.default_rng(seed)

    def loss_of(self, network: nn.Module, rows: Tensor, autocast: Autocast) -> BatchLoss:
        """Loss of some users."""
        assert isinstance(network, FactorNetwork)
        (users,), random, options = self.gather(rows), self._random, self._options
        matrix, n_items = self._matrix[users.numpy()], network.trained_items
        lengths = np.diff(matrix.indptr)
        of_user = np.repeat(np.arange(len(users)), lengths)
        given = random.random(matrix.nnz) < np.repeat(random.uniform(*GIVEN, len(users)), lengths)
        wanted = np.flatnonzero(~given)
        if not len(wanted):  # of a few users with two choices each, say
            wanted = np.arange(matrix.nnz)
        inputs = sp.csr_array(
            (matrix.data[given], matrix.indices[given], np.append(0, np.cumsum(given))[matrix.indptr]), matrix.shape
        )
        drawn = np.arange(n_items)
        if options.negatives < n_items:
            drawn = np.sort(random.choice(n_items, options.negatives, replace=False))
        kept = torch.from_numpy(random.random(len(network.items.own) - 1) >= options.item_dropout)
        vectors, items = network.user_vectors(inputs, users, kept), network.item_vectors(kept)
        scores = torch.addmm(items[drawn, -1], vectors, items[drawn, :-1].T)
        chosen = torch.from_numpy(matrix[:, drawn].toarray() != 0)
        rest = scores.masked_fill(chosen, NEVER).logsumexp(1) + math.log(n_items / len(drawn))  # [B]
        user, item = torch.from_numpy(of_user[wanted]), torch.from_numpy(matrix.indices[wanted].astype(np.int64))
        score = (vectors[user] * items[item, :-1]).sum(1) + items[item, -1]
        weights = torch.from_numpy(matrix.data[wanted])
        value = (F.softplus(rest[user] - score) * weights).sum() / weights.sum()
        return BatchLoss(value, value)


class Factors:
    """The fitted network as a ranker of all items of an encoder, those without training ratings included."""

    kind: ClassVar[str] = "factors"

    def __init__(self, encoder: RatingsEncoder, weights: dict[str, Tensor]) -> None:
        users, items = feature_codes(encoder)
        factors = weights["chosen.own"].shape[1]
        with torch.random.fork_rng(devices=[]):
            self.network = FactorNetwork(encoder.trained_items, factors, items, users).eval()
        self.network.load_state_dict(weights)
        with torch.no_grad():
            self._items, self._features = self.network.item_vectors(), self.network.item_vectors(own=False)

    @classmethod
    def fit(cls, matrix: sp.csr_array, encoder: RatingsEncoder, *, seed: int = 0, **settings: Any) -> "Factors":
        """Train it; ``settings`` are those of :class:`.options.FactorsTraining`."""
        options = FactorsTraining.model_validate(settings)
        users, items = feature_codes(encoder)
        accelerator = make_accelerator(options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = FactorNetwork(encoder.trained_items, options.factors, items, users)
        if not (np.diff(matrix.indptr) > 1).any():
            logger.warning("No user has two choices: the ranker factors has nothing to learn from")
            return cls(encoder, network.state_dict())
        batches = ChoiceBatches(matrix, options, seed, accelerator.device)
        result = train(network, batches, options, accelerator=accelerator, seed=seed, label="ranker")
        return cls(encoder, result.network.state_dict())

    def scores(
        self, rows: sp.csr_array, users: NDArray[np.integer] | None = None, *, own: bool = True
    ) -> NDArray[np.float32]:
        """Scores float32 [n, n_items] of all items for rows of interactions, CSR [n, trained_items].

        ``users`` are rows int [n], for their features; 0, as without any, of an unknown one. Without ``own`` all items
        are scored by their features alone.
        """
        known = torch.zeros(rows.shape[0], dtype=torch.int64) if users is None else torch.tensor(users).long()
        items = self._items if own else self._features
        with torch.no_grad():
            vectors = self.network.user_vectors(rows, known)
            return torch.addmm(items[:, -1], vectors, items[:, :-1].T).numpy()

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the network."""
        return dict(self.network.state_dict())
