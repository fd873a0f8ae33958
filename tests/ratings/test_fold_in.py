"""Folding in finds the minimum of its objective: in closed form for a product, by descent for everything else."""

from typing import Any

import numpy as np
import pytest
import torch
from hand_made import encoder_of, network_of, small_items, small_ratings

from embedline.pipelines.ratings import fold_in as module
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.network import FactorModel, Vectors
from embedline.pipelines.ratings.options import FoldInOptions, Penalty

OPTIONS, PENALTY = FoldInOptions(factors=0.7, biases=1.5, iterations=40), Penalty(factors=0.2, biases=0.05)
GIVEN = KnownRatings.by_user(
    [2, 0, 2, 0, 2, 3], np.array([1, 5, 2, 8, 3, 4]), np.array([5.0, 1.0, 4.0, 2.0, 3.0, 4.5]), n_users=4
)


def make(**options: Any) -> FactorModel:
    return network_of(encoder_of(small_ratings(), small_items(), features=("genres",)), 1, **options)


def bases(k: int = 4) -> Vectors:
    random = torch.Generator().manual_seed(5)
    return Vectors(0.3 * torch.randn(4, k, generator=random), 0.3 * torch.randn(4, generator=random))


def objective(model: FactorModel, rows: torch.Tensor, base: Vectors, user: int) -> torch.Tensor:
    """The documented objective of one user, in float64; ``rows`` [k + 1] is the user's own row."""
    mine = GIVEN.user == user
    items = model.item_vectors(GIVEN.item[mine])
    whole = torch.cat([base.factors[user], base.biases[user : user + 1]]).double() + rows
    n = int(mine.sum())
    scores = model.double().from_vectors(
        whole[:-1].expand(n, -1), whole[-1:].expand(n), items.factors.double(), items.biases.double()
    )
    model.float()
    errors = ((torch.as_tensor(GIVEN.rating[mine]) - scores) ** 2).sum()
    pull = n * PENALTY.factors + OPTIONS.factors, n * PENALTY.biases + OPTIONS.biases
    return errors + pull[0] * (rows[:-1] ** 2).sum() + pull[1] * rows[-1] ** 2


def own_rows(found: Vectors, base: Vectors) -> torch.Tensor:
    return torch.cat([found.factors - base.factors, (found.biases - base.biases)[:, None]], dim=1).double()


def test_a_product_has_the_closed_form_of_ridge_regression() -> None:
    model, base = make(), bases()
    found = fold_in(model, GIVEN, base, OPTIONS, PENALTY)
    for user, n in ((0, 2), (2, 3), (3, 1)):
        mine = GIVEN.user == user
        items = model.item_vectors(GIVEN.item[mine])
        x = np.hstack([items.factors.numpy(), np.ones((n, 1))]).astype(np.float64)
        known = np.append(base.factors[user], base.biases[user]).astype(np.float64)
        residual = GIVEN.rating[mine] - model.mean - items.biases.numpy() - x @ known
        ridge = np.diag([n * 0.2 + 0.7] * 4 + [n * 0.05 + 1.5])
        expected = known + np.linalg.solve(x.T @ x + ridge, x.T @ residual)
        assert np.append(found.factors[user], found.biases[user]) == pytest.approx(expected, abs=1e-5)
    # A user without ratings is what the features say.
    assert found.factors[1].tolist() == base.factors[1].tolist() and found.biases[1] == base.biases[1]


@pytest.mark.parametrize(
    "options",
    [{"y_range": (0.5, 5.5)}, {"kind": "mlp", "layers": (6,)}, {"kind": "mlp", "layers": (6, 3), "y_range": "auto"}],
    ids=["sigmoid", "hidden", "both"],
)
def test_other_models_reach_a_minimum(options: dict[str, Any]) -> None:
    model, base = make(**options), bases()
    own = own_rows(fold_in(model, GIVEN, base, OPTIONS, PENALTY), base)
    random = torch.Generator().manual_seed(9)
    for user in (0, 2, 3):
        reached = float(objective(model, own[user], base, user))
        before = float(objective(model, torch.zeros(5, dtype=torch.float64), base, user))
        assert reached < before and (user == 3 or reached < before - 0.1)
        for _ in range(40):  # nothing better nearby; hidden layers have kinks
            nearby = own[user] + 0.03 * torch.randn(5, generator=random, dtype=torch.float64)
            assert float(objective(model, nearby, base, user)) > (0.99 if model.hidden else 1.0) * reached - 1e-5


def test_no_bias_is_made_up_for_a_model_without_any() -> None:
    model = make(bias=False)
    found = fold_in(model, GIVEN, Vectors(torch.zeros(4, 4), torch.zeros(4)), OPTIONS, PENALTY)
    assert found.biases.tolist() == [0.0] * 4
    assert found.factors[0].abs().sum() > 0.1


@pytest.mark.parametrize("options", [{}, {"y_range": (0.5, 5.5)}], ids=["product", "sigmoid"])
def test_users_one_by_one_and_in_blocks_come_out_the_same(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, base = make(**options), bases()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    together, again = (fold_in(model, GIVEN, base, OPTIONS, PENALTY) for _ in range(2))
    assert torch.equal(together.factors, again.factors)
    # The model and the base stay as they were.
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(base.factors, bases().factors) and torch.equal(base.biases, bases().biases)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 1)
    apart = fold_in(model, GIVEN, base, OPTIONS, PENALTY)
    assert apart.factors.numpy() == pytest.approx(together.factors.numpy(), abs=2e-4)
    assert apart.biases.numpy() == pytest.approx(together.biases.numpy(), abs=2e-4)


def test_a_trained_user_is_found_again() -> None:
    """Ratings that a vector has made, many and without noise, lead back to it."""
    model = make()
    truth = Vectors(torch.tensor([[0.5, -1.0, 0.3, 0.8]]), torch.tensor([0.4]))
    rows = np.tile(np.arange(1, 9), 200)
    items = model.item_vectors(rows)
    with torch.no_grad():
        ratings = model.from_vectors(truth.factors.expand(1600, -1), truth.biases.expand(1600), *items).numpy()
    given = KnownRatings(np.zeros(1600, dtype=int), rows, ratings, 1)
    loose = FoldInOptions(factors=1e-3, biases=1e-3)
    found = fold_in(model, given, Vectors(torch.zeros(1, 4), torch.zeros(1)), loose, Penalty())
    assert found.factors[0].tolist() == pytest.approx(truth.factors[0].tolist(), abs=1e-2)
    assert found.biases.item() == pytest.approx(0.4, abs=1e-2)
