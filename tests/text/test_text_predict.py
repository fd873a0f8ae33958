"""Predictions and explanations of a classifier whose log-odds are a sum over words: influences are known exactly."""

import dataclasses
import logging
import types
from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from small_corpus import words_of
from small_networks import same_rates

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer
from embedline.pipelines.text.baseline import NaiveBayesSVM
from embedline.pipelines.text.classifier import ClassifierEnsemble, TextClassifier
from embedline.pipelines.text.generation import load_bundle
from embedline.pipelines.text.ngrams import Ngrams
from embedline.pipelines.text.occlusion import (
    EMBEDDING,
    Tokens,
    estimate_by_windows,
    estimate_occlusion,
    log_odds,
    occlude,
)
from embedline.pipelines.text.options import EncoderOptions, PredictionOptions
from embedline.pipelines.text.predict import (
    Predictor,
    excerpt,
    is_punctuation,
    locate_words,
    readable_words,
    strongest_words,
)
from embedline.pipelines.text.tokenizer import TokenOptions

WORDS = words_of("good", "bad", "the", "film", "!", "great")
WEIGHTS = dict.fromkeys(WORDS.tokens, 0.0) | {
    **{"xxbos": 0.4, "xxup": 0.5, "xxmaj": 0.1, "good": 1.5, "bad": -2.0},
    **{"the": 0.01, "film": -0.02, "!": 0.25, "great": 3.0},
}


SHARES = (0.3, 0.7)


class Classifier:
    """Two classes; the log-odds of the second are a sum of weights; counts the documents."""

    def __init__(self) -> None:
        self.weights = np.array(list(WEIGHTS.values()))
        self.documents = 0
        self.lengths: set[int] = set()

    def __call__(self, documents: Sequence[Tokens], like: Tokens | None = None) -> NDArray[np.float64]:
        self.documents += len(documents)
        self.lengths |= {len(tokens) for tokens in documents}
        odds = np.array([self.weights[WORDS.ids(tokens)].sum() for tokens in documents])
        return np.exp(-np.logaddexp(0.0, np.stack([odds, -odds], axis=1)))

    def estimate(self, tokens: Tokens, label: int) -> NDArray[np.float64]:
        """Correct order, wrong size."""
        return 0.5 * self.weights[WORDS.ids(tokens)] * (1 if label == 1 else -1)


@pytest.fixture
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> Predictor:
    def split(texts: Sequence[str], options: TokenOptions) -> list[list[str]]:
        return [["xxbos", *text.split()] for text in texts]

    monkeypatch.setattr(tokenizer, "tokenize_texts", split)  # tokens as written, so that each test says what it means
    return predictor_of(classifier)


def predictor_of(classifier: Classifier) -> Predictor:
    return Predictor(
        *(classifier, classifier.estimate, WORDS, TokenOptions(), ("neg", "pos")),
        knows=lambda token: token in WORDS and token != "xxunk",
        class_shares=SHARES,
    )


def sigmoid(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


class TestPredict:
    def test_values(self, predictor: Predictor) -> None:
        frame = predictor.predict(["the good film", "bad film"])
        assert frame.columns == ["text", "predicted", "confidence", "p_neg", "p_pos"]
        assert frame["text"].to_list() == ["the good film", "bad film"]
        assert frame["predicted"].to_list() == ["pos", "neg"]
        good, bad = 0.4 + 0.01 + 1.5 - 0.02, 0.4 - 2.0 - 0.02
        assert frame["p_pos"].to_list() == pytest.approx([sigmoid(good), sigmoid(bad)], abs=1e-12)
        assert frame["confidence"].to_list() == pytest.approx([sigmoid(good), sigmoid(-bad)], abs=1e-12)
        empty = predictor.predict([])
        assert empty.shape == (0, 5)
        assert (
            empty.schema
            == frame.schema
            == {"text": pl.String, "predicted": pl.String} | dict.fromkeys(("confidence", "p_neg", "p_pos"), pl.Float64)
        )

    @pytest.mark.parametrize("block", [3, 50_000])
    def test_texts_that_say_nothing_have_the_class_shares_and_are_named_and_blocks_keep_the_order(
        self, predictor: Predictor, block: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("embedline.pipelines.text.predict.BLOCK_TEXTS", block)
        with caplog.at_level(logging.WARNING, "embedline"):
            frame = predictor.predict(["", "zorgon xxmaj glib xxrep 4 !", "good", "  \n", "bad"])
        assert frame["p_pos"].to_list() == pytest.approx([0.7, 0.7, sigmoid(1.9), 0.7, sigmoid(-1.6)])
        said = [message.split(";")[0] for message in caplog.messages]
        wordless = ["Text 1, 4: no words"] if block > 5 else ["Text 1: no words", "Text 4: no words"]
        assert said == [wordless[0], "Text 2: no word that the model knows", *wordless[1:]]

    def test_rules_that_make_nothing_of_an_empty_text(
        self, predictor: Predictor, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokenizer, "tokenize_texts", lambda texts, options: [text.split() for text in texts])
        assert predictor.predict([""])["p_pos"].to_list() == [0.7]
        assert classifier.lengths == {1}
        assert predictor.explain("").is_empty()

    def test_many_texts_are_read_as_a_corpus(self, classifier: Classifier) -> None:
        real = predictor_of(classifier)
        texts = ["The good film!!!", "", "bad, BAD", "zorgon"] * 3
        few = real.predict(texts)
        assert few["p_pos"][2] == pytest.approx(sigmoid(0.4 - 2.0 + 0.5 - 2.0))
        assert dataclasses.replace(real, few_texts=3).predict(texts).equals(few)

    def test_what_cannot_be_predicted_is_named(self, predictor: Predictor, classifier: Classifier) -> None:
        with pytest.raises(DataError, match=r"text 2 .* None"):
            predictor.predict(["good", None])  # type: ignore[list-item]
        with pytest.raises(DataError, match=r"2 classes.* 3 names"):
            dataclasses.replace(predictor, classes=("neg", "pos", "mixed")).predict(["good"])
        classifier.weights[:] = np.nan
        with np.errstate(invalid="ignore"), pytest.raises(DataError, match="diverged"):
            predictor.predict(["good"])


def by_ngrams(words: str, weights: Sequence[float], pairs: dict[str, float]) -> NaiveBayesSVM:
    """NB-SVM of two classes with weights of words and of pairs of words."""
    listed = words.split()
    keys = {listed.index(pair[0]) * len(listed) + listed.index(pair[1]): weight for pair, weight in pairs.items()}
    every = np.array([[*weights, *(keys[key] for key in sorted(keys))]], np.float32)
    return NaiveBayesSVM(("neg", "pos"), Ngrams(tuple(listed), (np.array(sorted(keys)),)), every, np.array([0.5]))


class TestExplain:
    def test_influences_are_the_weights_of_a_word_and_of_what_spells_it_and_punctuation_has_none(
        self, predictor: Predictor
    ) -> None:
        frame = predictor.explain("xxmaj the film zorgon xxup good ! bad xxrep 4 !")
        # The class is "pos" if the sum is above 0; here it is 0.49.
        assert frame["position"].to_list() == [2, 3, 4, 6, 8]
        assert frame["word"].to_list() == ["The", "film", "zorgon", "GOOD", "bad"]
        assert frame["influence"].to_list() == pytest.approx([0.11, -0.02, 0.0, 2.0, -2.0], abs=1e-9)
        assert frame["exact"].to_list() == [True] * 5
        only = predictor.explain("! ! !")  # sure, but of nothing that can be shown
        assert only.is_empty() and predictor.predict(["! ! !"])["confidence"].to_list() == [0.7]

    def test_influence_is_on_the_predicted_class_and_keeps_its_digits(self, predictor: Predictor) -> None:
        found = predictor.explain("bad bad good")["influence"].to_list()
        assert found == pytest.approx([2.0, 2.0, -1.5], abs=1e-9)
        sure = predictor.explain(" ".join(["great"] * 20))["influence"].to_list()  # p rounds to 1.0
        assert sure == pytest.approx([3.0] * 20, rel=1e-6)
        unknown = predictor.explain("zorgon glib")
        assert unknown.rows() == [(1, "zorgon", 0.0, True), (2, "glib", 0.0, True)]
        assert strongest_words(unknown, 5) == ""

    def test_budget_occludes_the_first_of_the_ranking(self, predictor: Predictor, classifier: Classifier) -> None:
        words = ["the"] * 400
        words[137], words[301] = "bad", "great"  # positions 138 and 302, after xxbos
        frame = predictor.explain(" ".join(words), budget=401 * 40, min_occlusions=1)
        assert classifier.documents == 1 + (2 + 2 * 20)  # the class, then the document, the background and the words
        assert frame["exact"].sum() == 20 and len(frame) == 400
        found = dict(zip(frame["position"], frame.select("word", "influence", "exact").rows(), strict=True))
        assert found[138] == ("bad", pytest.approx(-2.0), True)
        assert found[302] == ("great", pytest.approx(3.0), True)
        assert sorted(set(frame["influence"].round(9))) == [-2.0, 0.005, 0.01, 3.0]  # estimated: half of the weight
        assert strongest_words(frame, 2) == "great +3.00, bad -2.00"
        longer = predictor.explain("the " * 300, budget=1, min_occlusions=7)
        assert longer["exact"].sum() == 7

    def test_a_word_that_only_the_baseline_knows_is_explained_and_no_reason_for_a_warning(
        self, predictor: Predictor, caplog: pytest.LogCaptureFixture
    ) -> None:
        def probabilities(documents: Sequence[Tokens], like: Tokens | None = None) -> NDArray[np.float64]:
            return np.array([[0.9, 0.1] if "zorgon" in tokens else [0.5, 0.5] for tokens in documents])

        both = dataclasses.replace(
            predictor, probabilities=probabilities, knows=lambda token: token == "zorgon" or token in WORDS
        )
        influence = dict(both.explain("the film zorgon").select("word", "influence").rows())
        assert influence == {"the": 0.0, "film": 0.0, "zorgon": pytest.approx(np.log(9.0))}
        assert both.predict(["zorgon"])["p_neg"].to_list() == [0.9] and not caplog.messages

    def test_only_the_end_of_a_long_text_is_explained(self, predictor: Predictor, classifier: Classifier) -> None:
        text = " ".join(["the"] * 99_990 + ["good"] * 10)
        frame = predictor.explain(text, max_tokens=50)
        assert frame["position"].to_list() == list(range(100_001 - 50, 100_001))
        assert classifier.lengths == {100_001, 50}
        assert frame.filter(pl.col("word") == "good")["influence"].to_list() == pytest.approx([1.5] * 10, abs=1e-9)

    def test_both_ends_of_a_long_text_are_explained_where_a_network_reads_backward(
        self, predictor: Predictor, classifier: Classifier
    ) -> None:
        both = dataclasses.replace(predictor, pooled_tokens=3, both_ends=True)
        frame = both.explain("bad the film film film good great")
        assert classifier.lengths == {8, 6}
        assert frame["position"].to_list() == [1, 2, 5, 6, 7]
        assert frame["influence"].to_list() == pytest.approx([-2.0, 0.01, -0.02, 1.5, 3.0])
        whole = dataclasses.replace(both, pooled_tokens=6).explain("bad the film film film good great")
        assert whole["position"].to_list() == [1, 2, 3, 4, 5, 6, 7]

    def test_the_influences_of_ngrams_add_up_and_a_word_that_says_nothing_has_none(self) -> None:
        model = by_ngrams("not good the film", [-0.5, 2.0, 0.0, 0.0], {("not", "good"): -6.0, ("the", "film"): 0.0})
        tokens = "the film not good the film".split()
        words = [[at] for at in range(len(tokens))]
        found = occlude(model.probabilities, tokens, words, label=0, unknown="?")
        length = np.sqrt(4 + 2)  # known n-grams; a masked word takes some away, and the others keep their weight
        assert found == pytest.approx(np.array([0, 0, 0.5 + 3, -2 + 3, 0, 0]) / length, abs=1e-6)
        odds = log_odds(model.probabilities([tokens, ["?"]]), 0)
        assert sum(found) == pytest.approx(odds[0] - odds[1], abs=1e-6)
        deleted = log_odds(model.probabilities([tokens[2:], tokens[2:4]]), 0)  # what is no part of the background
        assert abs(deleted[0] - deleted[1]) > 0.1

    def test_windows_find_words_and_pairs_of_them_in_rows_of_one_length(self) -> None:
        model = by_ngrams("a b x", [3.0, -2.0, 0.01], {("a", "b"): 1.0, ("x", "x"): 0.0})
        tokens = [*"xxxxxxxxx", "a", *"xxxxxxxxxx", *"ab", *"xxxxxx"]
        found = estimate_by_windows(model.probabilities, "?", tokens, 1)
        length = np.sqrt(3 + 2)
        # Elsewhere in the text the word a stands again, which an estimate by windows does not see.
        assert found[[9, 20, 21, 0]] == pytest.approx(np.array([3.0, 4.0, -1.0, 0.0]) / length, abs=1e-6)


class TestFirstOrder:
    def network(self, bptt: int) -> TextClassifier:
        options = EncoderOptions(embedding_size=6, hidden_size=9, n_layers=2, rates=same_rates(0.2))
        torch.manual_seed(3)
        sizes = {"layers": (4,), "head_rates": (0.1, 0.1), "n_classes": 3, "bptt": bptt, "max_tokens": 20}
        network = TextClassifier(13, options, **sizes)  # type: ignore[arg-type]
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return network.eval()

    def test_it_is_the_derivative_towards_the_unknown_word(self) -> None:
        network = self.network(bptt=50)
        ids = np.array([2, 7, 9, 7, 12, 11])
        found = estimate_occlusion(ClassifierEnsemble([network], [1.0]), 0, ids, 1)
        step = 0.02
        table = network.encoder.embedding.weight.detach()
        for at in range(len(ids)):
            changed = ids.copy()
            changed[at] = len(table)  # the same word may stand elsewhere: a row of its own for this position
            odds = []
            for size in (-step, step):
                moved = torch.cat([table, (table[ids[at]] + size * (table[0] - table[ids[at]]))[None]])
                arguments = torch.from_numpy(changed)[None], torch.tensor([len(ids)])
                with torch.no_grad():
                    logits = torch.func.functional_call(network, {EMBEDDING: moved}, arguments).double()
                odds.append(log_odds(logits.softmax(1).numpy(), 1)[0])
            assert found[at] == pytest.approx((odds[0] - odds[1]) / (2 * step), rel=1e-2, abs=1e-3)
        assert network.encoder.embedding.weight.grad is None
        assert torch.equal(table, network.encoder.embedding.weight)

    def test_an_unknown_word_has_none(self) -> None:
        network = ClassifierEnsemble([self.network(bptt=2)], [1.0])
        found = estimate_occlusion(network, 0, np.array([2, 0, 9, 0, 12]), 0)
        assert found[[1, 3]].tolist() == [0.0, 0.0]
        assert np.abs(found[[2, 4]]).min() > 0


def test_log_odds() -> None:
    probabilities = np.array([[0.2, 0.3, 0.5], [1.0, 1e-40, 1e-40]])
    assert log_odds(probabilities, 0) == pytest.approx([np.log(0.25), -np.log(2e-40)])


def test_readable_words() -> None:
    tokens = [*"xxbos xxmaj mc▁donald xxrep 3 0 3 xxwrep 2 very".split(), "\n", "xxup", "u.s.", "xxeos"]
    words = [((1, 2), "Mc donald"), ((3, 4, 5), "000"), ((6,), "3"), ((7, 8, 9), "very"), ((11, 12), "U.S.")]
    assert [*readable_words(tokens, ("xxbos", "xxeos", "xxmaj", "xxup", "xxrep", "xxwrep"))] == words
    assert [*readable_words(["xxrep", "900000", "o"], ["xxrep"])] == [((0, 1, 2), "o" * 20)]
    assert [*readable_words("xxbos xxfld 1 good".split(), ("xxbos", "xxfld"))] == [((3,), "good")]


def test_punctuation() -> None:
    assert all(map(is_punctuation, ["!", "...", "--", "\n\n", "”", "。", "`"]))
    assert not any(map(is_punctuation, [":)", "'s", "10", "好", "👍", "$", "u.s."]))


def test_locate_words() -> None:
    text = "The FILM isn't GOOD<br />the end İ good"
    places = locate_words(text, ["the", "film", "is", "n't", "GOOD", "↵", "the", "end", "good"])
    found = [text[slice(*place)] if place else None for place in places]
    assert found == ["The", "FILM", "is", "n't", "GOOD", None, "the", "end", "good"]


@pytest.mark.parametrize(
    ("influences", "n", "shown"),
    [
        ([0.3, -0.2, 9.0, 0.0], 5, "a +0.30, b -0.20"),
        ([0.3, -0.2, 9.0, 0.0], 1, "a +0.30"),
        ([0.3, -1.2, 9.0, 0.0], 5, "a +0.30"),  # the sum speaks for the class
        ([0.9, -1.2, 9.0, 0.4], 2, "a +0.90, d +0.40"),
        ([0.9, -1.2, 9.0, 0.4], 3, "b -1.20, a +0.90, d +0.40"),
        ([-0.9, -1.2, 9.0, -0.4], 3, ""),
    ],
)
def test_strongest_words_are_single_words_whose_sum_speaks_for_the_class(
    influences: list[float], n: int, shown: str
) -> None:
    exact = [True, True, False, True]
    assert strongest_words(pl.DataFrame({"word": [*"abcd"], "influence": influences, "exact": exact}), n) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n  b", "a b"),
        ("word " * 30, ("word " * 16)[:79].rstrip() + "…"),
        (" " * 1000 + "late", "…"),
        ("x" * 10_000, "x" * 79 + "…"),
    ],
)
def test_excerpt(text: str, shown: str) -> None:
    assert excerpt(text) == shown


class TestFrames:
    def test_columns_are_kept_and_missing_texts_are_empty(self, predictor: Predictor) -> None:
        texts = pd.DataFrame({"id": [7, 8], "review": ["good", None]})
        frame = predictor.predict_frame(texts, PredictionOptions(column="review", words=2))
        assert frame.columns == ["id", "review", "predicted", "confidence", "p_neg", "p_pos", "moved_by"]
        assert frame["id"].to_list() == [7, 8]
        assert frame["p_pos"].to_list() == pytest.approx([sigmoid(1.9), 0.7])
        assert frame["moved_by"].to_list() == ["good +1.50", ""]

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            ({"review": ["good"]}, "'text'.* 'review'"),
            ({"text": [1]}, "'text' holds Int64"),
            ({"text": ["good"], "p_pos": [1]}, "'p_pos', which is a column of the predictions"),
            ({"text": ["good"], "moved_by": ["me"]}, "'moved_by'"),
        ],
    )
    def test_frames_that_do_not_fit(self, predictor: Predictor, frame: dict[str, list[object]], message: str) -> None:
        with pytest.raises(DataError, match=message):
            predictor.predict_frame(pl.DataFrame(frame), PredictionOptions(words=1))

    def test_own_column_named_moved_by_matters_only_if_words_are_asked_for(self, predictor: Predictor) -> None:
        texts = pl.DataFrame({"text": ["good"], "moved_by": ["me"]})
        assert predictor.predict_frame(texts, PredictionOptions())["moved_by"].to_list() == ["me"]


def test_bundles_of_another_kind_and_broken_ones_are_refused() -> None:
    with pytest.raises(DataError, match="'tabular', not 'text_classifier'"):
        Predictor.from_bundle(types.SimpleNamespace(kind="tabular"))
    bundle = types.SimpleNamespace(kind="text_classifier", encoder={})
    with pytest.raises(DataError, match=r"broken: KeyError: 'vocabulary'"):
        load_bundle(bundle, lambda b: b.encoder["vocabulary"])
    assert load_bundle(bundle, lambda b: b.kind) == "text_classifier"
