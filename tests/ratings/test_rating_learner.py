"""Training on simulated ratings: how near the noise it comes, the loss, and that what is stored predicts the same."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from simulated_ratings import N_ITEMS, NOISE, items_table, ratings_table, users_table

from embedline.errors import DataError
from embedline.pipelines.ratings import learner
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, subset
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.evaluation import fit_biases
from embedline.pipelines.ratings.learner import (
    RandomRatings,
    RatingBatches,
    _Squares,
    load_model,
    penalty_weights,
    range_test,
    rating_tensors,
    train_ratings,
)
from embedline.pipelines.ratings.network import FactorModel, build_network, feature_codes, network_config
from embedline.pipelines.ratings.options import BaselineOptions, FeatureOptions, Penalty, RatingNetwork, RatingsTraining
from embedline.training import checkpoint as checkpoints
from embedline.training import ensemble
from embedline.training import train as loop
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

COLUMNS = RatingColumns()
SPLIT = RatingSplit(kind="column", column="fold", value=1)
FEATURES = FeatureOptions(items=("genres",), users=("taste",))
NETWORK = RatingNetwork(factors=4, init_std=0.1)


def make_training(**changes: Any) -> RatingsTraining:
    values = {"epochs": 12, "batch_size": 32, "lr": 0.01, "penalty": {"factors": 0.03, "biases": 0.003}}
    return RatingsTraining.model_validate({**values, "device": "cpu", "precision": "fp32", **changes})


def prepare(features: FeatureOptions = FEATURES, split: RatingSplit = SPLIT) -> tuple[pl.DataFrame, RatingsEncoder]:
    ratings = ratings_table()
    train = ratings.filter(pl.col("fold") != 1) if split is SPLIT else ratings
    encoder = fit_encoder(train, COLUMNS, "auto", features, items_table(), users_table())
    return encode(ratings, encoder, COLUMNS, split), encoder


def predict(bundle: ModelBundle, users: Any, items: Any) -> np.ndarray:
    return load_model(bundle).predict(users, items)


def mse_of(encoded: pl.DataFrame, bundle: ModelBundle) -> float:
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, "test")))
    return float(np.mean((predict(bundle, users, items) - actual) ** 2))


@pytest.fixture(scope="module")
def trained() -> tuple[pl.DataFrame, RatingsEncoder, ModelBundle, list[dict[str, float]]]:
    encoded, encoder = prepare()
    bundle, history = train_ratings(encoded, encoder, NETWORK, make_training(seeds=(1, 2), weights=(3.0, 1.0)))
    return encoded, encoder, bundle, history


def test_it_learns_the_true_effects_to_near_the_noise_and_biases_do_not(trained: Any) -> None:
    encoded, encoder, bundle, _ = trained
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, "test")))
    biases = fit_biases(encoded, encoder, BaselineOptions())
    assert mse_of(encoded, bundle) < 1.3 * NOISE**2
    assert np.mean((biases.predict(users, items) - actual) ** 2) > 3.0 * NOISE**2  # the tastes are no biases


@pytest.mark.parametrize(
    ("network", "training", "most"),
    [
        ({"y_range": "auto"}, {"penalty": {"factors": 0.01}}, 1.35),
        ({"kind": "mlp", "layers": [20], "dropout": 0.05}, {"lr": 0.01, "epochs": 15}, 1.5),
        ({"bias": False}, {}, 1.6),
        ({}, {"penalty": {}, "weight_decay": 0.05}, 1.6),
        ({}, {"penalty": {}, "weight_decay": 0.002, "decay": "l2"}, 1.6),
        ({}, {"loss": "l1"}, 1.5),
        ({}, {"loss": "huber"}, 1.3),
        ({}, {"accumulate": 2, "lr": 0.02}, 1.3),
    ],
    ids=str,
)
def test_every_variant_learns(network: dict[str, Any], training: dict[str, Any], most: float) -> None:
    encoded, encoder = prepare()
    options = RatingNetwork.model_validate({**NETWORK.model_dump(), **network})
    bundle, _ = train_ratings(encoded, encoder, options, make_training(**training))
    assert mse_of(encoded, bundle) < most * NOISE**2


def test_members_are_averaged_with_their_weights_and_end_at_the_range(trained: Any) -> None:
    _, encoder, bundle, _ = trained
    users, items = np.arange(61, dtype=np.int32), np.arange(61, dtype=np.int32) % 41
    one, two = (
        member(torch.tensor(users), torch.tensor(items)).detach().numpy().astype(float)
        for member in load_model(bundle).networks
    )
    expected = np.clip(0.75 * one + 0.25 * two, *encoder.rating_range)
    np.testing.assert_allclose(predict(bundle, users, items), expected, rtol=1e-6)
    narrow = ModelBundle(
        bundle.kind, bundle.config, {**bundle.encoder, "rating_range": [2.9, 3.1]}, bundle.weights, bundle.metrics
    )
    assert set(predict(narrow, users, items).round(6)) >= {2.9, 3.1}
    assert predict(narrow, users, items).min() == 2.9


def test_predictions_are_those_of_the_stored_bundle_in_any_blocks(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encoder, bundle, _ = trained
    back = ModelBundle.from_bytes(bundle.to_bytes())
    users, items = encoded["user_row"].to_numpy(), encoded["item_row"].to_numpy()
    whole = predict(bundle, users, items)
    np.testing.assert_array_equal(predict(back, users, items), whole)
    assert RatingsEncoder.model_validate(back.encoder) == encoder
    monkeypatch.setattr(learner, "PREDICT_ROWS", 7)
    np.testing.assert_allclose(predict(bundle, users, items), whole, rtol=1e-6)
    assert predict(bundle, users[:0], items[:0]).shape == (0,)
    with pytest.raises(DataError, match="'tabular', not 'ratings'"):
        load_model(ModelBundle("tabular", {}, {}, {}))


def test_the_matrix_of_scores_is_that_of_the_pairs(trained: Any) -> None:
    _, encoder, bundle, _ = trained
    users = np.array([5, 0, 60], dtype=np.int32)
    scores = load_model(bundle).scores(users)
    assert scores.shape == (3, N_ITEMS)
    assert scores.dtype == np.float32
    items = np.arange(1, N_ITEMS + 1)
    for place, user in enumerate(users):
        pairs = predict(bundle, np.full(N_ITEMS, user), items)
        np.testing.assert_allclose(np.clip(scores[place], *encoder.rating_range), pairs, rtol=1e-5)


def test_an_item_without_ratings_is_known_by_its_genre() -> None:
    ratings = ratings_table().filter(pl.col("item") < 138)  # 138, 139 and 140 have the genres 1, 2 and 0
    encoder = fit_encoder(ratings, COLUMNS, "auto", FEATURES, items_table(), users_table())
    assert (encoder.trained_items, len(encoder.items)) == (37, 40)
    bundle, _ = train_ratings(encode(ratings, encoder), encoder, NETWORK, make_training())
    users = encoder.user_rows([f"u{k:02}" for k in range(60)])
    for item in (138, 139, 140):
        rows = np.full(60, encoder.item_rows([item])[0])
        predicted, likes = predict(bundle, users, rows), np.arange(60) % 3 == (item - 101) % 3
        # The true effect is 1.2; a trained item's own vector takes a share.
        assert 0.4 < predicted[likes].mean() - predicted[~likes].mean() < 1.3
    assert not bundle.weights["0.items.own"][38:].any()


def test_history_and_metrics_of_the_training(trained: Any) -> None:
    encoded, _, bundle, history = trained
    for member in (0, 1):
        ends = [record for record in history if record["member"] == member and "mse" in record]
        assert [record["epoch"] for record in ends] == list(range(1, 13))
        alone = load_model(bundle).networks[member]
        users, items, actual = rating_tensors(subset(encoded, "test"))
        mse = ((alone(users, items) - actual) ** 2).mean().item()
        assert ends[-1]["mse"] == pytest.approx(mse, rel=1e-3)  # clipped, which changes little here
        assert ends[-1]["rmse"] == pytest.approx(ends[-1]["mse"] ** 0.5)
    # The training loss is without the penalty, which alone would be above it.
    assert history[-1]["train_loss"] < 1.3 * NOISE**2
    assert bundle.metrics["rows"] == 1600
    assert bundle.metrics["member_weights"] == [0.75, 0.25]
    assert bundle.metrics["rows_per_second"] > 0


@pytest.mark.parametrize(("split", "evaluated"), [(RatingSplit(kind="none"), True), (SPLIT, False)])
def test_nothing_held_out_means_no_metrics_by_epoch(split: RatingSplit, evaluated: bool) -> None:
    encoded, encoder = prepare(split=split)
    _, history = train_ratings(encoded, encoder, NETWORK, make_training(epochs=1), evaluated=evaluated)
    assert not any("mse" in record for record in history)


def test_members_side_by_side_are_those_trained_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encoder = prepare()
    network = RatingNetwork(factors=4, kind="mlp", layers=(8,), dropout=0.2)
    training = make_training(epochs=2, seeds=(1, 2))
    bundles = []
    for cores in (1, 2):
        monkeypatch.setattr(ensemble, "available_cores", lambda cores=cores: cores)
        bundles.append(train_ratings(encoded, encoder, network, training)[0])
    assert [bundle.metrics["workers"] for bundle in bundles] == [1, 2]
    for name, tensor in bundles[0].weights.items():
        assert torch.equal(bundles[1].weights[name], tensor), name


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encoder = prepare()
    training = make_training(epochs=2, seeds=(1, 2))
    whole, history = train_ratings(encoded, encoder, NETWORK, training)
    taken, steps = loop.training_step, []

    def cut(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 70:
            raise KeyboardInterrupt
        return taken(*args, **kwargs)

    monkeypatch.setattr(ensemble, "available_cores", lambda: 1)
    with checkpoints.checkpointing(tmp_path, 0.0):
        monkeypatch.setattr(loop, "training_step", cut)
        with pytest.raises(KeyboardInterrupt):
            train_ratings(encoded, encoder, NETWORK, training, name="fold1")
        monkeypatch.setattr(loop, "training_step", taken)
        assert [path.name for path in tmp_path.iterdir()] == ["fold1.member0.pt"]
        again, resumed = train_ratings(encoded, encoder, NETWORK, training, name="fold1")
    for name, tensor in whole.weights.items():
        assert torch.equal(again.weights[name], tensor), name
    assert resumed == history


def test_the_range_test_uses_the_training_rows_and_leaves_the_random_state_alone() -> None:
    encoded, encoder = prepare()
    before = torch.get_rng_state()
    training, finder = make_training(), FinderOptions(low=1e-4, high=10.0, steps=60)
    found = range_test(encoded, encoder, NETWORK, training, finder)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e-3 < found.suggestion < 1.0
    changed = encoded.with_columns(
        rating=pl.when(pl.col("split") == "test").then(pl.lit(99.0, pl.Float32)).otherwise("rating")
    )
    assert range_test(changed, encoder, NETWORK, training, finder) == found


CPU = torch.device("cpu")
USERS, ITEMS = torch.tensor([1, 2, 2, 9], dtype=torch.int32), torch.tensor([3, 3, 4, 40], dtype=torch.int32)
RATINGS = torch.tensor([1.0, 2.0, 3.0, 4.0])


def model_of(*, features: bool, bias: bool = True) -> FactorModel:
    _, encoder = prepare(FEATURES if features else FeatureOptions(), RatingSplit(kind="none"))
    network = RatingNetwork(factors=3, init_std=0.5, bias=bias)
    return build_network(network_config(encoder, network), feature_codes(encoder), seed=0)


def batches_of(weights: torch.Tensor | None) -> RatingBatches:
    return RatingBatches([USERS, ITEMS, RATINGS], F.mse_loss, weights, batch_size=4, device=CPU)


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_penalty_is_the_mean_of_the_weighted_squares_of_the_batch(features: bool, bias: bool) -> None:
    model = model_of(features=features, bias=bias)
    weights = penalty_weights(Penalty(factors=0.5, biases=0.25), 3, bias)
    rows = torch.tensor([0, 1, 3])
    found = batches_of(weights).loss_of(model, rows, nullcontext)
    expected = 0.0
    for user, item in zip(USERS[rows], ITEMS[rows], strict=True):
        for term in (*model.users(user[None]), *model.items(item[None])):
            expected += 0.5 * term[0, :3].square().sum().item() + (0.25 * term[0, 3].item() ** 2 if bias else 0.0)
    plain = F.mse_loss(model(USERS[rows], ITEMS[rows]), RATINGS[rows]).item()
    assert found.data_term.item() == pytest.approx(plain)
    assert found.total.item() == pytest.approx(plain + expected / 3)


def test_the_gradient_of_the_squares_is_their_derivative() -> None:
    weights = torch.rand(4, dtype=torch.float64)
    parts = tuple(torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *given: _Squares.apply(weights, *given), parts)
    expected = sum((part.detach() ** 2 @ weights).sum().item() for part in parts)
    assert _Squares.apply(weights, *parts).item() == pytest.approx(expected)


def test_only_rows_of_the_batch_are_pulled_and_without_a_penalty_none() -> None:
    model, weights = model_of(features=False), penalty_weights(Penalty(factors=0.5), 3, True)
    batches_of(weights).loss_of(model, torch.tensor([0, 1]), nullcontext).total.backward()
    assert set(model.users.own.grad.any(dim=1).nonzero().flatten().tolist()) == {1, 2}
    assert set(model.items.own.grad.any(dim=1).nonzero().flatten().tolist()) == {3}
    assert penalty_weights(Penalty(), 3, True) is None
    found = batches_of(None).loss_of(model, torch.tensor([0, 1]), nullcontext)
    assert found.total is found.data_term


def test_random_ratings_have_the_penalty_too_and_follow_their_numbers() -> None:
    model, weights = model_of(features=True), penalty_weights(Penalty(factors=0.5), 3, True)
    tasks = [RandomRatings([USERS, ITEMS, RATINGS], F.mse_loss, weights, batch_size=2, device=CPU) for _ in range(2)]
    losses = []
    for task in tasks:
        task.begin_epoch(torch.Generator().manual_seed(5))
        losses.append([float(value) for index in range(2) for value in task.loss(model, index, nullcontext)])
    assert losses[0] == losses[1]
    assert losses[0][0] > losses[0][1]  # the descended one has the penalty
