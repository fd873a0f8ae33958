"""Networks that read backward: the same as networks that read reversed texts; bundles of both directions; resuming."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from small_networks import (
    CLASSES,
    CLASSIFIER,
    IDS,
    LANGUAGE,
    TOKENS,
    VOCABULARY,
    Resume,
    Trained,
    classifier,
    classifier_training,
    different,
    language_training,
    train_language,
)

from embedline.errors import DataError
from embedline.pipelines.text.ensemble import predict_split
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import load_language_model, train_language_model
from embedline.pipelines.text.options import DIRECTIONS, Directions
from embedline.training.model_file import ModelBundle

REVERSED = IDS.with_columns(pl.col("ids").list.reverse())


@cache
def both_models() -> Trained:
    """A language model of each direction, as :func:`language_model` is forward."""
    return train_language_model(IDS, VOCABULARY, TOKENS, LANGUAGE, language_training(epochs=1), DIRECTIONS)


def train_both(ids: pl.DataFrame = IDS, **changes: Any) -> Trained:
    training = classifier_training(**changes)
    return train_classifier(ids, VOCABULARY, CLASSES, both_models()[0], CLASSIFIER, training, DIRECTIONS)


@cache
def both() -> Trained:
    """A classifier of each direction."""
    return train_both()


def backward_part(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    named = bundle.weights.items()
    return {name.removeprefix("backward."): tensor for name, tensor in named if name.startswith("backward.")}


def test_the_backward_language_model_is_one_of_reversed_texts() -> None:
    bundle, history = both_models()
    forward, records = train_language(epochs=1)
    mirrored, reversed_records = train_language(REVERSED, epochs=1)
    assert different({n: t for n, t in bundle.weights.items() if "backward" not in n}, forward.weights) == []
    assert different(backward_part(bundle), mirrored.weights) == []
    assert history == records + [record | {"direction": "backward"} for record in reversed_records]
    assert bundle.config["directions"] == ["forward", "backward"]
    for name in ("perplexity", "validation_loss", "next_word_accuracy"):
        assert (bundle.metrics[name], bundle.metrics["backward"][name]) == (
            forward.metrics[name],
            mirrored.metrics[name],
        )
    stored = ModelBundle.from_bytes(bundle.to_bytes())
    for direction, alone in (("forward", forward), ("backward", mirrored)):
        loaded, expected = (
            load_language_model(each, way)[0] for each, way in ((stored, direction), (alone, "forward"))
        )
        assert different(loaded.state_dict(), expected.state_dict()) == []


def test_the_backward_classifier_is_one_of_reversed_texts() -> None:
    bundle, history = both()
    model = both_models()[0]
    start = ModelBundle(model.kind, model.config | {"directions": ["forward"]}, model.encoder, backward_part(model))
    mirrored, records = train_classifier(REVERSED, VOCABULARY, CLASSES, start, CLASSIFIER, classifier_training())
    assert different(bundle.member(0), classifier()[0].member(0)) == []
    assert different(bundle.member(1), mirrored.member(0)) == []
    assert [record for record in history if record["direction"] == "backward"] == [
        record | {"member": 1, "direction": "backward"} for record in records
    ]
    assert bundle.config["directions"] == ["forward", "backward"]
    assert bundle.metrics["member_weights"] == [0.5, 0.5]
    for name in ("validation_loss", "validation_accuracy"):
        assert bundle.metrics["backward"][name] == pytest.approx(mirrored.metrics[name], rel=1e-9)
        assert bundle.metrics["forward"][name] == pytest.approx(classifier()[0].metrics[name], rel=1e-9)
    probabilities = [
        predict_split(*each)[0]["p_pos"].to_numpy() for each in ((IDS, classifier()[0]), (REVERSED, mirrored))
    ]
    found = predict_split(IDS, ModelBundle.from_bytes(bundle.to_bytes()))[0]["p_pos"].to_numpy()
    np.testing.assert_allclose(found, sum(probabilities) / 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("reports", "names"),
    [(2, ["language_model"]), (10, ["backward.language_model", "language_model"])],
)
def test_a_language_model_killed_in_either_direction_ends_in_the_same_bits(
    reports: int, names: list[str], resume: Resume
) -> None:
    training = language_training()
    states, *_ = resume(lambda: train_language_model(IDS, VOCABULARY, TOKENS, LANGUAGE, training, DIRECTIONS), reports)
    assert [*states] == names


@pytest.mark.parametrize(
    ("changes", "reports", "last"),
    [
        *(({}, reports, last) for reports, last in ((2, "stage0"), (13, "backward.stage0"), (20, "backward.stage1"))),
        ({"seeds": [42, 43]}, 24, "backward.member0.stage0"),
    ],
)
def test_a_classifier_killed_in_either_direction_ends_in_the_same_bits(
    changes: dict[str, Any], reports: int, last: str, resume: Resume
) -> None:
    both_models()  # before anybody counts steps
    states, *_ = resume(lambda: train_both(**changes), reports)
    members = [f"member{seed}." for seed in (0, 1)] if changes else [""]
    names = [f"{way}{member}stage{stage}" for way in ("", "backward.") for member in members for stage in (0, 1)]
    assert {*states} == {*names[: names.index(last) + 1]}


def test_a_direction_that_a_language_model_lacks_is_named() -> None:
    model = train_language(epochs=1)[0]
    old = ModelBundle(
        model.kind, {k: v for k, v in model.config.items() if k != "directions"}, model.encoder, model.weights
    )
    for bundle in (model, old):
        assert load_language_model(bundle)[0]
        with pytest.raises(DataError, match="directions names 'backward', but the language model has forward only"):
            load_language_model(bundle, "backward")
    with pytest.raises(DataError, match="directions names 'backward'"):
        train_classifier(IDS, VOCABULARY, CLASSES, model, CLASSIFIER, classifier_training(), DIRECTIONS)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("forward", ("forward",)),
        ("both", DIRECTIONS),
        (["forward"], ("forward",)),
        (["forward", "backward"], DIRECTIONS),
    ],
)
def test_directions_are_a_list_or_as_the_command_line_has_them(given: Any, names: tuple[str, ...]) -> None:
    assert tuple(Directions.model_validate(given)) == names
    assert tuple(Directions()) == ("forward",)


@pytest.mark.parametrize(
    "given", ["backward", "up", [], ["backward"], ["backward", "forward"], ["forward", "forward"], 2]
)
def test_other_directions_are_refused_with_those_that_there_are(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"\[forward\] or \[forward, backward\].*got "):
        Directions.model_validate(given)
