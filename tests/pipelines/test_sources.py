"""The pipelines that prepare incomes, reviews and ratings, run by Kedro with the project's catalog."""

import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import DataValidationError

from embedline.errors import DataError
from embedline.pipelines.adult.files import read_table
from embedline.pipelines.adult.pipeline import create_pipeline as adult
from embedline.pipelines.adult.simulator import GeneratorOptions as Incomes
from embedline.pipelines.adult.simulator import generate_files as generate_incomes
from embedline.pipelines.imdb.nodes import acquire as acquire_reviews
from embedline.pipelines.imdb.nodes import read_documents
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.pipeline import create_corpus_pipeline
from embedline.pipelines.imdb.pipeline import create_pipeline as imdb
from embedline.pipelines.imdb.simulator import GeneratorOptions as Reviews
from embedline.pipelines.movielens.nodes import acquire as acquire_ratings
from embedline.pipelines.movielens.pipeline import create_pipeline as movielens
from embedline.pipelines.movielens.simulator import GeneratorOptions as Ratings

PROJECT = Path(__file__).resolve().parents[2]


def catalog_of(root: Path, file: str, name: str = "", **parameters: Any) -> DataCatalog:
    """A ``file`` of the catalog below another root, with parameters of its source or of the one called ``name``."""
    text = (PROJECT / f"conf/base/catalog/{file}.yml").read_text().replace("${_root}", str(root))
    catalog = DataCatalog.from_config(yaml.safe_load(text))
    for key, value in parameters.items():
        catalog[f"params:{name or file}.{key}"] = value
    return catalog


def test_generated_incomes_become_a_table(tmp_path: Path) -> None:
    small = Incomes(n_data=60, n_test=40)
    catalog = catalog_of(tmp_path, "adult", source="generated", verify=True, generator=small)
    SequentialRunner().run(adult(), catalog)
    files = generate_incomes(small)
    for name, content in files.items():
        (raw,) = tmp_path.glob(f"01_raw/adult/{name}/*/{name}")
        assert raw.read_bytes() == content
    table = pl.read_ipc(next(tmp_path.glob("05_model_input/adult/table.feather/*/table.feather")))
    assert table.equals(read_table(files))
    assert table["file"].value_counts().sort("file").rows() == [("data", 60), ("test", 40)]


def test_generated_reviews_become_documents(tmp_path: Path) -> None:
    small = Reviews(n_train=6, n_test=4, n_unlabelled=3)
    given: dict[str, Any] = {"source": "generated", "verify": True, "generator": small, "classes": ["neg", "pos"]}
    SequentialRunner().run(imdb(), catalog_of(tmp_path, "imdb", reading=DocumentOptions(), **given))
    raw = pl.read_parquet(next(tmp_path.glob("01_raw/imdb/files.parquet/*/files.parquet")))
    assert raw.equals(acquire_reviews("generated", verify=True, generator=small))
    frame = pl.read_ipc(next(tmp_path.glob("03_primary/imdb/documents.feather/*/documents.feather")))
    assert frame.group_by("split", "label").len().sort("split", "label").rows() == [
        *(("test", "neg", 2), ("test", "pos", 2), ("train", "neg", 3), ("train", "pos", 3), ("unlabelled", None, 3)),
    ]
    assert set(frame["document_id"].str.extract("^(.*/)").unique()) == {
        *("test/neg/", "test/pos/", "train/neg/", "train/pos/", "train/unsup/"),
    }


def test_generated_ratings_become_ratings_and_items(tmp_path: Path) -> None:
    small = Ratings(n_users=15, n_items=40, n_ratings=400)
    catalog = catalog_of(tmp_path, "movielens", source="generated", verify=True, generator=small)
    SequentialRunner().run(movielens(), catalog)
    raw = pl.read_ipc(next(tmp_path.glob("01_raw/movielens/files.feather/*/files.feather")))
    assert raw.equals(acquire_ratings("generated", verify=True, generator=small))
    frame = pl.read_ipc(next(tmp_path.glob("03_primary/movielens/ratings.feather/*/ratings.feather")))
    assert frame.columns == ["user", "item", "rating", "timestamp", "fold"]
    assert frame["fold"].value_counts().sort("fold").rows() == [(fold, 80) for fold in range(1, 6)]
    films = pl.read_ipc(next(tmp_path.glob("03_primary/movielens/items.feather/*/items.feather")))
    assert films.columns == ["item", "title", "genres", "year", "released"]
    assert films["item"].to_list() == list(range(1, 41))


def test_a_newer_release_with_a_film_that_is_not_listed(tmp_path: Path) -> None:
    release = tmp_path / "ml-latest"
    release.mkdir()
    (release / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,10\n1,9,4.0,11\n")
    (release / "movies.csv").write_text('movieId,title,genres\n2,"A, The (1999)",X|Y\n')
    catalog = catalog_of(tmp_path / "data", "movielens", source=str(tmp_path), verify=False, generator=Ratings())
    SequentialRunner().run(movielens(), catalog)
    assert catalog.load("movielens.ratings").rows() == [(1, 2, 3.5, 10, None), (1, 9, 4.0, 11, None)]
    films = [(2, "A, The (1999)", ["X", "Y"], 1999, None), (9, "9", [], None, None)]
    assert catalog.load("movielens.items").rows() == films


def test_a_corpus_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "tickets.csv"
    table.write_text("text,label\n" + "".join(f"ticket {n},{'late' if n % 3 else 'lost'}\n" for n in range(30)))
    given: dict[str, Any] = {"source": str(table), "reading": DocumentOptions(test_fraction=0.3)}
    catalog = catalog_of(tmp_path, "imdb", "tickets", classes=["late", "lost"], **given)
    SequentialRunner().run(create_corpus_pipeline("tickets"), catalog)
    documents = catalog.load("tickets.documents")
    assert documents.group_by("split", "label").len().sort("split", "label").rows() == [
        *(("test", "late", 6), ("test", "lost", 3), ("train", "late", 14), ("train", "lost", 7)),
    ]
    assert documents.row(4)[:3] == ("tickets/5", "ticket 4", "late")


PERSON = {"Id": [0, 1], "age": [39, None], "income": ["<=50K", ">50K"], "file": ["data", "test"]}


@pytest.mark.parametrize(
    ("dataset", "bad", "message"),
    [
        ("adult.table", {**PERSON, "Id": [0, 0]}, "Id 0 occurs"),
        ("adult.table", {**PERSON, "income": ["<=50K", None]}, "column 'income' has 1 missing values"),
        ("adult.table", {**PERSON, "file": [None, None]}, "column 'file' has 2 missing values"),
        ("movielens.ratings", {"user": [1, 1], "item": [2, 2], "rating": [1.0, 2.0]}, "user 1, item 2 occurs"),
        ("movielens.items", {"item": [1], "title": ["A"]}, "has no column 'genres'"),
        (
            "imdb.documents",
            {"document_id": ["a"], "text": ["b"], "label": pl.Series([None], dtype=pl.String), "split": ["train"]},
            ".*'label': None.* has no label, which the splits",
        ),
    ],
)
def test_the_contract_is_checked_on_save(dataset: str, bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, dataset.split(".", maxsplit=1)[0])
    with pytest.raises(DataValidationError, match=f"{dataset}:? {message}"):
        catalog.save(dataset, pl.DataFrame(bad))
    assert not list(tmp_path.rglob("*.feather/*"))


def test_labels_that_are_no_classes_and_shared_texts(caplog: pytest.LogCaptureFixture) -> None:
    raw = pl.DataFrame({"path": ["test/b/1.txt", "train/a/1.txt", "train/b/1.txt"], "content": [b"x", b"x", b"y"]})
    with caplog.at_level(logging.INFO):
        assert len(read_documents(raw, DocumentOptions(), ["a", "b"])) == 3
    assert "1 test documents have the same text as a training or unlabelled one" in caplog.messages
    with pytest.raises(DataError, match=r"^the document 'train/a/1' has the label 'a'; classes lists A, b$"):
        read_documents(raw, DocumentOptions(), ["A", "b"])
    with pytest.raises(DataError, match=r"^no training document has the label 'c', which classes lists$"):
        read_documents(raw, DocumentOptions(), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("source", "pipeline", "readers"),
    [
        ("adult", adult(), ["read_table"]),
        ("imdb", imdb(), ["read_documents"]),
        ("tickets", create_corpus_pipeline("tickets"), ["read_documents"]),
        ("movielens", movielens(), ["read_ratings", "read_items", "read_users"]),
    ],
)
def test_nodes_are_named_after_their_source_and_tagged(source: str, pipeline: Pipeline, readers: list[str]) -> None:
    expected = [(f"{source}.acquire", {"acquire"}), *((f"{source}.{reader}", {"prepare"}) for reader in readers)]
    assert [(node.name, node.tags) for node in pipeline.nodes] == expected
    assert f"params:{source}.source" in pipeline.inputs()


@pytest.mark.parametrize(("source", "options"), [("adult", Incomes), ("imdb", Reviews), ("movielens", Ratings)])
def test_the_parameters_of_the_project_are_the_defaults(source: str, options: Any) -> None:
    block = yaml.safe_load((PROJECT / f"conf/base/parameters/{source}.yml").read_text())[source]
    assert options.model_validate(block["generator"]) == options()
    assert block["verify"] is True and block["source"].startswith("https://")
    if source == "imdb":
        assert DocumentOptions.model_validate(block["reading"]) == DocumentOptions()
