"""The baseline on documents with known classes, compared with scikit-learn on a dense matrix."""

import json
import logging
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from embedline.errors import DataError
from embedline.pipelines.text import baseline as baselines
from embedline.pipelines.text.baseline import (
    STRENGTHS,
    BaselineOptions,
    NaiveBayesSVM,
    log_count_ratios,
    predict_split,
    train_baseline,
)
from embedline.pipelines.text.documents import SplitOptions, assign_splits, stratified_folds
from embedline.pipelines.text.evaluation import prediction_arrays
from embedline.pipelines.text.language_model import KIND as OTHER_KIND
from embedline.pipelines.text.ngrams import Ngrams
from embedline.pipelines.text.preprocessing import DL1_END
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_documents
from embedline.training.metrics import log_loss
from embedline.training.model_file import ModelBundle

CLASSES = ["neg", "pos"]
SPLIT = SplitOptions(validation=0.25)
NO_SPLIT = SplitOptions(validation=0.0)
SIGNS = {"neg": ["bad", "dull", "never again"], "pos": ["good", "fine", "again and again"], "so": ["middling", "fair"]}


def documents(*classes: str, n: int = 20, n_test: int = 8) -> pl.DataFrame:
    """Texts of some words each; one sign in four is of another class, and two texts of a class hold other words."""
    random = np.random.default_rng(0)
    rows = []
    for split, count in (("train", n), ("test", n_test)):
        for number in range(count * len(classes)):
            label = classes[number % len(classes)]
            shown = label if random.random() < 0.75 else str(random.choice(classes))
            filler = " ".join(random.choice(["the", "film", "was", "plot", "cast"], 4))
            rows.append((f"{split}{number}", f"{filler} {random.choice(SIGNS[shown])}", label, split))
    rows.append(("loose", "the film", None, "unlabelled"))
    return pl.DataFrame(rows, schema=["document_id", "text", "label", "split"], orient="row")


def tokenized(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return tokenize_documents(frame, TokenOptions(rules="dl1", workers=1))


def strings(tokens: pl.DataFrame, lexicon: pl.DataFrame) -> list[list[str]]:
    words = lexicon["token"].to_list()
    return [[words[code] for code in codes] for codes in tokens["tokens"].to_list()]


TOKENS, LEXICON = tokenized(documents(*CLASSES))
THREE = tokenized(documents("neg", "pos", "so"))


def by_hand(learned: list[list[str]], y: NDArray[Any], read: list[list[str]], c: float, n: int) -> NDArray[Any]:
    """Probabilities of NB-SVM of words and word pairs on dense matrices, without the code under test."""
    grams = [[{*zip(*(words[k:] for k in range(size)), strict=False)} for size in (1, 2)] for words in learned + read]
    sets = [one | two for one, two in grams]
    features = sorted({gram for gram in set().union(*sets) if sum(gram in each for each in sets[: len(learned)]) > 1})
    x = np.array([[gram in each for gram in features] for each in sets], float)
    f = x / np.linalg.norm(x, axis=1, keepdims=True)
    columns = []
    for k in range(n):
        p, q = 1 + x[: len(y)][y == k].sum(0), 1 + x[: len(y)][y != k].sum(0)
        r = np.log((p / p.sum()) / (q / q.sum()))
        # This solver leaves the intercept out of the penalty unless it is a feature.
        g = np.hstack([f * r, np.ones((len(f), 1))])
        model = LogisticRegression(C=c, fit_intercept=False, tol=1e-8, max_iter=10_000).fit(g[: len(y)], y == k)
        columns.append(model.predict_proba(g[len(y) :])[:, 1])
    found = np.array(columns).T
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("data", [(TOKENS, LEXICON, CLASSES), (*THREE, ["neg", "pos", "so"])])
def test_probabilities_are_those_of_the_formula(data: tuple[pl.DataFrame, pl.DataFrame, list[str]]) -> None:
    tokens, lexicon, classes = data
    bundle, validation = train_baseline(tokens, lexicon, SPLIT, classes, BaselineOptions(ngrams=(1, 2), c=3.0))
    splits = assign_splits(tokens, SPLIT)
    frames = {name: tokens.filter(splits == name) for name in ("train", "validation", "test")}
    words = {name: strings(frame, lexicon) for name, frame in frames.items()}
    y = {name: np.array([classes.index(label) for label in frame["label"]]) for name, frame in frames.items()}
    expected = by_hand(words["train"], y["train"], words["validation"], 3.0, len(classes))
    assert validation["document_id"].to_list() == frames["validation"]["document_id"].to_list()
    np.testing.assert_allclose(prediction_arrays(validation, classes)[1], expected, atol=2e-3)
    refitted = tokens.filter(splits.is_in(["train", "validation"]))
    labels = np.array([classes.index(label) for label in refitted["label"]])
    expected = by_hand(strings(refitted, lexicon), labels, words["test"], 3.0, len(classes))
    found = predict_split(tokens, lexicon, bundle)
    assert found["document_id"].to_list() == frames["test"]["document_id"].to_list()
    np.testing.assert_allclose(prediction_arrays(found, classes)[1], expected, atol=2e-3)
    assert (found["predicted"] == found["label"]).mean() > 0.6
    assert bundle.metrics["rows"] == len(refitted) and bundle.metrics["c"] == 3.0
    assert bundle.metrics["validation_log_loss"] == {
        "3": pytest.approx(log_loss(*prediction_arrays(validation, classes)))
    }


def test_ratios_are_those_of_the_paper() -> None:
    from scipy.sparse import csr_array

    matrix = csr_array(np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float32))
    # p = 1 + (2, 1, 0) of 6, q = 1 + (0, 1, 1) of 5.
    expected = np.log([(3 / 6) / (1 / 5), (2 / 6) / (2 / 5), (1 / 6) / (2 / 5)])
    np.testing.assert_allclose(log_count_ratios(matrix, np.array([True, True, False])), expected, rtol=1e-12)


def test_the_strength_with_the_lowest_log_loss_is_chosen() -> None:
    bundle, validation = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions())
    losses = bundle.metrics["validation_log_loss"]
    for c in STRENGTHS[: len(losses)]:
        _, found = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions(c=c))
        assert losses[f"{c:g}"] == log_loss(*prediction_arrays(found, CLASSES))
        assert found.equals(validation) == (c == bundle.metrics["c"])
    assert losses[f"{bundle.metrics['c']:g}"] == min(losses.values())


def test_without_validation_documents_folds_replace_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, validation = train_baseline(TOKENS, LEXICON, NO_SPLIT, CLASSES, BaselineOptions(c=3.0))
    train = TOKENS.filter(split="train")
    assert validation["document_id"].to_list() == train["document_id"].to_list()
    assert bundle.metrics["rows"] == len(train)
    folds = stratified_folds(np.array([CLASSES.index(label) for label in train["label"]]), 3)
    assert train.with_columns(fold=folds).group_by("fold", "label").len()["len"].is_between(6, 7).all()
    # The documents of a fold are predicted by a model of the other folds.
    monkeypatch.setattr(baselines, "assign_splits", lambda *_: TOKENS["split"].to_frame().with_columns(
        split=pl.Series(["validation" if fold == 1 else "train" for fold in folds] + ["test"] * 16 + ["unlabelled"])
    )["split"])  # fmt: skip
    _, alone = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions(c=3.0))
    assert validation.filter(pl.Series(folds == 1)).equals(alone)


def test_the_model_file_predicts_the_same() -> None:
    tokens, lexicon = THREE
    bundle, _ = train_baseline(tokens, lexicon, SPLIT, ["neg", "pos", "so"], BaselineOptions(c=3.0))
    read = ModelBundle.from_bytes(bundle.to_bytes())
    predictions = predict_split(tokens, lexicon, bundle)
    assert predict_split(tokens, lexicon, read).equals(predictions)
    model = NaiveBayesSVM.from_bundle(read)
    test = tokens.filter(split="test")
    words = strings(test, lexicon)
    expected = prediction_arrays(predictions, model.classes)[1]
    np.testing.assert_array_equal(model.probabilities(words), expected)
    np.testing.assert_array_equal(model.probabilities(iter(words[:2])), expected[:2])
    config, tensors = model.tensors()
    again = NaiveBayesSVM.from_tensors(json.loads(json.dumps(config)), tensors)
    np.testing.assert_array_equal(again.probabilities(words), expected)
    assert again.ngrams.words == model.ngrams.words
    with pytest.raises(DataError, match=OTHER_KIND):
        NaiveBayesSVM.from_bundle(ModelBundle(kind=OTHER_KIND, config=config, encoder={}, weights=tensors))


def test_words_in_other_scripts_and_words_only() -> None:
    frame = documents(*CLASSES).with_columns(pl.col("text").str.replace_all("film", "电影").str.replace_all("was", "é"))
    tokens, lexicon = tokenized(frame)
    bundle, _ = train_baseline(tokens, lexicon, SPLIT, CLASSES, BaselineOptions(ngrams=(1, 1), c=1.0))
    read = NaiveBayesSVM.from_bundle(ModelBundle.from_bytes(bundle.to_bytes()))
    assert {"电影", "é", DL1_END} <= {*read.ngrams.words}
    np.testing.assert_array_equal(
        read.predict(tokens.filter(split="test"), lexicon)["p_pos"], predict_split(tokens, lexicon, bundle)["p_pos"]
    )


def test_a_document_without_a_known_word_gets_the_bias() -> None:
    bundle, _ = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions(c=3.0))
    model = NaiveBayesSVM.from_bundle(bundle)
    expected = 1 / (1 + np.exp(-model.bias[0]))
    np.testing.assert_allclose(model.probabilities([[], ["unheard"]])[:, 1], [expected, expected])
    assert model.probabilities([]).shape == (0, 2)


def test_only_the_labelled_training_documents_are_learned_from() -> None:
    bundle, validation = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions(c=3.0))
    elsewhere = TOKENS.with_columns(label=pl.when(split="test").then(pl.lit("neg")).otherwise("label"))
    other, theirs = train_baseline(elsewhere, LEXICON, SPLIT, CLASSES, BaselineOptions(c=3.0))
    assert theirs.equals(validation)
    assert predict_split(TOKENS, LEXICON, other).equals(predict_split(TOKENS, LEXICON, bundle))


@pytest.mark.parametrize(
    ("tokens", "classes", "options", "named"),
    [
        (TOKENS.filter((pl.col("split") != "train") | (pl.col("label") == "pos")), ["pos"], {}, "two classes"),
        (TOKENS, ["neg", "so"], {}, "'pos'"),
        (TOKENS, [*CLASSES, "so"], {}, "'so'"),
        (TOKENS, CLASSES, {"min_df": 41}, "min_df = 41"),
    ],
)
def test_what_cannot_be_learned_is_said(
    tokens: pl.DataFrame, classes: list[str], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        train_baseline(tokens, LEXICON, SPLIT, classes, BaselineOptions(**options))


def test_a_fit_that_was_cut_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bundle, _ = train_baseline(TOKENS, LEXICON, SPLIT, CLASSES, BaselineOptions(c=300.0, max_iterations=1))
    assert bundle.metrics["iterations"] == 1
    assert "max_iterations = 1" in caplog.text


DOCUMENTS = [["a", "b", "a", "b"], ["b", "a", "c"], ["c"], [], ["a", "b", "a"]]
WORDS = ["a", "b", "c", "never"]


def fitted(documents: list[list[str]], lexicon: list[str], lengths: tuple[int, int], min_df: int) -> Ngrams:
    codes = np.array([lexicon.index(word) for document in documents for word in document], np.int32)
    return Ngrams.fit(codes, np.cumsum([0, *map(len, documents)]), lexicon, lengths, min_df)


def columns(ngrams: Ngrams) -> list[tuple[str, ...]]:
    """The n-gram of each feature."""
    levels = [[(word,) for word in ngrams.words]]
    for keys in ngrams.levels:
        places = [divmod(int(key), len(ngrams.words)) for key in keys]
        levels.append([(*levels[-1][first], ngrams.words[last]) for first, last in places])
    return [each for level in levels[ngrams.shortest - 1 :] for each in level]


def test_ngrams_of_enough_documents_within_documents() -> None:
    ngrams = fitted(DOCUMENTS, WORDS, (1, 3), 2)
    # "b a" is in three documents, "a b" and "a b a" in two; "c" ends one document and is another one.
    found = [("a",), ("b",), ("c",), ("a", "b"), ("b", "a"), ("a", "b", "a")]
    assert columns(ngrams) == found and len(ngrams) == 6
    expected = [[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [1, 1, 0, 1, 1, 1]]
    assert ngrams.matrix(DOCUMENTS).toarray().tolist() == expected
    other = [["a", "new", "b"], ["b", "a", "b", "a"]]  # an unknown word parts its neighbours
    assert ngrams.matrix(other).toarray().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1]]
    assert ngrams.matrix([]).shape == (0, 6)


@pytest.mark.parametrize(("lengths", "min_df"), [((1, 1), 1), ((1, 3), 2), ((2, 4), 1), ((3, 3), 3)])
def test_the_matrix_is_that_of_scikit_learn(lengths: tuple[int, int], min_df: int) -> None:
    random = np.random.default_rng(0)
    lexicon = [f"w{number}" for number in range(12)]
    documents = [[lexicon[k] for k in random.integers(0, 12, random.integers(0, 30))] for _ in range(60)]
    ngrams = fitted(documents, lexicon, lengths, min_df)
    theirs = CountVectorizer(analyzer="word", tokenizer=list, token_pattern=None, preprocessor=list, lowercase=False)
    theirs.set_params(ngram_range=lengths, min_df=min_df, binary=True)
    expected = theirs.fit_transform(documents).toarray()
    names = [" ".join(each) for each in columns(ngrams)]
    assert sorted(names) == sorted(theirs.vocabulary_)
    order = [theirs.vocabulary_[name] for name in names]
    np.testing.assert_array_equal(ngrams.matrix(documents).toarray(), expected[:, order])
