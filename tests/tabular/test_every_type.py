"""A column of every type of Polars and pandas goes in, trains, predicts, and is served with the same answers."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.pipelines.publish.nodes import pack_table
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.model import predict
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining

N_ROWS = 40
SPLIT = Split(kind="none")
TRAINING = TableTraining(epochs=1, batch_size=20, lr=0.01, device="cpu", precision="fp32")
RANDOM = np.random.default_rng(0)

WHOLE = RANDOM.integers(0, 5, N_ROWS).tolist()
NUMBERS = RANDOM.normal(size=N_ROWS).round(3).tolist()
FLAGS = (RANDOM.random(N_ROWS) < 0.5).tolist()
TEXTS = [f"s{value}" for value in WHOLE]
DAYS = [date(2020, 1, 1) + timedelta(days=37 * value) for value in range(N_ROWS)]
TIMES = [datetime(2020, 1, 1, 12) + timedelta(hours=13 * value) for value in range(N_ROWS)]
NOTES = [f"{('red', 'old')[value % 2]} box of {('tea', 'salt', 'rice')[value % 3]}" for value in WHOLE]
GAPS = [None if row % 7 == 3 else row for row in range(N_ROWS)]


def _gaps(values: list[Any]) -> list[Any]:
    return [value if gap is not None else None for value, gap in zip(values, GAPS, strict=True)]


INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
POLARS: list[tuple[str, list[Any], Any]] = [
    *((role, WHOLE, dtype) for role in ("categorical", "continuous") for dtype in INTEGERS),
    *(("continuous", NUMBERS, dtype) for dtype in (pl.Float32, pl.Float64)),
    ("continuous", [Decimal(str(value)) for value in NUMBERS], pl.Decimal(10, 3)),
    *((role, FLAGS, pl.Boolean) for role in ("categorical", "continuous")),
    *(("categorical", TEXTS, dtype) for dtype in (pl.String, pl.Categorical, pl.Enum(sorted(set(TEXTS))))),
    ("categorical", WHOLE, pl.Float64),
    *(("text", NOTES, dtype) for dtype in (pl.String, pl.Categorical, pl.Enum(sorted(set(NOTES))))),
    ("dates", DAYS, pl.Date),
    *(("dates", TIMES, pl.Datetime(unit)) for unit in ("ms", "us", "ns")),
    ("dates", TIMES, pl.Datetime("us", "Europe/Berlin")),
]
PANDAS: list[tuple[str, list[Any], Any]] = [
    *(
        (role, WHOLE, dtype)
        for role in ("categorical", "continuous")
        for dtype in ("int8", "uint64", "Int64", "int64[pyarrow]")
    ),
    *(("continuous", NUMBERS, dtype) for dtype in ("float32", "float64", "Float64", "double[pyarrow]")),
    *(("categorical", FLAGS, dtype) for dtype in ("bool", "boolean", "object", "bool[pyarrow]")),
    *(("categorical", TEXTS, dtype) for dtype in ("object", "string", "category", "string[pyarrow]")),
    *(("text", NOTES, dtype) for dtype in ("object", "string", "category", "string[pyarrow]")),
    *(("dates", TIMES, dtype) for dtype in ("datetime64[s]", "datetime64[ns]", "datetime64[ns, Europe/Berlin]")),
]


def _answers(table: Any, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions of the batch, of a service that gets the frame, and of one that gets its rows as JSON."""
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    model, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(4,)), TRAINING)
    service = pack_table(model, table).open()
    inputs = list(Encoder.model_validate(encoder).inputs)
    rows = nw.from_native(table, eager_only=True).to_pandas()[inputs]
    # pandas writes decimals as texts, which are no numbers in JSON.
    plain = rows.astype({name: float for name in inputs if isinstance(rows[name].dropna().iloc[0], Decimal)})
    records = json.loads(plain.to_json(orient="records", date_format="iso", double_precision=15))
    answers = [service.predict(each)["predicted"].to_numpy() for each in (rows, pd.DataFrame(records, columns=inputs))]
    return predict(nw.from_native(encoded, eager_only=True), model), *answers


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "with gaps"])
@pytest.mark.parametrize(("role", "values", "dtype"), POLARS, ids=lambda value: str(value)[:30])
def test_polars(role: str, values: list[Any], dtype: Any, missing: bool) -> None:
    table = pl.DataFrame({"x": pl.Series(_gaps(values) if missing else values, dtype=dtype), "y": NUMBERS})
    _check(table, role, dtype)


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "with gaps"])
@pytest.mark.parametrize(("role", "values", "dtype"), PANDAS, ids=lambda value: str(value)[:30])
def test_pandas(role: str, values: list[Any], dtype: str, missing: bool) -> None:
    if missing and dtype in ("int8", "uint64", "bool"):
        pytest.skip(f"pandas has no missing value of {dtype}")
    x = _series(_gaps(values) if missing else values, dtype)
    _check(pd.DataFrame({"x": x, "y": NUMBERS}), role, dtype)


def _series(values: list[Any], dtype: str) -> pd.Series:
    x = pd.Series(values)
    return x.dt.tz_localize("Europe/Berlin") if "Berlin" in dtype else x.astype(dtype)


def _check(table: Any, role: str, dtype: Any) -> None:
    batch, from_frame, from_json = _answers(table, Columns.model_validate({role: ["x"], "target": "y"}))
    assert np.isfinite(batch).all() and np.ptp(batch) > 0
    assert from_frame == pytest.approx(batch, rel=1e-5)
    if "Berlin" not in str(dtype):  # pandas writes times with a zone in UTC: another clock
        assert from_json == pytest.approx(batch, rel=1e-5)


@pytest.mark.parametrize("engine", ["polars", "pandas"])
def test_a_frame_of_every_type_finds_its_own_roles(engine: str) -> None:
    types = POLARS if engine == "polars" else PANDAS
    # JSON has the times of a zone in another; each column is turned by its number, so that none is left out as a copy.
    turned = {
        f"x{k}": (_gaps([*values[k:], *values[:k]]), dtype)
        for k, (_, values, dtype) in enumerate(types)
        if "Berlin" not in str(dtype) and dtype not in ("int8", "uint64", "bool")
    }
    reviews = [f"{note} number {row}" for row, note in enumerate(NOTES)]
    strange: dict[str, Any] = {"lists": [[1]] * N_ROWS, "raw": [b"a"] * N_ROWS, "nothing": [None] * N_ROWS}
    others = {"review": reviews, "row": range(N_ROWS), "y": NUMBERS, **strange}
    table: Any
    if engine == "polars":
        table = pl.DataFrame([pl.Series(name, *made) for name, made in turned.items()]).with_columns(
            pl.Series(name, values) for name, values in others.items()
        )
    else:
        table = pd.DataFrame({name: _series(*made) for name, made in turned.items()} | others)
    columns = Columns(target="y", inputs="auto")
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    inferred, left_out = encoder["inferred"]["columns"], encoder["inferred"]["left_out"]
    assert set(left_out) == set(strange)
    assert inferred["text"] == ["review"] and inferred["id"] == ["row"]
    assert encoder["left_out"] == {"constant": [], "duplicates": {}}
    for name, (_, dtype) in turned.items():
        values = types[int(name[1:])][1]
        repeated = any(values is each for each in (WHOLE, FLAGS, TEXTS, NOTES))
        role = "dates" if values in (DAYS, TIMES) else "categorical" if repeated else "continuous"
        assert name in inferred[role], (name, dtype)
    batch, from_frame, from_json = _answers(table, columns)
    assert np.isfinite(batch).all() and np.ptp(batch) > 0
    assert from_frame == pytest.approx(batch, rel=1e-4)
    assert from_json == pytest.approx(batch, rel=1e-4)
