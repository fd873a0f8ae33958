"""`predict --rows` and `export` at the command line, on a stored model of a small table."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from small_table import CLASSES, Trained

from command_line import NEW, invoke, store
from copies import PROJECT
from embedline.errors import DataError
from embedline.pipelines.tabular.onnx_export import run_onnx
from embedline.serving.tables import pack_model
from test_commands import make_bundles

INPUTS = ("row", "shop", "colour", "size", "member", "heat", "year")


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(CLASSES)


@pytest.fixture(scope="module")
def data_root(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model of a table with its encoded rows and its packed service, and a model of texts."""
    root = tmp_path_factory.mktemp("data")
    store(root, "06_models/loans/model.safetensors", NEW).write_bytes(trained.model.to_bytes())
    store(root, "06_models/loans/service.zip", NEW).write_bytes(trained.packed.to_bytes())
    trained.encoded.write_ipc(store(root, "05_model_input/loans/encoded.feather", NEW))
    store(root, "06_models/bare/model.safetensors", NEW).write_bytes(trained.model.to_bytes())
    store(root, "06_models/imdb/model.safetensors", NEW).write_bytes(make_bundles(1)["model"].to_bytes())
    return root


@pytest.fixture
def run(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on these artifacts; its result."""
    monkeypatch.chdir(PROJECT)
    return lambda *given, **more: invoke(*given, "--params", f"data_root={data_root}", **more)


def _write(frame: pl.DataFrame, path: Path) -> None:
    writers = {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".feather": frame.write_ipc}
    writers[path.suffix](path)


def _read(path: Path) -> pl.DataFrame:
    return {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".feather": pl.read_ipc}[path.suffix](path)


@pytest.mark.parametrize("by", [(), ("--packed",)], ids=str)
@pytest.mark.parametrize(("read", "written"), [(".csv", ".csv"), (".parquet", ".feather"), (".feather", ".parquet")])
def test_a_file_of_rows_without_a_target_is_predicted(run, trained, tmp_path, read, written, by) -> None:
    rows = trained.table.filter("held_out").select(INPUTS)  # neither the target nor the column of the split
    path, output = tmp_path / f"rows{read}", tmp_path / f"out{written}"
    _write(rows, path)
    printed = run("predict", "loans", "--rows", str(path), "--output", str(output), *by).output
    assert f"Wrote 200 rows to {output}" in printed and NEW in printed
    found, expected = _read(output), trained.predictions()
    assert found.columns == ["row", "predicted", "p_high", "p_low"]
    assert found["row"].cast(pl.Int64).to_list() == expected["row"].to_list()
    assert found["predicted"].to_list() == expected["predicted"].to_list()
    np.testing.assert_allclose(found["p_high"], expected["p_high"], rtol=1e-6)


def test_the_first_rows_are_shown_without_an_output(run, trained, tmp_path) -> None:
    path = tmp_path / "rows.csv"
    trained.table.write_csv(path)  # columns that the model does not read are left out
    printed = run("predict", "loans", "--rows", str(path)).output
    assert "p high" in printed and "800 rows in all" in printed and "loans.model" in printed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows.drop("heat"), ["'heat'", "has no column"]),
        (lambda rows: rows.with_columns(heat=pl.lit("warm")), ["'heat'", "row 1", "'warm'"]),
        (lambda rows: rows.with_columns(size=pl.lit(36.5)), ["'size'", "row 1", "36.5", "whole number"]),
        (lambda rows: rows.head(0), ["has no rows"]),
    ],
)
def test_rows_that_do_not_fit_are_named(run, trained, tmp_path, change, named) -> None:
    path, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    change(trained.table.select(INPUTS)).write_csv(path)
    message = run("predict", "loans", "--rows", str(path), "--output", str(output), status=1).output
    assert [text for text in (str(path), *named) if text not in message] == [], message
    assert not output.exists()


def test_what_cannot_be_asked_for_is_refused(run, trained, tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    trained.table.write_parquet(path)
    for given in (
        ["fine", "--rows", str(path)],
        ["--packed", "fine"],
        ["--rows", str(path), "--packed", "--alias", "a"],
    ):
        assert "--rows FILE" in run("predict", "loans", *given, status=2).output
    assert "text_classifier" in run("predict", "imdb", "--rows", str(path), status=1).output
    assert "must end in" in run("predict", "loans", "--rows", "rows.txt", status=1).output
    text = make_bundles(1)["model"]
    with pytest.raises(DataError, match="'text_classifier', not 'tabular'"):
        pack_model(text)


def test_an_export_writes_the_graph_and_its_encoder(run, trained, tmp_path) -> None:
    output = tmp_path / "model.onnx"
    printed = run("export", "loans", "--output", str(output)).output
    assert str(output) in printed and "of a prediction" in printed and "800 rows" in printed
    assert json.loads((tmp_path / "model.encoder.json").read_text()) == trained.model.encoder
    encoded = trained.encoded.filter(pl.col("split") == "test")
    codes, values = (encoded.select(pl.selectors.starts_with(kind)).to_numpy() for kind in ("code:", "value:"))
    found = run_onnx(output.read_bytes(), codes.astype(np.int64), values.astype(np.float32))
    expected = trained.predictions().select("p_high", "p_low").to_numpy()
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4)
    for taken in (output, tmp_path / "model.encoder.json"):
        message = run("export", "loans", "--output", str(output), status=1).output
        assert "exists already" in message
        taken.unlink()


def test_an_export_that_cannot_be_checked_writes_nothing(run, tmp_path) -> None:
    for source, named in (("bare", "there is no bare.encoded"), ("imdb", "text_classifier")):
        assert named in run("export", source, "--output", str(tmp_path / "model.onnx"), status=1).output
    assert os.listdir(tmp_path) == []
    assert "must end in .onnx" in run("export", "loans", "--output", str(tmp_path / "model.bin"), status=1).output
