"""Small corpora with the settings ``auto``: the ensemble beside NB-SVM, on 20 classes and on single sentences.

    python -m pytest -s tests/benchmarks/bench_small_corpora.py

* ``packages``: 20,000 descriptions of Debian packages (line and paragraphs), the class is the section, the 20 most
  frequent ones. They come from apt's own lists, after ``apt-get -o Acquire::Languages=en update``.
* ``sentences``: one sentence of each of 10,000 reviews, labelled as its review is.

A fifth of each corpus is the test split. Both need about 10 minutes of two cores.
"""

import random
import re
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from embedline.pipelines.text import nodes
from embedline.pipelines.text.baseline import BaselineOptions
from embedline.pipelines.text.documents import SplitOptions
from embedline.pipelines.text.evaluation import ReportOptions
from embedline.pipelines.text.options import (
    Classes,
    ClassifierOptions,
    ClassifierTraining,
    Directions,
    LanguageModelOptions,
    LanguageModelTraining,
)
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import VocabularyOptions

PACKAGES, SECTIONS, SENTENCES = 20_000, 20, 10_000
SECONDS = 600.0
TEST = 5  # every fifth document
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
LENGTHS = range(6, 60)  # words of a sentence
TOKENS, SPLIT = TokenOptions(rules="ulmfit", workers=2), SplitOptions(validation=0.1)


def frame(rows: list[tuple[str, str]]) -> pl.DataFrame:
    """Documents of labels and texts, every fifth one in the split test."""
    split = ["test" if place % TEST == 0 else "train" for place in range(len(rows))]
    columns = {"label": [label for label, _ in rows], "text": [text for _, text in rows], "split": split}
    return pl.DataFrame(columns).with_row_index("document_id").with_columns(pl.col("document_id").cast(pl.String))


def apt(*command: str) -> str:
    """What a command of apt prints; the languages of its lists are always those of ``apt-get update`` above."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def fields(record: str) -> dict[str, str]:
    """The fields of a record of apt's lists; a field goes on in lines that begin with a space."""
    unfolded = re.sub(r"\n (?:\.$)?", " ", record, flags=re.MULTILINE)
    return dict(line.split(": ", 1) for line in unfolded.splitlines() if ": " in line)


def packages() -> pl.DataFrame:
    """Descriptions of packages; the label is the section."""
    if not shutil.which("apt-get"):
        pytest.skip("no apt: the descriptions are those of Debian's packages")
    lists = apt("apt-get", "-o", "Acquire::Languages=en", "indextargets", "--format", "$(FILENAME)").split()
    every: dict[str, tuple[str, str]] = {}
    long: dict[str, str] = {}
    for path in filter(re.compile("_(Packages|Translation-en)").search, lists):
        for record in apt("/usr/lib/apt/apt-helper", "cat-file", path).split("\n\n"):
            found = fields(record)
            if "Section" in found:
                every[found["Package"]] = found["Section"], found["Description-md5"]
            elif "Description-en" in found:
                long[found["Description-md5"]] = found["Description-en"]
    frequent = {section for section, _ in Counter(section for section, _ in every.values()).most_common(SECTIONS)}
    rows = [(section, long[key]) for _, (section, key) in sorted(every.items()) if section in frequent and key in long]
    if len(rows) < PACKAGES:
        pytest.skip(f"apt's lists have {len(rows):,} descriptions: run apt-get -o Acquire::Languages=en update")
    random.Random(0).shuffle(rows)
    return frame(rows[:PACKAGES])


def sentences(archive: Path) -> pl.DataFrame:
    """One sentence of each review, drawn at random."""
    draw, rows = random.Random(0), []
    with tarfile.open(archive) as members:
        for member in members:
            if found := re.search(r"/train/(neg|pos)/.*\.txt$", member.name):
                content = members.extractfile(member)
                assert content is not None
                text = re.sub(r"<br\s*/?>", " ", content.read().decode())
                if fitting := [one for one in SENTENCE.split(text) if len(one.split()) in LENGTHS]:
                    rows.append((found[1], draw.choice(fitting)))
    draw.shuffle(rows)
    return frame(rows[:SENTENCES])


def learn(documents: pl.DataFrame) -> tuple[dict[str, Any], float, float]:
    """The learner's metrics on the test split; the seconds, and the processor's seconds, of all that it took."""
    began, worked = time.perf_counter(), time.process_time()
    classes = Classes.model_validate(sorted(set(documents["label"])))
    directions = Directions.model_validate("forward")
    language = LanguageModelOptions.model_validate({"preset": "auto"})
    language_training = LanguageModelTraining.model_validate({"epochs": "auto", "device": "cpu"})
    network = ClassifierOptions.model_validate({"preset": "auto"})
    training = ClassifierTraining.model_validate({"stages": "auto", "device": "cpu"})
    tokens, lexicon = nodes.tokenize(documents, TOKENS, classes)
    vocabulary = nodes.fit_vocabulary(tokens, lexicon, TOKENS, SPLIT, VocabularyOptions())
    ids = nodes.numericalize(tokens, lexicon, vocabulary, SPLIT)
    baseline, held_out = nodes.train_baseline(tokens, lexicon, SPLIT, classes, BaselineOptions())
    words, _ = nodes.train_language_model(ids, vocabulary, TOKENS, language, language_training, directions)
    classifier, _ = nodes.train_classifier(ids, vocabulary, classes, words, network, training, directions)
    model = nodes.combine(ids, classifier, baseline, held_out, classes)
    predictions, members = nodes.predict(ids, model, nodes.predict_baseline(tokens, lexicon, baseline))
    seconds = time.perf_counter() - began, time.process_time() - worked
    return nodes.evaluate(predictions, members, classes, model, ids, ReportOptions()), *seconds


def show(name: str, metrics: dict[str, Any], seconds: float, worked: float) -> None:
    """Print the members, how the ensemble compares with NB-SVM, and its coefficients."""
    lines = [f"{name}: {seconds:.0f} s, of which the processor worked {worked:.0f} s"]
    for member, found in {"ensemble": metrics["classifier"], **metrics["members"]}.items():
        interval = f"{found['accuracy_low']:.4f} to {found['accuracy_high']:.4f}"
        lines.append(f"  {member:10} accuracy {found['accuracy']:.4f} ({interval}), log loss {found['log_loss']:.4f}")
    for metric, found in metrics["members"]["baseline"]["differences"].items():
        interval = f"95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
        lines.append(f"  ensemble less NB-SVM, {metric}: {found['difference']:+.4f}, {interval}: {found['verdict']}")
    shares = {name: round(each, 2) for name, each in metrics["classifier"]["ensemble"]["coefficients"].items()}
    print("\n".join([*lines, f"  coefficients {shares}"]), flush=True)  # noqa: T201


def check(name: str, documents: pl.DataFrame) -> None:
    metrics, seconds, worked = learn(documents)
    show(name, metrics, seconds, worked)
    found = metrics["members"]["baseline"]["differences"]
    assert found["log_loss"]["difference"] <= 0.0 and found["accuracy"]["verdict"] != "worse"
    assert "baseline" not in metrics["beaten_by"]
    assert min(seconds, worked) <= SECONDS


def test_sentences_of_reviews(real_data: Path) -> None:
    archive = real_data / "aclImdb_v1.tar.gz"
    if not archive.exists():
        pytest.skip(f"no reviews: {real_data} has no aclImdb_v1.tar.gz")
    check("10,000 sentences", sentences(archive))


def test_sections_of_packages() -> None:
    check("20,000 packages of 20 sections", packages())
