"""A service is one file without pickle; its identity is that of its answers."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from embedline import datasets
from embedline.errors import DataError
from embedline.serving.columns import InputColumn, as_text, plain_values, require_columns, signature_of
from embedline.serving.service import Service
from embedline.training.model_file import ModelBundle


@pytest.fixture
def packed() -> Service:
    """A service with a model of one matrix and a table of each type."""
    weights = {"0.layer": torch.arange(6.0).reshape(2, 3), "0.codes": torch.tensor([1, 2])}
    bundle = ModelBundle("tabular", {"layers": [3]}, {"keys": []}, weights, {"members": 1, "seconds": 3.5})
    states, day = pl.Series(["HE", None], dtype=pl.Categorical), pl.Series(["2015-07-31"]).str.to_date()
    days = pl.DataFrame({"Date": day, "heat": pl.Series([0.1], dtype=pl.Float32)})
    tables = {"stores": pl.DataFrame({"Store": [1, 2], "State": states}), "days": days}
    columns = (InputColumn(name="Store", type="long"), InputColumn(name="Open", type="double", required=False))
    settings, example = {"kinds": {"Store": "integer"}}, [{"Store": 1, "Open": None}]
    name = "embedline.serving.tables.TableService"
    return Service(name, bundle, tables, settings, columns, example, {"source": "rossmann"})


def test_a_file_gives_back_what_was_packed(packed) -> None:
    content = packed.to_bytes()
    read = Service.from_bytes(content)
    for name in ("service", "settings", "columns", "example", "metadata"):
        assert getattr(read, name) == getattr(packed, name)
    assert read.bundle.metrics == packed.bundle.metrics and read.bundle.config == {"layers": [3]}
    assert torch.equal(read.bundle.weights["0.layer"], packed.bundle.weights["0.layer"])
    assert read.tables.keys() == packed.tables.keys()
    for name, table in packed.tables.items():
        assert read.tables[name].equals(table) and read.tables[name].schema == table.schema
    assert read.identity == packed.identity
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = {info.filename: info.compress_type for info in archive.infolist()}
        assert json.loads(archive.read("service.json"))["format"] == "embedline-service-1"
    expected = {"service.json", "model.safetensors", "tables/stores.feather", "tables/days.feather"}
    assert names == dict.fromkeys(expected, zipfile.ZIP_STORED)  # and so no pickle


def test_the_identity_is_that_of_the_answers(packed) -> None:
    bundle = packed.bundle
    weights = {**bundle.weights, "0.layer": bundle.weights["0.layer"] + 1e-6}
    others = [
        *({"bundle": replace(bundle, **change)} for change in ({"weights": weights}, {"config": {"layers": [4]}})),
        {"bundle": replace(bundle, metrics={"members": 2})},  # which weigh in the mean
        {"tables": {**packed.tables, "days": packed.tables["days"].head(0)}},
        {"settings": {"kinds": {"Store": "string"}}},
        {"columns": packed.columns[:1]},
        {"service": "embedline.serving.texts.TextService"},
    ]
    assert len({packed.identity, *(replace(packed, **other).identity for other in others)}) == 1 + len(others)
    timed = replace(bundle, metrics={**bundle.metrics, "seconds": 9.0}, versions={"torch": "9"})
    assert replace(packed, bundle=timed, example=[], metadata={}).identity == packed.identity


def test_the_dataset_keeps_a_service_and_names_a_broken_file(packed, tmp_path) -> None:
    dataset = datasets.Service(filepath=str(tmp_path / "service.zip"))
    dataset.save(packed)
    assert dataset.load().identity == packed.identity
    (tmp_path / "service.zip").write_bytes(packed.to_bytes()[:-10])
    with pytest.raises(Exception, match="is not a readable service file: File is not a zip file") as caught:
        dataset.load()
    assert isinstance(caught.value.__cause__, DataError)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"[1]", "format None.*'embedline-service-1'"),
        (b'{"format": "embedline-service-9"}', "format 'embedline-service-9'"),
        (b'{"format": "embedline-service-1", "service": "x"}', "settings, columns, example, metadata"),
        (b"{", "not a readable service file"),
        (None, "not a readable service file"),
    ],
)
def test_another_file_is_refused(packed, header, named) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.safetensors", packed.bundle.to_bytes())
        if header is not None:
            archive.writestr("service.json", header)
    with pytest.raises(DataError, match=f"f.zip .*{named}"):
        Service.from_bytes(buffer.getvalue(), name="f.zip")


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ("os.system", "no class of embedline"),
        ("system", "no class of embedline"),
        ("embedlines.serving.Service", "no class of embedline"),
        ("embedline.serving.gone.Service", "this version does not have"),
        ("embedline.serving.tables.Gone", "this version does not have"),
        ("embedline.serving.service.Score", "no service"),
    ],
)
def test_a_file_cannot_name_any_class(packed, service, reason) -> None:
    with pytest.raises(DataError, match=f"'{service}'.*{reason}"):
        replace(packed, service=service).open()


def test_the_signature_says_types_and_what_may_be_left_out(packed) -> None:
    columns = (*packed.columns, InputColumn(name="Passed", type="any", required=False))
    signature = signature_of(columns, pd.DataFrame({"Sales": [1.5], "Date": ["2015-07-31"]}))
    inputs = {one["name"]: (one["type"], one["required"]) for one in signature.inputs.to_dict()}
    assert inputs == {"Store": ("long", True), "Open": ("double", False), "Passed": ("any", False)}
    outputs = [(one["name"], one["type"]) for one in signature.outputs.to_dict()]
    assert outputs == [("Sales", "double"), ("Date", "string")]
    require_columns(pd.DataFrame({"Store": [1]}), packed.columns)
    for names, said in (("store Open", "no column 'Store'; it has 'store', 'Open'"), ("Store Store", "'Store' twice")):
        with pytest.raises(DataError, match=f"^the request has .*{said}$"):
            require_columns(pd.DataFrame([[1, 2]], columns=names.split()), packed.columns)


@pytest.mark.parametrize(
    ("column", "values", "texts"),
    [
        (pd.Series([1, 2]), [1, 2], ["1", "2"]),
        (pd.Series([1.0, None, 0.5]), [1.0, None, 0.5], ["1", "", "0.5"]),
        (pd.Series([1, None], dtype="Int64"), [1, None], ["1", ""]),
        (pd.Series([True, False]), [True, False], ["1", "0"]),
        (pd.Series(["a", None, ""]), ["a", None, ""], ["a", "", ""]),
        (pd.Series([0, "0", "a", np.nan, np.int8(3)], dtype=object), [0, "0", "a", None, 3], ["0", "0", "a", "", "3"]),
        (pd.Series(["a", None], dtype="category"), ["a", None], ["a", ""]),
    ],
)
def test_values_are_plain_however_pandas_holds_them(column, values, texts) -> None:
    assert plain_values(column) == values
    assert [type(value) for value in plain_values(column)] == [type(value) for value in values]
    assert [as_text(value) for value in plain_values(column)] == texts
    days = pd.to_datetime(pd.Series(["2015-07-31", None]))
    assert [as_text(value) for value in plain_values(days)] == ["2015-07-31", ""]
    assert as_text(pd.Timestamp("2015-07-31 12:30")) == "2015-07-31 12:30:00"
