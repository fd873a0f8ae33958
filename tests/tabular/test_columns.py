"""Roles of columns, and the split of each row; on Polars and on pandas."""

from datetime import date, datetime
from typing import Any

import narwhals as nw
import pandas as pd
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, Split, require_columns
from embedline.pipelines.tabular.splits import assign_splits

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
COLUMNS = Columns(categorical=("shop",), target="sales")


def make_frame(engine: str, values: dict[str, Any]) -> Any:
    """Frame of the engine; the pandas one has an index that is not 0, 1, 2, …"""
    if engine == "polars":
        return nw.from_native(pl.DataFrame(values), eager_only=True)
    frame = pd.DataFrame(values)
    frame.index = pd.Index(range(len(frame) + 10, 10, -1))
    return nw.from_native(frame, eager_only=True)


def _table(engine: str) -> Any:
    return make_frame(
        engine,
        {
            "day": [datetime(2020, 1, day, 12) for day in (6, 1, 2, 3, 4, 5)],
            "shop": ["c", "a", "b", "c", "a", "b"],
            "sales": [6.0, 1.0, None, 3.0, 4.0, 5.0],
            "closed": [False, True, False, False, False, True],
        },
    )


def _splits(engine: str, **split: Any) -> list[tuple[int, str]]:
    splits = assign_splits(_table(engine), COLUMNS, Split(**split))
    assert splits.implementation.value == engine
    return [(day.day, name) for day, name in splits.select("day", "split").rows()]


@ENGINES
def test_a_window_trains_before_it_and_drops_what_comes_after(engine: str) -> None:
    splits = _splits(engine, kind="window", column="day", start=date(2020, 1, 3), end=date(2020, 1, 4))
    assert splits == [(1, "train"), (2, "predict"), (3, "test"), (4, "test")]


@ENGINES
def test_a_window_may_train_on_all_others(engine: str) -> None:
    window = {"kind": "window", "column": "day", "start": date(2020, 1, 3), "end": date(2020, 1, 4), "train": "others"}
    expected = ["train", "train", "predict", "test", "test", "train"]
    assert _splits(engine, **window) == list(zip((6, 1, 2, 3, 4, 5), expected, strict=True))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"])
@pytest.mark.parametrize("kind", ["polars", "pandas", "pandas on Arrow"])
def test_a_window_holds_out_the_days_of_the_table_s_own_time_zone(kind: str, zone: str) -> None:
    hours = pl.datetime_range(datetime(2024, 3, 9), datetime(2024, 3, 12), "1h", time_zone=zone, eager=True)
    table: Any = pl.DataFrame({"hour": hours, "sales": [1.0] * len(hours), "shop": ["a"] * len(hours)})
    if kind != "polars":
        table = table.to_pandas(use_pyarrow_extension_array=kind == "pandas on Arrow")
    split = Split(kind="window", column="hour", start=date(2024, 3, 10), end=date(2024, 3, 10), train="others")
    splits = assign_splits(nw.from_native(table, eager_only=True), COLUMNS, split)
    assert splits.columns == ["hour", "sales", "shop", "split"]
    held_out = [str(hour) for hour, name in splits.select("hour", "split").rows() if name == "test"]
    assert {hour[:10] for hour in held_out} == {"2024-03-10"}
    assert len(held_out) == (23 if zone == "America/New_York" else 24)  # its clocks go forward on that day


@ENGINES
@pytest.mark.parametrize(("column", "value", "held_out"), [("shop", "b", {5}), ("closed", True, {1, 5})])
def test_a_column_marks_the_held_out_rows(engine: str, column: str, value: Any, held_out: set[int]) -> None:
    splits = dict(_splits(engine, kind="column", column=column, value=value))
    assert {day for day, name in splits.items() if name == "test"} == held_out
    assert splits[2] == "predict"
    assert {name for day, name in splits.items() if day not in held_out | {2}} == {"train"}


@ENGINES
def test_without_a_split_every_labelled_row_trains(engine: str) -> None:
    splits = _splits(engine, kind="none")
    assert [name for _, name in splits] == ["train", "train", "predict", "train", "train", "train"]


@ENGINES
def test_a_random_split_repeats_and_takes_its_fraction(engine: str) -> None:
    table = make_frame(engine, {"shop": ["a"] * 4000, "sales": [1.0] * 4000})

    def draw(**changes: Any) -> list[str]:
        split = Split(**{"kind": "random", "fraction": 0.3, "seed": 1, **changes})
        splits = assign_splits(table, COLUMNS, split)
        assert splits.columns == ["shop", "sales", "split"]
        return list(splits.get_column("split").to_list())

    first = draw()
    assert first == draw()
    assert first != draw(seed=2)
    assert first.count("test") / 4000 == pytest.approx(0.3, abs=0.02)
    assert first.count("test") + first.count("train") == 4000


def test_both_engines_draw_the_same_rows() -> None:
    split = {"kind": "random", "fraction": 0.5, "seed": 4}
    assert _splits("polars", **split) == _splits("pandas", **split)


def test_a_target_that_is_no_number_is_no_label_in_either_engine() -> None:
    for engine in ("polars", "pandas"):
        table = make_frame(engine, {"shop": ["a", "b", "c"], "sales": [1.0, float("nan"), 2.0]})
        splits = assign_splits(table, COLUMNS, Split(kind="none")).get_column("split").to_list()
        assert splits == ["train", "predict", "train"]


@ENGINES
def test_the_table_itself_is_not_changed(engine: str) -> None:
    table = _table(engine)
    assign_splits(table, COLUMNS, Split(kind="random", fraction=0.5))
    assert table.columns == ["day", "shop", "sales", "closed"]


@ENGINES
@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"kind": "column", "column": "shop", "value": "q"}, "leaves no labelled row to test"),
        (
            {"kind": "window", "column": "day", "start": date(2019, 1, 1), "end": date(2020, 1, 1)},
            r"'start': datetime.date\(2019, 1, 1\).*leaves no labelled row to train",
        ),
        (
            {"kind": "column", "column": "city", "value": "q"},
            "the table has no column 'city', which split.column names: It has",
        ),
        ({"kind": "column", "column": "shop", "value": 3}, "split.value 3 is not of the type of column 'shop', String"),
        (
            {"kind": "window", "column": "shop", "start": date(2019, 1, 1), "end": date(2020, 1, 1)},
            "split.column 'shop' has the type String; a window needs dates",
        ),
        (
            {"kind": "window", "column": "sales", "start": date(2019, 1, 1), "end": date(2020, 1, 1)},
            "split.column 'sales' has the type Float64; a window needs dates",
        ),
    ],
)
def test_a_split_that_cannot_be_made_says_why(engine: str, split: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_splits(_table(engine), COLUMNS, Split(**split))


@ENGINES
def test_a_table_without_its_target_is_refused(engine: str) -> None:
    with pytest.raises(DataError, match=r"the table has no column 'price', which columns.target names: It has \['day'"):
        assign_splits(_table(engine), Columns(categorical=("shop",), target="price"), Split(kind="none"))


def test_require_columns_names_all_that_are_missing() -> None:
    with pytest.raises(DataError, match=r"^sales\.csv has no column 'x', 'y', which columns\.id names: It has"):
        require_columns(_table("polars"), ("x", "shop", "y"), what="sales.csv", key="columns.id")
    with pytest.raises(DataError, match=r"no column 'shops', which columns\.id names: did you mean 'shop'\? It has"):
        require_columns(_table("polars"), ("shops",), what="sales.csv", key="columns.id")
    require_columns(_table("polars"), ("shop",), what="sales.csv", key="columns.id")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categorical": ()}, "needs at least one categorical or continuous variable"),
        ({"continuous": ("shop",)}, r"lists \['shop'\] more than once"),
        ({"continuous": ("sales",)}, "lists the target 'sales' as an input"),
        ({"continuous": ("split",)}, "lists 'split', the name of the column that holds the split"),
        ({"categories": ("shop",)}, "categories\n.*Extra inputs"),
    ],
)
def test_bad_roles_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Columns.model_validate({"categorical": ("shop",), "target": "sales", **changes})


def test_keys_are_ids_then_time_each_once() -> None:
    roles = {"categorical": ("shop",), "target": "sales"}
    assert Columns.model_validate({**roles, "id": ["shop", "till"], "time": "day"}).keys == ("shop", "till", "day")
    assert Columns.model_validate({**roles, "id": ["shop", "day"], "time": "day"}).keys == ("shop", "day")
    assert Columns.model_validate(roles).keys == ()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"kind": "window", "column": "day"}, r"split.kind 'window' needs \['start', 'end'\]"),
        ({"kind": "column"}, r"split.kind 'column' needs \['column', 'value'\]"),
        (
            {"kind": "window", "column": "day", "start": "2020-01-02", "end": "2020-01-01"},
            "split.start 2020-01-02 is after split.end 2020-01-01",
        ),
        ({"kind": "window", "column": "day", "start": "no date", "end": "2020-01-01"}, "start\n.*valid date"),
        ({"kind": "random", "fraction": 1.0}, "fraction\n.*less than 1"),
        ({"kind": "time"}, "kind\n.*'column', 'folds' or 'none'"),
        ({"kind": "none", "sed": 1}, "sed\n.*Extra inputs"),
    ],
)
def test_bad_splits_are_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Split.model_validate(split)
