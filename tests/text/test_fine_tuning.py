"""From a language model's bundle to a classifier: embedding, stages, early stopping, ensembles, range test, resume."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from small_corpus import words_of
from small_networks import (
    ALL,
    CLASSES,
    CLASSIFIER,
    HEAD,
    IDS,
    VOCABULARY,
    Resume,
    alone,
    classifier,
    classifier_training,
    different,
    language_model,
    pair,
    train_classes,
)

from embedline.errors import DataError
from embedline.pipelines.text import fine_tuning
from embedline.pipelines.text.ensemble import predict_split
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.fine_tuning import find_classifier_rate
from embedline.pipelines.text.options import ClassifierOptions
from embedline.pipelines.text.pretrained import match_embedding
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import optimizer as schedules
from embedline.training.lr_finder import RangeTest
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

TWO = {"seeds": [42, 43], "weights": [3, 1]}


def test_rows_of_the_embedding_go_by_word_and_unknown_words_get_the_mean() -> None:
    known, wanted = words_of("a", "b", "c"), words_of("c", "new", "a", "other")
    weights = torch.randn(len(known), 4)
    kept = weights.clone()
    matched = match_embedding(weights, known, wanted)
    n, mean = len(known.specials), weights.mean(0)
    expected = torch.cat([weights[:n], torch.stack([weights[n + 2], mean, weights[n], mean])])
    torch.testing.assert_close(matched, expected)
    assert torch.equal(weights, kept)
    assert torch.equal(match_embedding(weights, known, known), weights)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (words_of("a", "b", rules="dl1"), r"'dl1', .* 'ulmfit': set tokens\.rules to 'dl1'$"),
        (words_of("b", "c"), r"0\.0% .* 100 words"),
    ],
)
def test_a_vocabulary_of_other_rules_or_of_another_corpus_is_refused(known: Vocabulary, message: str) -> None:
    wanted = words_of(*(f"x{number}" for number in range(100)))
    with pytest.raises(DataError, match=message):
        match_embedding(torch.randn(len(known), 4), known, wanted)


def encoder_of(bundle: ModelBundle, member: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in bundle.member(member).items() if name.startswith("encoder.")}


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [
        ([HEAD], ["embedding", "layers"]),
        ([HEAD, {"unfrozen": 2, "epochs": 1, "lr": 0.01}], ["embedding", "layers.0"]),
        ([HEAD, {"unfrozen": 3, "epochs": 1, "lr": 0.01}], ["embedding"]),
        ([HEAD, {"unfrozen": 4, "epochs": 1, "lr": 0.01}], []),
        ([HEAD, ALL], []),
    ],
)
def test_each_stage_trains_as_many_groups_as_it_says_upon_the_language_models_encoder(
    stages: list[dict[str, Any]], frozen: list[str]
) -> None:
    start = {name: tensor for name, tensor in language_model().weights.items() if name.startswith("encoder.")}
    trained = different(encoder_of(train_classes(stages=stages)[0]), start)
    assert trained == [name for name in start if not name.startswith(tuple(f"encoder.{group}." for group in frozen))]


def test_each_stage_has_its_own_order_of_documents_and_rates_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[float]]] = []
    real = fine_tuning.train

    def spy(*arguments: Any, **settings: Any) -> Any:
        seen.append((settings["seed"], [group.rate for group in settings["groups"]]))
        return real(*arguments, **settings)

    monkeypatch.setattr(fine_tuning, "train", spy)
    train_classes(rate_decay=2.0, seeds=[7])
    assert seen == [(7, [0.125, 0.25, 0.5, 1.0]), (8, [0.125, 0.25, 0.5, 1.0])]  # embedding, two layers, head


def test_the_history_goes_through_the_stages_each_with_a_schedule_of_its_own() -> None:
    _, history = classifier()
    steps = {0: 4, 1: 8}
    assert [(r["stage"], r["step"]) for r in history] == [(s, step) for s in steps for step in range(1, steps[s] + 1)]
    training = classifier_training()
    for stage, n_steps in steps.items():
        options = training.of_stage(training.stages[stage])
        rates = [schedules.learning_rate(options, step / n_steps) for step in range(n_steps)]
        assert [record["lr"] for record in history if record["stage"] == stage] == pytest.approx(rates)
    assert [(r["stage"], r["epoch"]) for r in history if "accuracy" in r] == [(0, 1.0), (1, 1.0), (1, 2.0)]


def probabilities(bundle: ModelBundle, split: str = "test") -> np.ndarray:
    return predict_split(IDS, bundle, split=split)[0].select("p_neg", "p_pos").to_numpy()


def measure(bundle: ModelBundle) -> tuple[float, float]:
    """Loss and accuracy on the validation documents, from the stored networks' predictions."""
    found = torch.from_numpy(probabilities(bundle, "validation"))
    truth = torch.from_numpy(class_codes(IDS.filter(pl.col("split") == "validation"), CLASSES))
    return F.nll_loss(found.log(), truth).item(), (found.argmax(1) == truth).double().mean().item()


@pytest.mark.parametrize(("train", "members"), [(classifier, 1), (pair, 2)])
def test_the_metrics_are_those_of_the_stored_networks_on_the_validation_split(train: Any, members: int) -> None:
    bundle, history = train()
    loss, accuracy = measure(bundle)
    assert bundle.metrics["validation_loss"] == pytest.approx(loss, rel=1e-6)
    assert bundle.metrics["validation_accuracy"] == accuracy
    counts = [bundle.metrics[name] for name in ("members", "epochs", "documents")]
    assert counts == [members, 3 * members, 24]
    assert bundle.metrics["language_model"] == language_model().metrics
    ends = [record for record in history if "accuracy" in record and record["stage"] == 1 and record["epoch"] == 2.0]
    if members == 1:
        assert (ends[0]["validation_loss"], ends[0]["accuracy"]) == (bundle.metrics["validation_loss"], accuracy)
    else:
        assert bundle.metrics["validation_loss"] not in [record["validation_loss"] for record in ends]


def test_it_learns_the_words_that_tell_the_class() -> None:
    stages = [HEAD, {"unfrozen": None, "epochs": 40, "lr": 0.05}]
    network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=1000, drop_mult=0.0, head_dropout=0.0)
    bundle, _ = train_classes(network=network, stages=stages, rate_decay=1.0, alpha=0.0, beta=0.0)
    learned, unseen = (predict_split(IDS, bundle, split=split)[0] for split in ("train", "test"))
    assert (learned["predicted"] == learned["label"]).all()
    assert (unseen["predicted"] == unseen["label"]).mean() > 0.8


def test_averaged_weights_are_those_that_are_stored_and_that_the_next_stage_starts_from() -> None:
    name, averaging = "0.head.2.weight", {"decay": 0.5}
    bundle, history = train_classes(averaging=averaging)
    assert name in different(bundle.weights, classifier()[0].weights)
    assert history[-1]["accuracy"] == measure(bundle)[1]
    still, _ = train_classes(averaging=averaging, stages=[HEAD, {"unfrozen": 1, "epochs": 1, "lr": 1e-12}])
    once, _ = train_classes(averaging=averaging, stages=[HEAD])  # as the second stage hardly moves
    torch.testing.assert_close(still.weights[name], once.weights[name], rtol=0.0, atol=1e-9)


def test_only_documents_of_the_training_part_are_learned() -> None:
    is_train, is_test = (pl.col("split") == split for split in ("train", "test"))
    others = IDS.with_columns(
        ids=pl.when(is_train).then(pl.col("ids")).otherwise(pl.col("ids").list.reverse()),
        label=pl.when(is_test).then(pl.lit("whatever")).otherwise(pl.col("label")),
    )
    alike, (bundle, history) = train_classes(others)[0], train_classes(IDS.filter(is_train))
    for each in (alike, bundle):
        assert different(each.weights, classifier()[0].weights) == []
    assert not {"accuracy", "validation_accuracy"} & (history[-1].keys() | bundle.metrics.keys())


def test_each_member_is_the_network_of_its_seed_alone() -> None:
    bundle, history = pair()
    assert {name.split(".", 1)[0] for name in bundle.weights} == {"0", "1"}
    for member, (single, records) in enumerate(alone()):
        assert different(bundle.member(member), single.member(0)) == []
        assert [r for r in history if r["member"] == member] == [r | {"member": member} for r in records]
    assert "head.2.weight" in different(bundle.member(0), bundle.member(1))
    assert (bundle.metrics["member_weights"], alone()[0][0].metrics["member_weights"]) == ([0.75, 0.25], [1.0])


# Rates that are far too high: the loss on the validation documents rises before the training is over.
HASTY: dict[str, Any] = {
    **{"early_stopping": {"patience": 1}, "schedule": "constant"},
    "stages": [{"unfrozen": 1, "epochs": 4, "lr": 0.3}, {"unfrozen": None, "epochs": 4, "lr": 0.3}],
}


def test_each_stage_ends_early_and_hands_its_best_network_on(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    real = fine_tuning.train

    def spy(network: torch.nn.Module, *arguments: Any, **settings: Any) -> Any:
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return real(network, *arguments, **settings)

    monkeypatch.setattr(fine_tuning, "train", spy)
    bundle, history = train_classes(**HASTY)
    first, second = ([r["monitor"] for r in history if r["stage"] == stage and "monitor" in r] for stage in (0, 1))
    assert min(first) < first[-1] and min(second) < second[-1]
    assert bundle.metrics["epochs"] == len(first) + len(second) < 8
    assert bundle.metrics["validation_loss"] == min(second) == pytest.approx(measure(bundle)[0], rel=1e-6)
    once, _ = train_classes(**HASTY | {"stages": HASTY["stages"][:1]})
    assert different(starts[1], once.member(0)) == []


STAGES = [stage | {"lr": 0.5} for stage in HASTY["stages"]]  # the second ends early
TOOLS = {"averaging": {"decay": 0.9}, "clip_norm": 0.3, "rate_decay": 1.5}
ENDS = [(2, {"stage0": 2}), (5, {"stage0": 4}), (6, {"stage1": 2}), (7, {"stage1": 4}), (8, {"stage1": 4})]
ENDS += [(9, {"stage1": 6}), (11, {"stage1": 8})]


@pytest.mark.parametrize(
    ("changes", "reports", "last"),
    [
        *((changes, reports, last) for changes in ({}, TOOLS) for reports, last in ENDS),
        *(
            (HASTY | {"stages": STAGES, "accumulate": 3, "averaging": {"decay": 0.3}}, reports, {f"stage{stage}": None})
            for reports, stage in ((2, 0), (5, 0), (8, 0), (9, 1), (10, 1))
        ),
        *(
            (TWO, reports, {f"member{member}.stage{stage}": None})
            for reports, member, stage in ((2, 0, 0), (9, 0, 1), (13, 1, 0), (20, 1, 1))
        ),
    ],
)
def test_killed_in_any_stage_of_any_member_and_resumed_it_ends_in_the_same_bits(
    changes: dict[str, Any], reports: int, last: dict[str, int | None], resume: Resume
) -> None:
    states, total, metrics = resume(lambda: train_classes(**changes), reports)
    stages = [f"stage{stage}" for stage in (0, 1)]
    names = [f"member{member}.{stage}" for member in (0, 1) for stage in stages] if changes is TWO else stages
    ((name, step),) = last.items()
    assert [*states] == names[: names.index(name) + 1]
    assert step in (None, states[name]["step"])
    if "accumulate" in changes:
        assert total == 2 * metrics["epochs"] < 16  # four batches an epoch: a step of three, a step of one
    else:
        assert total == 4 * metrics["epochs"] == 12 * metrics["members"]


def test_documents_that_cannot_be_learned_are_refused() -> None:
    with pytest.raises(DataError, match=r"'train' .*'pos'"):
        train_classes(IDS.filter((pl.col("label") == "neg") | (pl.col("split") != "train")))
    with pytest.raises(DataError, match=r"^classifier_training\.early_stopping .* split\.validation"):
        train_classes(IDS.filter(pl.col("split") != "validation"), early_stopping={})


def test_a_range_test_is_one_of_the_first_stage() -> None:
    def find(**changes: Any) -> RangeTest:
        finder, training = FinderOptions(low=1e-4, high=10.0, steps=40), classifier_training(**changes)
        return find_classifier_rate(IDS, VOCABULARY, CLASSES, language_model(), CLASSIFIER, training, finder)

    test = find()
    assert test.losses[0] == pytest.approx(classifier()[1][0]["train_loss"])
    assert test.suggestion in test.rates
    assert find(stages=[HEAD]) == test
    whole = find(stages=[ALL])
    assert whole.losses[0] == test.losses[0] and whole.losses[1:] != test.losses[1:]
    assert find(seeds=[43, 42]).losses[0] != test.losses[0]
