"""Settings of the text networks and of their training: presets, changes, errors."""

from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from embedline.pipelines.text.options import (
    Classes,
    ClassifierOptions,
    ClassifierTraining,
    EncoderOptions,
    LanguageModelOptions,
    LanguageModelTraining,
    Rates,
    Stage,
)
from embedline.training import optimizer as schedules
from embedline.training.ensemble import member_weights
from embedline.training.options import EarlyStopping

STAGES = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 2, "lr": 0.001}]


def rates(input: float, embedding: float, weight: float, hidden: float, output: float) -> Rates:
    return Rates(input=input, embedding=embedding, weight=weight, hidden=hidden, output=output)


@pytest.mark.parametrize(
    ("preset", "sizes", "dropout", "bias"),
    [
        ("dl1", (200, 500, 3), rates(0.05, 0.02, 0.1, 0.05, 0.05), False),  # the notebook lesson4-imdb
        ("ulmfit", (400, 1152, 3), rates(0.25, 0.02, 0.2, 0.15, 0.1), True),  # fastai v2's awd_lstm_lm_config
    ],
)
def test_language_model_presets(preset: str, sizes: tuple[int, ...], dropout: Rates, bias: bool) -> None:
    options = LanguageModelOptions.model_validate({"preset": preset})
    encoder = options.encoder()
    assert (encoder.embedding_size, encoder.hidden_size, encoder.n_layers) == sizes
    assert encoder.rates == dropout
    assert options.has_bias is bias
    assert LanguageModelOptions.model_validate({"preset": preset, "decoder_bias": not bias}).has_bias is not bias


def test_the_preset_is_ulmfit_unless_another_is_named() -> None:
    assert LanguageModelOptions().encoder() == LanguageModelOptions(preset="ulmfit").encoder()
    assert ClassifierOptions().rates() == ClassifierOptions(preset="ulmfit").rates()


def test_sizes_and_rates_may_be_changed_one_by_one() -> None:
    options = LanguageModelOptions.model_validate({"preset": "dl1", "hidden_size": 7, "dropout": {"weight": 0.3}})
    expected = EncoderOptions(embedding_size=200, hidden_size=7, n_layers=3, rates=rates(0.05, 0.02, 0.3, 0.05, 0.05))
    assert options.encoder() == expected


def test_drop_mult_multiplies_every_rate_given_or_not() -> None:
    options = LanguageModelOptions.model_validate({"drop_mult": 0.5, "dropout": {"weight": 0.3}})
    found = options.encoder().rates.model_dump()
    expected = {"input": 0.125, "embedding": 0.01, "weight": 0.15, "hidden": 0.075, "output": 0.05}
    assert found == pytest.approx(expected)
    assert set(LanguageModelOptions(drop_mult=0.0).encoder().rates.model_dump().values()) == {0.0}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("dl1", rates(0.4, 0.05, 0.5, 0.3, 0.1)), ("ulmfit", rates(0.4, 0.05, 0.5, 0.3, 0.4))],
)
def test_classifier_presets(preset: str, expected: Rates) -> None:
    options = ClassifierOptions.model_validate({"preset": preset, "drop_mult": 1.0})
    assert options.rates() == expected
    halved = ClassifierOptions.model_validate({"preset": preset}).rates()  # fastai v2's drop_mult
    assert halved.model_dump() == pytest.approx({name: rate / 2 for name, rate in expected.model_dump().items()})
    assert (options.layers, options.bptt, options.max_tokens) == ((50,), 70, 1400)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0.2, 0.1)),  # of the output 0.4 * 0.5, then 0.1 as it is: fastai v2
        ({"drop_mult": 1.0}, (0.4, 0.1)),
        ({"layers": []}, (0.2,)),
        ({"layers": [9, 8]}, (0.2, 0.1, 0.1)),
        ({"layers": [9, 8], "head_dropout": 0.3}, (0.3, 0.3, 0.3)),
        ({"layers": [9, 8], "head_dropout": [0.3, 0, 0.1], "drop_mult": 0.5}, (0.3, 0.0, 0.1)),
        ({"head_dropout": 0}, (0.0, 0.0)),
        ({"dropout": {"output": 0.6}}, (0.3, 0.1)),
    ],
)
def test_dropout_of_the_head(changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert ClassifierOptions.model_validate(changes).head_rates() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dropout": [0.1]}, r"head_dropout needs 2 rates, .* got \[0.1\]"),
        ({"head_dropout": [0.1, 0.2, 0.3]}, "head_dropout needs 2 rates"),
        ({"head_dropout": 1.0}, r"head_dropout lies in \[0, 1\), got \[1.0, 1.0\]"),
        ({"head_dropout": [0.1, -0.1]}, r"head_dropout lies in \[0, 1\), got \[0.1, -0.1\]"),
        ({"layers": [0]}, "layers.0\n.*greater than or equal to 1"),
        ({"layers": 0}, "layers.0\n.*greater than or equal to 1"),
        ({"layers": 3.5}, "layers\n.*valid tuple"),
        ({"drop_mult": 2.0}, "weight\n.*less than 1"),
        ({"drop_mult": -0.1}, "drop_mult\n.*greater than or equal to 0"),
        ({"dropout": {"words": 0.1}}, "'input', 'embedding', 'weight', 'hidden' or 'output'"),
        ({"dropout": {"input": 2.5}}, "input\n.*less than 1"),
        ({"preset": "v2"}, "preset\n.*'dl1' or 'ulmfit'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"bptt": 0}, "bptt"),
        ({"hidden_size": 4}, "hidden_size\n.*Extra inputs"),
    ],
)
def test_a_bad_classifier_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassifierOptions.model_validate(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_mult": 4.0}, "input\n.*less than 1"),
        ({"dropout": {"weight": -0.1}}, "weight\n.*greater than or equal to 0"),
        ({"dropout": {"head": 0.1}}, "'input', 'embedding', 'weight', 'hidden' or 'output'"),
        ({"n_layers": 0}, "n_layers"),
        ({"emb_sz": 4}, "emb_sz\n.*Extra inputs"),
    ],
)
def test_a_bad_language_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LanguageModelOptions.model_validate(changes)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (ClassifierTraining, {"stages": []}, "stages\n.*at least 1 item"),
        (ClassifierTraining, {"stages": [{"unfrozen": 0, "epochs": 1, "lr": 0.1}]}, "unfrozen"),
        (ClassifierTraining, {"stages": [{"epochs": 0, "lr": 0.1}]}, "epochs"),
        (ClassifierTraining, {"stages": [{"epochs": 1, "lr": 0.0}]}, "lr"),
        (ClassifierTraining, {"stages": [{"epochs": 1, "lr": 0.1, "freeze": True}]}, "freeze\n.*Extra inputs"),
        (ClassifierTraining, {"stages": STAGES, "rate_decay": 0.5}, "rate_decay"),
        (ClassifierTraining, {"stages": STAGES, "epochs": 3}, "epochs\n.*Extra inputs"),
        (ClassifierTraining, {"stages": STAGES, "momentum": [0.8, 1.0]}, r"momentum must lie in \[0, 1\)"),
        (ClassifierTraining, {"stages": STAGES, "seed": 3}, "seed\n.*Extra inputs"),
        (ClassifierTraining, {"stages": STAGES, "seeds": [3, 3]}, r"seeds must differ, got \[3, 3\]"),
        (ClassifierTraining, {"stages": STAGES, "seeds": [3, 4], "weights": [1]}, "weights needs 2 values, one for"),
        (ClassifierTraining, {"stages": STAGES, "early_stopping": {"fraction": 0.2}}, "fraction\n.*Extra inputs"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "early_stopping": {"fraction": 0.2}}, "fraction\n.*Extra"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "seeds": [1]}, "seeds\n.*Extra inputs"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "bptt": 1}, "bptt"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "tokens_per_epoch": 0}, "tokens_per_epoch"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "alpha": -1.0}, "alpha"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.1, "seq_len": 70}, "seq_len\n.*Extra inputs"),
    ],
)
def test_a_bad_training_is_refused(model: type[BaseModel], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate({"batch_size": 4, **changes})


def test_the_heads_layers_are_a_list_or_a_number_for_one() -> None:
    assert [ClassifierOptions.model_validate({"layers": value}).layers for value in (30, [30, 20], [])] == [
        (30,),
        (30, 20),
        (),
    ]
    assert ClassifierOptions.model_validate({"layers": 30, "head_dropout": [0.1, 0.2]}).head_rates() == (0.1, 0.2)


def test_a_classifiers_members_have_equal_weights_or_the_given_ones() -> None:
    values = {"batch_size": 4, "stages": STAGES, "seeds": [5, 6, 7, 8]}
    assert member_weights(ClassifierTraining.model_validate(values)) == [0.25] * 4
    weighted = ClassifierTraining.model_validate(values | {"weights": [1, 1, 2, 4]})
    assert member_weights(weighted) == [0.125, 0.125, 0.25, 0.5]


def test_a_stage_has_its_own_length_and_rate_and_all_else_of_the_whole() -> None:
    values = {"alpha": 0.5, "clip_norm": 0.3, "accumulate": 3, "early_stopping": {"patience": 4}}
    training = ClassifierTraining.model_validate({"batch_size": 4, "stages": STAGES, **values})
    first, last = (training.of_stage(stage) for stage in training.stages)
    assert (first.epochs, first.lr, last.epochs, last.lr) == (1, 0.02, 2, 0.001)
    assert training.stages[1] == Stage(unfrozen=None, epochs=2, lr=0.001)
    shared = training.model_dump(exclude={"stages", "rate_decay", "seeds", "weights"})
    assert (first.accumulate, first.early_stopping) == (3, EarlyStopping(patience=4))
    assert first.model_dump(exclude={"epochs", "lr"}) == shared
    assert (shared["alpha"], shared["beta"], shared["clip_norm"], shared["batch_size"]) == (0.5, 1.0, 0.3, 4)


def test_the_momentum_of_text_goes_from_8_to_7_tenths_and_back() -> None:
    training = LanguageModelTraining(batch_size=4, epochs=1, lr=0.01)
    assert training.weight_decay == 0.01
    ends = [(p, schedules.momentum(training, p), schedules.learning_rate(training, p)) for p in (0.0, 0.25, 1.0)]
    assert ends == [
        (0.0, pytest.approx(0.8), pytest.approx(0.01 / 25)),
        (0.25, pytest.approx(0.7), pytest.approx(0.01)),
        (1.0, pytest.approx(0.8), pytest.approx(0.01 / 1e5)),
    ]
    constant = LanguageModelTraining(batch_size=4, epochs=1, lr=0.01, schedule="constant")
    assert schedules.momentum(constant, 0.5) == 0.7 == constant.betas[0]


@pytest.mark.parametrize(
    ("given", "classes"),
    [(["neg", "pos"], ["neg", "pos"]), ([0, 1], ["0", "1"]), ([-1, "0", 1], ["-1", "0", "1"]), ([], [])],
)
def test_classes_are_text(given: list[object], classes: list[str]) -> None:
    assert list(Classes.model_validate(given)) == classes
    assert list(Classes.model_validate(tuple(given))) == classes


@pytest.mark.parametrize(
    "written", ["[no, yes]", "[off, ok]", "[true, false]", "[1.50, 2]", "[a, null]", "[a, ~]", "[.inf, a]", "[[a], b]"]
)
def test_a_label_that_yaml_does_not_read_as_text_is_to_be_quoted(written: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Classes.model_validate(yaml.safe_load(written))
    assert "classes" in str(caught.value) and "quote" in str(caught.value)


@pytest.mark.parametrize("written", ["spam", "1", "null", "{neg: 0, pos: 1}", "[2020-01-01, x]"])
def test_classes_that_are_no_list_of_labels_are_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="classes"):
        Classes.model_validate(yaml.safe_load(written))
