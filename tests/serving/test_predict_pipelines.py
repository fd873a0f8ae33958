"""Batch prediction: what a file of rows becomes, and the pipelines as `kedro run` finds them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from test_ratings_service import make_bundle

from copies import copy_project, kedro
from embedline.errors import DataError
from embedline.pipeline_registry import register_pipelines
from embedline.pipelines.publish.nodes import predict_rows, typed_request
from embedline.serving.columns import InputColumn
from embedline.serving.ratings import pack_ratings
from embedline.serving.service import Service
from embedline.serving.texts import pack_texts
from test_commands import make_bundles

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def packed() -> Service:
    return pack_ratings(make_bundle(False))


class TestRows:
    def test_the_answers_stand_beside_the_rows(self, packed: Service) -> None:
        rows = pl.DataFrame({"note": ["a", "b", None], "album": ["10", " 11 ", "99.0"], "listener": ["1", "2", "77"]})
        found = predict_rows(rows, packed)
        assert found.select("note", "album", "listener").to_dict(as_series=False) == {
            "note": ["a", "b", None],
            "album": [10, 11, 99],
            "listener": [1, 2, 77],
        }
        wanted = packed.open().predict(pd.DataFrame({"listener": [1, 2, 77], "album": [10, 11, 99]}))
        np.testing.assert_array_equal(found["predicted"], wanted["predicted"])
        typed = pd.DataFrame({"listener": [1, 2, 77], "album": [10, 11, 99]})  # as Parquet would have them
        assert predict_rows(typed, packed)["predicted"].to_list() == found["predicted"].to_list()

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({"listener": ["1", "x"], "album": ["1", "2"]}, "column 'listener', row 2: 'x' is no whole number"),
            ({"listener": ["1", "1.5"], "album": ["1", "2"]}, "column 'listener', row 2: '1.5' is no whole number"),
            ({"listener": ["1", ""], "album": ["1", "2"]}, "column 'listener', row 2: no value is not a whole number"),
            ({"listener": ["1"]}, "has no column 'album'; it has 'listener'"),
            ({"listener": [1], "album": [1], "predicted": [3]}, "a column 'predicted', which is a column of the pred"),
            ({"listener": [], "album": []}, "there is no row to predict"),
        ],
    )
    def test_faults_are_named(self, packed: Service, rows: dict[str, list[Any]], message: str) -> None:
        with pytest.raises(DataError, match=message):
            predict_rows(pl.DataFrame(rows), packed)

    def test_text_stays_as_it_is(self) -> None:
        service = pack_texts(make_bundles(3)["model"])
        rows = pl.DataFrame({"text": ["the film ", "12", "NA", None]})
        found = predict_rows(rows, service)
        assert found["text"].to_list() == ["the film ", "12", "NA", None]
        wanted = service.open().predict(pd.DataFrame({"text": ["the film ", "12", "NA", ""]}))
        assert found["p_pos"].to_list() == wanted["p_pos"].tolist()

    def test_every_type_of_a_service(self, packed: Service) -> None:
        kinds = {"a": "long", "b": "double", "c": "boolean", "d": "string", "e": "any"}
        columns = tuple(InputColumn.model_validate({"name": name, "type": kind}) for name, kind in kinds.items())
        service = Service("x", packed.bundle, {}, {}, columns, [])
        rows = pl.DataFrame({"a": ["1", "2.0"], "b": ["1", ""], "c": ["TRUE", "0"], "d": ["1", " "], "e": ["0", "a"]})
        found = typed_request(rows, service)
        assert found.to_dict(as_series=False) == {
            "a": [1, 2],
            "b": [1.0, None],
            "c": [True, False],
            "d": ["1", " "],
            "e": ["0", "a"],
        }
        with pytest.raises(DataError, match="column 'c', row 1: 'yes' is neither true nor false"):
            typed_request(pl.DataFrame({"c": ["yes"]}), service)
        with pytest.raises(DataError, match="column 'b', row 2: '1,5' is no number"):
            typed_request(pl.DataFrame({"b": ["1.5", "1,5"]}), service)


def test_they_read_the_stored_model_and_pack_as_the_publish_pipelines_do() -> None:
    pipelines = register_pipelines()
    for source in ("rossmann", "adult", "movielens"):
        predict = pipelines[f"{source}_predict"]
        assert [node.name for node in predict.nodes] == [f"{source}.pack_service", f"{source}.predict_rows"]
        assert predict.nodes[0] in pipelines[f"{source}_publish"].nodes
        assert {f"{source}.model", f"{source}.rows"} <= predict.inputs()
        assert not predict.outputs() & pipelines["__default__"].all_outputs()


def test_a_file_is_named_by_a_parameter() -> None:
    bootstrap_project(PROJECT)
    for runtime, wanted in (({}, f"{PROJECT}/data/sample/01_raw/adult/rows.csv"), ({"rows": "/a/b.csv"}, "/a/b.csv")):
        with KedroSession.create(project_path=PROJECT, runtime_params=runtime) as session:
            catalog = session.load_context().catalog
            assert str(catalog.get("adult.rows")._filepath) == wanted
    assert str(catalog.get("imdb.texts")._filepath) == "/a/b.csv"


@pytest.mark.slow
def test_the_pipelines_run_on_stored_models(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    root = project / "data" / "sample"
    version = "2026-01-01T00.00.00.000Z"
    bundles = {"imdb": make_bundles(3)["model"], "movielens": make_bundle(True)}
    for source, bundle in bundles.items():
        file = root / "06_models" / source / "model.safetensors" / version / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(bundle.to_bytes())
        (root / "01_raw" / source).mkdir(parents=True)
    (root / "01_raw" / "imdb" / "texts.csv").write_text('note,text\nx,"the film was dull, and"\ny,\n')
    (root / "01_raw" / "movielens" / "rows.csv").write_text("listener,album,note\n1,10,NA\nnobody,11,\n")
    printed = kedro(project, "run", "--pipelines", "imdb_predict,movielens_predict")
    assert "3 of 3 nodes ran" in printed
    (file,) = (root / "07_model_output" / "imdb" / "predicted_texts.parquet").glob("*/*.parquet")
    texts = pl.read_parquet(file)
    wanted = pack_texts(bundles["imdb"]).open().predict(pd.DataFrame({"text": ["the film was dull, and", ""]}))
    assert texts["note"].to_list() == ["x", "y"] and texts["p_pos"].to_list() == wanted["p_pos"].tolist()
    (file,) = (root / "07_model_output" / "movielens" / "predicted_rows.parquet").glob("*/*.parquet")
    pairs = pl.read_parquet(file)
    assert pairs.drop("predicted").rows() == [("1", 10, "NA"), ("nobody", 11, None)]
    request = pd.DataFrame({"listener": ["1", "nobody"], "album": [10, 11]})
    answers = pack_ratings(bundles["movielens"]).open().predict(request)
    assert pairs["predicted"].to_list() == answers["predicted"].tolist()
