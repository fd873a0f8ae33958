"""A user's table as it enters the learner: the column and the row of the file in every refusal, on two engines."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.datasets import JSON
from embedline.errors import DataError
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)

N = 200
COLUMNS = Columns(categorical=("kind",), continuous=("area",), target="price", id=("deed",), time="sold")
RANDOM = Split(kind="random", fraction=0.5)
WINDOW = Split.model_validate(
    {"kind": "window", "column": "sold", "start": "2024-01-05", "end": "2024-01-06", "train": "others"}
)


def _values(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "kind": ["flat", "house"] * (N // 2),
        "area": [30.0 + k for k in range(N)],
        "price": [100.0 + k % 7 for k in range(N)],
        "deed": list(range(N)),
        "sold": [datetime.datetime(2024, 1, 1 + k % 20, 12) for k in range(N)],
    }
    for name, change in changes.items():
        values[name] = change if isinstance(change, list | np.ndarray) else [*values[name]]
        if isinstance(change, tuple):  # one cell: row, counted from 1, and value
            values[name][change[0] - 1] = change[1]
    return values


def _make(engine: str, values: dict[str, Any]) -> Any:
    return pl.DataFrame(values, strict=False) if engine == "polars" else pd.DataFrame(values)


def _through(table: Any, split: Split = RANDOM, columns: Columns = COLUMNS) -> None:
    """What every node does with the table."""
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, split)
    nodes.fit_baselines(table, encoded, encoder, columns, split, BaselineOptions(group_by=("kind",), lightgbm=None))


@pytest.mark.parametrize("engine", ["polars", "pandas"])
@pytest.mark.parametrize("row", [3, 163, 164])  # whatever its split is
@pytest.mark.parametrize(
    ("name", "value"),
    [("area", float("inf")), ("price", float("-inf")), ("area", 1e200)],
)
def test_a_number_that_is_not_finite_is_named_by_the_row_of_the_file(
    engine: str, row: int, name: str, value: float
) -> None:
    table = _make(engine, _values(**{name: (row, value)}))
    with pytest.raises(DataError, match=rf"^the table: column '{name}' .* at row {row}\b"):
        _through(table)


@pytest.mark.parametrize("engine", ["polars", "pandas"])
@pytest.mark.parametrize(
    ("changes", "split", "named"),
    [
        ({"area": ["1,5" if k == 9 else str(k) for k in range(N)]}, RANDOM, ["'area'", "row 10", "'1,5'"]),
        ({"kind": [float(2**53 + 2 * (k % 4)) for k in range(N)]}, RANDOM, ["'kind'", "row 1", "dtype", "Int64"]),
        (
            {"deed": [float(2**53 + 2 * k) if k > 4 else None for k in range(N)]},
            RANDOM,
            ["'deed'", "row 6", "columns.id"],
        ),
        ({"kind": np.array([2**63 * (k > 6) for k in range(N)], dtype=np.uint64)}, RANDOM, ["'kind'", "row 8"]),
        ({"kind": [b"flat"] * N}, RANDOM, ["'kind'"]),
        ({"kind": [["flat"]] * N}, RANDOM, ["'kind'"]),
        ({"kind": [{"a": 1}] * N}, RANDOM, ["'kind'"]),
        ({"price": [["1"]] * N}, RANDOM, ["'price'"]),
        ({"area": [1j] * N}, RANDOM, ["'area'", "complex"]),
        ({"area": [datetime.date(2024, 1, 1)] * N}, RANDOM, ["'area'"]),
        ({"sold": ["2024-01-05"] * N}, WINDOW, ["'sold'", "split.column", "parse_dates: [sold]", "try_parse_dates"]),
        ({"sold": ["2024-01-05"] * N}, RANDOM, ["'sold'", "columns.time", "parse_dates: [sold]", "try_parse_dates"]),
        ({"sold": (17, None)}, WINDOW, ["'sold'", "row 17"]),
    ],
)
def test_a_column_that_does_not_fit_its_role_is_named(
    engine: str, changes: dict[str, Any], split: Split, named: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        _through(_make(engine, _values(**changes)), split)
    message = str(caught.value)
    assert [text for text in ["the table: ", *named] if text not in message] == [], message
    assert "\n" not in message


def test_columns_of_no_role_may_hold_anything() -> None:
    table = pd.DataFrame(_values()).assign(note=[["x"], 3] * (N // 2), huge=np.inf)
    _through(table)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "int64[pyarrow]", "double[pyarrow]", "float64"])
def test_any_whole_numbers_with_gaps_are_categories_and_numbers(dtype: str) -> None:
    numbers = pd.Series([1, 2, None, 3] * (N // 4), dtype=dtype)
    table = pd.DataFrame(_values()).assign(kind=numbers, area=numbers, price=numbers)
    encoder = nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())
    assert encoder["categorical"]["kind"]["levels"] == [1, 2, 3]
    _through(table)


def test_long_ids_are_told_apart_as_the_message_advises() -> None:
    ids = [76561197960287930 + k % 8 for k in range(N)]
    for column in (pd.Series(ids, dtype="Int64"), pd.Series(ids).astype(str)):
        table = pd.DataFrame(_values()).assign(kind=column.where(column.index != 4))
        assert len(nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())["categorical"]["kind"]["levels"]) == 8


def test_rows_without_a_target_are_counted_with_the_first_of_them(caplog: pytest.LogCaptureFixture) -> None:
    table = pl.DataFrame(_values(price=(44, None)))
    encoder = nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())
    with caplog.at_level("INFO"):
        nodes.encode(table, encoder, COLUMNS, RANDOM)
    (said,) = [record.getMessage() for record in caplog.records if "row 44" in record.getMessage()]
    assert said.startswith("1 of")
    assert "price" in said


@pytest.mark.parametrize("engine", ["polars", "pandas"])
@pytest.mark.parametrize("row", [3, 163])
def test_a_target_without_a_logarithm_is_named_by_its_row(engine: str, row: int) -> None:
    table = _make(engine, _values(price=(row, 0.0)))
    with pytest.raises(DataError, match=rf"'price'.*0\.0 at row {row}\b.*encoding\.target_transform"):
        nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions(target_transform="log"))


def test_a_lazy_frame_goes_through_all_nodes() -> None:
    _through(pl.DataFrame(_values()).lazy())


def test_the_days_of_a_column_called_like_a_helper_stay() -> None:
    table = pl.DataFrame(_values()).rename({"sold": "_time"})
    columns = COLUMNS.model_copy(update={"time": "_time"})
    split = WINDOW.model_copy(update={"column": "_time"})
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, split)
    assert encoded["_time"].to_list() == table["_time"].to_list()


@pytest.mark.parametrize("engine", ["polars", "pandas"])
def test_a_target_of_numbers_with_a_spoilt_cell_is_no_target_of_classes(engine: str) -> None:
    numbers = [str(100.5 + k) for k in range(N)]
    table = _make(engine, _values(price=[*numbers[:120], "n. a.", *numbers[121:]]))
    with pytest.raises(DataError, match=r"'price'.*row 121 holds 'n\. a\.'.*columns\.classes: \[price\]"):
        nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())
    table = _make(engine, _values(price=[f"{k % 3}" if k else "x" for k in range(N)]))  # classes, most of them digits
    nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())


def test_the_columns_of_the_report_are_checked_too() -> None:
    report = ReportOptions(error_by=("owner",))
    table = pd.DataFrame(_values()).assign(owner=["a"] * (N - 1) + [7])
    with pytest.raises(DataError, match=rf"^the table: column 'owner' .*7 at row {N}\b"):
        nodes.predict(table, None, None, None, None, COLUMNS, RANDOM, report)


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 64), (10, 1)])
def test_batch_norm_of_one_row_is_refused(rows: int, batch_size: int) -> None:
    columns, split = Columns(continuous=("area",), target="price"), Split(kind="none")
    table = pl.DataFrame(_values()).head(rows)
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, split)
    training = TableTraining(epochs=1, batch_size=batch_size, lr=0.01, device="cpu")
    with pytest.raises(DataError, match=r"batch_norm.*training\.batch_size"):
        nodes.train(encoded, encoder, NetworkOptions(layers=(4,), batch_norm=True), training)
    nodes.train(encoded, encoder, NetworkOptions(layers=(4,)), training)


def test_a_limit_on_one_side_is_stored_as_json(tmp_path: Path) -> None:
    encoding = EncodingOptions(limits={"area": (float("-inf"), 50.0)})
    encoder = nodes.fit_encoder(pl.DataFrame(_values()), COLUMNS, RANDOM, encoding)
    dataset = JSON(filepath=str(tmp_path / "encoder.json"))
    dataset.save(encoder)
    encoded = nodes.encode(pl.DataFrame(_values(area=(5, -1e9))), dataset.load(), COLUMNS, RANDOM)
    values = encoded["value:area"]
    assert values[30:].n_unique() == 1  # beyond 50
    assert values[4] < values[0] < values[30]
