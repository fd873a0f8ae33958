"""One process with two threads against two processes with one thread each, and rows in memory against mapped ones.

    python tests/benchmarks/bench_processes.py --rounds 3

Each way is a process of its own (with the one that it starts), in turn; rows (tokens) a second are those that the
training reports, without its first ten steps. The rows and the tokens are random: their values make no difference to
the time.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

CATEGORICAL, CONTINUOUS, LAYERS, BATCH = 37, 37, (1000, 500), 512  # as in the rossmann pipeline
VOCABULARY, STREAMS, TOKENS = 34_945, 64, 70  # of the notebook lesson4-imdb (2017), whose network the preset dl1 is
WAYS: dict[str, dict[str, Any]] = {
    "1 process, 1 thread": {"processes": 1, "threads": 1},
    "1 process, 2 threads": {"processes": 1, "threads": 2},
    "2 processes, 1 thread each": {"processes": 2, "threads": 1},
}


def rows_per_second(settings: dict[str, Any], n_rows: int) -> float:
    """Of a network on a table."""
    import narwhals as nw
    import polars as pl

    from embedline.pipelines.tabular.columns import Columns
    from embedline.pipelines.tabular.encoder import encode, fit_encoder
    from embedline.pipelines.tabular.learner import train_network
    from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining

    numbers = np.random.default_rng(0)
    codes = {f"c{place}": numbers.integers(0, 5 + 3 * place, n_rows) for place in range(CATEGORICAL)}
    values = {f"x{place}": numbers.normal(size=n_rows).astype(np.float32) for place in range(CONTINUOUS)}
    target = {"y": np.exp(0.3 * numbers.normal(size=n_rows)), "split": ["train"] * n_rows}
    frame = nw.from_native(pl.DataFrame({**codes, **values, **target}), eager_only=True)
    encoder = fit_encoder(
        frame,
        Columns(categorical=tuple(codes), continuous=tuple(values), target="y"),
        EncodingOptions(target_transform="log"),
    )
    training = TableTraining(epochs=1, batch_size=BATCH, lr=0.001, device="cpu", seeds=(0,), **settings)
    bundle, _ = train_network(encode(frame, encoder), encoder, NetworkOptions(layers=LAYERS), training)
    return float(bundle.metrics["rows_per_second"])


def tokens_per_second(settings: dict[str, Any], n_steps: int) -> float:
    """Of a language model."""
    from embedline.pipelines.text.language_model import language_config
    from embedline.pipelines.text.language_model import train_network as train_words
    from embedline.pipelines.text.lm_batches import Corpus
    from embedline.pipelines.text.options import LanguageModelOptions, LanguageModelTraining
    from embedline.pipelines.text.vocabulary import Vocabulary
    from embedline.training import distributed

    n_tokens = STREAMS * TOKENS * n_steps + STREAMS + 1
    ids = np.minimum(np.random.default_rng(0).zipf(1.2, n_tokens), VOCABULARY) - 1
    corpus = Corpus(ids.astype(np.int32), np.arange(0, n_tokens + 200, 200).clip(max=n_tokens))
    held_out = Corpus(ids[:0].astype(np.int32), np.zeros(1, dtype=np.int64))
    words = Vocabulary.model_construct(tokens=tuple(map(str, range(VOCABULARY))))
    config = language_config(words, LanguageModelOptions(preset="dl1"))
    sizes = {"batch_size": STREAMS, "bptt": TOKENS, **settings}
    training = LanguageModelTraining(epochs=1, lr=0.003, clip_norm=0.3, device="cpu", **sizes)
    job = (corpus, held_out, training, config, settings["threads"])
    _, metrics = distributed.run(train_words, *job, options=training)
    return float(metrics["tokens_per_second"])


def main() -> None:
    """Run all ways in turn, or with ``--job`` one of them; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--job")
    given = parser.parse_args()
    if given.job:
        job = json.loads(given.job)
        measure = rows_per_second if job["what"] == "rows" else tokens_per_second
        print(measure(job["settings"], job["size"]))  # noqa: T201
        return
    mapped = {f"rows {memory}": {"processes": 1, "threads": 1, "memory": memory} for memory in ("device", "mapped")}
    plans = [("rows", name, settings, given.rows) for name, settings in {**WAYS, **mapped}.items()]
    plans += [("tokens", name, settings, given.steps) for name, settings in WAYS.items()]
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.rounds):
        for what, name, settings, size in plans:
            job = json.dumps({"what": what, "settings": settings, "size": size})
            command = [sys.executable, str(Path(__file__)), "--job", job]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.setdefault((what, name), []).append(float(shown.splitlines()[-1]))
    for (what, name), speeds in found.items():
        print(f"{what}/s  {name:28} " + "  ".join(f"{speed:,.0f}" for speed in speeds))  # noqa: T201


if __name__ == "__main__":
    main()
