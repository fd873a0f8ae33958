"""The factor network with a ranking loss: its loss by a loop, what it learns, and items and users known by features."""

import logging

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from hand_made import COLUMNS

from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.factors import ChoiceBatches, FactorNetwork, Factors
from embedline.pipelines.ratings.network import feature_codes
from embedline.pipelines.ratings.options import FactorsTraining, FeatureOptions
from embedline.pipelines.ratings.ranking import interaction_matrix

STYLES = ["jazz", "folk", "rock"]
N_USERS, N_ITEMS = 60, 36
SETTINGS = {"factors": 8, "weight_decay": 0.1, "batch_size": 16, "epochs": 20}


def choices() -> tuple[RatingsEncoder, sp.csr_array]:
    """Users choose items of the style of their number; every seventh item has features alone."""
    random, rows = np.random.default_rng(0), []
    for user in range(N_USERS):
        own = [item for item in range(N_ITEMS) if item % 3 == user % 3 and item % 7]
        rows += [(user, item, 5.0) for item in random.choice(own, 6, replace=False).tolist()]
    ratings = pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")
    items = pl.DataFrame({"item": range(N_ITEMS), "style": [STYLES[k % 3] for k in range(N_ITEMS)]})
    users = pl.DataFrame({"user": range(N_USERS + 3), "taste": [STYLES[k % 3] for k in range(N_USERS + 3)]})
    features = FeatureOptions(items=("style",), users=("taste",))
    encoder = fit_encoder(ratings, COLUMNS, (0.0, 5.0), features, items, users)
    return encoder, interaction_matrix(encode(ratings, encoder, COLUMNS), encoder)


ENCODER, MATRIX = choices()
RANKER = Factors.fit(MATRIX, ENCODER, **SETTINGS)


def styles(rows: np.ndarray) -> np.ndarray:
    return np.array([ENCODER.items[row] % 3 for row in rows])


def test_untrained_items_and_users_are_known_by_their_features() -> None:
    users = np.arange(1, N_USERS + 1)
    scores = RANKER.scores(MATRIX[users], users)
    assert scores.shape == (N_USERS, N_ITEMS)
    untrained = scores[:, ENCODER.trained_items :]
    best = ENCODER.trained_items + untrained.argmax(axis=1)
    assert (styles(best) == np.arange(N_USERS) % 3).mean() > 0.95
    nobody = sp.csr_array((3, ENCODER.trained_items), dtype=np.float32)
    new = ENCODER.user_rows(np.array([N_USERS, N_USERS + 1, N_USERS + 2]))
    assert (new > ENCODER.trained_users).all()
    assert styles(RANKER.scores(nobody, new).argmax(axis=1)).tolist() == [0, 1, 2]
    # Without features all are alike, whoever asks.
    unknown = RANKER.scores(nobody)
    np.testing.assert_array_equal(unknown[0], unknown[2])


def test_by_their_features_alone_items_of_one_style_are_equal() -> None:
    scores = RANKER.scores(MATRIX[1:4], np.array([1, 2, 3]), own=False)
    for style in range(3):
        of_style = scores[:, styles(np.arange(N_ITEMS)) == style]
        np.testing.assert_allclose(of_style, np.broadcast_to(of_style[:, :1], of_style.shape), atol=1e-5)


def test_the_loss_by_a_loop() -> None:
    options = FactorsTraining(factors=3, item_dropout=0.0, batch_size=8)
    users, items = feature_codes(ENCODER)
    torch.manual_seed(5)
    network = FactorNetwork(ENCODER.trained_items, 3, items, users)
    rows = torch.arange(8)
    found = ChoiceBatches(MATRIX, options, 11, torch.device("cpu")).loss_of(network, rows, None)  # type: ignore[arg-type]
    random = np.random.default_rng(11)  # draws the same
    matrix = MATRIX[1:9]
    share, drawn = random.random(matrix.nnz), random.uniform(0.2, 0.8, 8)
    total, weight = 0.0, 0.0
    q = network.item_vectors().detach().numpy()
    for user in range(8):
        span = slice(matrix.indptr[user], matrix.indptr[user + 1])
        columns, values, is_given = matrix.indices[span], matrix.data[span], share[span] < drawn[user]
        row = sp.csr_array((values[is_given], (np.zeros(is_given.sum(), int), columns[is_given])), (1, matrix.shape[1]))
        p = network.user_vectors(row, torch.tensor([user + 1])).detach().numpy()[0]
        scores = q[: ENCODER.trained_items, :-1] @ p + q[: ENCODER.trained_items, -1]
        rest = np.exp(np.delete(scores, columns)).sum()
        for item, value in zip(columns[~is_given], values[~is_given], strict=True):
            total -= value * np.log(np.exp(scores[item]) / (np.exp(scores[item]) + rest))
            weight += value
    assert found.total.item() == pytest.approx(total / weight, rel=1e-4)


def test_drawn_rivals_stand_for_all() -> None:
    users, items = feature_codes(ENCODER)
    torch.manual_seed(5)
    network = FactorNetwork(ENCODER.trained_items, 3, items, users)

    def mean_loss(negatives: int) -> float:
        options = FactorsTraining(factors=3, item_dropout=0.0, negatives=negatives, batch_size=N_USERS)
        batches = ChoiceBatches(MATRIX, options, 0, torch.device("cpu"))
        with torch.no_grad():
            losses = [batches.loss_of(network, torch.arange(N_USERS), None) for _ in range(40)]  # type: ignore[arg-type]
        return float(np.mean([loss.total.item() for loss in losses]))

    assert mean_loss(20) == pytest.approx(mean_loss(1000), rel=0.02)


@pytest.mark.parametrize("n_items", [1, 2])
def test_one_user_or_one_item(n_items: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = pl.DataFrame({"user": [1] * n_items, "item": list(range(n_items)), "rating": [5.0] * n_items})
    encoder = fit_encoder(rows, COLUMNS, (0.0, 5.0))
    matrix = interaction_matrix(encode(rows, encoder, COLUMNS), encoder)
    with caplog.at_level(logging.WARNING):
        ranker = Factors.fit(matrix, encoder, **SETTINGS)
    assert np.isfinite(ranker.scores(matrix)).all()
    assert ("two choices" in caplog.text) == (n_items == 1)
