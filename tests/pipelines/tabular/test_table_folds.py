"""Cross-validation of a small table: every row is held out once a repeat, and nothing of it is learned."""

from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.cross_validation import fold_rows
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
    TreeOptions,
)
from embedline.pipelines.tabular.pipeline import create_pipeline, nodes
from embedline.pipelines.tabular.splits import assign_splits
from embedline.training.metrics import classification_metrics
from embedline.training.options import FinderOptions

N_ROWS, N_UNLABELLED = 90, 5
COLUMNS = Columns(categorical=("shop",), continuous=("heat",), target="grade", id=("Id",))
SPLIT = Split(kind="folds", n=3, repeats=2, seed=1)
SETTINGS: dict[str, Any] = {
    "columns": COLUMNS,
    "split": SPLIT,
    "encoding": EncodingOptions(target_means=(("shop",),)),
    "network": NetworkOptions(layers=(16,)),
    "training": TableTraining(epochs=6, batch_size=16, lr=0.02, device="cpu", precision="fp32"),
    "finder": FinderOptions(low=1e-4, high=1.0, steps=10),
    "baselines": BaselineOptions(group_by=("shop",), lightgbm=TreeOptions(n_estimators=20, min_child_samples=5)),
    "report": ReportOptions(error_by=("shop",), embeddings=("shop",)),
}


def _table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    shop, heat = random.integers(0, 4, N_ROWS), random.normal(size=N_ROWS)
    grade = np.where(heat + 0.5 * shop > 0.7, "good", "poor")
    table = pl.DataFrame({"Id": range(N_ROWS), "shop": [f"s{k}" for k in shop], "heat": heat, "grade": grade})
    return table.with_columns(grade=pl.when(pl.col("Id") % 18 != 3).then("grade"))


class Kept(MemoryDataset):
    """Keeps what a runner releases after its last use, so that a test may look at it."""

    def _release(self) -> None:
        pass


@cache
def _run() -> dict[str, Any]:
    catalog = DataCatalog({f"params:shop.{name}": MemoryDataset(value) for name, value in SETTINGS.items()})
    catalog["shop.table"] = MemoryDataset(_table())
    pipeline = create_pipeline("shop")
    wanted = pipeline.all_outputs()
    for name in wanted:
        catalog[name] = Kept(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix("shop."): catalog.load(name) for name in wanted}


def test_each_labelled_row_is_held_out_once_a_repeat_and_stands_beside_its_target() -> None:
    predictions, table = _run()["predictions"], _table().drop_nulls()
    assert len(predictions) == 2 * (N_ROWS - N_UNLABELLED) == 2 * len(table)
    for repeat in range(2):
        rows = predictions.filter(repeat=repeat)
        assert sorted(rows["Id"]) == table["Id"].to_list()
        assert rows["fold"].n_unique() == 3
    joined = predictions.join(table, on="Id", suffix="_in_table")
    assert joined["actual"].to_list() == joined["grade"].to_list()
    assert joined["shop"].to_list() == joined["shop_in_table"].to_list()
    first, second = (predictions.filter(repeat=repeat).sort("Id")["fold"].to_list() for repeat in range(2))
    assert first != second


def test_metrics_are_those_of_the_rows_held_out_and_count_each_row_once() -> None:
    outputs = _run()
    metrics, frame = outputs["metrics"], outputs["predictions"]
    actual = np.array([["good", "poor"].index(name) for name in frame["actual"]])
    expected = classification_metrics(actual, frame.select("p_good", "p_poor").to_numpy(), ["good", "poor"])
    assert metrics["log_loss"] == expected["log_loss"]
    assert metrics["accuracy"] == expected["accuracy"] > 0.75
    ours, as_if_twice = (each["accuracy_high"] - each["accuracy_low"] for each in (metrics, expected))
    assert ours == pytest.approx(np.sqrt(2) * as_if_twice, rel=0.05)
    assert (metrics["folds"], metrics["repeats"]) == (3, 2)
    assert (metrics["test_rows"], metrics["train_rows"]) == (len(_table().drop_nulls()),) * 2
    assert set(metrics["baselines"]) == {"constant", "group_mean", "linear", "lightgbm"}
    difference = metrics["baselines"]["constant"]["differences"]["log_loss"]
    theirs = metrics["baselines"]["constant"]["log_loss"]
    assert difference["difference"] == pytest.approx(metrics["log_loss"] - theirs)
    assert difference["verdict"] == "better"


def test_a_row_does_not_see_its_own_target() -> None:
    """With every target of a fold turned round, the networks that predict that fold stay as they are."""
    labelled = assign_splits(nw.from_native(_table()), COLUMNS, SPLIT).filter(nw.col("split") == "train").drop("split")
    fold = next(fold_rows(labelled, COLUMNS, SPLIT))
    held_out = pl.Series(np.isin(np.arange(len(labelled)), fold))
    table = labelled.to_native()
    turned = table.with_columns(
        grade=pl.when(held_out)
        .then(pl.when(grade="good").then(pl.lit("poor")).otherwise(pl.lit("good")))
        .otherwise("grade")
    )
    arguments = [SETTINGS[name] for name in ("encoding", "network", "training", "baselines")]
    # One class for all in the eyes of the folds, so that both tables are dealt out alike.
    found = []
    for each in (table, turned):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("embedline.pipelines.tabular.cross_validation.fold_rows", lambda *_: iter([fold]))
            found.append(nodes.cross_validate(each, COLUMNS, SPLIT, *arguments)[0])
    assert found[0]["p_good"].to_list() == found[1]["p_good"].to_list()
    assert found[0]["lightgbm.p_good"].to_list() == found[1]["lightgbm.p_good"].to_list()
    assert found[0]["actual"].to_list() != found[1]["actual"].to_list()


def test_folds_hold_equal_shares_of_each_class() -> None:
    labelled = nw.from_native(pl.DataFrame({"grade": ["a"] * 31 + ["b"] * 7 + ["c"] * 2}))
    folds = list(fold_rows(labelled, Columns(categorical=("x",), target="grade"), Split(kind="folds", n=4, repeats=3)))
    assert len(folds) == 12
    for start in range(0, 12, 4):
        assert sorted(np.concatenate(folds[start : start + 4])) == list(range(40))
    counts = np.array([np.bincount(np.repeat([0, 1, 2], [31, 7, 2])[fold], minlength=3) for fold in folds])
    assert set(counts[:, 0]) == {7, 8} and set(counts[:, 1]) == {1, 2} and set(counts[:, 2]) == {0, 1}


@pytest.mark.parametrize(
    ("values", "named"),
    [(["a", "b", "a", "b"], ("split.n", "4")), (["a", "b"] * 6 + ["z"], ("'z'", "'grade'"))],
)
def test_too_few_rows_are_named(values: list[str], named: tuple[str, ...]) -> None:
    labelled = nw.from_native(pl.DataFrame({"grade": values}))
    with pytest.raises(DataError) as caught:
        list(fold_rows(labelled, Columns(categorical=("x",), target="grade"), Split(kind="folds", n=4)))
    assert all(name in str(caught.value) for name in named)


def test_other_splits_are_not_cross_validated() -> None:
    arguments = [SETTINGS[name] for name in ("encoding", "network", "training", "baselines")]
    found, costs = nodes.cross_validate(_table(), COLUMNS, Split(kind="random"), *arguments)
    assert (len(found), costs) == (0, {})
