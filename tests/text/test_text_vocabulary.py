"""Vocabularies: order, limits, counted splits, errors; conversion to ids and back; readable text."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.text.documents import SplitOptions, assign_splits
from embedline.pipelines.text.preprocessing import RULES
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_documents
from embedline.pipelines.text.vocabulary import (
    Vocabulary,
    VocabularyOptions,
    fit_vocabulary,
    load_vocabulary,
    numericalize,
    unknown_fractions,
)

SPLIT = SplitOptions(validation=0.25)
SPECIALS = RULES["dl1"].specials


def documents() -> pl.DataFrame:
    """Eight training documents that repeat one word, two test documents, one unlabelled."""
    texts = [f"w{number} " * (number + 1) + "all" for number in range(8)] + ["tested all", "tested", "bare bare all"]
    labels, splits = ["a", "b"] * 5 + [None], ["train"] * 8 + ["test"] * 2 + ["unlabelled"]
    names = [f"d{number:02}" for number in range(11)]
    return pl.DataFrame({"document_id": names, "text": texts, "label": labels, "split": splits})


Frames = tuple[pl.DataFrame, pl.DataFrame]


@pytest.fixture(scope="module")
def tokens() -> Frames:
    return tokenize_documents(documents(), TokenOptions(rules="dl1", workers=1))


def held_out_words() -> set[str]:
    frame = documents()
    chosen = frame.filter(assign_splits(frame, SPLIT) == "validation")["text"].to_list()
    assert len(chosen) == 2
    return {text.split()[0] for text in chosen}


def test_specials_then_frequency_then_string_and_limits(tokens: Frames) -> None:
    def fit(**options: Any) -> Vocabulary:
        return fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(**options))

    whole = fit(min_freq=1)
    trained = {f"w{number}" for number in range(8)} - held_out_words()  # no words of validation and test documents
    counts = {word: int(word[1:]) + 1 for word in trained} | {"all": 6 + 1, "bare": 2}
    assert whole.tokens == (*SPECIALS, *sorted(counts, key=lambda word: (-counts[word], word)))
    assert (whole.unknown, whole.padding) == (0, 1)
    assert whole.fitted_on == ("train", "unlabelled")
    assert (whole.min_freq, whole.max_size) == (1, None)
    assert fit(min_freq=3).tokens == tuple(token for token in whole.tokens if token not in {"bare", "w0", "w1"})
    assert fit(min_freq=1, max_size=5).tokens == whole.tokens[:5]
    with_test = fit(min_freq=2, include_test=True)
    assert "tested" in with_test
    assert with_test.fitted_on == ("train", "unlabelled", "test")
    with pytest.raises(DataError, match=r"vocabulary\.max_size 3"):
        fit(max_size=3)


def test_presets_bring_their_limits(tokens: Frames) -> None:
    twice = pl.concat([tokens[0], tokens[0].with_columns(document_id="again " + pl.col("document_id"))])
    vocabulary = fit_vocabulary(twice, tokens[1], SPLIT, "dl1", VocabularyOptions())
    assert (vocabulary.min_freq, vocabulary.max_size) == (10, None)
    fitted_on = twice.filter(assign_splits(twice, SPLIT).is_in(["train", "unlabelled"]))["tokens"].explode()
    counts = dict(zip(tokens[1]["token"], np.bincount(fitted_on, minlength=len(tokens[1])), strict=True))
    assert {*vocabulary.tokens} == {*SPECIALS} | {word for word, count in counts.items() if count >= 10}
    assert "all" in vocabulary and "w0" not in vocabulary
    frames = tokenize_documents(documents(), TokenOptions(workers=1))
    vocabulary = fit_vocabulary(*frames, SPLIT, "ulmfit", VocabularyOptions())
    assert (vocabulary.min_freq, vocabulary.max_size) == (3, 60_000)
    assert vocabulary.tokens[:10] == (*"xxunk xxpad xxbos xxeos xxfld xxrep xxwrep xxup xxmaj".split(), "all")


def test_documents_as_ids(tokens: Frames) -> None:
    vocabulary = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=2))
    ids = numericalize(*tokens, vocabulary, SPLIT)
    assert ids.schema == dict.fromkeys(("document_id", "label", "split"), pl.String) | {"ids": pl.List(pl.UInt16)}
    assert ids["split"].equals(assign_splits(documents(), SPLIT))
    rows = dict(zip(ids["document_id"], ids["ids"].to_list(), strict=True))
    assert rows["d08"] == [0, vocabulary.ids(["all"])[0], 2]  # "tested all <eos>"
    assert vocabulary.words(rows["d10"]) == ["bare", "bare", "all", "<eos>"]
    unknown = unknown_fractions(ids, vocabulary)
    assert (unknown["test"], unknown["unlabelled"]) == (2 / 5, 0.0)
    assert list(unknown) == ["train", "validation", "test", "unlabelled"]


def _fields() -> dict[str, object]:
    counted: dict[str, object] = {"fitted_on": ("train",), "min_freq": 1}
    return counted | {"rules": "dl1", "tokens": (*SPECIALS, "a", "b"), "specials": SPECIALS, "unknown": 0, "padding": 1}


def test_json_round_trip_and_ids_both_ways() -> None:
    vocabulary = Vocabulary.model_validate(_fields())
    again = load_vocabulary(json.loads(vocabulary.model_dump_json()), TokenOptions(rules="dl1"))
    assert again == vocabulary
    ids = again.ids(["b", "zzz", "a", "<eos>"])
    assert ids.dtype == np.int64 and ids.tolist() == [4, 0, 3, 2]
    assert again.words(ids) == ["b", "<unk>", "a", "<eos>"]
    assert again.ids([]).tolist() == []
    for wrong in (5, -1):
        with pytest.raises(DataError, match=f"id {wrong} .* 5 tokens"):
            again.words([0, wrong])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [*SPECIALS, "a", "b", "a"]}, "'a' twice"),
        ({"tokens": ["<unk>", "<pad>", "a"]}, "special tokens of 'dl1': <unk> <pad> <eos>"),
        ({"tokens": []}, "special tokens"),
        ({"rules": "ulmfit"}, "special tokens of 'ulmfit'"),
        ({"unknown": 1}, "unknown 1 and padding 1 .*'<unk>' and '<pad>'"),
        ({"rules": "moses"}, "rules: .*'dl1' or 'ulmfit'"),
        ({"colour": 1}, "colour: Extra"),
    ],
)
def test_what_is_no_vocabulary_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=f"^the vocabulary cannot be used: .*{message}"):
        load_vocabulary({**_fields(), **change})


def test_another_language_is_refused(tokens: Frames) -> None:
    german = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1), "de").model_dump(mode="json")
    assert load_vocabulary(german, TokenOptions(rules="dl1", language="de")).language == "de"
    with pytest.raises(DataError, match=r"language 'de'.* 'en'"):
        load_vocabulary(german, TokenOptions(rules="dl1"))
    old = Vocabulary.model_validate(_fields()).model_dump(mode="json")
    del old["language"]
    assert load_vocabulary(old).language == "en"


def test_a_vocabulary_without_a_word_is_refused(tokens: Frames) -> None:
    most = sum(number + 1 for number in range(8))  # no word is more frequent
    with pytest.raises(DataError, match=rf"min_freq = {most} .* 7 times"):
        fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=most))


def test_many_unknown_tokens_are_said_and_nearly_all_are_refused(
    tokens: Frames, caplog: pytest.LogCaptureFixture
) -> None:
    every = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1, include_test=True))
    known = every.model_copy(update={"tokens": (*every.tokens, *held_out_words())})
    numericalize(*tokens, Vocabulary.model_validate(known.model_dump()), SPLIT)
    assert not caplog.records
    # "tested all <eos>" and "tested <eos>": two of five tokens.
    numericalize(*tokens, fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1)), SPLIT)
    assert "40% of the split 'test'" in caplog.text and "'train'" not in caplog.text
    fields = _fields() | {"tokens": (*SPECIALS, "foreign")}
    no_end = tokens[0].with_columns(pl.col("tokens").list.slice(0, pl.col("tokens").list.len() - 1))
    with pytest.raises(DataError, match=r"100% .* 'train' .* 4 words"):
        numericalize(no_end, tokens[1], Vocabulary.model_validate(fields), SPLIT)


def test_other_rules_are_refused(tokens: Frames) -> None:
    vocabulary = Vocabulary.model_validate(_fields())
    with pytest.raises(DataError, match=r"'dl1'.* 'ulmfit'"):
        load_vocabulary(vocabulary.model_dump(), TokenOptions(rules="ulmfit"))
    others = tokenize_documents(documents(), TokenOptions(workers=1))
    with pytest.raises(DataError, match=r"no '<eos>'.* 'dl1'"):
        numericalize(*others, vocabulary, SPLIT)
    with pytest.raises(DataError, match="no 'xxbos'"):
        fit_vocabulary(*tokens, SPLIT, "ulmfit", VocabularyOptions())


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("xxbos xxmaj this is n't xxup ok , you 're right ! xxeos", "This isn't OK, you're right!"),
        ("xxup do n't xxmaj shout , it 's me", "DON'T Shout, it's me"),
        ("so good xxrep 4 ! xxwrep 3 no , no", "so good!!!! no no no, no"),
        ('he said " no way " ( twice ) .', 'he said "no way" (twice).'),
        ("and / or $ 5 and 10 %", "and/or $5 and 10%"),
        ("one \n\n xxmaj two xxpad xxpad", "one \n\n Two"),
        ("xxbos xxfld 1 xxmaj title xxfld 2 xxmaj text", "Title\nText"),
        ("what ? ! well \u2026", "what?! well\u2026"),
        ("xxunk likes xxunk", "xxunk likes xxunk"),
        ("a\u2581b", "a b"),
        ("good film . <eos> <pad>", "good film."),
        ("a mark alone xxrep", "a mark alone"),
        ("xxrep x y xxup", "x y"),
        ("xxrep 99999999 !", "!" * 1000),
        ("xxmaj xxup a b", "A b"),
        ("xxfld", ""),
        ("", ""),
    ],
)
def test_readable_text(tokens: str, text: str) -> None:
    words = tokens.split(" ") if tokens else []
    rules = "dl1" if "<eos>" in words else "ulmfit"
    specials = RULES[rules].specials
    known = dict.fromkeys([*specials, *words])
    vocabulary = Vocabulary.model_validate({**_fields(), "rules": rules, "specials": specials, "tokens": [*known]})
    assert vocabulary.detokenize(vocabulary.ids(words)) == text.replace(" \n\n ", "\n\n")
