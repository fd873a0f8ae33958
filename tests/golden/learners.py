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

FOLDERS = ("tabular", "text", "ratings", "training")
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in FOLDERS]

import small_trainings as small  # noqa: E402
from law import grade_table, sales_table  # noqa: E402
from simulated_ratings import items_table, ratings_table, users_table  # noqa: E402
from small_corpus import small_ids, small_vocabulary  # noqa: E402

from embedline.pipelines.ratings.contract import RatingColumns  # noqa: E402
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork  # noqa: E402
from embedline.pipelines.tabular.columns import Columns, Split  # noqa: E402
from embedline.pipelines.tabular.options import NetworkOptions  # noqa: E402
from embedline.pipelines.tabular.splits import assign_splits  # noqa: E402
from embedline.pipelines.text.options import ClassifierOptions, LanguageModelOptions  # noqa: E402
from embedline.training.model_file import ModelBundle  # noqa: E402


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


def table(frame: pl.DataFrame, columns: Columns, transform: str, **training: Any) -> dict[str, Any]:
    """A network on the rows of a table."""
    split = Split(kind="column", column="held_out", value=True)
    rows = assign_splits(nw.from_native(frame, eager_only=True), columns, split)
    network = NetworkOptions(layers=(16, 8), dropout=(0.1, 0.1), embedding_dropout=0.02)
    data = small.encode_table(rows, columns, transform)
    return summary(small.train_table(data=data, network=network, batch_size=64, **training))


def numbers() -> dict[str, Any]:
    """A logarithmic target: two members, a moving average of the weights, accumulated batches."""
    columns = Columns(categorical=("shop", "weekday"), continuous=("heat",), target="sales", id=("shop",), time="day")
    more: dict[str, Any] = {"seeds": [1, 2], "averaging": {"decay": 0.99}, "accumulate": 2, "clip_norm": 1.0}
    return table(sales_table(), columns, "log", loss="relative", **more)


def classes() -> dict[str, Any]:
    """Three classes, with early stopping."""
    columns = Columns(categorical=("shop", "colour"), continuous=("heat", "noise"), target="grade")
    return table(grade_table(1500), columns, "none", seeds=[42], early_stopping={"patience": 1})


def language_model() -> tuple[ModelBundle, list[dict[str, Any]]]:
    """An AWD-LSTM with all its kinds of dropout and random lengths."""
    network = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
    data = (small_ids(), small_vocabulary())
    return small.train_words(data=data, network=network, batch_size=4, bptt=10, random_bptt=True)


def classifier(model: ModelBundle) -> dict[str, Any]:
    """Two stages of gradual unfreezing."""
    stages = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 1, "lr": 0.01}]
    network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)
    data = (small_ids(), small_vocabulary())
    return summary(small.train_texts(data=data, model=model, network=network, batch_size=6, stages=stages))


def ratings() -> dict[str, Any]:
    """Factors with features of both sides."""
    features = FeatureOptions(items=("genres",), users=("taste",))
    data = small.encode_factors(ratings_table(), RatingColumns(), features, items_table(), users_table())
    network, penalty = RatingNetwork(factors=4, init_std=0.1), {"factors": 0.03, "biases": 0.003}
    return summary(small.train_factors(data=data, network=network, batch_size=32, penalty=penalty))


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
