"""Rankers against formulas by brute force and dense solutions, on small random matrices, and the one of features."""

import logging
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from hand_made import COLUMNS

from embedline.errors import DataError
from embedline.pipelines.ratings import rankers
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.factors import ChoiceBatches, FactorNetwork, Factors
from embedline.pipelines.ratings.network import feature_codes
from embedline.pipelines.ratings.options import FactorsTraining, FeatureOptions
from embedline.pipelines.ratings.rankers import Als, Ease, ItemKnn, Popularity, row_blocks
from embedline.pipelines.ratings.ranking import interaction_matrix

N_USERS, N_ITEMS = 25, 9


def solve_rows(matrix: sp.csr_array, others: torch.Tensor, **settings: float) -> torch.Tensor:
    return rankers.solve_rows(row_blocks(matrix, others.shape[1]), matrix.shape[0], others, **settings)


def interactions(seed: int = 0, density: float = 0.4) -> sp.csr_array:
    """Values 0.2 … 1.0, some rows empty."""
    random = np.random.default_rng(seed)
    dense = random.integers(1, 6, (N_USERS, N_ITEMS)) / 5 * (random.random((N_USERS, N_ITEMS)) < density)
    dense[3] = 0.0
    return sp.csr_array(dense.astype(np.float32))


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    matrix = interactions()
    dense, penalty = matrix.toarray().astype(np.float64), 3.0
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):  # a zero diagonal: the item itself is no variable
        others = [other for other in range(N_ITEMS) if other != item]
        x = dense[:, others]
        expected[others, item] = np.linalg.solve(x.T @ x + penalty * np.eye(N_ITEMS - 1), x.T @ dense[:, item])
    ranker = Ease.fit(matrix, penalty=penalty)
    np.testing.assert_allclose(ranker.matrix.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(ranker.scores(matrix), dense @ expected, atol=1e-5)
    assert ranker.scores(matrix)[3].tolist() == [0.0] * N_ITEMS


def test_ease_in_blocks_of_columns_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ease.fit(interactions(), penalty=2.0).matrix
    monkeypatch.setattr(rankers, "BLOCK_CELLS", 2 * N_ITEMS)
    torch.testing.assert_close(Ease.fit(interactions(), penalty=2.0).matrix, whole)


def test_ease_refuses_more_items_than_the_memory_may_hold() -> None:
    with pytest.raises(DataError, match=r"9 items need 972 bytes.*rankers\.ease\.max_items allows 8 .*768 bytes"):
        Ease.fit(interactions(), penalty=1.0, max_items=8)
    assert Ease.fit(interactions(), penalty=1.0, max_items=9).matrix.shape == (9, 9)


def objective(dense: np.ndarray, users: np.ndarray, items: np.ndarray, alpha: float, penalty: float) -> float:
    error = (1 + alpha * dense) * (dense - users @ items.T) ** 2
    return float(error.sum() + penalty * ((users**2).sum() + (items**2).sum()))


def test_half_a_step_of_als_is_the_dense_solution() -> None:
    matrix = interactions(1)
    others, alpha, penalty = torch.randn(N_ITEMS, 4, generator=torch.Generator().manual_seed(0)), 2.0, 0.7
    found = solve_rows(matrix, others, alpha=alpha, penalty=penalty).numpy()
    q = others.double().numpy()
    for row, wanted in zip(found, matrix.toarray().astype(np.float64), strict=True):
        weights = np.diag(1 + alpha * wanted)
        expected = np.linalg.solve(q.T @ weights @ q + penalty * np.eye(4), q.T @ weights @ wanted)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_every_half_step_of_als_lowers_the_objective() -> None:
    matrix, alpha, penalty = interactions(2), 1.5, 0.5
    dense, transposed = matrix.toarray().astype(np.float64), matrix.T.tocsr()
    random = torch.Generator().manual_seed(3)
    users, items = torch.randn(N_USERS, 3, generator=random), torch.randn(N_ITEMS, 3, generator=random)
    values = [objective(dense, users.numpy(), items.numpy(), alpha, penalty)]
    for _ in range(6):
        users = solve_rows(matrix, items, alpha=alpha, penalty=penalty)
        values.append(objective(dense, users.numpy(), items.numpy(), alpha, penalty))
        items = solve_rows(transposed, users, alpha=alpha, penalty=penalty)
        values.append(objective(dense, users.numpy(), items.numpy(), alpha, penalty))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(values))
    assert values[-1] < 0.5 * values[0]


def test_als_folds_known_and_new_users_in_alike_and_follows_its_seed() -> None:
    matrix, settings = interactions(4), {"factors": 3, "penalty": 0.5, "alpha": 1.0, "iterations": 4}
    ranker = Als.fit(matrix, **settings, seed=7)
    again, other = Als.fit(matrix, **settings, seed=7), Als.fit(matrix, **settings, seed=8)
    assert torch.equal(ranker.items, again.items) and not torch.equal(ranker.items, other.items)
    new = sp.csr_array(matrix.toarray()[5:6])
    users = solve_rows(matrix, ranker.items, alpha=1.0, penalty=0.5)
    np.testing.assert_allclose(ranker.scores(new)[0], (users @ ranker.items.T)[5].numpy(), atol=1e-5)
    assert ranker.scores(matrix)[3].tolist() == [0.0] * N_ITEMS


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, others = interactions(5), torch.randn(N_ITEMS, 4, generator=torch.Generator().manual_seed(1))
    whole = solve_rows(matrix, others, alpha=1.0, penalty=1.0)
    monkeypatch.setattr(rankers, "BLOCK_NUMBERS", 40)
    torch.testing.assert_close(solve_rows(matrix, others, alpha=1.0, penalty=1.0), whole)


def test_where_float32_rounds_the_penalty_away_als_is_solved_in_float64() -> None:
    matrix, penalty = interactions(5), 1e-3
    line = torch.linspace(1.0, 2.0, N_ITEMS)[:, None]
    others = 1e3 * line + 1e-1 * torch.randn(N_ITEMS, 4, generator=torch.Generator().manual_seed(1))
    q = others.double().numpy()
    gram = (others.T @ others + penalty * torch.eye(4)).expand(2, -1, -1)
    assert torch.linalg.cholesky_ex(gram).info.all()  # else this tests nothing
    found = solve_rows(matrix, others, alpha=1.0, penalty=penalty).double().numpy()
    dense = matrix.toarray().astype(np.float64)
    for row, wanted in zip(found, dense, strict=True):
        weights = np.diag(1 + wanted)
        expected = np.linalg.solve(q.T @ weights @ q + penalty * np.eye(4), q.T @ weights @ wanted)
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-6)


def test_nearest_items_by_a_loop() -> None:
    matrix, shrinkage = interactions(6), 0.5
    dense = matrix.toarray().astype(np.float64)
    lengths = np.linalg.norm(dense, axis=0)
    similar = dense.T @ dense / (np.outer(lengths, lengths) + shrinkage)
    np.fill_diagonal(similar, 0.0)
    expected = np.zeros_like(dense)
    for item in range(N_ITEMS):
        for other in np.argsort(-similar[item], kind="stable")[:3]:
            expected[:, item] += similar[item, other] * dense[:, other]
    np.testing.assert_allclose(
        ItemKnn.fit(matrix, neighbours=3, shrinkage=shrinkage).scores(matrix), expected, atol=1e-5
    )


def test_an_item_without_interactions_has_a_score_of_zero() -> None:
    dense = interactions(6).toarray()
    dense[:, 2] = 0.0
    matrix = sp.csr_array(dense)
    for ranker in (ItemKnn.fit(matrix, neighbours=3, shrinkage=0.0), Ease.fit(matrix, penalty=1.0)):
        assert np.isfinite(ranker.scores(matrix)).all()
        np.testing.assert_allclose(ranker.scores(matrix)[:, 2], 0.0, atol=1e-7)


def test_popularity_counts_users_and_those_who_liked_an_item() -> None:
    matrix = sp.csr_array(np.array([[0.2, 0.8, 0.0], [1.0, 0.8, 0.0]], dtype=np.float32))
    assert Popularity.fit(matrix).scores(matrix).tolist() == [[2.0, 2.0, 0.0]] * 2
    assert Popularity.fit(matrix, least=0.8).counts.tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("n", [1, 2])
def test_one_user_or_one_item(n: int) -> None:
    matrix = sp.csr_array(np.ones((1, n), dtype=np.float32))
    for ranker in (
        Ease.fit(matrix, penalty=1.0),
        Als.fit(matrix, factors=2, penalty=1.0, alpha=1.0, iterations=2),
        ItemKnn.fit(matrix, neighbours=5, shrinkage=0.0),
    ):
        assert ranker.scores(matrix).shape == (1, n) and np.isfinite(ranker.scores(matrix)).all()


STYLES = ["jazz", "folk", "rock"]
N_CHOOSERS, N_CHOSEN = 60, 36
SETTINGS = {"factors": 8, "weight_decay": 0.1, "batch_size": 16, "epochs": 20}


def choices() -> tuple[RatingsEncoder, sp.csr_array]:
    """Users choose items of the style of their number; every seventh item has features alone."""
    random, rows = np.random.default_rng(0), []
    for user in range(N_CHOOSERS):
        own = [item for item in range(N_CHOSEN) if item % 3 == user % 3 and item % 7]
        rows += [(user, item, 5.0) for item in random.choice(own, 6, replace=False).tolist()]
    ratings = pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")
    items = pl.DataFrame({"item": range(N_CHOSEN), "style": [STYLES[k % 3] for k in range(N_CHOSEN)]})
    users = pl.DataFrame({"user": range(N_CHOOSERS + 3), "taste": [STYLES[k % 3] for k in range(N_CHOOSERS + 3)]})
    features = FeatureOptions(items=("style",), users=("taste",))
    encoder = fit_encoder(ratings, COLUMNS, (0.0, 5.0), features, items, users)
    return encoder, interaction_matrix(encode(ratings, encoder, COLUMNS), encoder)


ENCODER, MATRIX = choices()
RANKER = Factors.fit(MATRIX, ENCODER, **SETTINGS)


def styles(rows: np.ndarray) -> np.ndarray:
    return np.array([ENCODER.items[row] % 3 for row in rows])


def test_untrained_items_and_users_are_known_by_their_features() -> None:
    users = np.arange(1, N_CHOOSERS + 1)
    scores = RANKER.scores(MATRIX[users], users)
    assert scores.shape == (N_CHOOSERS, N_CHOSEN)
    untrained = scores[:, ENCODER.trained_items :]
    best = ENCODER.trained_items + untrained.argmax(axis=1)
    assert (styles(best) == np.arange(N_CHOOSERS) % 3).mean() > 0.95
    nobody = sp.csr_array((3, ENCODER.trained_items), dtype=np.float32)
    new = ENCODER.user_rows(np.array([N_CHOOSERS, N_CHOOSERS + 1, N_CHOOSERS + 2]))
    assert (new > ENCODER.trained_users).all()
    assert styles(RANKER.scores(nobody, new).argmax(axis=1)).tolist() == [0, 1, 2]
    # Without features all are alike, whoever asks.
    unknown = RANKER.scores(nobody)
    np.testing.assert_array_equal(unknown[0], unknown[2])


def test_by_their_features_alone_items_of_one_style_are_equal() -> None:
    scores = RANKER.scores(MATRIX[1:4], np.array([1, 2, 3]), own=False)
    for style in range(3):
        of_style = scores[:, styles(np.arange(N_CHOSEN)) == style]
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
        options = FactorsTraining(factors=3, item_dropout=0.0, negatives=negatives, batch_size=N_CHOOSERS)
        batches = ChoiceBatches(MATRIX, options, 0, torch.device("cpu"))
        with torch.no_grad():
            losses = [batches.loss_of(network, torch.arange(N_CHOOSERS), None) for _ in range(40)]  # type: ignore[arg-type]
        return float(np.mean([loss.total.item() for loss in losses]))

    assert mean_loss(20) == pytest.approx(mean_loss(1000), rel=0.02)


@pytest.mark.parametrize("n_items", [1, 2])
def test_factors_of_one_user_or_one_item(n_items: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = pl.DataFrame({"user": [1] * n_items, "item": list(range(n_items)), "rating": [5.0] * n_items})
    encoder = fit_encoder(rows, COLUMNS, (0.0, 5.0))
    matrix = interaction_matrix(encode(rows, encoder, COLUMNS), encoder)
    with caplog.at_level(logging.WARNING):
        ranker = Factors.fit(matrix, encoder, **SETTINGS)
    assert np.isfinite(ranker.scores(matrix)).all()
    assert ("two choices" in caplog.text) == (n_items == 1)
