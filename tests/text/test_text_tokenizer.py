"""Tokens: equal to those of spaCy alone, for any number of processes, and for unusual documents."""

import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import spacy
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer as tokens_module
from embedline.pipelines.text.preprocessing import RULES, RuleName, ulmfit_text
from embedline.pipelines.text.tokenizer import (
    CachedTokenizer,
    TokenOptions,
    flat_lists,
    list_column,
    tokenize,
    tokenize_documents,
    tokenize_texts,
)

PRESETS: tuple[RuleName, ...] = ("ulmfit", "dl1")

ODD = {
    "empty": "",
    "spaces": "   ",
    "new lines": "\n\n\r\n\t",
    "nul": "a\x00b \x00 c",
    "controls": "a\x1cb\x85c \x07 d\u2028e",
    "wide spaces": "a\u00a0b \u00a0 c\u3000d",
    "new lines in words": "end.\n\nStart \n and!!!\n!!!and /\n/ #\n",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, \u0645\u0631\u062d\u0628\u0627 \u202bx\u202c",
    "emoji": "\U0001f600\U0001f600\U0001f600 good \U0001f468\u200d\U0001f469\u200d\U0001f467!!!",
    "combining": "e\u0301te\u0301 \u0130STANBUL \u1e9e \ufb01n \u039f\u0394\u039f\u03a3",
    "emoticons": "fun (really): yes :) ( :) :-( ;) a.m. 10 a.m.) (vs. ) 'em ''I (the film):-) <3 ):",
    "urls": "see http://a.com/b?c=1&d=2 or www.x.org/~y#z, me@x.org.",
    "specials": "xxbos <eos> <unk> xxrep 3 xxmaj. (xxup) <EOS>",
    "numbers": "3333 3 3. 10/10!!! $1,000.00 5km 1,2-3 9.5/10 -- --- ....",
    "repeats in words": "x!!!no no no!!! no\nno\nno no no no very very Very very",
    "case": "Ill. ill. U.S.A. ex-Mrs. the-co. can't CAN'T cannot (Cannot. Cannot) I'm vs. Vs. e-mail X-Files' won't.",
    "quotes": '"Well," he said. "(No)." \u201cquoted\u201d \u2018x\u2019s don\u2019t \u2019tis y\'all\'d',
    "one long word": "x" * 20_000 + "ab" * 10_000,
}


def spacy_alone(text: str, specials: tuple[str, ...]) -> list[str]:
    import spacy
    from spacy.symbols import ORTH

    nlp = spacy.blank("en")
    for special in specials:
        nlp.tokenizer.add_special_case(special, [{ORTH: special}])
    return [token.text for token in nlp(text)]


@pytest.fixture(scope="module")
def tokenizers() -> dict[RuleName, CachedTokenizer]:
    return {rules: CachedTokenizer(rules) for rules in PRESETS}


@pytest.mark.parametrize("rules", PRESETS)
@pytest.mark.parametrize("name", ODD)
def test_odd_texts_have_spacys_tokens(tokenizers: dict[RuleName, CachedTokenizer], rules: RuleName, name: str) -> None:
    tokenizer, text = tokenizers[rules], ODD[name]
    uncached = tokenizer.uncached_tokens(text)
    assert tokenizer.tokens(text) == tokenizer.tokens(text) == uncached  # the second time from the cache
    if rules == "ulmfit":
        expected = spacy_alone(ulmfit_text(text), RULES["ulmfit"].specials)
        assert uncached == [token.replace(" ", "▁") for token in expected]


@pytest.mark.parametrize("rules", PRESETS)
def test_random_words_have_spacys_tokens(tokenizers: dict[RuleName, CachedTokenizer], rules: RuleName) -> None:
    """Random strings of affixes, special cases and white space, in all combinations."""
    pieces = (
        "word Word WORD I a ex-Mrs Co vs can cannot gonna it he 's n't 're 'em ' '' \" ( ) [ ] . , ! ? ; : :) :( ): "
        "- -- / # \\ * + = < > 3 8 10 a.m p.m U.S e.g km % $ & &amp; ... \u2026 \u2014 \u2019 \u2019s xx <eos> "
        "xxmaj no no no"
    ).split()
    spaces = [" "] * 6 + ["", "", "", "\n", "  ", " \n ", "\n\n", "\u00a0"]
    generator = random.Random(0)
    tokenizer = tokenizers[rules]
    for _ in range(2500):
        text = "".join(generator.choice(pieces) + generator.choice(spaces) for _ in range(generator.randrange(1, 14)))
        assert tokenizer.tokens(text) == tokenizer.uncached_tokens(text), repr(text)


def test_a_text_with_a_special_case_over_two_words_goes_to_spacy_whole() -> None:
    # ":" and "):" are special cases of spaCy's last step, which reads over the space.
    tokenizer, text = CachedTokenizer("dl1"), "he (the man): she :) and (a ) : b"
    assert tokenizer.tokens(text) == tokenizer.uncached_tokens(text)
    assert [tokenizer.word_tokens(word) for word in ("(man):", "x")] == [None, ("x",)]


def test_the_cache_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{number} and {number} words, Again." for number in range(50)]
    whole = CachedTokenizer("ulmfit")
    expected = [whole.tokens(text) for text in texts]
    monkeypatch.setattr(tokens_module, "CACHE_LIMIT", 7)
    small = CachedTokenizer("ulmfit")
    assert [small.tokens(text) for text in texts] == expected
    assert small.word_tokens.cache_info().currsize <= 7


def test_codes_point_into_a_lexicon_by_frequency() -> None:
    texts = ["b b a", "c a b", ""]
    (codes, offsets), lexicon = tokenize(texts, TokenOptions(rules="dl1", workers=1))
    # three each of b and <eos>, ties by string; two of a; one of c
    assert lexicon == ["<eos>", "b", "a", "c"]
    assert codes.tolist() == [1, 1, 2, 0, 3, 2, 1, 0, 0]
    assert offsets.tolist() == [0, 4, 8, 9]
    assert codes.dtype == np.int32 and offsets.dtype == np.int64


def test_frames() -> None:
    rows = [("x", "Good film", "pos", "train"), ("y", "", None, "unlabelled")]
    schema = dict.fromkeys(("document_id", "text", "label", "split"), pl.String)
    documents = pl.DataFrame(rows, schema=schema, orient="row")
    tokens, lexicon = tokenize_documents(documents, TokenOptions(workers=1))
    columns = dict.fromkeys(("document_id", "label", "split"), pl.String) | {"tokens": pl.List(pl.Int32)}
    assert (tokens.schema, lexicon.schema) == (columns, {"token": pl.String})
    words = lexicon["token"].to_list()
    found = [[words[code] for code in row] for row in tokens["tokens"]]
    assert found == [["xxbos", "xxmaj", "good", "film"], ["xxbos"]]
    assert tokens.drop("tokens").equals(documents.drop("text"))
    tokens, lexicon = tokenize_documents(documents.clear(), TokenOptions())
    assert (len(tokens), len(lexicon)) == (0, 0)
    assert tokens.schema == columns


def test_a_document_that_spacy_cannot_tokenize_is_named() -> None:
    with pytest.raises(DataError, match=r"document 'second' .*surrogates"):
        tokenize(["fine", "broken \ud800"], TokenOptions(), ["first", "second"])


def test_documents_of_100_000_words() -> None:
    text = " ".join(f"Word{number % 100}, and" for number in range(50_000))
    long, repeated = tokenize_texts([text, "very " * 100_000], TokenOptions())
    assert len(long) == 200_001  # xxbos, and 50,000 times: xxmaj word7 , and
    assert long[:5] == ["xxbos", "xxmaj", "word0", ",", "and"]
    assert repeated == ["xxbos", "xxwrep", "100000", "very"]


def test_lists_there_and_back() -> None:
    values, offsets = np.array([5, 6, 7], np.int32), np.array([0, 0, 2, 3, 3], np.int64)
    column = list_column("x", values, offsets)
    assert column.to_list() == [[], [5, 6], [7], []]
    back, ends = flat_lists(pl.concat([column, column[1:3]])[1:])
    assert back.tolist() == [5, 6, 7, 5, 6, 7]
    assert ends.tolist() == [0, 2, 3, 3, 5, 6]
    with pytest.raises(DataError, match="column 'x' has no list"):
        flat_lists(pl.Series("x", [[1], None]))


@pytest.mark.slow
def test_real_reviews_have_spacys_tokens(real_data: Path, tokenizers: dict[RuleName, CachedTokenizer]) -> None:
    """1,500 reviews from all over the archive; all 100,000 have been compared by hand, without a difference."""
    archive = real_data / "aclImdb_v1.tar.gz"
    if not archive.exists():
        pytest.skip(f"no reviews: {real_data} has no aclImdb_v1.tar.gz")
    compared = 0
    with tarfile.open(archive) as members:
        reviews = (member for member in members if member.name.endswith(".txt") and member.name.count("/") == 3)
        for number, member in enumerate(reviews):
            if number % 66 == 0:
                content = members.extractfile(member)
                assert content is not None
                text = content.read().decode()
                for tokenizer in tokenizers.values():
                    assert tokenizer.tokens(text) == tokenizer.uncached_tokens(text), member.name
                compared += 1
    assert compared >= 1500


def test_settings() -> None:
    assert TokenOptions(workers=3).processes == 3
    assert TokenOptions().processes >= 1
    for settings in ({"workers": 0}, {"rules": "moses"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            TokenOptions.model_validate(settings)


def test_words_and_white_space_are_split_as_by_spacy() -> None:
    for text in (" a", "  a  b ", "a\n b", "a \nb", "a \n b", "\n a", "a  ", "a \n", " \n "):
        expected = spacy_alone(text, ())
        assert [chunk for chunk in tokens_module._split_words(text) if chunk] == expected, repr(text)


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
