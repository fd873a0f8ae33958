"""The token rules, compared with recorded strings of fastai 2.8.12 and with fastai itself."""

import re

import pytest

from embedline.pipelines.imdb.simulator import GeneratorOptions, generate_files
from embedline.pipelines.text.preprocessing import (
    RULES,
    dl1_text,
    fix_references,
    lower_capitals,
    lower_unicode_capitals,
    mark_repeated_words,
    mark_repeats,
    space_signs,
    squeeze_spaces,
    ulmfit_text,
)
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_texts

# A text, and fastai's tokens of it with spaces between; quirks included.
AS_FASTAI = {
    "This is great": "xxbos xxmaj this is great",
    "1000": "xxbos 1 xxrep 3 0",
    "no!!!! way": "xxbos no xxrep 4 ! way",
    "very very good": "xxbos very very good",
    "very very very good": "xxbos xxwrep 3 very good",
    "no no no no, no": "xxbos xxwrep 4 no , no",
    "No no no": "xxbos xxmaj no no no",
    "the U.S. army": "xxbos the xxup u.s . army",
    "McDonald's": "xxbos mcdonald 's",
    "(Great)": "xxbos ( great )",
    '"Great movie': 'xxbos " great movie',
    "(YES)": "xxbos ( yes )",
    "NASA's rocket": "xxbos nasa 's rocket",
    "NASA ROCKET": "xxbos xxup nasa xxup rocket",
    "I saw A film": "xxbos i saw a film",
    "OK, fine": "xxbos xxup ok , fine",
    "and/or #1 a\\b": "xxbos and / or # 1 a \\ b",
    "one<br /><br />Two": "xxbos one \n\n xxmaj two",
    "wait...": "xxbos wait …",
    "a  b   c": "xxbos a b c",
    "3 @.@ 5 and well @-@ known": "xxbos 3.5 and well - known",
    "an <unk> word": "xxbos an xxunk word",
    'he said \\"no\\"': 'xxbos he said " no "',
    "line\\nbreak": "xxbos line \n break",
    "it #39;s quot;itquot;": "xxbos it 's ' it '",
    "xxfld 1 Title xxfld 2 Text": "xxbos xxfld 1 xxmaj title xxfld 2 xxmaj text",
    "so good\n\n!!! yes": "xxbos so good \n\n▁ xxrep 3 ! yes",
    "  padded \n": "xxbos padded",
    "": "xxbos",
}
# A text of fields, and our tokens: fastai's have no number where the field begins with it twice.
FIELDS = {
    "xxfld 1 cs.NI cs.DC xxfld 2 1 1 1 A b": "xxbos xxfld 1 cs.ni cs.dc xxfld 2 xxwrep 3 1 a b",
    "xxfld 1 1 1 b": "xxbos xxfld 1 1 1 b",
    "xxfld 2 2 2 2 2 b": "xxbos xxfld 2 xxwrep 4 2 b",
    "xxfld 1 111 b": "xxbos xxfld 1 xxrep 3 1 b",
    "xxfld 1  xxfld 2 b xxfld 3 ": "xxbos xxfld 1 xxfld 2 b xxfld 3",
}
# A text, our tokens, and fastai's, which leaves the "&" of a whole reference behind.
REFERENCES = {
    "it&#39;s": ("xxbos it 's", "xxbos it & 's"),
    "rock &amp; roll": ("xxbos rock & roll", "xxbos rock & & roll"),
    "&quot;x&quot;": ('xxbos " x "', "xxbos & ' x & '"),
    "&lt;3": ("xxbos <3", "xxbos <3"),
    "swamp; camp; x": ("xxbos swamp ; camp ; x", "xxbos sw & c & x"),
}


def tokens_of(text: str, rules: str = "ulmfit") -> str:
    return " ".join(tokenize_texts([text], TokenOptions(rules=rules))[0])


@pytest.mark.parametrize("text", [*AS_FASTAI, *REFERENCES])
def test_ulmfit_tokens_are_fastais_but_for_whole_references(text: str) -> None:
    assert tokens_of(text) == (AS_FASTAI[text] if text in AS_FASTAI else REFERENCES[text][0])


@pytest.mark.parametrize("text", FIELDS)
def test_a_field_keeps_its_mark_and_its_number(text: str) -> None:
    assert tokens_of(text) == FIELDS[text]
    # dl1 has no special token for it: an ordinary word.
    assert "xxfld" not in RULES["dl1"].specials
    mark, number, *_ = tokens_of(text, "dl1").split()
    assert (mark, number) == ("xxfld", text.split()[1])


def test_the_table_is_what_fastai_does() -> None:
    core = pytest.importorskip("fastai.text.core", reason='fastai is not installed: pip install -e ".[benchmark]"')
    fastai = core.TokenizeWithRules(core.SpacyTokenizer())
    table = {**AS_FASTAI, **{text: theirs for text, (_, theirs) in REFERENCES.items()}}
    found = dict(zip(table, (" ".join(tokens) for tokens in fastai(list(table))), strict=True))
    assert found == table


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("it&#39;s", "it's"),
        ("&amp;amp;lt;", "<"),
        ("AT&amp;T", "AT&T"),
        ("AT&T", "AT&T"),
        ("a&nbsp;b nbsp;c", "a b  c"),
        ("amp; amp;lt;", "& <"),
        ("&#36;5 #36;6", "$5 $6"),
        ("&quot;x quot;", "\"x '"),
        ("l&#146;amour #146;", "l\u2019amour '"),
        ("swamp;", "swamp;"),
        ("a<br />b<br/>", "a\nb<br/>"),
        ("&" + "amp;" * 5 + "x", "&x"),
        ("&" + "amp;" * 100_000, "&"),
    ],
    ids=lambda text: text[:30],
)
def test_references(text: str, fixed: str) -> None:
    assert fix_references(text) == fixed


@pytest.mark.parametrize("rules", ["dl1", "ulmfit"])
@pytest.mark.parametrize("name", ["amp", "quot", "lt", "nbsp", "mdash", "eacute", "#39", "#x27", "#8217", "QUOT"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_no_reference_becomes_a_word(rules: str, name: str, times: int) -> None:
    reference = "&" + "amp;" * times + name + ";"
    tokens = tokens_of(f"R{reference}B, x{reference} {reference}cult{reference}", rules)
    assert not {name.lower(), f"&{name.lower()}"} & set(re.split(r"[ ;]", tokens))
    assert ";" not in tokens


@pytest.mark.parametrize("rules", ["dl1", "ulmfit"])
def test_no_reference_of_the_generated_reviews_becomes_a_word(rules: str) -> None:
    files = generate_files(GeneratorOptions(n_train=300, n_test=100, n_unlabelled=100))
    texts = [content.decode() for name, content in files.items() if re.search(r"\d+_\d+\.txt$", name)]
    assert sum("&quot;" in text or "&amp;" in text for text in texts) > 10
    words = {token for tokens in tokenize_texts(texts, TokenOptions(rules=rules)) for token in tokens}
    assert [word for word in words if re.search(r"quot|#\d|&(amp|#|\w+;)|^(amp|nbsp)$", word)] == []


def test_single_rules() -> None:
    assert mark_repeats("aaa bb cccc") == " xxrep 3 a  bb  xxrep 4 c "
    assert mark_repeats("a   b") == "a   b"
    assert mark_repeated_words("so so so!") == " xxwrep 3 so !"
    assert mark_repeated_words("so\nso  so so x") == " xxwrep 4 so  x"
    assert mark_repeated_words("so so sooner") == "so so sooner"
    assert space_signs("a/b#c\\d") == "a / b # c \\ d"
    assert squeeze_spaces("a  \n   b") == "a \n b"
    words = "A B.C. Dog's cat's E-mail iPhone 'Tis"
    assert lower_capitals(words) == "a xxup b.c. xxmaj dog's cat's xxmaj e-mail iPhone 'Tis"
    assert ulmfit_text(" Hello\tWORLD ") == "xxbos xxmaj hello\txxup world"
    assert ulmfit_text("") == "xxbos "
    assert dl1_text("Wow.<br />Wow\n\n") == "Wow.\nWow"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("This Is GREAT!!!", "this is great ! ! ! <eos>"),
        ("one<br /><br />Two", "one \n\n two <eos>"),
        ("The U.S. didn't", "the u.s. did n't <eos>"),
        ("a  b", "a   b <eos>"),  # torchtext keeps the second space as a token
        ("it&#39;s", "it 's <eos>"),
        ("R&amp;B is &quot;cult&quot", 'r&b is " cult " <eos>'),
        ("&amp;quot;cult&amp;quot;, he said", '" cult " , he said <eos>'),
        ("a&lt;br /&gt;b Samot&#225;&amp;#345;i", "a \n b samotáři <eos>"),
        ("I LOVE <unk>\n", "i love <unk> <eos>"),
        ("", "<eos>"),
        # "Ill." is an abbreviation to spaCy, "ill." a word and a full stop.
        ("Ill. ill.", "ill. ill . <eos>"),
    ],
)
def test_dl1_tokens(text: str, tokens: str) -> None:
    assert tokens_of(text, "dl1") == tokens


def test_specials_have_their_ids() -> None:
    assert RULES["ulmfit"].specials == tuple("xxunk xxpad xxbos xxeos xxfld xxrep xxwrep xxup xxmaj".split())
    assert RULES["dl1"].specials == ("<unk>", "<pad>", "<eos>")
    assert (RULES["ulmfit"].min_freq, RULES["ulmfit"].max_size) == (3, 60_000)
    assert (RULES["dl1"].min_freq, RULES["dl1"].max_size) == (10, None)


@pytest.mark.parametrize(
    ("text", "lowered"),
    [
        ("Über GRÖSSE é É Ёлка", "xxmaj über xxup grösse é é xxmaj ёлка"),
        ("McDonald's (Great) A1 B. 电影 ß", "McDonald's (Great) xxup a1 xxup b. 电影 ß"),
    ],
)
def test_capitals_of_all_scripts(text: str, lowered: str) -> None:
    assert lower_unicode_capitals(text) == lowered
    ascii_only = text.encode("ascii", "ignore").decode()
    assert lower_unicode_capitals(ascii_only) == lower_capitals(ascii_only)
