"""Small text networks on the small corpus: their settings, trainings of a fraction of a second, and comparisons."""

from collections.abc import Callable
from functools import cache
from typing import Any

import polars as pl
import torch
from small_corpus import small_ids, small_vocabulary

from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import train_language_model
from embedline.pipelines.text.options import (
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
    Rates,
)
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.training.checkpoint import Record
from embedline.training.model_file import ModelBundle

IDS, VOCABULARY, CLASSES = small_ids(), small_vocabulary(), ["neg", "pos"]
TOKENS = TokenOptions(workers=1)
LANGUAGE = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
CLASSIFIER = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)
HEAD, ALL = {"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 2, "lr": 0.01}
SETTINGS = {"device": "cpu", "precision": "fp32", "threads": 1}

Trained = tuple[ModelBundle, list[Record]]
Resume = Callable[[Callable[[], Trained], int], tuple[dict[str, Any], int, dict[str, Any]]]


def same_rates(rate: float) -> Rates:
    """One rate of dropout everywhere."""
    return Rates(**dict.fromkeys(Rates.model_fields, rate))


def language_training(**changes: Any) -> LanguageModelTraining:
    values = {**SETTINGS, "batch_size": 4, "epochs": 2, "lr": 0.01, "bptt": 10, **changes}
    return LanguageModelTraining.model_validate(values)


def train_language(ids: pl.DataFrame = IDS, network: LanguageModelOptions = LANGUAGE, **changes: Any) -> Trained:
    return train_language_model(ids, VOCABULARY, TOKENS, network, language_training(**changes))


@cache
def language_model() -> ModelBundle:
    """A language model, trained for one epoch; the classifiers start from it."""
    return train_language(epochs=1)[0]


def classifier_training(**changes: Any) -> ClassifierTraining:
    return ClassifierTraining.model_validate({**SETTINGS, "batch_size": 6, "stages": [HEAD, ALL], **changes})


def train_classes(ids: pl.DataFrame = IDS, network: ClassifierOptions = CLASSIFIER, **changes: Any) -> Trained:
    return train_classifier(ids, VOCABULARY, CLASSES, language_model(), network, classifier_training(**changes))


@cache
def classifier() -> Trained:
    """A classifier of the two stages; nobody may change it."""
    return train_classes()


@cache
def pair() -> Trained:
    """Two classifiers, the first with three quarters of the weight."""
    return train_classes(seeds=[42, 43], weights=[3, 1])


@cache
def alone() -> list[Trained]:
    """The members of the pair, each trained separately."""
    return [train_classes(seeds=[42]), train_classes(seeds=[43])]


def different(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the last bit."""
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def assert_same(first: Trained, second: Trained) -> None:
    assert different(first[0].weights, second[0].weights) == []
    assert first[1] == second[1]
