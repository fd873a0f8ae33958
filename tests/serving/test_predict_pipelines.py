"""Batch prediction: what a file of rows becomes, and the pipelines as `kedro run` finds them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from small_services import make_bundle, make_ranker, ratings_service, texts_service

from command_line import store
from copies import copy_project, kedro
from embedline.errors import DataError
from embedline.pipeline_registry import register_pipelines
from embedline.pipelines.publish.nodes import predict_rows, typed_request
from embedline.serving.columns import InputColumn
from embedline.serving.ratings import pack_ratings

PROJECT = Path(__file__).resolve().parents[2]


class TestRows:
    def test_the_answers_stand_beside_the_rows(self) -> None:
        rows = pl.DataFrame({"note": ["a", "b", None], "album": ["10", " 11 ", "99.0"], "listener": ["1", "2", "77"]})
        typed = pd.DataFrame({"listener": [1, 2, 77], "album": [10, 11, 99]})  # as Parquet would have them
        wanted = ratings_service().open().predict(typed)["predicted"].tolist()
        found = predict_rows(rows, ratings_service())
        expected = {"note": ["a", "b", None], "album": [10, 11, 99], "listener": [1, 2, 77], "predicted": wanted}
        assert found.select(*expected).to_dict(as_series=False) == expected
        assert predict_rows(typed, ratings_service())["predicted"].to_list() == wanted

    @pytest.mark.parametrize(
        ("rows", "named"),
        [
            ({"listener": ["1", "x"], "album": ["1", "2"]}, "'listener', row 2: 'x'"),
            ({"listener": ["1", "1.5"], "album": ["1", "2"]}, "'listener', row 2: '1.5'"),
            ({"listener": ["1", ""], "album": ["1", "2"]}, "'listener', row 2: no value"),
            ({"listener": ["1"]}, "no column 'album'; it has 'listener'"),
            ({"listener": [1], "album": [1], "predicted": [3]}, "'predicted'"),
            ({"listener": [], "album": []}, "no row"),
        ],
    )
    def test_faults_are_named(self, rows: dict[str, list[Any]], named: str) -> None:
        with pytest.raises(DataError, match=named):
            predict_rows(pl.DataFrame(rows), ratings_service())

    def test_text_stays_as_it_is(self) -> None:
        texts = ["the film ", "12", "NA", None]
        found = predict_rows(pl.DataFrame({"text": texts}), texts_service())
        assert found["text"].to_list() == texts
        wanted = texts_service().open().predict(pd.DataFrame({"text": [*texts[:3], ""]}))
        assert found["p_pos"].to_list() == wanted["p_pos"].tolist()

    def test_every_type_of_a_service(self) -> None:
        kinds = {"a": "long", "b": "double", "c": "boolean", "d": "string", "e": "any"}
        columns = tuple(InputColumn.model_validate({"name": name, "type": kind}) for name, kind in kinds.items())
        service = replace(ratings_service(), columns=columns)
        rows = {"a": ["1", "2.0"], "b": ["1", ""], "c": ["TRUE", "0"], "d": ["1", " "], "e": ["0", "a"]}
        typed = {**rows, "a": [1, 2], "b": [1.0, None], "c": [True, False]}
        assert typed_request(pl.DataFrame(rows), service).to_dict(as_series=False) == typed
        for bad, named in (({"c": ["yes"]}, "'c', row 1: 'yes'"), ({"b": ["1.5", "1,5"]}, "'b', row 2: '1,5'")):
            with pytest.raises(DataError, match=named):
                typed_request(pl.DataFrame(bad), service)


def test_they_read_the_stored_model_and_pack_as_the_publish_pipelines_do() -> None:
    pipelines = register_pipelines()
    for source in ("rossmann", "adult", "movielens"):
        predict = pipelines[f"{source}_predict"]
        assert [node.name for node in predict.nodes] == [f"{source}.pack_service", f"{source}.predict_rows"]
        assert predict.nodes[0] in pipelines[f"{source}_publish"].nodes
        assert {f"{source}.model", f"{source}.rows"} <= predict.inputs()
        assert not predict.outputs() & pipelines["__default__"].all_outputs()
    bootstrap_project(PROJECT)  # the file is named by a parameter
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
    ranker, encoded = make_ranker(True)
    services = {"imdb": texts_service(), "movielens": pack_ratings(make_bundle(True), ranker, encoded)}
    encoded.write_ipc(store(root, "05_model_input/movielens/encoded.feather", version))
    models = {
        "imdb/model": texts_service().bundle,
        "movielens/model": make_bundle(True),
        "movielens/ranker": ranker,
    }
    for name, bundle in models.items():
        store(root, f"06_models/{name}.safetensors", version).write_bytes(bundle.to_bytes())
    for source in services:
        (root / "01_raw" / source).mkdir(parents=True)
    (root / "01_raw" / "imdb" / "texts.csv").write_text('note,text\nx,"the film was dull, and"\ny,\n')
    (root / "01_raw" / "movielens" / "rows.csv").write_text("listener,album,note\n1,10,NA\nnobody,11,\n")
    printed = kedro(project, "run", "--pipelines", "imdb_predict,movielens_predict")
    assert "3 of 3 nodes ran" in printed
    (file,) = (root / "07_model_output" / "imdb" / "predicted_texts.parquet").glob("*/*.parquet")
    texts = pl.read_parquet(file)
    wanted = services["imdb"].open().predict(pd.DataFrame({"text": ["the film was dull, and", ""]}))
    assert texts["note"].to_list() == ["x", "y"] and texts["p_pos"].to_list() == wanted["p_pos"].tolist()
    (file,) = (root / "07_model_output" / "movielens" / "predicted_rows.parquet").glob("*/*.parquet")
    pairs = pl.read_parquet(file)
    assert pairs.drop("predicted", "score").rows() == [("1", 10, "NA"), ("nobody", 11, None)]
    request = pd.DataFrame({"listener": ["1", "nobody"], "album": [10, 11]})
    answers = services["movielens"].open().predict(request)
    for name in ("predicted", "score"):
        assert pairs[name].to_list() == answers[name].tolist()
