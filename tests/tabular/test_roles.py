"""`columns.inputs: auto`: the role of every kind of column by the training rows, and what is written down."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import hold_out_table
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split, read_table
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)
from embedline.pipelines.tabular.roles import InferredRoles, infer_roles

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
N = 120
ALL = Split(kind="none")
TRAINING = TableTraining(epochs=1, batch_size=32, lr=0.01, device="cpu", precision="fp32")
BASELINES = BaselineOptions(linear=None, lightgbm=None)
RANDOM = np.random.default_rng(0)
HEAT = RANDOM.normal(size=N).tolist()
DAYS = [date(2020, 1, 1) + timedelta(days=k) for k in range(N)]
SHUFFLED = RANDOM.permutation(N).tolist()


def _make(engine: str, values: dict[str, Any]) -> Any:
    return pl.DataFrame(values, strict=False) if engine == "polars" else pd.DataFrame(values)


def _infer(table: Any, columns: Columns | None = None, split: Split = ALL) -> InferredRoles:
    columns = columns or Columns(target="y", inputs="auto")
    return infer_roles(read_table(table, columns, split), columns, split)


def _role(engine: str, name: str, values: Any) -> str:
    """Role of one column of a table that has another, or the reason why it has none."""
    found = _infer(_make(engine, {name: values, "heat": HEAT, "y": HEAT}))
    roles = found.columns.model_dump()
    named = [role for role in ("categorical", "continuous", "dates", "text", "id") if name in roles[role]]
    return named[0] if named else found.left_out[name]


@ENGINES
@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("shop", [f"shop {k % 7}" for k in range(N)], "categorical"),
        ("city", [f"c{k % 70}" for k in range(N)], "categorical"),  # many, but repeated
        ("note", [f"a long text of number {k}" for k in range(N)], "text"),
        ("name", [f"old box {k}" for k in range(N)], "text"),  # three words are enough
        ("answer", [f"I agree quite {('much', 'not')[k % 2]}" for k in range(N)], "categorical"),
        ("zip", [f"{1000 + k % 30}" for k in range(N)], "categorical"),
        ("open", [k % 3 == 0 for k in range(N)], "categorical"),
        ("open", [None if k == 5 else k % 3 == 0 for k in range(N)], "categorical"),
        ("size", HEAT, "continuous"),
        ("share", [0.5 * (k % 2) for k in range(N)], "continuous"),
        ("rooms", [k % 5 for k in range(N)], "categorical"),
        ("rooms", [None if k == 5 else k % 5 for k in range(N)], "categorical"),  # floats in pandas
        ("age", [k % 50 for k in range(N)], "continuous"),
        ("age", [None if k == 5 else k % 50 for k in range(N)], "continuous"),
        ("row", [3 * k for k in range(N)], "id"),
        ("serial", SHUFFLED, "continuous"),
        ("user_id", SHUFFLED, "id"),
        ("userId", SHUFFLED, "id"),
        ("paid", SHUFFLED, "continuous"),
        ("shop_id", [k % 40 for k in range(N)], "categorical"),
        ("epoch", [1_600_000_000 + 3600 * k for k in range(N)], "continuous"),
    ],
)
def test_the_role_of_a_column(engine: str, name: str, values: list[Any], role: str) -> None:
    assert _role(engine, name, values) == role


@ENGINES
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None] * N, "no value"),
        ([float("nan")] * N, "no value"),
        ([f"K{k}" for k in range(N)], "120 different strings in 120 rows"),
        ([f"box {k}" for k in range(N)], "120 different strings in 120 rows"),
        ([day.isoformat() for day in DAYS], "dates as text: have it read as dates: parse_dates: [x]"),
        ([f"{day.isoformat()}T12:30:00" for day in DAYS[:4]] * (N // 4), "dates as text"),
        ([[1, 2]] * N, "type"),
        ([b"raw"] * N, "type"),
    ],
)
def test_a_column_without_a_role_has_a_reason(engine: str, values: list[Any], reason: str) -> None:
    said = _role(engine, "x", values)
    assert said not in ("categorical", "continuous", "dates", "text", "id") and reason in said and len(said) > 10


def test_days_and_times_are_dates() -> None:
    assert _role("polars", "sold", DAYS) == "dates"
    assert _role("pandas", "sold", pd.to_datetime(pd.Series(DAYS)).to_list()) == "dates"
    times = pd.Series(pd.date_range("2020-01-01", periods=N, tz="America/New_York"))
    assert _role("pandas", "sold", times) == "dates"
    assert "Python dates: have it read as dates" in _role("pandas", "sold", DAYS)
    assert "Duration" in _role("polars", "lasted", [timedelta(hours=k) for k in range(N)])


def test_a_column_of_lists_of_arrow_is_no_input_of_pandas() -> None:
    pa = pytest.importorskip("pyarrow")
    lists = pd.Series([[1], [2]] * (N // 2), dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    found = _infer(pd.DataFrame({"x": lists, "heat": HEAT, "split": HEAT, "y": HEAT}))
    assert "List" in found.left_out["x"] and "rename" in found.left_out["split"]
    assert found.columns.variables == ("heat",)


def test_values_of_several_kinds_are_named_by_the_row_of_the_file() -> None:
    assert "'a' at row 2" in _role("pandas", "x", [1, "a"] * (N // 2))


@ENGINES
def test_listed_columns_keep_their_roles_and_keys_are_no_inputs(engine: str) -> None:
    values = {
        "rooms": [k % 5 for k in range(N)],
        "shop": [k % 40 for k in range(N)],
        "held": [k % 4 == 0 for k in range(N)],
    }
    table = _make(engine, {**values, "deed": range(N), "kind": ["a", "b"] * (N // 2), "heat": HEAT, "y": HEAT})
    columns = Columns(continuous=("rooms",), categorical=("shop",), id=("deed",), target="y", inputs="auto")
    found = _infer(table, columns, Split(kind="column", column="held", value=True))
    assert found.columns == Columns(
        continuous=("rooms", "heat"), categorical=("shop", "kind"), id=("deed",), target="y"
    )
    assert found.left_out == {"held": "it splits the rows (split.column)"}


@ENGINES
def test_the_training_rows_alone_decide(engine: str) -> None:
    held_out = [k >= N // 2 for k in range(N)]
    rooms = [k % 5 if k < N // 2 else k for k in range(N)]  # few values in training, many in the test
    labels = [f"K{k % 5}" if k < N // 2 else f"a long text of number {k}" for k in range(N)]
    table = _make(engine, {"rooms": rooms, "labels": labels, "held": held_out, "y": HEAT})
    found = _infer(table, split=Split(kind="column", column="held", value=True))
    assert found.columns.categorical == ("rooms", "labels")
    assert _infer(table).columns.continuous == ("rooms",)


@ENGINES
def test_what_is_found_is_logged_as_yaml_and_stored(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    values = {"a: b": ["x", "y"] * (N // 2), "straße": HEAT, "key": range(N), "none": [None] * N, "y": HEAT}
    columns = Columns(target="y", inputs="auto")
    with caplog.at_level("INFO"):
        encoder = nodes.fit_encoder(_make(engine, values), columns, ALL, EncodingOptions())
    (said,) = [record.getMessage() for record in caplog.records if "auto" in record.getMessage()]
    assert "# none is left out: it has no value in the training rows" in said
    pasted = Columns.model_validate(yaml.safe_load(said.split("\n", 1)[1])["columns"])
    assert pasted == Columns(categorical=("a: b",), continuous=("straße",), id=("key",), target="y")
    assert InferredRoles.model_validate(encoder["inferred"]).columns == pasted
    again = nodes.fit_encoder(_make(engine, values), pasted, ALL, EncodingOptions())
    assert {**again, "inferred": encoder["inferred"]} == encoder  # the pasted block makes the same encoding


@ENGINES
def test_a_whole_run_takes_the_roles_that_were_found(engine: str) -> None:
    values: dict[str, Any] = {"key": range(N), "shop": [f"s{k % 3}" for k in range(N)], "heat": HEAT, "y": HEAT}
    table, columns, split = _make(engine, values), Columns(target="y", inputs="auto"), Split(kind="random")
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, split)
    predicted_before, _ = nodes.fit_baselines(table, encoded, encoder, columns, split, BASELINES)
    model, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(4,)), TRAINING)
    found = nodes.predict(table, encoded, model, predicted_before, pl.DataFrame(), columns, split, ReportOptions())
    assert "key" in found.columns  # an id that was found stands beside the predictions, as a listed one does
    unlabelled = _make(engine, {**values, "y": [*HEAT[:-2], None, None]})
    encoder = nodes.fit_encoder(unlabelled, columns, ALL, EncodingOptions())
    forecast = nodes.forecast(nodes.encode(unlabelled, encoder, columns, ALL), model, columns)
    assert list(forecast["key"]) == [N - 2, N - 1]


def test_python_numbers_that_were_found_are_held_out_as_numbers() -> None:
    prices = pd.Series([Decimal(k) / 7 for k in SHUFFLED], dtype=object)
    table, split = pd.DataFrame({"cost": prices, "y": HEAT}), Split(kind="random")
    columns = Columns(target="y", inputs="auto")
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    assert encoder["inferred"]["columns"]["continuous"] == ["cost"]
    assert dict(hold_out_table(table, columns, split, encoder).schema) == {"cost": pl.Float64, "actual": pl.Float64}


@ENGINES
def test_folds_take_the_roles_that_were_found(engine: str) -> None:
    table = _make(engine, {"shop": [f"s{k % 3}" for k in range(N)], "heat": HEAT, "y": HEAT})
    found, _ = nodes.cross_validate(
        table,
        Columns(target="y", inputs="auto"),
        Split(kind="folds", n=2),
        EncodingOptions(),
        NetworkOptions(layers=(4,)),
        TRAINING,
        BASELINES,
    )
    assert len(found) == N and np.isfinite(found["predicted"].to_numpy()).all()


@ENGINES
def test_an_infinite_number_is_named_by_the_row_of_the_file(engine: str) -> None:
    table = _make(engine, {"heat": [*HEAT[:-1], float("inf")], "y": HEAT})
    with pytest.raises(DataError, match=rf"^the table: column 'heat' holds an infinite value at row {N}\b"):
        nodes.fit_encoder(table, Columns(target="y", inputs="auto"), Split(kind="random"), EncodingOptions())


@ENGINES
def test_a_table_without_an_input_is_refused_with_the_reasons(engine: str) -> None:
    table = _make(engine, {"key": range(N), "code": [f"K{k}" for k in range(N)], "y": HEAT})
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(table, Columns(target="y", inputs="auto"), ALL, EncodingOptions())
    assert [part for part in ("['key']", "'code'", "inputs: auto", "columns") if part not in str(caught.value)] == []


def test_auto_needs_a_target() -> None:
    with pytest.raises(ValueError, match=r"target: <column>, inputs: auto"):
        Columns.model_validate("auto")
    with pytest.raises(ValueError, match="target"):
        Columns.model_validate({"inputs": "auto"})
    with pytest.raises(ValueError, match="inputs: auto"):
        Columns.model_validate({"target": "y"})


def test_roles_do_not_depend_on_the_engine() -> None:
    values = {"note": [f"a long text of number {k}" for k in range(N)], "shop": [f"s{k % 3}" for k in range(N)]}
    values |= {"rooms": [None if k == 5 else k % 5 for k in range(N)], "heat": HEAT, "y": HEAT}
    assert _infer(_make("polars", values)) == _infer(_make("pandas", values))
    frame = nw.from_native(_make("polars", values), eager_only=True)
    assert infer_roles(frame, Columns(target="y", inputs="auto"), ALL) == _infer(_make("polars", values))


@ENGINES
def test_the_weights_of_rows_are_no_input(engine: str) -> None:
    table = _make(engine, {"heat": HEAT, "survey": [1.5] * 60 + [2.5] * 60, "y": HEAT})
    found = _infer(table, Columns(target="y", inputs="auto", weight="survey"))
    assert found.columns.variables == ("heat",) and found.columns.weight == "survey"
