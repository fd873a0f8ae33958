"""Texts in, classes out: the service against the batch prediction, on a classifier with random weights."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from small_services import texts_service

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer
from embedline.pipelines.text.options import PredictionOptions
from embedline.pipelines.text.predict import predict_texts
from embedline.serving.service import Service
from embedline.serving.texts import hold_out_texts

PACKED = Service.from_bytes(texts_service().to_bytes())  # as it comes back from its file
TEXTS = ["The film was wonderful !", "", "zorgon glib", "not dull and I loved it . " * 30, " \n", "FILM film"]


def test_answers_are_those_of_the_batch() -> None:
    service, texts = PACKED.open(), pl.DataFrame({"text": [*TEXTS, None]})
    found = service.predict(texts.to_pandas())
    expected = predict_texts(texts, PACKED.bundle, PredictionOptions()).drop("text")
    assert list(found.columns) == ["predicted", "confidence", "p_neg", "p_pos"]
    assert found["predicted"].tolist() == expected["predicted"].to_list()
    np.testing.assert_array_equal(found[["confidence", "p_neg", "p_pos"]], expected[["confidence", "p_neg", "p_pos"]])
    assert set(found.loc[[1, 2, 4, 6], "p_pos"]) == {
        0.5
    }  # empty, unknown, blank and missing: the shares of the classes
    assert found["p_pos"].nunique() == 4
    alone = [service.predict(pd.DataFrame({"text": [text]}))["p_pos"][0] for text in TEXTS]
    np.testing.assert_allclose(found["p_pos"][:-1], alone, rtol=1e-6)  # as among others


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("text", 5, "'text', row 2: 5 is not text"),
        ("text", True, "'text', row 2: True is not text"),
        ("text", "\ud800", "'text', row 2: '.*ud800' is not text"),
        ("review", "good", "no column 'text'; it has 'review'"),
    ],
)
def test_what_is_no_text_is_named(column: str, value: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        PACKED.open().predict(pd.DataFrame({column: pd.Series(["a", value], dtype=object)}))


def test_many_texts_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "map_in_processes", lambda *_: pytest.fail("a pool was started"))
    monkeypatch.setattr(tokenizer, "IN_PROCESS", 10)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    found = PACKED.open().predict(pd.DataFrame({"text": ["the film"] * 150}))
    assert len(found) == 150 and found["p_pos"].nunique() == 1


def test_the_tokenizer_does_not_grow_with_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    service, rows = PACKED.open(), pd.DataFrame({"text": ["never met before words", "the film"]})
    before = service.predict(rows)
    rules = PACKED.bundle.encoder["tokens"]["rules"]
    assert len(tokenizer._tokenizer(rules).strings) > 6
    monkeypatch.setattr(tokenizer, "MAX_STRINGS", 6)
    pd.testing.assert_frame_equal(service.predict(rows), before)
    assert tokenizer._tokenizer.cache_info().currsize == 0  # the next text gets a new tokenizer
    pd.testing.assert_frame_equal(service.predict(rows), before)


def test_the_figure_is_the_accuracy_of_raw_test_texts() -> None:
    rows = [("a", "the film", "pos", "test"), ("b", "dull", "neg", "train"), ("c", "wonderful", "pos", "test")]
    rows += [("d", "i loved it", None, "unlabelled"), ("e", "not", "neg", "test")]
    held_out = hold_out_texts(pl.DataFrame(rows, schema=["document_id", "text", "label", "split"], orient="row"))
    assert held_out.columns == ["text", "actual"]
    assert held_out.rows() == [("the film", "pos"), ("wonderful", "pos"), ("not", "neg")]
    service = PACKED.open()
    answers = service.predict(held_out.drop("actual").to_pandas())
    right = sum(a == b for a, b in zip(answers["predicted"], held_out["actual"], strict=True))
    measured = service.measure(answers, held_out["actual"].to_pandas())
    assert (measured.path, measured.value, measured.better) == (("classifier", "accuracy"), right / 3, "higher")
    opposite = held_out["actual"].replace_strict({"pos": "neg", "neg": "pos"}).to_pandas()
    assert service.measure(answers, opposite).value == pytest.approx(1 - right / 3)


def test_a_prediction_moves_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads predict at a time, and an LSTM whose weights are being moved has none for a moment."""
    service, rows = PACKED.open(), pd.DataFrame({"text": ["the film was dull", "wonderful"]})
    expected = service.predict(rows)
    for module in (torch.nn.Module, torch.nn.LSTM):
        monkeypatch.setattr(module, "_apply", lambda *_: pytest.fail("the weights were moved"))
    pd.testing.assert_frame_equal(service.predict(rows), expected)
