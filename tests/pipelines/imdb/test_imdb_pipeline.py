"""The pipeline that prepares a corpus, run by Kedro with the project's catalog."""

import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import DataValidationError

from embedline.errors import DataError
from embedline.pipelines.imdb.nodes import acquire, read_documents
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.pipeline import create_corpus_pipeline, create_pipeline
from embedline.pipelines.imdb.simulator import GeneratorOptions

PROJECT = Path(__file__).resolve().parents[3]
SMALL = GeneratorOptions(n_train=6, n_test=4, n_unlabelled=3)


def catalog_of(root: Path, parameters: dict[str, Any]) -> DataCatalog:
    """The catalog of conf/base/catalog/imdb.yml with another root."""
    text = (PROJECT / "conf/base/catalog/imdb.yml").read_text().replace("${_root}", str(root))
    catalog = DataCatalog.from_config(yaml.safe_load(text))
    for name, value in parameters.items():
        catalog[f"params:{name}"] = value
    return catalog


def test_generated_reviews_become_documents(tmp_path: Path) -> None:
    parameters = {
        **{"imdb.source": "generated", "imdb.verify": True, "imdb.generator": SMALL},
        **{"imdb.reading": DocumentOptions(), "imdb.classes": ["neg", "pos"]},
    }
    catalog = catalog_of(tmp_path, parameters)
    SequentialRunner().run(create_pipeline(), catalog)
    (raw,) = tmp_path.glob("01_raw/imdb/files.parquet/*/files.parquet")
    (documents,) = tmp_path.glob("03_primary/imdb/documents.feather/*/documents.feather")
    assert pl.read_parquet(raw).equals(acquire("generated", verify=True, generator=SMALL))
    frame = pl.read_ipc(documents)
    counts = frame.group_by("split", "label").len().sort("split", "label").rows()
    assert counts == [
        *(("test", "neg", 2), ("test", "pos", 2), ("train", "neg", 3), ("train", "pos", 3), ("unlabelled", None, 3)),
    ]
    assert set(frame["document_id"].str.extract("^(.*/)").unique()) == {
        *("test/neg/", "test/pos/", "train/neg/", "train/pos/", "train/unsup/"),
    }


def test_the_contract_is_checked_on_save(tmp_path: Path) -> None:
    bad = pl.DataFrame({"document_id": ["a"], "text": ["b"], "label": [None], "split": ["train"]})
    with pytest.raises(DataValidationError, match=r"imdb\.documents: .*'label': None.* has no label, which the splits"):
        catalog_of(tmp_path, {}).save("imdb.documents", bad.cast({"label": pl.String}))
    assert not list(tmp_path.rglob("*.feather/*"))


def test_a_corpus_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "tickets.csv"
    table.write_text("text,label\n" + "".join(f"ticket {n},{'late' if n % 3 else 'lost'}\n" for n in range(30)))
    parameters = {
        "tickets.source": str(table),
        "tickets.reading": DocumentOptions(test_fraction=0.3),
        "tickets.classes": ["late", "lost"],
    }
    catalog = catalog_of(tmp_path, parameters)
    SequentialRunner().run(create_corpus_pipeline("tickets"), catalog)
    documents = catalog.load("tickets.documents")
    assert documents.group_by("split", "label").len().sort("split", "label").rows() == [
        *(("test", "late", 6), ("test", "lost", 3), ("train", "late", 14), ("train", "lost", 7)),
    ]
    assert documents.row(4)[:3] == ("tickets/5", "ticket 4", "late")


def test_labels_that_are_no_classes_and_shared_texts(caplog: pytest.LogCaptureFixture) -> None:
    raw = pl.DataFrame({"path": ["test/b/1.txt", "train/a/1.txt", "train/b/1.txt"], "content": [b"x", b"x", b"y"]})
    with caplog.at_level(logging.INFO):
        assert len(read_documents(raw, DocumentOptions(), ["a", "b"])) == 3
    assert "1 test documents have the same text as a training or unlabelled one" in caplog.messages
    with pytest.raises(DataError, match=r"^the document 'train/a/1' has the label 'a'; classes lists A, b$"):
        read_documents(raw, DocumentOptions(), ["A", "b"])
    with pytest.raises(DataError, match=r"^no training document has the label 'c', which classes lists$"):
        read_documents(raw, DocumentOptions(), ["a", "b", "c"])


def test_nodes_are_named_after_their_source_and_tagged_by_stage() -> None:
    for source, pipeline in (("imdb", create_pipeline()), ("tickets", create_corpus_pipeline("tickets"))):
        assert [(node.name, node.tags) for node in pipeline.nodes] == [
            (f"{source}.acquire", {"acquire"}),
            (f"{source}.read_documents", {"prepare"}),
        ]
        assert pipeline.outputs() == {f"{source}.documents"}


def test_the_parameters_of_the_project_are_what_the_models_take() -> None:
    block = yaml.safe_load((PROJECT / "conf/base/parameters/imdb.yml").read_text())["imdb"]
    assert DocumentOptions.model_validate(block["reading"]) == DocumentOptions()
    assert GeneratorOptions.model_validate(block["generator"]) == GeneratorOptions()
    assert block["classes"] == ["neg", "pos"] and block["verify"] is True
    assert block["source"].startswith("https://ai.stanford.edu/")
