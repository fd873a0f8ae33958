"""The pool of networks and baseline: its formula, its fit against brute force, and the stored model end to end."""

import dataclasses
import itertools
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from small_corpus import words_of
from small_networks import CLASSIFIER, LANGUAGE, classifier, classifier_training, language_training

from embedline.errors import DataError
from embedline.pipelines.text import nodes
from embedline.pipelines.text.baseline import BaselineOptions
from embedline.pipelines.text.documents import SplitOptions, stratified_folds
from embedline.pipelines.text.ensemble import RIDGE, TextModel, choose_coefficients, fit_coefficients, pool, pool_loss
from embedline.pipelines.text.evaluation import ReportOptions
from embedline.pipelines.text.options import Classes, Directions
from embedline.pipelines.text.predict import Predictor
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import VocabularyOptions
from embedline.training.metrics import log_loss
from embedline.training.model_file import ModelBundle

Array = NDArray[np.float64]


def softmax(scores: Array) -> Array:
    found = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(found / found.sum(axis=-1, keepdims=True))


def drawn(n: int, n_classes: int = 3, seed: int = 0) -> tuple[Array, NDArray[np.int64], np.random.Generator]:
    """Scores [N, C], labels drawn by their softmax, and the numbers to draw more from."""
    numbers = np.random.default_rng(seed)
    scores = numbers.normal(0.0, 1.5, (n, n_classes))
    actual = (softmax(scores).cumsum(axis=1) < numbers.random((n, 1))).sum(axis=1)
    return scores, actual, numbers


def noisy(n: int, n_members: int = 2, n_classes: int = 3) -> tuple[Array, NDArray[np.int64]]:
    """Members [M, N, C] that see the scores with noise of their own, and the labels."""
    scores, actual, numbers = drawn(n, n_classes)
    return softmax(scores + numbers.normal(0.0, 1.0, (n_members, *scores.shape))), actual


def test_the_pool_is_a_product_of_powers() -> None:
    members = np.array([[[0.6, 0.3, 0.1]], [[0.2, 0.7, 0.1]]])
    powers = np.array([0.6**2 * 0.2**0.5, 0.3**2 * 0.7**0.5, 0.1**2 * 0.1**0.5])
    np.testing.assert_allclose(pool(members, np.array([2.0, 0.5])), [powers / powers.sum()], rtol=1e-12)
    certain = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])  # log 0 is no fault
    np.testing.assert_allclose(pool(certain, np.array([1.0, 1.0])), [[1.0, 0.0]], atol=1e-300)


def test_the_loss_is_that_of_its_formula_and_the_gradient_its_slope() -> None:
    members, actual = noisy(30)
    logs = np.log(members)
    for at in ([0.4, 0.9], [0.0, 1.3]):
        coefficients = np.array(at)
        loss, gradient = pool_loss(coefficients, logs, actual)
        by_hand = 30 * log_loss(actual, pool(members, coefficients)) + RIDGE / 2 * sum((a - 0.5) ** 2 for a in at)
        assert loss == pytest.approx(by_hand, rel=1e-12)
        slope = approx_fprime(coefficients, lambda c: pool_loss(c, logs, actual)[0])
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [5, 60])
def test_the_coefficients_are_the_best_of_a_grid(n: int) -> None:
    members, actual = noisy(n)
    grid = np.arange(0.0, 1.5, 0.01)
    logs = np.log(members)
    best = min(itertools.product(grid, grid), key=lambda pair: pool_loss(np.array(pair), logs, actual)[0])
    np.testing.assert_allclose(fit_coefficients(members, actual), best, atol=0.01)


def test_members_that_add_to_each_other_are_pooled_and_a_far_better_one_stands_alone() -> None:
    members, actual = noisy(500)
    named = {"a": members[0], "b": members[1]}
    coefficients, losses = choose_coefficients(named, actual)
    assert losses["pool"] < min(losses["a"], losses["b"])
    assert coefficients == dict(zip("ab", fit_coefficients(members, actual).tolist(), strict=True))
    for n, stands_alone in ((120, True), (60, False)):  # of fewer documents, the gain is within one standard error
        scores, actual, numbers = drawn(n)
        sure = softmax(3.0 * scores)
        noise = {f"noise {k}": numbers.dirichlet(np.full(3, 0.1), n) + 1e-9 for k in range(4)}
        found, losses = choose_coefficients({"sure": sure, **noise}, actual)
        assert losses["sure"] < losses["pool"] < min(losses[name] for name in noise)
        assert (found == {"sure": fit_coefficients(sure[None], actual)[0], **dict.fromkeys(noise, 0.0)}) == stands_alone


def test_the_choice_is_by_documents_that_the_coefficients_were_not_fitted_on() -> None:
    members, actual = noisy(60)
    folds = stratified_folds(actual, min(5, len(actual)))
    counts = pl.DataFrame({"fold": folds, "class": actual}).group_by("fold", "class").len()["len"]
    assert sorted(set(folds)) == [0, 1, 2, 3, 4] and counts.max() - counts.min() <= 2
    _, losses = choose_coefficients({"a": members[0], "b": members[1]}, actual)
    expected = np.empty_like(members[0])
    for fold in range(5):
        fitted = fit_coefficients(members[:, folds != fold], actual[folds != fold])
        expected[folds == fold] = pool(members[:, folds == fold], fitted)
    assert losses["pool"] == pytest.approx(log_loss(actual, expected), rel=1e-12)


WORDS = {"bad": "dull poor boring", "fair": "fine decent average", "good": "great superb moving"}
CLASSES = Classes(tuple(WORDS))


def reviews(n_train: int = 30, n_test: int = 12) -> pl.DataFrame:
    """Documents of three classes, each with two words that tell its class."""
    numbers = np.random.default_rng(0)
    rows = []
    for number in range(n_train + n_test):
        label = [*WORDS][number % 3]
        words = [*numbers.choice(WORDS[label].split(), 2), *numbers.choice("the film plot was its end".split(), 7)]
        split = "train" if number < n_train else "test"
        rows.append((f"d{number}", " ".join(numbers.permutation(words)), label, split))
    return pl.DataFrame(rows, schema=["document_id", "text", "label", "split"], orient="row")


@cache
def trained(validation: float = 0.1, directions: str = "both") -> dict[str, Any]:
    """All that the nodes make of the reviews, by the names of the catalog."""
    tokens_options, split = TokenOptions(rules="ulmfit", workers=1), SplitOptions(validation=validation)
    ways, baseline_options = Directions.model_validate(directions), BaselineOptions()
    tokens, lexicon = nodes.tokenize(reviews(), tokens_options, CLASSES)
    vocabulary = nodes.fit_vocabulary(tokens, lexicon, tokens_options, split, VocabularyOptions(min_freq=2))
    ids = nodes.numericalize(tokens, lexicon, vocabulary, split)
    language, _ = nodes.train_language_model(
        ids, vocabulary, tokens_options, LANGUAGE, language_training(epochs=1), ways
    )
    training = classifier_training(batch_size=8)
    networks, history = nodes.train_classifier(ids, vocabulary, CLASSES, language, CLASSIFIER, training, ways)
    baseline, held_out = nodes.train_baseline(tokens, lexicon, split, CLASSES, baseline_options)
    model = nodes.combine(ids, networks, baseline, held_out, CLASSES)
    baseline_predictions = nodes.predict_baseline(tokens, lexicon, baseline)
    predictions, members = nodes.predict(ids, model, baseline_predictions)
    found = {"ids": ids, "classifier": networks, "history": history, "baseline": baseline, "model": model}
    found |= {"baseline_validation": held_out, "baseline_predictions": baseline_predictions}
    return found | {"predictions": predictions, "member_predictions": members}


PROBABILITIES = [f"p_{name}" for name in WORDS]
TEST_TEXTS = reviews().filter(split="test")["text"].to_list()


def test_the_stored_model_predicts_raw_texts_as_the_run_predicts_documents() -> None:
    stored = ModelBundle.from_bytes(trained()["model"].to_bytes())
    found = Predictor.from_bundle(stored).predict(TEST_TEXTS)
    np.testing.assert_allclose(found[PROBABILITIES], trained()["predictions"][PROBABILITIES], rtol=1e-6)
    assert found["predicted"].to_list() == trained()["predictions"]["predicted"].to_list()
    assert len(set(found["p_good"])) > 6


def test_the_predictions_are_the_pool_of_the_members() -> None:
    members, model = trained()["member_predictions"], trained()["model"]
    assert members.columns == ["document_id", "member", *PROBABILITIES]
    names = ["forward", "backward", "networks", "baseline"]
    assert members["member"].unique(maintain_order=True).to_list() == names
    by_name = {name: members.filter(member=name)[PROBABILITIES].to_numpy() for name in names}
    np.testing.assert_allclose(by_name["networks"], (by_name["forward"] + by_name["backward"]) / 2, rtol=1e-12)
    coefficients = model.config["coefficients"]
    assert [*coefficients] == ["forward", "backward", "baseline"]
    pooled = pool(np.stack([by_name[name] for name in coefficients]), np.array([*coefficients.values()]))
    np.testing.assert_allclose(trained()["predictions"][PROBABILITIES], pooled, rtol=1e-9)
    expected = trained()["baseline_predictions"].sort("document_id")[PROBABILITIES]
    np.testing.assert_array_equal(members.filter(member="baseline").sort("document_id")[PROBABILITIES], expected)


@pytest.mark.parametrize("alone", ["forward", "backward", "baseline"])
def test_a_member_that_stands_alone_decides_alone(alone: str) -> None:
    model = trained()["model"]
    coefficients = dict.fromkeys(model.config["coefficients"], 0.0) | {alone: 1.0}
    changed = dataclasses.replace(model, config=model.config | {"coefficients": coefficients})
    found = Predictor.from_bundle(changed).predict(TEST_TEXTS)[PROBABILITIES]
    expected = trained()["member_predictions"].filter(member=alone)[PROBABILITIES]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_bundle_of_networks_alone_is_their_mean() -> None:
    both = Predictor.from_bundle(trained()["classifier"]).predict(TEST_TEXTS)[PROBABILITIES]
    expected = trained()["member_predictions"].filter(member="networks")[PROBABILITIES]
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    bundle = classifier()[0]  # of one direction
    config = {key: value for key, value in bundle.config.items() if key != "directions"}
    old = ModelBundle(bundle.kind, config, bundle.encoder, bundle.member(0))
    ours, theirs = (Predictor.from_bundle(each).predict(["word1 word4"])["p_pos"] for each in (bundle, old))
    assert ours.equals(theirs)


def test_words_are_explained_by_the_pool() -> None:
    predictor = Predictor.from_bundle(trained()["model"])
    text = TEST_TEXTS[0]
    exact, estimated = predictor.explain(text), predictor.explain(text, budget=1, min_occlusions=1)
    assert exact["exact"].all() and estimated["exact"].sum() == 1
    (tokens,) = predictor._documents([text], 0)
    label = int(predictor.probabilities([tokens]).argmax())
    estimates = predictor.estimate(tokens, label)
    assert estimates.shape == (len(tokens),)
    found = exact.filter(pl.col("influence") != 0.0)
    assert np.corrcoef(estimates[found["position"].to_numpy()], found["influence"])[0, 1] > 0.8


def test_a_text_without_a_known_word_gets_the_class_shares_of_the_training_documents() -> None:
    ids = trained()["ids"].filter(split="train")
    shares = [(ids["label"] == name).sum() / len(ids) for name in CLASSES]
    stored = ModelBundle.from_bytes(trained()["model"].to_bytes())
    found = Predictor.from_bundle(stored).predict(["", "zorgon Glib !", "."])
    np.testing.assert_allclose(found[PROBABILITIES], [shares] * 3, rtol=1e-12)
    config = {key: value for key, value in stored.config.items() if key != "class_shares"}
    former = dataclasses.replace(stored, config=config)
    np.testing.assert_allclose(Predictor.from_bundle(former).predict([""])[PROBABILITIES], [[1 / 3] * 3])


def test_a_word_of_any_member_that_predicts_is_known() -> None:
    model = TextModel.from_bundle(trained()["model"])
    assert model.knows("great") and not model.knows("zorgon") and not model.knows("xxunk")
    few = dataclasses.replace(model, vocabulary=words_of("film"))
    assert few.knows("film") and few.knows("great")  # a word of NB-SVM alone
    of_networks = dataclasses.replace(few, coefficients={"forward": 1.0, "baseline": 0.0})
    assert of_networks.knows("film") and not of_networks.knows("great")
    of_baseline = dataclasses.replace(few, vocabulary=words_of("zorgon"), coefficients={"baseline": 1.0})
    assert of_baseline.knows("great") and not of_baseline.knows("zorgon")


def test_metrics_have_every_member_with_its_seconds() -> None:
    given = [trained()[name] for name in ("predictions", "member_predictions")]
    metrics = nodes.evaluate(*given, CLASSES, trained()["model"], trained()["ids"], ReportOptions())
    assert [*metrics["members"]] == ["forward", "backward", "networks", "baseline"]
    seconds = {name: member["seconds"] for name, member in metrics["members"].items()}
    assert seconds["networks"] == pytest.approx(seconds["forward"] + seconds["backward"]) and seconds["baseline"] > 0
    assert {*metrics["members"]["forward"]["differences"]} == {"accuracy", "log_loss"}
    assert metrics["classifier"]["ensemble"] == trained()["model"].metrics["ensemble"]
    assert metrics["language_model"]["backward"]["perplexity"] > 1.0
    alone = trained(directions="forward")
    given = [alone[name] for name in ("predictions", "member_predictions")]
    metrics = nodes.evaluate(*given, CLASSES, alone["model"], alone["ids"], ReportOptions())
    assert [*metrics["members"]] == ["forward", "baseline"]
    assert metrics["members"]["forward"]["seconds"] == alone["classifier"].metrics["seconds"]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    names = ("classifier", "baseline", "baseline_validation", "ids")
    networks, baseline, held_out, ids = (trained()[name] for name in names)
    with pytest.raises(DataError, match=r"classifier was trained for the classes \['bad', 'fair', 'good'\]"):
        nodes.combine(ids, networks, baseline, held_out, Classes(("bad", "good")))
    with pytest.raises(DataError, match="only the networks predicts document"):
        nodes.combine(ids, networks, baseline, held_out[1:], CLASSES)
    with pytest.raises(DataError, match="no document is in the split 'test'"):
        nodes.predict(ids.filter(pl.col("split") != "test"), trained()["model"], trained()["baseline_predictions"])
