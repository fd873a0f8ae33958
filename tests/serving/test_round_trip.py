"""The rows of a training file, sent again: as a file, CSV, JSON and Parquet they are answered as training saw them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from kedro_datasets.pandas import CSVDataset
from mixed_requests import json_layouts
from small_services import CSV, JSON, PARQUET

from embedline.datasets import PolarsFrame
from embedline.errors import DataError
from embedline.pipelines.publish.nodes import pack_table, predict_rows
from embedline.pipelines.tabular import nodes as learner
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.encoder import encode
from embedline.pipelines.tabular.model import load_model
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.serving.app import RequestHandler
from embedline.serving.contract import RefusedError
from embedline.serving.service import Service

CATEGORICAL = ("district", "zip", "lift", "garden", "rooms", "floor", "word")
CONTINUOUS = ("area", "rent", "count", "heated", "flag", "level")
COLUMNS = Columns(categorical=CATEGORICAL, continuous=CONTINUOUS, target="price", id=("id", "seen"), time="built")
SPLIT = Split(kind="random", fraction=0.2)
N_ROWS = 240
TRAINING = TableTraining(epochs=1, batch_size=64, lr=1e-2, seeds=(0,), device="cpu", precision="fp32")


def write_file(path: Path, true: str, false: str) -> None:
    """A CSV file with every kind of column, gaps in many of them; booleans are written as ``true`` and ``false``."""
    random = np.random.default_rng(3)

    def some(values: list[str], share: float = 0.15) -> list[str]:
        return [value if random.random() > share else "" for value in values]

    def booleans() -> list[str]:
        return [true if value else false for value in random.random(N_ROWS) < 0.5]

    numbers = random.integers(0, 5, N_ROWS)
    columns: dict[str, list[str]] = {
        "id": [str(2**60 + k) for k in range(N_ROWS)],
        "built": [f"{1900 + k // 2}-0{1 + k % 9}-15" for k in range(N_ROWS)],
        "seen": [f"2024-01-{1 + k % 28:02d} 0{k % 10}:30:00+02:00" for k in range(N_ROWS)],
        "district": some([f'"d, {k}"' for k in numbers]),
        "zip": [f"0{k}123" for k in random.integers(0, 4, N_ROWS)],
        "lift": booleans(),
        "garden": some(booleans()),
        "rooms": [str(k) for k in random.integers(1, 5, N_ROWS)],
        "floor": some([str(k) for k in random.integers(-1, 4, N_ROWS)]),
        "word": [("true", "1e3", "x", "007")[k] for k in random.integers(0, 4, N_ROWS)],
        "area": [repr(float(value)) for value in random.normal(80, 20, N_ROWS)],
        "rent": some([f"{value:.3e}" for value in random.normal(900, 200, N_ROWS)]),
        "count": [str(2**63 + int(k) * 2**50) for k in random.integers(0, 999, N_ROWS)],
        "heated": some(booleans()),
        "flag": booleans(),
        "level": some([str(k) for k in random.integers(0, 200, N_ROWS)]),
        "price": [str(1000 * (1 + int(k)) + row % 7) for row, k in enumerate(numbers)],
    }
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")


def pandas_entry(path: Path, **dtypes: Any) -> pd.DataFrame:
    dtype = {"zip": str, "word": str, "heated": "boolean", **dtypes}  # pandas reads gaps in booleans as objects else
    found: pd.DataFrame = CSVDataset(filepath=str(path), load_args={"dtype": dtype, "parse_dates": ["built"]}).load()
    return found


def narrow_entry(path: Path) -> pd.DataFrame:
    """pandas with types of its own: categories, unsigned and small integers, nullable ones."""
    return pandas_entry(path, district="category", rooms="uint8", floor="Int16", area="float32", garden="boolean")


def polars_entry(path: Path) -> pl.DataFrame:
    schema = {"zip": pl.String, "word": pl.String, "rooms": pl.UInt32, "count": pl.UInt64, "district": pl.Categorical}
    load_args = {"schema_overrides": schema, "try_parse_dates": True}
    found: pl.DataFrame = PolarsFrame(filepath=str(path), file_format="csv", load_args=load_args).load()
    return found


class FileModel:
    """A model of the file as an entry reads it, and its predictions for the rows as training saw them."""

    def __init__(self, path: Path, entry: Callable[[Path], Any]) -> None:
        self.path, self.table = path, entry(path)
        encoder = learner.fit_encoder(self.table, COLUMNS, SPLIT, EncodingOptions(target_means=(("lift", "zip"),)))
        encoded = learner.encode(self.table, encoder, COLUMNS, SPLIT)
        bundle = learner.train(encoded, encoder, NetworkOptions(layers=(8,)), TRAINING)[0]
        self.packed = Service.from_bytes(pack_table(bundle, self.table).to_bytes())
        model = load_model(bundle)
        inputs = encode(nw.from_native(self.table, eager_only=True), model.encoder)
        (self.predicted,) = model.predict(to_arrays(inputs, model.encoder)).values()
        self.handler = RequestHandler(self.packed, {})

    def answers(self, body: bytes, content_type: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.handler.answer(body, content_type))["predictions"]
        return found

    def rows(self) -> pl.DataFrame:
        """The rows as text, without the target."""
        return pl.read_csv(self.path, infer_schema=False).drop("price")

    def typed(self) -> pl.DataFrame:
        """The rows as training had them."""
        return nw.from_native(self.table, eager_only=True).to_polars().drop("price")


@pytest.fixture(scope="module", params=["pandas", "narrow", "polars"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileModel:
    path = tmp_path_factory.mktemp("file") / "flats.csv"
    words = ("true", "false") if request.param == "polars" else ("True", "False")
    write_file(path, *words)
    entry = {"pandas": pandas_entry, "narrow": narrow_entry, "polars": polars_entry}[request.param]
    return FileModel(path, entry)


def check(trained: FileModel, body: bytes | str, content_type: str) -> None:
    answers = trained.answers(body if isinstance(body, bytes) else body.encode(), content_type)
    assert [row["predicted"] for row in answers] == pytest.approx(trained.predicted.tolist(), rel=1e-5)
    assert [row["id"] for row in answers] == [2**60 + k for k in range(N_ROWS)]  # to the last digit
    assert len({row["predicted"] for row in answers}) > N_ROWS / 2
    for name in ("built", "seen"):
        wanted = trained.rows()[name].to_list()
        found = [row[name].replace("T", " ") for row in answers]
        assert pd.to_datetime(found, utc=True).tolist() == pd.to_datetime(wanted, utc=True).tolist()


def test_the_file_itself(trained: FileModel) -> None:
    found = predict_rows(trained.rows(), trained.packed)
    assert found["predicted"].to_list() == pytest.approx(trained.predicted.tolist(), rel=1e-5)
    assert found["id"].to_list() == [2**60 + k for k in range(N_ROWS)]


def test_a_csv_request(trained: FileModel) -> None:
    check(trained, trained.rows().write_csv(), CSV)
    # pandas writes True and 1.0 where the file had true and 1, and windows its line ends.
    content = trained.typed().to_pandas(use_pyarrow_extension_array=True).to_csv(index=False, lineterminator="\r\n")
    check(trained, "\ufeff" + content, "text/csv; charset=utf-8")
    rows = trained.rows()
    gaps = [name for name in ("garden", "floor", "rent", "level") if rows[name].null_count()]
    for word in ("NA", "NaN", "null", "None", "<NA>"):  # as pandas may write a missing value
        check(trained, rows.with_columns(pl.col(gaps).fill_null(word)).write_csv(), CSV)


def test_a_json_request(trained: FileModel) -> None:
    records = trained.typed().with_columns(pl.col(pl.Date, pl.Datetime).dt.to_string("iso:strict")).to_dicts()
    assert any(record["garden"] is None for record in records) and any(record["lift"] is True for record in records)
    for content in json_layouts(records):
        check(trained, json.dumps(content), JSON)


@pytest.mark.parametrize("writer", ["pandas", "polars", "dictionaries", "version 2"])
def test_a_parquet_request(trained: FileModel, writer: str) -> None:
    file, typed = io.BytesIO(), trained.typed()
    if writer == "pandas":
        typed.to_pandas().to_parquet(file)
    elif writer == "polars":
        typed.write_parquet(file)
    elif writer == "dictionaries":
        typed.cast({pl.String: pl.Categorical}).to_pandas().to_parquet(file, index=False, row_group_size=50)
    else:
        typed.to_pandas().to_parquet(file, data_page_version="2.0", data_page_size=200, compression="gzip")
    check(trained, file.getvalue(), PARQUET)


STRANGE = [("lift", "yes"), ("lift", "2"), ("garden", "wahr"), ("flag", "on"), ("rooms", "2.5"), ("rooms", "1e99")]
STRANGE += [("id", "1.5"), ("area", "inf"), ("area", "1,5"), ("area", "1e999"), ("level", "0x10")]


@pytest.mark.parametrize(("column", "value"), STRANGE)
def test_another_value_is_named_with_column_and_row(trained: FileModel, column: str, value: str) -> None:
    rows = trained.rows()
    rows = rows.with_columns(rows[column].scatter(2, value))
    assert rows[column][2] == value
    with pytest.raises(RefusedError) as caught:
        trained.answers(rows.write_csv().encode(), CSV)
    assert caught.value.status == 400
    with pytest.raises(DataError) as raised:
        predict_rows(rows, trained.packed)
    for message in (str(caught.value), str(raised.value)):
        assert repr(column) in message and "row 3" in message and repr(value) in message


def test_whole_numbers_beyond_floats_keep_their_digits_beside_gaps(trained: FileModel) -> None:
    assert next(column for column in trained.packed.columns if column.name == "id").type == "long"
    wanted = [9007199254740993, None, 3]
    typed = trained.typed().head(3).with_columns(pl.Series("id", wanted)).drop("built", "seen")
    file = io.BytesIO()
    typed.write_parquet(file)
    rows = trained.rows().head(3).with_columns(id=pl.Series(["9007199254740993", None, "3"])).write_csv()
    as_json = json.dumps({"instances": typed.to_dicts()})
    for body, kind in ((rows.encode(), CSV), (as_json.encode(), JSON), (file.getvalue(), PARQUET)):
        assert [row["id"] for row in trained.answers(body, kind)] == wanted
