"""Train every learner at a tiny fixed seed and print what comes out: ``python learners.py`` writes JSON.

A process of its own, so that its kernels can be those that every x86-64 processor has: see ``test_golden.py``.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tabular", "text", "ratings")]

from law import grade_table, sales_table  # noqa: E402
from rating_law import items_table, ratings_table, users_table  # noqa: E402
from small_corpus import small_ids, small_vocabulary  # noqa: E402

from embedline.pipelines.ratings import learner as ratings_learner  # noqa: E402
from embedline.pipelines.ratings.encoder import encode as encode_ratings  # noqa: E402
from embedline.pipelines.ratings.encoder import fit_encoder as fit_ratings_encoder  # noqa: E402
from embedline.pipelines.ratings.options import (  # noqa: E402
    FeatureOptions,
    RatingColumns,
    RatingNetwork,
    RatingSplit,
    RatingsTraining,
)
from embedline.pipelines.tabular import learner as tables_learner  # noqa: E402
from embedline.pipelines.tabular.columns import TRAIN, Columns, Split, assign_splits  # noqa: E402
from embedline.pipelines.tabular.encoder import encode, fit_encoder  # noqa: E402
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining  # noqa: E402
from embedline.pipelines.text.fine_tuning import train_classifier  # noqa: E402
from embedline.pipelines.text.language_model import train_language_model  # noqa: E402
from embedline.pipelines.text.options import (  # noqa: E402
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
)
from embedline.pipelines.text.tokenizer import TokenOptions  # noqa: E402
from embedline.training.model_file import ModelBundle  # noqa: E402

CPU = {"device": "cpu", "precision": "fp32"}


def summary(trained: tuple[ModelBundle, list[dict[str, Any]]]) -> dict[str, Any]:
    """Fingerprint and norm of the weights, and the last record of the training without its times."""
    bundle, history = trained
    digest = hashlib.sha256()
    total = 0.0
    for name, tensor in sorted(bundle.weights.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        total += float(tensor.double().square().sum())
    last = {name: float(value) for name, value in history[-1].items() if isinstance(value, int | float | np.floating)}
    return {"sha256": digest.hexdigest(), "norm": total**0.5, "last": last}


def table(frame: pl.DataFrame, columns: Columns, split: Split, transform: str, **training: Any) -> dict[str, Any]:
    """A network on the rows of a table."""
    parts = assign_splits(nw.from_native(frame, eager_only=True), columns, split)
    encoder = fit_encoder(parts.filter(nw.col("split") == TRAIN), columns, EncodingOptions(target_transform=transform))
    network = NetworkOptions(layers=(16, 8), dropout=(0.1, 0.1), embedding_dropout=0.02)
    options = TableTraining.model_validate({"epochs": 2, "batch_size": 64, "lr": 0.01, **CPU, **training})
    return summary(tables_learner.train_network(encode(parts, encoder), encoder, network, options))


def numbers() -> dict[str, Any]:
    """A logarithmic target: two members, a moving average of the weights, accumulated batches."""
    columns = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", id=("shop",), time="day")
    split = Split(kind="column", column="held_out", value=True)
    more: dict[str, Any] = {"seeds": [1, 2], "averaging": {"decay": 0.99}, "accumulate": 2, "clip_norm": 1.0}
    return table(sales_table(), columns, split, "log", loss="relative", **more)


def classes() -> dict[str, Any]:
    """Three classes, with early stopping."""
    columns = Columns(categorical=("shop", "colour"), continuous=("heat", "noise"), target="grade")
    split = Split(kind="column", column="held_out", value=True)
    return table(grade_table(1500), columns, split, "none", early_stopping={"patience": 1})


def language_model() -> tuple[ModelBundle, list[dict[str, Any]]]:
    """An AWD-LSTM with all its kinds of dropout and random lengths."""
    network = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
    training = LanguageModelTraining.model_validate(
        {"batch_size": 4, "epochs": 2, "lr": 0.01, "bptt": 10, "random_bptt": True, "threads": 1, **CPU}
    )
    return train_language_model(small_ids(), small_vocabulary(), TokenOptions(workers=1), network, training)


def classifier(model: ModelBundle) -> dict[str, Any]:
    """Two stages of gradual unfreezing."""
    stages = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 1, "lr": 0.01}]
    training = ClassifierTraining.model_validate({"batch_size": 6, "stages": stages, "threads": 1, **CPU})
    network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)
    return summary(train_classifier(small_ids(), small_vocabulary(), ["neg", "pos"], model, network, training))


def ratings() -> dict[str, Any]:
    """Factors with features of both sides."""
    columns, split = RatingColumns(), RatingSplit(kind="column", column="fold", value=1)
    features = FeatureOptions(items=("genres",), users=("taste",))
    frame = ratings_table()
    train = frame.filter(pl.col("fold") != 1)
    encoder = fit_ratings_encoder(train, columns, "auto", features, items_table(), users_table())
    training = RatingsTraining.model_validate(
        {"epochs": 2, "batch_size": 32, "lr": 0.01, "penalty": {"factors": 0.03, "biases": 0.003}, **CPU}
    )
    encoded = encode_ratings(frame, encoder, columns, split)
    return summary(ratings_learner.train_ratings(encoded, encoder, RatingNetwork(factors=4, init_std=0.1), training))


def main() -> None:
    """Train them one after the other."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = language_model()
    found = {
        "numbers": numbers(),
        "classes": classes(),
        "language_model": summary(model),
        "classifier": classifier(model[0]),
        "ratings": ratings(),
    }
    sys.stdout.write(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
