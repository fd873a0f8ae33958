"""Texts in, classes out: the service against the batch prediction, on a classifier with random weights."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer
from embedline.pipelines.text.options import PredictionOptions
from embedline.pipelines.text.predict import predict_texts
from embedline.serving.service import Service
from embedline.serving.texts import hold_out_texts, pack_texts
from test_commands import make_bundles

TEXTS = ["The film was wonderful !", "", "zorgon glib", "not dull and I loved it . " * 30, " \n", "FILM film"]


@pytest.fixture(scope="module")
def bundle() -> Any:
    return make_bundles(3)["model"]


@pytest.fixture(scope="module")
def packed(bundle: Any) -> Service:
    """As it comes back from its file."""
    return Service.from_bytes(pack_texts(bundle).to_bytes())


def test_answers_are_those_of_the_batch(packed: Service, bundle: Any) -> None:
    found = packed.open().predict(pd.DataFrame({"text": [*TEXTS, None]}))
    expected = predict_texts(pl.DataFrame({"text": [*TEXTS, None]}), bundle, PredictionOptions()).drop("text")
    assert list(found.columns) == ["predicted", "confidence", "p_neg", "p_pos"]
    assert found["predicted"].tolist() == expected["predicted"].to_list()
    np.testing.assert_array_equal(found[["confidence", "p_neg", "p_pos"]], expected[["confidence", "p_neg", "p_pos"]])
    assert found.loc[[1, 4, 6], "p_pos"].nunique() == 1  # empty, blank and missing: nothing to read
    assert found["p_pos"].nunique() == 5


def test_a_text_alone_is_answered_as_among_others(packed: Service) -> None:
    service = packed.open()
    together = service.predict(pd.DataFrame({"text": TEXTS}))["p_pos"]
    alone = [service.predict(pd.DataFrame({"text": [text]}))["p_pos"][0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "column 'text', row 2: 5 is not text"),
        (True, "column 'text', row 2: True is not text"),
        ("\ud800", "column 'text', row 2: '.*ud800' is not text"),
    ],
)
def test_what_is_no_text_is_named(packed: Service, value: Any, message: str) -> None:
    rows = pd.DataFrame({"text": pd.Series(["a", value], dtype=object)})
    with pytest.raises(DataError, match=message):
        packed.open().predict(rows)


def test_a_missing_column_is_named(packed: Service) -> None:
    with pytest.raises(DataError, match="has no column 'text'; it has 'review'"):
        packed.open().predict(pd.DataFrame({"review": ["good"]}))


def test_many_texts_start_no_process(packed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a pool was started")

    monkeypatch.setattr(tokenizer, "_tokenize_in_pool", refuse)
    monkeypatch.setattr(tokenizer, "IN_PROCESS", 10)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    found = packed.open().predict(pd.DataFrame({"text": ["the film"] * 150}))
    assert len(found) == 150 and found["p_pos"].nunique() == 1


def test_the_tokenizer_does_not_grow_with_what_it_reads(packed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service, rows = packed.open(), pd.DataFrame({"text": ["never met before words", "the film"]})
    before = service.predict(rows)
    rules = packed.bundle.encoder["tokens"]["rules"]
    assert len(tokenizer._tokenizer(rules).strings) > 6
    monkeypatch.setattr(tokenizer, "MAX_STRINGS", 6)
    pd.testing.assert_frame_equal(service.predict(rows), before)
    assert tokenizer._tokenizer.cache_info().currsize == 0  # the next text gets a new tokenizer
    pd.testing.assert_frame_equal(service.predict(rows), before)


def test_the_figure_is_the_accuracy_of_raw_test_texts(packed: Service) -> None:
    documents = pl.DataFrame(
        {
            "document_id": list("abcde"),
            "text": ["the film", "dull", "wonderful", "i loved it", "not"],
            "label": ["pos", "neg", "pos", None, "neg"],
            "split": ["test", "train", "test", "unlabelled", "test"],
        }
    )
    held_out = hold_out_texts(documents)
    assert held_out.to_dict(as_series=False) == {
        "text": ["the film", "wonderful", "not"],
        "actual": ["pos", "pos", "neg"],
    }
    service = packed.open()
    answers = service.predict(held_out.drop("actual").to_pandas())
    right = sum(a == b for a, b in zip(answers["predicted"], held_out["actual"], strict=True))
    measured = service.measure(answers, held_out["actual"].to_pandas())
    assert (measured.path, measured.value, measured.better) == (("classifier", "accuracy"), right / 3, "higher")
    opposite = held_out["actual"].replace_strict({"pos": "neg", "neg": "pos"}).to_pandas()
    assert service.measure(answers, opposite).value == pytest.approx(1 - right / 3)


def test_a_prediction_moves_no_weights(packed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads predict at a time, and an LSTM whose weights are being moved has none for a moment."""
    service, rows = packed.open(), pd.DataFrame({"text": ["the film was dull", "wonderful"]})
    expected = service.predict(rows)

    def refuse(*_: Any) -> None:
        raise AssertionError("the weights were moved")

    monkeypatch.setattr(torch.nn.Module, "_apply", refuse)
    monkeypatch.setattr(torch.nn.LSTM, "_apply", refuse)
    pd.testing.assert_frame_equal(service.predict(rows), expected)
