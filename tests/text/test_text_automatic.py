"""What ``auto`` is replaced by, what stays as it was given, and that a training says what was chosen."""

import logging
from typing import Any

import pytest
from pydantic import ValidationError
from small_networks import CLASSES, IDS, SETTINGS, TOKENS, VOCABULARY

from embedline.pipelines.text import nodes
from embedline.pipelines.text.automatic import choose_classifier, choose_language_model
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import train_language_model
from embedline.pipelines.text.options import (
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
    Stage,
)
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

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
