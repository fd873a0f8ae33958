"""Settings of the text networks and of their training: presets, changes, errors."""

import logging
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from small_networks import CLASSES, IDS, SETTINGS, TOKENS, VOCABULARY

from embedline.pipelines.text import nodes
from embedline.pipelines.text.automatic import choose_classifier, choose_language_model
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import train_language_model
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
from embedline.training.model_file import ModelBundle
from embedline.training.options import EarlyStopping, FinderOptions

STAGES = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 2, "lr": 0.001}]


def rates(*values: float) -> Rates:
    return Rates(**dict(zip(Rates.model_fields, values, strict=True)))


def encoder(embedding_size: int, hidden_size: int, n_layers: int, values: tuple[float, ...]) -> EncoderOptions:
    sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "n_layers": n_layers}
    return EncoderOptions(**sizes, rates=rates(*values))


@pytest.mark.parametrize(
    ("preset", "sizes", "dropout", "bias", "classifier"),
    [  # the notebook lesson4-imdb; fastai v2's awd_lstm_lm_config and awd_lstm_clas_config
        ("dl1", (200, 500, 3), (0.05, 0.02, 0.1, 0.05, 0.05), False, (0.4, 0.05, 0.5, 0.3, 0.1)),
        ("ulmfit", (400, 1152, 3), (0.25, 0.02, 0.2, 0.15, 0.1), True, (0.4, 0.05, 0.5, 0.3, 0.4)),
    ],
)
def test_presets(
    preset: str, sizes: tuple[int, ...], dropout: tuple[float, ...], bias: bool, classifier: tuple[float, ...]
) -> None:
    options = LanguageModelOptions.model_validate({"preset": preset})
    assert options.encoder() == encoder(*sizes, dropout)
    assert options.has_bias is bias
    assert LanguageModelOptions.model_validate({"preset": preset, "decoder_bias": not bias}).has_bias is not bias
    full = ClassifierOptions.model_validate({"preset": preset, "drop_mult": 1.0})
    assert full.rates() == rates(*classifier)
    halved = ClassifierOptions.model_validate({"preset": preset}).rates()  # fastai v2's drop_mult
    assert halved == rates(*(rate * 0.5 for rate in classifier))
    assert (full.layers, full.bptt, full.max_tokens) == ((50,), 70, 1400)
    if preset == "ulmfit":  # unless another is named
        assert LanguageModelOptions().encoder() == options.encoder()
        assert ClassifierOptions().rates() == halved


def test_sizes_and_rates_may_be_changed_one_by_one_and_drop_mult_multiplies_every_rate() -> None:
    options = LanguageModelOptions.model_validate({"preset": "dl1", "hidden_size": 7, "dropout": {"weight": 0.3}})
    assert options.encoder() == encoder(200, 7, 3, (0.05, 0.02, 0.3, 0.05, 0.05))
    options = LanguageModelOptions.model_validate({"drop_mult": 0.5, "dropout": {"weight": 0.3}})
    found = options.encoder().rates.model_dump()
    assert list(found.values()) == pytest.approx([0.125, 0.01, 0.15, 0.075, 0.05])
    assert set(LanguageModelOptions(drop_mult=0.0).encoder().rates.model_dump().values()) == {0.0}


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


BATCHES = {"batch_size": 4}
LANGUAGE = BATCHES | {"epochs": 1, "lr": 0.1}
CLASSIFIER = BATCHES | {"stages": STAGES}


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (ClassifierOptions, {"head_dropout": [0.1]}, r"head_dropout needs 2 rates, .* got \[0.1\]"),
        (ClassifierOptions, {"head_dropout": [0.1, 0.2, 0.3]}, "head_dropout needs 2 rates"),
        (ClassifierOptions, {"head_dropout": 1.0}, r"head_dropout .*\[0, 1\), got \[1.0, 1.0\]"),
        (ClassifierOptions, {"head_dropout": [0.1, -0.1]}, r"head_dropout .*\[0, 1\), got \[0.1, -0.1\]"),
        (ClassifierOptions, {"drop_mult": 2.0}, "weight\n.*less than 1"),
        (ClassifierOptions, {"dropout": {"words": 0.1}}, "'input', 'embedding', 'weight', 'hidden' or 'output'"),
        (ClassifierOptions, {"dropout": {"input": 2.5}}, "input\n.*less than 1"),
        (ClassifierOptions, {"preset": "v2"}, "preset\n.*'dl1', 'ulmfit' or 'auto'"),
        (ClassifierOptions, {"hidden_size": 4}, "hidden_size\n.*Extra inputs"),
        (LanguageModelOptions, {"drop_mult": 4.0}, "input\n.*less than 1"),
        (LanguageModelOptions, {"dropout": {"head": 0.1}}, "'input', 'embedding', 'weight', 'hidden' or 'output'"),
        (LanguageModelOptions, {"emb_sz": 4}, "emb_sz\n.*Extra inputs"),
        (ClassifierTraining, BATCHES | {"stages": [{"epochs": 1, "lr": 0.1, "freeze": True}]}, "freeze\n.*Extra"),
        (ClassifierTraining, CLASSIFIER | {"rate_decay": 0.5}, "rate_decay"),
        (ClassifierTraining, CLASSIFIER | {"momentum": [0.8, 1.0]}, r"momentum .*\[0, 1\)"),
        (ClassifierTraining, CLASSIFIER | {"seeds": [3, 3]}, r"seeds .*\[3, 3\]"),
        (ClassifierTraining, CLASSIFIER | {"seeds": [3, 4], "weights": [1]}, "weights needs 2 values"),
        (ClassifierTraining, CLASSIFIER | {"early_stopping": {"fraction": 0.2}}, "fraction\n.*Extra inputs"),
        (LanguageModelTraining, LANGUAGE | {"early_stopping": {"fraction": 0.2}}, "fraction\n.*Extra"),
        (LanguageModelTraining, LANGUAGE | {"seq_len": 70}, "seq_len\n.*Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    model: type[BaseModel], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(settings)


def test_the_heads_layers_are_a_list_or_a_number_for_one() -> None:
    assert ClassifierOptions.model_validate({"layers": []}).layers == ()
    assert ClassifierOptions.model_validate({"layers": [30, 20]}).layers == (30, 20)
    one = ClassifierOptions.model_validate({"layers": 30, "head_dropout": [0.1, 0.2]})
    assert (one.layers, one.head_rates()) == ((30,), (0.1, 0.2))


def test_a_classifiers_members_have_equal_weights_or_the_given_ones() -> None:
    values = CLASSIFIER | {"seeds": [5, 6, 7, 8]}
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


AUTO = LanguageModelOptions(preset="auto")
SIZES = ("embedding_size", "hidden_size", "n_layers")


def language(**values: Any) -> LanguageModelTraining:
    return LanguageModelTraining.model_validate({"device": "cpu", **values})


def classifier(**values: Any) -> ClassifierTraining:
    return ClassifierTraining.model_validate({"device": "cpu", **values})


@pytest.mark.parametrize(
    ("n_tokens", "sizes", "epochs", "batch_size", "weight"),
    [
        (20_000, (100, 100, 1), 10, 8, 0.05),
        (200_000, (100, 100, 1), 10, 32, 0.05),
        (1_200_000, (100, 100, 1), 2, 32, 0.05),
        (5_000_000, (128, 256, 2), 1, 64, 0.05),
        (20_000_000, (200, 400, 2), 1, 64, 0.1),
    ],
)
def test_sizes_and_epochs_are_by_the_number_of_tokens(
    n_tokens: int, sizes: tuple[int, ...], epochs: int, batch_size: int, weight: float
) -> None:
    network, training, chosen = choose_language_model(AUTO, language(epochs="auto"), n_tokens=n_tokens, n_words=9000)
    encoder = network.encoder()
    assert tuple(getattr(encoder, name) for name in SIZES) == sizes == tuple(chosen[name] for name in SIZES)
    assert encoder.rates.weight == pytest.approx(weight) and network.has_bias
    assert (training.epochs, training.batch_size, training.lr, training.softmax) == (
        epochs,
        batch_size,
        0.01,
        "sampled",
    )
    assert (chosen["epochs"], chosen["batch_size"], chosen["alpha"]) == (epochs, batch_size, 0.0)
    few = choose_language_model(AUTO, language(epochs="auto"), n_tokens=n_tokens, n_words=2000)[1]
    assert few.softmax == "full"  # a sample of 1,024 of 2,000 words saves nothing


def test_what_is_given_stays() -> None:
    given = {"epochs": "auto", "batch_size": 5, "alpha": 1.5, "softmax": "full", "bptt": 33}
    network = LanguageModelOptions(preset="auto", hidden_size=77, decoder_bias=False, drop_mult=0.4)
    network, training, chosen = choose_language_model(network, language(**given), n_tokens=200_000, n_words=9000)
    assert (network.embedding_size, network.hidden_size, network.has_bias) == (100, 77, False)
    assert network.encoder().rates.weight == pytest.approx(0.1 * 0.4 * 0.5)
    assert {name: getattr(training, name) for name in given} == {**given, "epochs": 10}
    assert not {"batch_size", "alpha", "softmax", "bptt", "hidden_size", "decoder_bias"} & {*chosen}
    number = choose_language_model(AUTO, language(epochs=4, lr=0.1), n_tokens=200_000, n_words=9000)[1]
    assert (number.epochs, number.lr, number.batch_size, number.alpha, number.bptt) == (4, 0.1, 8, 2.0, 70)
    plain = LanguageModelOptions(preset="dl1"), language(epochs=4, lr=0.1, batch_size=3)
    assert choose_language_model(*plain, n_tokens=200_000, n_words=9000) == (*plain, {})
    stages = {"stages": [{"epochs": 1, "lr": 0.1}], "batch_size": 7}
    assert choose_classifier(ClassifierOptions(), classifier(**stages), n_documents=9)[1:] == (classifier(**stages), {})


@pytest.mark.parametrize(("n_documents", "epochs", "batch_size"), [(500, 3, 8), (8000, 3, 32), (60_000, 2, 64)])
def test_a_classifiers_stages_are_by_the_number_of_documents(n_documents: int, epochs: int, batch_size: int) -> None:
    network, training, chosen = choose_classifier(
        ClassifierOptions(preset="auto"), classifier(stages="auto"), n_documents=n_documents
    )
    assert training.stages == (Stage(unfrozen=1, epochs=1, lr=0.02), Stage(epochs=epochs, lr=0.005))
    assert (training.batch_size, training.rate_decay, training.alpha) == (batch_size, 1.5, 0.0)
    assert network.rates() == ClassifierOptions(preset="dl1").rates()
    assert chosen["stages"][1] == {"unfrozen": None, "epochs": epochs, "lr": 0.005}


@pytest.mark.parametrize(
    ("model", "values", "name"),
    [
        (LanguageModelTraining, {"epochs": 0}, "epochs"),
        (LanguageModelTraining, {"epochs": "many"}, "epochs"),
        (LanguageModelTraining, {"epochs": 1, "lr": 0.0}, "lr"),
        (LanguageModelTraining, {"epochs": 1, "batch_size": -1}, "batch_size"),
        (LanguageModelTraining, {}, "epochs"),
        (ClassifierTraining, {"stages": "auto", "batch_size": 1}, "batch_size"),
        (ClassifierTraining, {"stages": []}, "stages"),
        (ClassifierTraining, {"batch_size": 8}, "stages"),
    ],
)
def test_zero_is_not_auto(model: type[LanguageModelTraining], values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError, match=rf"\n{name}\n"):
        model.model_validate(values)


def test_a_training_with_auto_says_what_was_chosen_and_stores_it(caplog: pytest.LogCaptureFixture) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "device"}
    training = language(epochs="auto", **settings)
    with caplog.at_level(logging.INFO, "embedline"):
        words, _ = train_language_model(IDS, VOCABULARY, TOKENS, AUTO, training)
        bundle, _ = train_classifier(
            IDS, VOCABULARY, CLASSES, words, ClassifierOptions(preset="auto"), classifier(stages="auto", **settings)
        )
    n_tokens = words.metrics["tokens"]
    said = [message for message in caplog.messages if message.startswith("auto")]
    assert len(said) == 2 and f"{n_tokens:,} tokens" in said[0] and "24 documents" in said[1]
    assert "embedding_size 100" in said[0] and "epochs 10" in said[0]
    assert words.metrics["auto"]["epochs"] == words.metrics["epochs"] == 10
    assert words.config["encoder"]["embedding_size"] == 100
    assert bundle.metrics["auto"]["batch_size"] == 8 and bundle.metrics["epochs"] == 4
    assert ModelBundle.from_bytes(words.to_bytes()).metrics["auto"] == words.metrics["auto"]
    with caplog.at_level(logging.INFO, "embedline"):
        nodes.find_language_model_rate(
            IDS, VOCABULARY.model_dump(mode="json"), AUTO, training, FinderOptions(steps=10, low=1e-4)
        )
    assert "the training uses auto" in caplog.messages[-1]
