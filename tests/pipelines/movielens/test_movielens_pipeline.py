"""The preparation of MovieLens as Kedro runs it, with the project's catalog."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import DataValidationError

from embedline.pipelines.movielens.nodes import acquire
from embedline.pipelines.movielens.pipeline import create_pipeline
from embedline.pipelines.movielens.simulator import GeneratorOptions

PROJECT = Path(__file__).resolve().parents[3]
SMALL = GeneratorOptions(n_users=15, n_items=40, n_ratings=400)


def catalog_of(root: Path, **parameters: Any) -> DataCatalog:
    """The catalog of conf/base/catalog/movielens.yml below another root."""
    text = (PROJECT / "conf/base/catalog/movielens.yml").read_text().replace("${_root}", str(root))
    catalog = DataCatalog.from_config(yaml.safe_load(text))
    for name, value in parameters.items():
        catalog[f"params:movielens.{name}"] = value
    return catalog


def test_generated_files_become_ratings_and_items(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, source="generated", verify=True, generator=SMALL)
    SequentialRunner().run(create_pipeline(), catalog)
    (raw,) = tmp_path.glob("01_raw/movielens/files.feather/*/files.feather")
    (ratings,) = tmp_path.glob("03_primary/movielens/ratings.feather/*/ratings.feather")
    (items,) = tmp_path.glob("03_primary/movielens/items.feather/*/items.feather")
    assert pl.read_ipc(raw).equals(acquire("generated", verify=True, generator=SMALL))
    frame = pl.read_ipc(ratings)
    assert frame.columns == ["user", "item", "rating", "timestamp", "fold"] and len(frame) == 400
    assert frame["fold"].value_counts().sort("fold").rows() == [(fold, 80) for fold in range(1, 6)]
    films = pl.read_ipc(items)
    assert films.columns == ["item", "title", "genres", "year", "released"]
    assert films["item"].to_list() == list(range(1, 41))


def test_a_newer_release_with_a_film_that_is_not_listed(tmp_path: Path) -> None:
    release = tmp_path / "ml-latest"
    release.mkdir()
    (release / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,10\n1,9,4.0,11\n")
    (release / "movies.csv").write_text('movieId,title,genres\n2,"A, The (1999)",X|Y\n')
    catalog = catalog_of(tmp_path / "data", source=str(tmp_path), verify=False, generator=SMALL)
    SequentialRunner().run(create_pipeline(), catalog)
    assert catalog.load("movielens.ratings").rows() == [(1, 2, 3.5, 10, None), (1, 9, 4.0, 11, None)]
    films = [(2, "A, The (1999)", ["X", "Y"], 1999, None), (9, "9", [], None, None)]
    assert catalog.load("movielens.items").rows() == films


def test_the_contracts_are_checked_on_save(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    with pytest.raises(DataValidationError, match=r"movielens\.ratings: user 1, item 2 occurs"):
        catalog.save("movielens.ratings", pl.DataFrame({"user": [1, 1], "item": [2, 2], "rating": [1.0, 2.0]}))
    with pytest.raises(DataValidationError, match=r"movielens\.items has no column 'genres'"):
        catalog.save("movielens.items", pl.DataFrame({"item": [1], "title": ["A"]}))
    assert not list(tmp_path.rglob("*.feather/*"))


def test_nodes_are_named_after_their_source_and_tagged_by_stage() -> None:
    pipeline = create_pipeline()
    readers = [(f"movielens.read_{name}", {"prepare"}) for name in ("ratings", "items", "users")]
    assert [(node.name, node.tags) for node in pipeline.nodes] == [("movielens.acquire", {"acquire"}), *readers]
    assert pipeline.inputs() == {f"params:movielens.{name}" for name in ("source", "verify", "generator")}
    assert pipeline.outputs() == {"movielens.items", "movielens.users"}
    assert "movielens.ratings" in pipeline.all_outputs()


def test_the_parameters_of_the_project_are_what_the_models_take() -> None:
    block = yaml.safe_load((PROJECT / "conf/base/parameters/movielens.yml").read_text())["movielens"]
    assert GeneratorOptions.model_validate(block["generator"]) == GeneratorOptions()
    assert block["verify"] is True
    assert block["source"] == "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    sample = yaml.safe_load((PROJECT / "conf/sample/parameters/movielens.yml").read_text())["movielens"]
    assert sample["source"] == "generated"
    assert GeneratorOptions.model_validate({**block["generator"], **sample["generator"]}).n_ratings == 20_000
