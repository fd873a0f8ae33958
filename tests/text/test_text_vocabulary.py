"""Vocabularies: order, limits, counted splits, errors; conversion to ids and back; readable text."""

import json

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
    return pl.DataFrame(
        {
            "document_id": [f"d{number:02}" for number in range(11)],
            "text": texts,
            "label": ["a", "b"] * 5 + [None],
            "split": ["train"] * 8 + ["test"] * 2 + ["unlabelled"],
        }
    )


@pytest.fixture(scope="module")
def tokens() -> tuple[pl.DataFrame, pl.DataFrame]:
    return tokenize_documents(documents(), TokenOptions(rules="dl1", workers=1))


Frames = tuple[pl.DataFrame, pl.DataFrame]


def held_out_words() -> set[str]:
    frame = documents()
    chosen = frame.filter(assign_splits(frame, SPLIT) == "validation")["text"].to_list()
    assert len(chosen) == 2
    return {text.split()[0] for text in chosen}


def test_specials_then_frequency_then_string(tokens: Frames) -> None:
    vocabulary = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1))
    trained = [f"w{number}" for number in range(8) if f"w{number}" not in held_out_words()]
    counts = {word: int(word[1:]) + 1 for word in trained} | {"all": 6 + 1, "bare": 2}
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert vocabulary.tokens == (*SPECIALS, *expected)
    assert (vocabulary.unknown, vocabulary.padding) == (0, 1)
    assert vocabulary.fitted_on == ("train", "unlabelled")
    assert (vocabulary.min_freq, vocabulary.max_size) == (1, None)


def test_neither_validation_nor_test_words_come_in(tokens: Frames) -> None:
    found = set(fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1)).tokens)
    assert not found & {*held_out_words(), "tested"}


def test_the_test_text_by_request(tokens: Frames) -> None:
    vocabulary = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=2, include_test=True))
    assert "tested" in vocabulary
    assert vocabulary.fitted_on == ("train", "unlabelled", "test")


def test_limits(tokens: Frames) -> None:
    whole = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1))
    frequent = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=3))
    assert frequent.tokens == tuple(token for token in whole.tokens if token not in {"bare", "w0", "w1"})
    short = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=1, max_size=5))
    assert short.tokens == whole.tokens[:5]
    with pytest.raises(DataError, match=r"vocabulary\.max_size 3 leaves no room beside 3 special tokens"):
        fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(max_size=3))


def test_presets_bring_their_limits(tokens: Frames) -> None:
    vocabulary = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions())
    assert (vocabulary.min_freq, vocabulary.max_size, vocabulary.tokens) == (10, None, SPECIALS)
    frames = tokenize_documents(documents(), TokenOptions(workers=1))
    vocabulary = fit_vocabulary(*frames, SPLIT, "ulmfit", VocabularyOptions())
    assert (vocabulary.min_freq, vocabulary.max_size) == (3, 60_000)
    assert vocabulary.tokens[:10] == (*"xxunk xxpad xxbos xxeos xxfld xxrep xxwrep xxup xxmaj".split(), "all")


def test_documents_as_ids(tokens: Frames) -> None:
    vocabulary = fit_vocabulary(*tokens, SPLIT, "dl1", VocabularyOptions(min_freq=2))
    ids = numericalize(*tokens, vocabulary, SPLIT)
    assert ids.schema == {
        "document_id": pl.String,
        "label": pl.String,
        "split": pl.String,
        "ids": pl.List(pl.UInt16),
    }
    assert ids["split"].equals(assign_splits(documents(), SPLIT))
    rows = dict(zip(ids["document_id"], ids["ids"].to_list(), strict=True))
    assert rows["d08"] == [0, vocabulary.ids(["all"])[0], 2]  # "tested all <eos>"
    assert vocabulary.words(rows["d10"]) == ["bare", "bare", "all", "<eos>"]
    assert unknown_fractions(ids, vocabulary)["test"] == 2 / 5
    assert unknown_fractions(ids, vocabulary)["unlabelled"] == 0.0
    assert list(unknown_fractions(ids, vocabulary)) == ["train", "validation", "test", "unlabelled"]


def test_a_large_vocabulary_takes_int32() -> None:
    many = Vocabulary(**{**_fields(), "tokens": (*SPECIALS, *(f"t{number}" for number in range(2**16 - 3)))})
    lexicon = pl.DataFrame({"token": ["<eos>", "t65532", "x"]})
    frame = documents().drop("text").with_columns(tokens=pl.Series([[1, 2, 0]] * 11, dtype=pl.List(pl.Int32)))
    assert len(many) == 2**16
    found = numericalize(frame, lexicon, many, SPLIT)
    assert found.schema["ids"] == pl.List(pl.UInt16) and found["ids"][0].to_list() == [65535, 0, 2]
    larger = many.model_copy(update={"tokens": (*many.tokens, "x")})
    larger = Vocabulary.model_validate_json(larger.model_dump_json())
    found = numericalize(frame, lexicon, larger, SPLIT)
    assert found.schema["ids"] == pl.List(pl.Int32) and found["ids"][0].to_list() == [65535, 65536, 2]


def _fields() -> dict[str, object]:
    return {
        "rules": "dl1",
        "tokens": (*SPECIALS, "a", "b"),
        "specials": SPECIALS,
        "unknown": 0,
        "padding": 1,
        "fitted_on": ("train",),
        "min_freq": 1,
    }


def test_json_round_trip_and_ids_both_ways() -> None:
    vocabulary = Vocabulary.model_validate(_fields())
    again = load_vocabulary(vocabulary.model_dump_json(), "dl1")
    assert again == vocabulary
    assert load_vocabulary(json.loads(vocabulary.model_dump_json())) == vocabulary
    ids = again.ids(["b", "zzz", "a", "<eos>"])
    assert ids.dtype == np.int64 and ids.tolist() == [4, 0, 3, 2]
    assert again.words(ids) == ["b", "<unk>", "a", "<eos>"]
    assert again.ids([]).tolist() == []
    with pytest.raises(DataError, match="id 5 is not in a vocabulary of 5 tokens"):
        again.words([0, 5])
    with pytest.raises(DataError, match="id -1 is not in"):
        again.words([-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [*SPECIALS, "a", "b", "a"]}, "it holds the token 'a' twice"),
        ({"tokens": ["<unk>", "<pad>", "a"]}, "does not start with the special tokens of 'dl1': <unk> <pad> <eos>"),
        ({"tokens": []}, "does not start with the special tokens"),
        ({"rules": "ulmfit"}, "does not start with the special tokens of 'ulmfit'"),
        ({"unknown": 1}, "unknown 1 and padding 1 are not the ids of '<unk>' and '<pad>'"),
        ({"rules": "moses"}, "rules: Input should be 'dl1' or 'ulmfit'"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_vocabulary_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=f"^the vocabulary cannot be used: .*{message}"):
        load_vocabulary(json.dumps({**_fields(), **change}))


def test_other_rules_are_refused(tokens: Frames) -> None:
    with pytest.raises(DataError, match="it is no JSON"):
        load_vocabulary("{")
    vocabulary = Vocabulary.model_validate(_fields())
    with pytest.raises(DataError, match="made with the token rules 'dl1', the tokens with 'ulmfit'"):
        load_vocabulary(vocabulary.model_dump(), "ulmfit")
    with pytest.raises(DataError, match="made with the token rules 'dl1'"):
        load_vocabulary(vocabulary.model_dump_json(), "ulmfit")
    others = tokenize_documents(documents(), TokenOptions(workers=1))
    with pytest.raises(DataError, match="has no '<eos>': the tokens were not made with the token rules 'dl1'"):
        numericalize(*others, vocabulary, SPLIT)
    with pytest.raises(DataError, match="has no 'xxbos'"):
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
    known = tuple(dict.fromkeys(word for word in words if word not in specials))
    vocabulary = Vocabulary.model_validate(
        {**_fields(), "rules": rules, "specials": specials, "tokens": (*specials, *known)}
    )
    assert vocabulary.detokenize(vocabulary.ids(words)) == text.replace(" \n\n ", "\n\n")
