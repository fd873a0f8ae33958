"""A small training of each learner through its public function, the same every time but for the settings given."""

from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch

from embedline.pipelines.ratings import contract as rating_contract
from embedline.pipelines.ratings import options as rating_options
from embedline.pipelines.ratings.encoder import RatingsEncoder
from embedline.pipelines.ratings.encoder import encode as encode_ratings
from embedline.pipelines.ratings.encoder import fit_encoder as fit_ratings_encoder
from embedline.pipelines.ratings.learner import train_ratings
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.text import options as text_options
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import train_language_model
from embedline.pipelines.text.preprocessing import RULES
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training.checkpoint import Record
from embedline.training.model_file import ModelBundle

Trained = tuple[ModelBundle, list[Record]]

SETTINGS = {"lr": 0.01, "device": "cpu", "precision": "fp32"}
N_WORDS = 30


def assert_same(ours: Trained, theirs: Trained) -> None:
    """The same weights and records to the last bit."""
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    assert [name for name, value in theirs[0].weights.items() if not torch.equal(ours[0].weights[name], value)] == []
    assert ours[1] == theirs[1]


def assert_close(ours: Trained, theirs: Trained, rtol: float = 1e-4) -> None:
    """The same weights and records but for rounding."""
    assert ours[0].weights.keys() == theirs[0].weights.keys()
    for name, value in theirs[0].weights.items():
        torch.testing.assert_close(
            ours[0].weights[name], value, rtol=rtol, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    for mine, other in zip(ours[1], theirs[1], strict=True):
        # pytest.approx takes no text, such as the direction of reading.
        assert _texts(mine) == _texts(other)
        assert _numbers(mine) == pytest.approx(_numbers(other), rel=rtol, abs=1e-6)


def _texts(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if isinstance(value, str)}


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not isinstance(value, str)}


@cache
def table(n_rows: int = 480, *, classes: bool = False) -> tuple[nw.DataFrame[Any], Encoder]:
    """An encoded table whose target depends on all of its columns, 1 row in 6 held out."""
    numbers = np.random.default_rng(3)
    shop, heat = numbers.integers(0, 9, n_rows), numbers.normal(size=n_rows)
    sales = np.exp(0.2 * shop + 0.5 * heat + 0.1 * numbers.normal(size=n_rows))
    frame = pl.DataFrame({"shop": shop.astype(str), "heat": heat, "sales": sales})
    split, level = np.where(np.arange(n_rows) % 6, "train", "test"), np.where(sales > 2, "high", "low")
    frame = frame.with_columns(split=pl.Series(split), level=pl.Series(level))
    columns = Columns(categorical=("shop",), continuous=("heat",), target="level" if classes else "sales")
    return encode_table(nw.from_native(frame, eager_only=True), columns, "none" if classes else "log")


def encode_table(rows: nw.DataFrame[Any], columns: Columns, transform: str) -> tuple[nw.DataFrame[Any], Encoder]:
    """Encode rows that have a split, by the encoder of those to train on."""
    options = EncodingOptions.model_validate({"target_transform": transform})
    encoder = fit_encoder(rows.filter(nw.col("split") == "train"), columns, options)
    return encode(rows, encoder), encoder


def train_table(
    *,
    data: tuple[nw.DataFrame[Any], Encoder] | None = None,
    network: NetworkOptions | None = None,
    dropout: float = 0.0,
    classes: bool = False,
    batch_norm: bool = True,
    **changes: Any,
) -> Trained:
    """Batch-norm before and behind the hidden layers, so that a batch is more than the sum of its rows."""
    norms = {"batch_norm": batch_norm, "continuous_batch_norm": batch_norm}
    network = network or NetworkOptions(layers=(24, 12), dropout=dropout, **norms)
    values = {**SETTINGS, "epochs": 2, "batch_size": 65, "seeds": (1, 2), **changes}
    return train_network(*(data or table(classes=classes)), network, TableTraining.model_validate(values))


@cache
def ratings() -> tuple[pl.DataFrame, RatingsEncoder]:
    """Encoded ratings with a feature of the items."""
    numbers = np.random.default_rng(4)
    users, items = numbers.integers(0, 40, 600), numbers.integers(0, 30, 600)
    taste, kind = numbers.normal(size=(40, 2)), numbers.normal(size=(30, 2))
    rating = 3.0 + (taste[users] * kind[items]).sum(1) + 0.1 * numbers.normal(size=600)
    frame = pl.DataFrame({"user": users, "item": items, "rating": rating.clip(1.0, 5.0), "fold": np.arange(600) % 5})
    films = pl.DataFrame({"item": np.arange(30), "title": [f"film {k}" for k in range(30)], "genre": ["a", "b"] * 15})
    return encode_factors(
        frame, rating_contract.RatingColumns(timestamp=None), rating_options.FeatureOptions(items=("genre",)), films
    )


def encode_factors(
    frame: pl.DataFrame,
    columns: rating_contract.RatingColumns,
    features: rating_options.FeatureOptions,
    items: pl.DataFrame,
    users: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, RatingsEncoder]:
    """Encode ratings, by the encoder of all but the first ``fold``, which is held out."""
    encoder = fit_ratings_encoder(frame.filter(pl.col("fold") != 1), columns, "auto", features, items, users)
    return encode_ratings(
        frame, encoder, columns, rating_contract.RatingSplit(kind="column", column="fold", value=1)
    ), encoder


def train_factors(
    *,
    data: tuple[pl.DataFrame, RatingsEncoder] | None = None,
    network: rating_options.RatingNetwork | None = None,
    dropout: float = 0.0,
    **changes: Any,
) -> Trained:
    """Factors, or a network of them where there is dropout."""
    shape: dict[str, Any] = {"kind": "mlp", "layers": (16,), "dropout": dropout} if dropout else {}
    values = {**SETTINGS, "epochs": 2, "batch_size": 65, "penalty": {"factors": 0.02, "biases": 0.003}, **changes}
    network = network or rating_options.RatingNetwork(factors=4, **shape)
    return train_ratings(*(data or ratings()), network, rating_options.RatingsTraining.model_validate(values))


@cache
def vocabulary() -> Vocabulary:
    """Special tokens and ``word0`` to ``word29``."""
    rules = RULES["ulmfit"]
    return Vocabulary(
        rules="ulmfit",
        tokens=(*rules.specials, *(f"word{number}" for number in range(N_WORDS))),
        specials=rules.specials,
        unknown=rules.specials.index(rules.unknown),
        padding=rules.specials.index(rules.padding),
        fitted_on=("train",),
        min_freq=1,
    )


@cache
def documents() -> pl.DataFrame:
    """Documents of 5 to 40 tokens whose words come from the first or the last half by class."""
    numbers, opening, first = np.random.default_rng(5), vocabulary().tokens.index("xxbos"), len(vocabulary().specials)
    rows = []
    for number in range(45):
        part = "validation" if number % 9 == 0 else "train"
        label, start = (("neg", 0), ("pos", N_WORDS // 3))[number % 2]
        words = numbers.integers(start, start + 2 * N_WORDS // 3, int(numbers.integers(5, 40)))
        rows.append((f"document{number}", label, part, [opening, *(first + words).tolist()]))
    schema = {"document_id": pl.String, "label": pl.String, "split": pl.String, "ids": pl.List(pl.UInt16)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def train_words(
    *,
    data: tuple[pl.DataFrame, Vocabulary] | None = None,
    network: text_options.LanguageModelOptions | None = None,
    dropout: float = 0.0,
    **changes: Any,
) -> Trained:
    """A language model; ``dropout`` multiplies the rates of the preset."""
    network = network or text_options.LanguageModelOptions(
        embedding_size=12, hidden_size=16, n_layers=2, drop_mult=dropout
    )
    values = {**SETTINGS, "epochs": 2, "batch_size": 5, "bptt": 20, "threads": 1, **changes}
    training = text_options.LanguageModelTraining.model_validate(values)
    return train_language_model(*(data or (documents(), vocabulary())), TokenOptions(workers=1), network, training)


@cache
def language_model() -> ModelBundle:
    """What the classifiers start from."""
    return train_words(epochs=1)[0]


def train_texts(
    *,
    data: tuple[pl.DataFrame, Vocabulary] | None = None,
    model: ModelBundle | None = None,
    network: text_options.ClassifierOptions | None = None,
    dropout: float = 0.0,
    **changes: Any,
) -> Trained:
    """A classifier in two stages; documents are longer than a chunk, and than what is pooled."""
    rates = {"drop_mult": dropout, "head_dropout": None if dropout else 0.0}
    network = network or text_options.ClassifierOptions(**rates, layers=(10,), bptt=7, max_tokens=23)
    stages = ({"unfrozen": 1, "epochs": 1, "lr": 0.01}, {"unfrozen": None, "epochs": 1, "lr": 0.01})
    settings = {name: value for name, value in SETTINGS.items() if name != "lr"}
    values = {**settings, "batch_size": 9, "stages": stages, "threads": 1, **changes}
    training = text_options.ClassifierTraining.model_validate(values)
    ids, words = data or (documents(), vocabulary())
    return train_classifier(ids, words, ["neg", "pos"], model or language_model(), network, training)
