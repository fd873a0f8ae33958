"""Tables tuned on rows inside the training part: values, inner splits, and what is never read."""

from datetime import date, timedelta
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import yaml
from small_tables import COLUMNS, SPLIT, search, settings, small_table

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.cross_validation import held_out_predictions
from embedline.pipelines.tabular.options import BaselineOptions, EncodingOptions, TreeOptions
from embedline.pipelines.tabular.splits import assign_splits, backtest_windows
from embedline.pipelines.tuning.options import TableInner
from embedline.pipelines.tuning.tables import inner_splits

WINDOW = Split(kind="window", column="day", start=date(2024, 3, 1), end=date(2024, 3, 10))


def dated() -> pl.DataFrame:
    days = [date(2024, 1, 1) + timedelta(days=k % 75) for k in range(300)]
    return small_table(300).with_columns(pl.Series("day", days))


def train_rows(table: pl.DataFrame, columns: Columns = COLUMNS, split: Split = SPLIT) -> nw.DataFrame[Any]:
    rows = assign_splits(nw.from_native(table, eager_only=True), columns, split)
    return rows.filter(nw.col("split") == "train")


def test_the_untuned_loss_is_that_of_one_network_on_inner_rows() -> None:
    trials, _ = search(trials=1)
    given = settings()
    inner = Split(kind="random", fraction=0.3, seed=0)
    rows = assign_splits(train_rows(small_table()).drop("split"), COLUMNS, inner)
    training = given["training"].model_copy(update={"seeds": (0,)})
    values, *_ = held_out_predictions(
        rows, COLUMNS, given["encoding"], given["network"], training, BaselineOptions(linear=None, lightgbm=None)
    )
    assert trials["loss"][0] == np.sqrt(np.mean((values["actual"] - values["predicted"]) ** 2))


def test_the_best_trial_is_no_worse_than_the_first_and_ready_to_paste() -> None:
    trials, text = search()
    assert trials["default"].to_list() == [True, *[False] * 5]
    assert trials.row(0, named=True)["training.lr"] == 0.005 and trials["network.layers"][0] == "[8]"
    complete = trials.filter(pl.col("state") == "complete").sort("loss")
    assert complete["loss"][0] < trials["loss"][0]
    best = complete.row(0, named=True)
    blocks = yaml.safe_load(text)["source"]
    assert blocks["training"] == {
        **settings()["training"].model_dump(mode="json", exclude_unset=True),
        "lr": best["training.lr"],
        "epochs": best["training.epochs"],
    }
    layers = blocks.get("network", {"layers": [8]})["layers"]  # blocks that stay as they are are left out
    assert str(layers) == best["network.layers"]
    assert f"{best['loss']:.5f}" in text and f"{trials['loss'][0]:.5f}" in text
    assert "chance" in text  # of one repetition nothing can be told


def test_repetitions_are_folds_by_seeds_and_give_an_interval() -> None:
    trials, text = search(trials=3, seeds=2, inner={"folds": 3})
    assert trials["repetitions"][0] == 6 and trials["std"][0] > 0
    assert "95 % interval" in text or "nothing is to be changed" in text


def test_held_out_rows_are_never_read() -> None:
    table = small_table()
    marks = assign_splits(nw.from_native(table, eager_only=True), COLUMNS, SPLIT).to_native()["split"]
    changed = table.with_columns(price=pl.when(marks == "test").then(1e6 * pl.col("price")).otherwise("price"))
    assert not changed.equals(table)
    (trials, text), (others, same) = search(), search(changed)
    assert text == same and trials.drop("seconds").equals(others.drop("seconds"))


def test_lightgbm_is_tuned_on_the_same_rows() -> None:
    space = {"baselines.lightgbm.num_leaves": {"low": 2, "high": 15}}
    baselines = BaselineOptions(lightgbm=TreeOptions(n_estimators=10, min_child_samples=5))
    trials, text = search(learner="lightgbm", space=space, trials=4, baselines=baselines)
    assert trials["state"].to_list() == ["complete"] * 4
    assert trials["baselines.lightgbm.num_leaves"].drop_nulls().is_between(2, 15).all()
    best = trials.sort("loss").row(0, named=True)
    if not best["default"]:
        assert yaml.safe_load(text)["source"]["baselines"]["lightgbm"]["num_leaves"] == best[next(iter(space))]
    with pytest.raises(DataError, match=r"training\.lr.*baselines"):
        search(learner="lightgbm")
    with pytest.raises(DataError, match=r"baselines\.linear"):
        search(learner="lightgbm", space={"baselines.linear.seed": {"low": 1, "high": 2}})
    with pytest.raises(DataError, match=r"learner.*lightgbm"):
        search(learner="lightgbm", space=space, baselines=BaselineOptions(lightgbm=None))


def test_windows_lie_before_the_split_and_learn_from_earlier_days() -> None:
    windows = backtest_windows(WINDOW, date(2030, 1, 1), 2, 10, 7)
    assert [(each.start, each.end) for each in windows] == [
        (date(2024, 2, 13), date(2024, 2, 22)),
        (date(2024, 2, 20), date(2024, 2, 29)),
    ]
    assert all(each.column == "day" and each.train == "before" for each in windows)
    random = backtest_windows(Split(kind="random"), date(2024, 3, 15), 1, 5, 5, time="day")
    assert (random[0].start, random[0].end) == (date(2024, 3, 11), date(2024, 3, 15))
    with pytest.raises(ValueError, match="length"):
        backtest_windows(WINDOW, date(2024, 1, 1), 1, 0, 1)
    with pytest.raises(ValueError, match="dates"):
        backtest_windows(Split(kind="random"), date(2024, 1, 1), 1, 1, 1)


def test_inner_windows_of_a_table() -> None:
    learned = train_rows(dated(), split=WINDOW)
    parts = inner_splits(learned, COLUMNS, WINDOW, TableInner(windows=2))  # as long as the split's own
    for part, last in zip(parts, [date(2024, 2, 19), date(2024, 2, 29)], strict=True):
        rows = part().to_native()
        tested, trained = (rows.filter(split=name)["day"] for name in ("test", "train"))
        assert (tested.min(), tested.max()) == (last - timedelta(days=9), last)
        assert (trained.min(), trained.max()) == (date(2024, 1, 1), last - timedelta(days=10))


def test_inner_rows_follow_the_split_where_nothing_is_said() -> None:
    inner = TableInner()
    assert len(inner_splits(train_rows(dated(), split=WINDOW), COLUMNS, WINDOW, inner)) == 1
    folds = Split(kind="folds", n=4)
    assert len(inner_splits(train_rows(small_table(), split=folds), COLUMNS, folds, inner)) == 4
    assert len(inner_splits(train_rows(small_table()), COLUMNS, SPLIT, inner)) == 5  # few rows
    many = inner_splits(train_rows(small_table(4000)), COLUMNS, SPLIT, inner)
    share = (many[0]().to_native()["split"] == "test").mean()
    assert len(many) == 1 and share == pytest.approx(0.2, abs=0.03)
    held_out = [
        part().to_native().filter(split="test")
        for part in inner_splits(train_rows(small_table()), COLUMNS, SPLIT, TableInner(folds=3))
    ]
    assert (
        pl.concat(held_out)
        .drop("split")
        .sort("heat")
        .equals(train_rows(small_table()).to_native().drop("split").sort("heat"))
    )


@pytest.mark.parametrize(
    ("inner", "named"),
    [({"windows": 1}, "columns.time"), ({"fraction": 1e-9}, "test"), ({"folds": 1000}, "1000")],
)
def test_inner_rows_that_cannot_be_are_named(inner: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=r"tune\.inner") as caught:
        search(inner=inner)
    assert named in str(caught.value)


def test_a_space_that_cannot_be_is_an_error_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedline.pipelines.tuning.study.search", lambda *given: pytest.fail("a trial began"))
    with pytest.raises(DataError, match=r"tune\.space.*training\.lr"):
        search(space={"training.lr": {"low": -1.0, "high": 1.0}})


def test_target_means_and_pandas_tables_are_read() -> None:
    encoding = EncodingOptions(target_means=(("shop",),))
    space = {"encoding.smoothing": {"low": 1.0, "high": 50.0, "log": True}}
    trials, text = search(small_table().to_pandas(), encoding=encoding, space=space, trials=2)
    same, again = search(encoding=encoding, space=space, trials=2)
    assert text == again and trials.drop("seconds").equals(same.drop("seconds"))
    assert trials["encoding.smoothing"][0] is None  # it is auto
