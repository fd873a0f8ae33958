"""Weights of rows: two is the row twice, zero is the row left out, in losses, baselines and stores of rows."""

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from law import NOISE, grade_table, sales_table
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.arrays import subset, to_arrays, write_rows
from embedline.pipelines.tabular.baselines import (
    BaselineRows,
    constant_predictions,
    fit_linear,
    fit_trees,
    group_mean_predictions,
    read_rows,
    timed_predictions,
)
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.encoder import Encoder, encode
from embedline.pipelines.tabular.losses import make_loss
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    LinearOptions,
    NetworkOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.targets import CategoryMap, ClassTarget, NumericTarget
from embedline.training.batches import Shard, TableBatches
from embedline.training.metrics import rmspe
from embedline.training.options import FinderOptions

SPLIT = Split(kind="column", column="held_out", value=True)
SHOP = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", weight="w")
GRADE = ClassTarget(column="grade", levels=CategoryMap(kind="string", levels=("a", "b", "c")), counts=(2, 2, 2))
PRICE = NumericTarget(column="price", transform="log", mean=1.0, std=0.5, maximum=3.0)
SIZE = NumericTarget(column="size", transform="none", mean=0.0, std=10.0, maximum=30.0, quantiles=(0.1, 0.5, 0.9))
WEIGHTS = torch.tensor([2.0, 0.0, 1.0, 1.0, 3.0, 0.0])
REPEATED = torch.tensor([0, 0, 2, 3, 4, 4, 4])


def _training(**changes: Any) -> TableTraining:
    small = {"epochs": 3, "batch_size": 128, "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return TableTraining.model_validate({**small, **changes})


def _trained(table: Any, columns: Columns, network: dict[str, Any] | None = None, **training: Any) -> Any:
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    settings = NetworkOptions.model_validate({"layers": 16, **(network or {})})
    bundle, history = nodes.train(encoded, encoder, settings, _training(**training))
    return bundle, history, nw.from_native(encoded, eager_only=True)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        *(([PRICE], {"loss": loss}) for loss in ("mse", "l1", "huber", "relative")),
        ([SIZE], {"loss": "quantile"}),
        ([GRADE], {"label_smoothing": 0.2}),
        ([GRADE], {"class_weights": {"a": 3.0}}),
        ([GRADE, PRICE], {"target_weights": {"price": 0.5}}),
        ([SIZE, GRADE], {"loss": "quantile"}),
    ],
    ids=str,
)
def test_the_loss_of_a_weight_is_that_of_the_row_so_many_times(targets: Any, settings: Any, members: int) -> None:
    random = torch.Generator().manual_seed(0)
    width = sum(target.width for target in targets)
    known = {"grade": torch.tensor([0, 0, 1, 1, 2, 2]).float()}
    labels = [known.get(target.column, torch.randn(6, generator=random)) for target in targets]
    output = torch.randn(6, members, width, generator=random)

    def value(rows: torch.Tensor, weighted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        given = output[rows].flatten(0, 1).squeeze(-1).requires_grad_()
        target = torch.stack([each[rows] for each in labels], dim=1)
        if weighted:
            target = torch.cat([target, (WEIGHTS / WEIGHTS.mean()).unsqueeze(1)], dim=1)
        elif len(targets) == 1:
            target = target[:, 0].long() if targets[0] is GRADE else target[:, 0]
        loss = make_loss(targets, _training(**settings), weighted=weighted)(given, target)
        loss.backward()
        assert given.grad is not None
        return loss.detach(), given.grad.unflatten(0, (-1, members))

    (ours, gradient), (theirs, of_copies) = value(torch.arange(6), True), value(REPEATED, False)
    torch.testing.assert_close(ours, theirs)
    summed = torch.zeros_like(gradient).index_add_(0, REPEATED, of_copies)
    torch.testing.assert_close(gradient, summed)


def test_the_shards_of_several_processes_sum_up_to_the_batch() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, target = torch.randn(11, 1, generator=random), torch.rand(11, 2, generator=random)
    network, loss = torch.nn.Linear(1, 1), make_loss([PRICE], _training(), weighted=True)
    network.forward = lambda values: values[:, 0]  # type: ignore[assignment]
    found = []
    for shard in (Shard(), *(Shard(rank, 3) for rank in range(3))):
        batches = TableBatches((inputs, target), loss, batch_size=11, device=torch.device("cpu"), shard=shard)
        batches.begin_epoch(torch.Generator().manual_seed(1))
        found.append(batches.loss(network, 0, torch.no_grad).total.item())
    assert sum(found[1:]) == pytest.approx(found[0])


def _rows(weights: Any, n_rows: int = 60) -> BaselineRows:
    random = np.random.default_rng(5)
    codes = random.integers(1, 4, (n_rows, 1)).astype(np.int32)
    values = random.normal(size=(n_rows, 2)).astype(np.float32)
    labels = (codes[:, :1] + values[:, :1] + random.normal(size=(n_rows, 1))).astype(np.float32)
    repeated = np.repeat(np.arange(n_rows), weights) if weights is not None else np.arange(n_rows)
    return BaselineRows(codes[repeated], values[repeated], labels[repeated], codes[:9], values[:9], (4,))


def test_ridge_and_constant_take_a_weight_as_so_many_rows() -> None:
    counts = np.random.default_rng(6).integers(0, 4, 60)
    once, twice = _rows(None), _rows(counts)
    weighted = BaselineRows(*list(vars(once).values())[:6], (counts / counts.mean()).astype(np.float32))
    ridge, number = fit_linear(LinearOptions(penalties=(0.01,))), PRICE.model_copy(update={"transform": "none"})
    predicted = [ridge(rows, rows.labels[:, 0], number) for rows in (weighted, twice, once)]
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-5)
    assert np.abs(predicted[0] - predicted[2]).max() > 0.01
    encoder = Encoder(categorical={}, continuous={}, flags=(), keys=(), targets=(number,))
    constant = [constant_predictions(rows, encoder)["price"][0] for rows in (weighted, twice)]
    assert constant[0] == pytest.approx(constant[1], rel=1e-6) and constant[0] == pytest.approx(twice.labels.mean())


def test_logistic_regression_and_shares_take_a_weight_as_so_many_rows() -> None:
    counts = np.random.default_rng(7).integers(0, 4, 60)
    classes = (_rows(None).labels > 2).astype(np.int64)
    once, twice = _rows(None), _rows(counts)
    kept = vars(once) | {"labels": classes, "weights": (counts / counts.mean()).astype(np.float32)}
    weighted = BaselineRows(**kept)
    copies = BaselineRows(**vars(twice) | {"labels": np.repeat(classes, counts, axis=0)})
    target = ClassTarget(column="y", levels=CategoryMap(kind="boolean", levels=(False, True)), counts=(30, 30))
    target = target.model_copy(update={"counts": tuple(np.bincount(copies.labels[:, 0]).tolist())})
    logistic = fit_linear(LinearOptions(penalties=(0.01,)))
    predicted = [logistic(rows, rows.labels[:, 0], target) for rows in (weighted, copies)]
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-3)
    encoder = Encoder(categorical={}, continuous={}, flags=(), keys=(), targets=(target,))
    shares = [constant_predictions(rows, encoder)["y"] for rows in (weighted, copies)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-6) and shares[0].shape == (9, 2)


def test_trees_learn_from_rows_that_weigh_something() -> None:
    rows = _rows(None, n_rows=400)
    spoiled = rows.labels.copy()
    spoiled[::2] += 50.0
    weights = np.tile([0.0, 2.0], 200).astype(np.float32)
    number = PRICE.model_copy(update={"transform": "none"})
    for options in (TreeOptions(n_estimators=60), TreeOptions(n_estimators=60, early_stopping=None)):
        fit = fit_trees(options)
        found = fit(BaselineRows(**vars(rows) | {"labels": spoiled, "weights": weights}), spoiled[:, 0], number)
        assert np.abs(found - rows.labels[:9, 0]).max() < 5.0
        assert fit(rows, spoiled[:, 0], number).max() > 20.0


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_group_means_take_a_weight_as_so_many_rows(make: Any) -> None:
    table = {
        "shop": ["a", "a", "a", "b", "b", "a", "b", "c"],
        "sales": [1.0, 2.0, 6.0, 8.0, 9.0, 0.0, 0.0, 0.0],
        "split": [TRAIN] * 5 + [TEST] * 3,
    }
    frame = nw.from_native(make(table), eager_only=True)
    sales = NumericTarget(column="sales", transform="none", mean=0.0, std=1.0, maximum=9.0)
    found = group_mean_predictions(frame, sales, ("shop",), np.array([2.0, 1.0, 1.0, 0.0, 0.0]))
    assert found.tolist() == pytest.approx([2.5, 2.5, 2.5])  # b has no weight: the mean of all


@pytest.mark.parametrize("make", [pl.DataFrame, pl.DataFrame.to_pandas], ids=["polars", "pandas"])
def test_rows_of_the_weight_zero_are_not_learned_from(make: Any) -> None:
    table = sales_table(2000, n_unlabelled=3).with_row_index("i")
    spoiled, unlabelled = pl.col("i") % 3 == 1, pl.col("sales").is_null()
    weighted = table.with_columns(
        w=pl.when(unlabelled).then(None).when(spoiled).then(0.0).otherwise(2.0),  # none where there is no target
        sales=pl.when(spoiled & ~pl.col("held_out")).then(pl.col("sales") * 100).otherwise("sales"),
    )
    settings = {"epochs": 15, "batch_size": 64, "seeds": (1, 2), "early_stopping": {"patience": 15}}
    bundle, history, encoded = _trained(make(weighted), SHOP, {"members": 2}, **settings)
    test = subset(encoded, TEST)
    error = rmspe(test.get_column("sales").to_numpy(), models.predict(test, bundle))
    assert error < 5 * NOISE
    assert encoded.schema["weight:w"] == nw.Float32
    weights = subset(encoded, TRAIN).get_column("weight:w").to_numpy()
    assert weights.mean() == pytest.approx(1.0, rel=1e-6) and len(np.unique(weights)) == 2 and weights.min() == 0.0
    assert history["monitor"].drop_nulls().max() < 2.0  # a spoiled row alone would be thousands of variances


def test_a_baseline_of_a_weighted_table_is_that_of_its_rows() -> None:
    table = sales_table(600).with_row_index("i").with_columns(w=(pl.col("i") % 3).cast(pl.Int64))
    encoder = nodes.fit_encoder(table, SHOP, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, SHOP, SPLIT)
    rows = read_rows(nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder))
    train = table.filter(~pl.col("held_out"))
    assert rows.labels.shape == (480, 1) and rows.weights is not None
    np.testing.assert_allclose(rows.weights, train["w"] / train["w"].mean(), rtol=1e-6)
    frame, costs = nodes.fit_baselines(
        table, encoded, encoder, SHOP, SPLIT, BaselineOptions(group_by=("shop",), lightgbm=None)
    )
    assert frame["constant"][0] == pytest.approx((train["sales"] * train["w"]).sum() / train["w"].sum())
    assert set(costs) == {"constant", "group_mean", "linear"}
    found, _ = timed_predictions(rows, Encoder.model_validate(encoder), fit_trees(TreeOptions(n_estimators=5)))
    assert found["sales"].shape == (120,)


@pytest.mark.parametrize("target", ["grade", ("grade", "price")])
def test_mapped_rows_have_weights_and_give_the_same_bits(target: Any, tmp_path: Any) -> None:
    table = grade_table(400).with_columns(w=pl.col("heat").abs())
    columns = Columns(categorical=("shop",), continuous=("noise",), target=target, weight="w")
    settings: dict[str, Any] = {"early_stopping": {"patience": 2}, "label_smoothing": 0.1}
    ours, theirs = (_trained(table, columns, memory=memory, **settings) for memory in ("mapped", "device"))
    assert all(torch.equal(value, theirs[0].weights[name]) for name, value in ours[0].weights.items())
    encoder, encoded = Encoder.model_validate(ours[0].encoder), ours[2]
    written = write_rows(encoded, encoder, TRAIN, tmp_path / "rows")
    in_memory = to_arrays(subset(encoded, TRAIN), encoder).target
    assert in_memory is not None and in_memory.shape == (300, len(encoder.targets) + 1)
    assert torch.equal(written.arrays().target, in_memory)  # type: ignore[arg-type]
    assert torch.equal(written.reader()(torch.tensor([5, 2]))[-1], in_memory[[5, 2]])
    with pytest.raises(DataError, match="no weight 'w'"):
        to_arrays(subset(encoded, TRAIN).drop("weight:w"), encoder).labelled(encoder)


def test_equal_weights_change_no_bit() -> None:
    table = sales_table(400).with_columns(w=pl.lit(0.3))
    ours = _trained(table, SHOP)
    theirs = _trained(table, SHOP.model_copy(update={"weight": None}))
    assert all(torch.equal(value, theirs[0].weights[name]) for name, value in ours[0].weights.items())


def test_a_range_test_has_weights() -> None:
    table = sales_table(400).with_columns(w=pl.col("heat").fill_null(0).abs())
    encoder = nodes.fit_encoder(table, SHOP, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, SHOP, SPLIT)
    found = nodes.find_learning_rate(
        encoded, encoder, NetworkOptions(layers=(4,)), _training(), FinderOptions(steps=10)
    )
    assert found["loss"].is_finite().all()


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
@pytest.mark.parametrize(
    ("value", "named"),
    [(None, ("no value", "row 7")), (-0.5, ("-0.5", "row 7")), (float("inf"), ("infinite", "row 7"))],
)
def test_a_weight_that_is_none_is_named_by_its_row(make: Any, value: Any, named: Any) -> None:
    values = sales_table(50).with_columns(w=pl.lit(1.0)).to_dict(as_series=False)
    values["w"][6] = value
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(make(values), SHOP, SPLIT, EncodingOptions())
    assert all(text in str(caught.value) for text in ("'w'", *named))


def test_weights_that_cannot_be_are_refused() -> None:
    table = sales_table(50)
    cases = (pl.lit(0.0), "is 0 in all training rows"), (pl.lit("much"), "columns.weight needs a column of numbers")
    for values, message in cases:
        with pytest.raises(DataError, match=message):
            nodes.fit_encoder(table.with_columns(w=values), SHOP, SPLIT, EncodingOptions())
    with pytest.raises(DataError, match=r"columns\.weight"):
        nodes.fit_encoder(table, SHOP, SPLIT, EncodingOptions())
    for weight in ("heat", "sales", "split"):
        with pytest.raises(ValidationError, match=r"'(heat|sales|split)'"):
            Columns(continuous=("heat",), target="sales", weight=weight)
    first = table.with_row_index("i").with_columns(w=(pl.col("i") == 1).cast(pl.Float64))
    with pytest.raises(DataError, match="early_stopping"):
        _trained(first, SHOP, early_stopping={"patience": 1, "fraction": 0.1})


def test_a_prediction_needs_no_weight() -> None:
    table = sales_table(200).with_columns(w=pl.col("weekday"))
    bundle, _, encoded = _trained(table, SHOP)
    model = models.load_model(bundle)
    assert "w" not in model.encoder.inputs
    bare = encode(nw.from_native(table.drop("w", "sales"), eager_only=True), model.encoder)
    assert np.array_equal(models.predict(bare, bundle), models.predict(encoded, bundle))
