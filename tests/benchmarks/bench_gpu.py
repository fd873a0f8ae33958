"""Rows, ratings and tokens a second of each learner in float32 and bfloat16, on a CUDA device or on a CPU.

    PYTHONPATH=src python tests/benchmarks/bench_gpu.py              a GPU: all sizes, under five minutes
    PYTHONPATH=src python tests/benchmarks/bench_gpu.py --small      any machine: a check that it runs, in a minute

It needs torch, numpy, polars, narwhals, pydantic, scikit-learn, safetensors and accelerate; neither spaCy nor Kedro,
MLflow, Plotly or LightGBM. The data are random: speed is all that is measured. Each figure is the learner's own, as it
stands in a model's metrics: the steps after the first ten, without evaluations.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch

from embedline.pipelines.ratings import encoder as ratings_encoder
from embedline.pipelines.ratings import learner as ratings_learner
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.options import RatingNetwork, RatingsTraining
from embedline.pipelines.tabular import encoder as tables_encoder
from embedline.pipelines.tabular import learner as tables_learner
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.text import options as text_options
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import train_language_model
from embedline.pipelines.text.preprocessing import RULES
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training.model_file import ModelBundle

PRECISIONS = ("fp32", "bf16")
STEPS = 300  # of each training, about
FORMAT = "{:<46}{:>8}{:>16,.0f} {}/s{:>9.1f} s{:>10,.0f} MB"

Trained = tuple[ModelBundle, list[dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """One line of the report.

    Attributes:
        unit: what is counted, and ``metric`` the name of its speed in the model's metrics.
        train: trains with the device and the precision given.
    """

    name: str
    unit: str
    metric: str
    train: Callable[..., Trained]


def cases(small: bool) -> Iterator[Case]:
    """All cases, smaller ones where ``small``: the networks of conf/base, at their batch sizes and at larger ones."""
    steps = 25 if small else STEPS
    for batch_size, layers in ((64, (32, 16)),) if small else ((512, (1000, 500)), (4096, (1000, 500))):
        name = f"table, layers {list(layers)}, batches of {batch_size:,}"
        yield Case(name, "rows", "rows_per_second", table_case(batch_size, layers, steps))
    for batch_size in (64,) if small else (128, 16_384):
        name = f"ratings, 50 factors, batches of {batch_size:,}"
        yield Case(name, "ratings", "rows_per_second", ratings_case(batch_size, steps))
    for preset in ("dl1",) if small else ("dl1", "ulmfit"):
        sizes: dict[str, Any] = {"embedding_size": 16, "hidden_size": 24, "n_layers": 2} if small else {}
        network = text_options.LanguageModelOptions(preset=preset, **sizes)
        words = WordCases(network, batch_size=4 if small else 64, n_words=200 if small else 30_000, steps=steps)
        yield Case(f"language model, {preset}", "tokens", "tokens_per_second", words.language_model)
        yield Case(f"classifier, {preset}, all layers learn", "tokens", "tokens_per_second", words.classifier)


def table_case(batch_size: int, layers: tuple[int, ...], steps: int) -> Callable[..., Trained]:
    """A table as wide as that of Rossmann: 22 categorical and 16 continuous columns."""
    numbers, n_rows = np.random.default_rng(0), batch_size * steps
    codes = {f"c{k}": numbers.integers(0, 4 + 3 * k * k, n_rows) for k in range(22)}
    values = {f"x{k}": numbers.normal(size=n_rows) for k in range(16)}
    frame = nw.from_native(pl.DataFrame({"split": ["train"] * n_rows, **codes, **values}), eager_only=True)
    frame = frame.with_columns(y=nw.col("x0").exp())
    columns = Columns(categorical=tuple(codes), continuous=tuple(values), target="y")
    encoder = tables_encoder.fit_encoder(frame, columns, EncodingOptions(target_transform="log"))
    encoded = tables_encoder.encode(frame, encoder)

    def train(**settings: Any) -> Trained:
        training = TableTraining(epochs=1, lr=1e-3, batch_size=batch_size, loss="relative", seeds=(0,), **settings)
        return tables_learner.train_network(encoded, encoder, NetworkOptions(layers=layers), training)

    return train


def ratings_case(batch_size: int, steps: int) -> Callable[..., Trained]:
    """Users and items as many as in the releases of MovieLens with as many ratings."""
    numbers, n_rows = np.random.default_rng(0), batch_size * steps
    pairs = {"user": numbers.integers(0, n_rows // 100 + 10, n_rows), "item": numbers.integers(0, 9000, n_rows)}
    frame = pl.DataFrame({**pairs, "rating": numbers.integers(1, 11, n_rows) / 2, "fold": np.arange(n_rows).clip(1, 2)})
    columns, split = RatingColumns(timestamp=None), RatingSplit(kind="column", column="fold", value=1)
    encoder = ratings_encoder.fit_encoder(frame, columns, "auto")
    encoded = ratings_encoder.encode(frame, encoder, columns, split)

    def train(**settings: Any) -> Trained:
        training = RatingsTraining(epochs=1, lr=3e-3, batch_size=batch_size, seeds=(0,), **settings)
        return ratings_learner.train_ratings(encoded, encoder, RatingNetwork(factors=50), training, evaluated=False)

    return train


class WordCases:
    """A language model, and the classifier that starts from it, on random words."""

    def __init__(
        self, network: text_options.LanguageModelOptions, *, batch_size: int, n_words: int, steps: int
    ) -> None:
        self.network, self.batch_size = network, batch_size
        rules = RULES["ulmfit"]
        self.vocabulary = Vocabulary(
            rules="ulmfit",
            tokens=(*rules.specials, *(f"word{number}" for number in range(n_words))),
            specials=rules.specials,
            unknown=rules.specials.index(rules.unknown),
            padding=rules.specials.index(rules.padding),
            fitted_on=("train",),
            min_freq=1,
        )
        self.documents = self._documents(batch_size * steps * 70 // 300 + 1, n_words)  # steps of 70 tokens a stream
        self.model: ModelBundle | None = None

    def _documents(self, n_documents: int, n_words: int) -> pl.DataFrame:
        numbers, first = np.random.default_rng(0), len(self.vocabulary.specials)
        lengths = numbers.integers(100, 500, n_documents)
        words = first + (n_words * numbers.random(lengths.sum()) ** 3).astype(np.uint16)  # some words are frequent
        ids = pl.Series(np.split(words, np.cumsum(lengths)[:-1]), dtype=pl.List(pl.UInt16))
        labels = np.array(["neg", "pos"])[numbers.integers(0, 2, n_documents)]
        names = [f"document{number}" for number in range(n_documents)]
        return pl.DataFrame({"document_id": names, "label": labels, "split": ["train"] * n_documents, "ids": ids})

    def language_model(self, **settings: Any) -> Trained:
        """Train the language model."""
        training = text_options.LanguageModelTraining(
            epochs=1, lr=3e-3, batch_size=self.batch_size, clip_norm=0.3, **settings
        )
        tokens = TokenOptions(workers=1)
        trained = train_language_model(self.documents, self.vocabulary, tokens, self.network, training)
        self.model = trained[0]
        return trained

    def classifier(self, **settings: Any) -> Trained:
        """Train the classifier, on a part of the documents."""
        assert self.model is not None, "the language model is trained first"
        stages = ({"unfrozen": None, "epochs": 1, "lr": 2e-3},)
        options = {"batch_size": self.batch_size, "stages": stages, **settings}
        training = text_options.ClassifierTraining.model_validate(options)
        documents = self.documents.head(40 * self.batch_size)
        network = text_options.ClassifierOptions(preset=self.network.preset)
        return train_classifier(documents, self.vocabulary, ["neg", "pos"], self.model, network, training)


def measure(case: Case, device: str, precision: str) -> str:
    """The line of a case."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    bundle, _ = case.train(device=device, precision=precision)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0
    return FORMAT.format(case.name, precision, bundle.metrics[case.metric], case.unit, seconds, memory)


def main() -> None:
    """Measure every case in both precisions and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small networks and few steps")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu"
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}")  # noqa: T201
    for case in cases(options.small):
        if options.only in case.name or "language model" in case.name:  # classifiers start from language models
            for precision in PRECISIONS:
                print(measure(case, options.device, precision), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
