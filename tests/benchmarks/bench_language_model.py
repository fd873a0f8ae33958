"""A training step of the AWD-LSTM language model against fastai's own and against our own full softmax, side by side.

    pip install -e ".[benchmark]"
    python tests/benchmarks/bench_language_model.py              about 4 minutes on two cores
    python tests/benchmarks/bench_language_model.py --perplexity about 10 minutes more; needs the real reviews
    python -m pytest tests/benchmarks/bench_language_model.py    holds all targets

``lesson`` is the model of the notebook lesson4-imdb: 200/500/3, a vocabulary of 34,945; ``laptop`` is that of the
environment: 200/400/2, 20,000 words, where the softmax is over a sample of them. Batches have 64 x 70 tokens. Each side
runs in a process of its own with the same number of threads, in turn. fastai runs in float32: its mixed precision is
written for CUDA. embedline runs in the precision that it picks by itself (bfloat16 where the CPU has it and it is
measured to be faster).

``--perplexity`` trains the laptop's model with both softmaxes on the same 3 million tokens of unlabelled reviews; both
are evaluated with the full softmax.
"""

import argparse
import itertools
import platform
import tarfile
import tempfile
from pathlib import Path

import polars as pl
import pytest
from contests import (
    CORES,
    DATA,
    Result,
    Rounds,
    configuration,
    end,
    median_ratio,
    race,
    require_fastai,
    run_contestant,
    say,
)

CONTESTANT = Path(__file__).with_name("language_contestants.py")
ARCHIVE = "aclImdb_v1.tar.gz"
STEPS, ROUNDS = 10, 3
TOLERANCE = 1.03
REVIEWS = 12_000  # of the unlabelled ones: 3.2 million tokens; every tenth of them is held out
FULL, SAMPLED = ({"contestant": "embedline", "precision": "auto", "softmax": name} for name in ("full", "sampled"))
MODELS: dict[str, dict[str, Result]] = {
    "lesson": {"fastai": {"contestant": "fastai"}, "full": FULL},
    "laptop": {"fastai": {"contestant": "fastai"}, "full": FULL, "sampled": SAMPLED},
}


@pytest.fixture(scope="module")
def rounds() -> dict[str, Rounds]:
    require_fastai()
    found = {model: compare(model, STEPS, ROUNDS, CORES) for model in MODELS}
    report(found)
    return found


def test_a_step_is_faster_than_fastais_and_than_the_full_softmax(rounds: dict[str, Rounds]) -> None:
    assert not missed(rounds)


def test_the_sampled_softmax_trains_as_good_a_model(real_data: Path, tmp_path: Path) -> None:
    assert perplexity_ratio(real_data, tmp_path, CORES) <= TOLERANCE


def compare(model: str, steps: int, rounds: int, threads: int) -> Rounds:
    """Rounds in which every side takes its steps once."""
    common = {"model": model, "steps": steps, "threads": threads}
    return race(CONTESTANT, MODELS[model], common, rounds, same=["parameters"])


def missed(found: dict[str, Rounds]) -> list[str]:
    """The targets that were missed."""
    speed = "tokens_per_second"
    ratios = {
        "lesson, full: twice fastai's tokens per second": median_ratio(found["lesson"], speed, "full", "fastai") / 2.0,
        "lesson, full: half of fastai's memory": 0.5 / median_ratio(found["lesson"], "peak_mb", "full", "fastai"),
        "laptop, sampled: 3 times the full softmax": median_ratio(found["laptop"], speed, "sampled", "full") / 3.0,
        "laptop, sampled: 5 times fastai's": median_ratio(found["laptop"], speed, "sampled", "fastai") / 5.0,
    }
    return [what for what, ratio in ratios.items() if ratio < 1.0]


def perplexity_ratio(data: Path, folder: Path, threads: int) -> float:
    """Validation perplexity of the sampled softmax divided by that of the full one; writes both."""
    job = {**prepare(data, folder), "threads": threads}
    found = {}
    for side in (SAMPLED, FULL):
        name = side["softmax"]
        found[name] = run_contestant(CONTESTANT, {**job, **side, "contestant": "to_the_end"})
        perplexity, seconds, precision = (found[name][key] for key in ("perplexity", "seconds", "precision"))
        say(f"{name:8} perplexity {perplexity:.1f} after {seconds:.0f} s in {precision}")
    return float(found["sampled"]["perplexity"] / found["full"]["perplexity"])


def prepare(data: Path, folder: Path) -> Result:
    """Ids and vocabulary of unlabelled reviews, in files of ``folder``, and the laptop's settings: a part of a job."""
    from embedline.pipelines.text.documents import SplitOptions
    from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_documents
    from embedline.pipelines.text.vocabulary import VocabularyOptions, fit_vocabulary, numericalize

    if not (data / ARCHIVE).exists():
        pytest.skip(f"no reviews: {data} has no {ARCHIVE}")
    texts = []
    with tarfile.open(data / ARCHIVE) as archive:
        unlabelled = (member for member in archive if "/unsup/" in member.name and member.isfile())
        for member in itertools.islice(unlabelled, REVIEWS):
            content = archive.extractfile(member)
            assert content is not None
            texts.append(content.read().decode())
    documents = pl.DataFrame({"document_id": map(str, range(len(texts))), "text": texts})
    documents = documents.with_columns(label=pl.lit(None, pl.String), split=pl.lit("unlabelled"))
    settings = configuration(folder, "laptop")["parameters"]["imdb"]
    rules, split = TokenOptions.model_validate(settings["tokens"]), SplitOptions()
    tokens, lexicon = tokenize_documents(documents, rules)
    options = VocabularyOptions.model_validate(settings["vocabulary"])
    vocabulary = fit_vocabulary(tokens, lexicon, split, rules.rules, options)
    ids = numericalize(tokens, lexicon, vocabulary, split).with_row_index()
    held_out = pl.when(pl.col("index") % 10 == 0).then(pl.lit("validation")).otherwise("split")
    ids.with_columns(split=held_out).drop("index").write_ipc(folder / "ids.feather")
    (folder / "vocabulary.json").write_text(vocabulary.model_dump_json())
    training = {**settings["language_model_training"], "epochs": 1, "tokens_per_epoch": None}
    files = {"ids": str(folder / "ids.feather"), "vocabulary": str(folder / "vocabulary.json")}
    return {**files, "network": settings["language_model"], "training": training}


def report(found: dict[str, Rounds]) -> None:
    """Write what was measured to standard output."""
    lines = [f"{platform.processor() or platform.machine()}, {CORES} cores"]
    lines += [f"{'':20}{'tokens/s of each round':34}{'ratio':>8}{'peak MB':>10}{'ratio':>8}"]
    for model, rounds in found.items():
        for side in MODELS[model]:
            speeds = " ".join(f"{results[side]['tokens_per_second']:9,.0f}" for results in rounds)
            peak = max(results[side]["peak_mb"] for results in rounds)
            speed, memory = (median_ratio(rounds, name, side, "fastai") for name in ("tokens_per_second", "peak_mb"))
            lines.append(f"{f'{model}, {side}':20}{speeds:34}{speed:7.2f}x{peak:10,.0f}{memory:7.2f}x")
    say(*lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="time a step of embedline's language model against fastai's")
    parser.add_argument("--steps", type=int, default=STEPS, help="timed steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=CORES, help="threads of each contestant")
    parser.add_argument("--perplexity", action="store_true", help="train with both softmaxes, too")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {ARCHIVE}")
    options = parser.parse_args()
    found = {model: compare(model, options.steps, options.rounds, options.threads) for model in MODELS}
    report(found)
    faults = missed(found)
    if options.perplexity:
        with tempfile.TemporaryDirectory() as folder:
            ratio = perplexity_ratio(options.data, Path(folder), options.threads)
        say(f"perplexity of the sampled softmax: {ratio:.3f} times that of the full one")
        faults += [f"within {TOLERANCE - 1:.0%} of the full softmax's perplexity"] if ratio > TOLERANCE else []
    end(faults)


if __name__ == "__main__":
    main()
