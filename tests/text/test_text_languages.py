"""Texts of other languages: spaCy's tokens, special tokens, capitals; from a German corpus to a prediction."""

from typing import Any

import polars as pl
import pytest
import spacy
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer as tokens_module
from embedline.pipelines.text.preprocessing import RuleName
from embedline.pipelines.text.tokenizer import CachedTokenizer, TokenOptions, tokenize_documents, tokenize_texts

GERMAN = "Der Film war z.B. sehr gut, d.h. am 3. Mai u.a. nicht „schlecht“! Über-Held GRÖSSE."
CHINESE = "这部电影很好看。我喜欢。NBA 2023 哈哈哈哈"


def tokens(text: str, language: str, rules: RuleName = "ulmfit") -> list[str]:
    return tokenize_texts([text], TokenOptions(rules=rules, language=language))[0]


def test_german_tokens_are_those_of_spacy() -> None:
    expected = [token.text.lower() for token in spacy.blank("de")(GERMAN)]
    assert tokens(GERMAN, "de", "dl1") == [*expected, "<eos>"]
    assert {"z.b.", "d.h.", "u.a.", "„", "3."} <= {*expected}
    assert tokens(GERMAN, "de", "dl1") != tokens(GERMAN, "en", "dl1")


def test_chinese_characters_are_tokens_without_marks_of_capitals() -> None:
    found = tokens(CHINESE, "zh")
    assert found[:8] == ["xxbos", *"这部电影很好看"]
    assert found[-3:] == ["xxrep", "4", "哈"]
    assert not {"xxup", "xxmaj"} & {*found}
    assert "".join(found[1:-3]) == "这部电影很好看。我喜欢。nba2023"
    assert tokens("好 <unk> xxrep 12 哈 <eos>x", "zh", "dl1")[:3] == ["好", "<unk>", "x"]
    assert tokens("好 xxrep 12 哈", "zh")[1:] == ["好", "xxrep", "12", "哈"]


def test_one_process_and_several_make_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [CHINESE, GERMAN] * 3
    frame = pl.DataFrame(
        {"document_id": [f"d{k}" for k in range(6)], "text": texts, "label": ["a", "b"] * 3, "split": ["train"] * 6}
    )
    alone = tokenize_documents(frame, TokenOptions(language="zh", workers=1))
    monkeypatch.setattr(tokens_module, "IN_PROCESS", 10)
    shared = tokenize_documents(frame, TokenOptions(language="zh", workers=2))
    assert all(ours.equals(theirs) for ours, theirs in zip(alone, shared, strict=True))


@pytest.mark.parametrize(("language", "named"), [("klingon", "'klingon'.*de, .*zh"), (False, "valid string")])
def test_an_unknown_language_is_named_with_the_known_ones(language: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s)language.*{named}"):
        TokenOptions.model_validate({"language": language})


def test_a_language_whose_package_is_missing_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokens_module.SEGMENTERS, "ja", ("a-package", "no_such_module"))
    with pytest.raises(ValidationError, match="'ja' needs the package a-package"):
        TokenOptions(language="ja")

    def blank(_: str) -> None:
        raise ImportError("no dictionary")

    monkeypatch.setattr(spacy, "blank", blank)
    with pytest.raises(DataError, match=r"'ja'.*no dictionary"):
        CachedTokenizer("dl1", "ja")
