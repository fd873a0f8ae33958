"""The language model of generated papers, run by Kedro in the environment sample: what its samples are about."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from command_line import invoke
from copies import PROJECT
from embedline.pipelines.arxiv.simulator import CATEGORIES, TOPICS
from embedline.pipelines.text.generation import generate, load_generator, prompt_ids
from embedline.pipelines.text.options import GenerationOptions
from embedline.training.model_file import ModelBundle
from shared import tracking_database
from small_runs import run_here


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tracking_database(tmp_path_factory.mktemp("arxiv")).parent
    run_here(root, "arxiv")
    return root


def artifact(root: Path, name: str) -> Path:
    (path,) = (root / "data" / name).glob(f"*/{Path(name).name}")
    return path


def test_papers_become_documents_without_labels(ran: Path) -> None:
    documents = pl.read_ipc(artifact(ran, "03_primary/arxiv/documents.feather"))
    assert len(documents) == 1000
    assert documents["split"].unique().to_list() == ["unlabelled"] and documents["label"].null_count() == 1000
    fields = r"^xxfld 1 [\w.-]+( [\w.-]+)? xxfld 2 [A-Z][^\s]*( [^\s]+)+ xxfld 3 [A-Z][^\s]*( [^\s]+)+\.$"
    assert documents["text"].str.contains(fields).all()


def test_the_language_model_is_measured_on_papers_that_it_has_not_read(ran: Path) -> None:
    metrics: dict[str, Any] = json.loads(artifact(ran, "08_reporting/arxiv/language_model_metrics.json").read_text())
    assert metrics["language_model"]["documents"] == 900
    assert 2.3 < metrics["language_model"]["perplexity"] < 2.9
    assert metrics["vocabulary"]["unknown"]["validation"] < 0.01


def test_samples_of_a_category_are_about_its_topic(ran: Path) -> None:
    content = artifact(ran, "06_models/arxiv/language_model.safetensors").read_bytes()
    model, vocabulary, tokens = load_generator(ModelBundle.from_bytes(content))
    options = GenerationOptions(n_tokens=40, n_samples=12, temperature=0.7, stop=True)
    words_of = {name: "|".join(kinds["{noun}"] + kinds["{adjective}"]) for name, kinds in TOPICS.items()}
    found: dict[str, Counter[str]] = {}
    for category in CATEGORIES:
        ids = prompt_ids(f"xxfld 1 {category} xxfld 2", vocabulary, tokens)
        text = " ".join(generate(model, vocabulary, ids, options)["text"]).lower()
        found[category] = Counter({name: len(re.findall(words, text)) for name, words in words_of.items()})
    own = sum(found[category][category] for category in CATEGORIES)
    # A fifth by chance; in the papers 0.92.
    assert own / sum(counts.total() for counts in found.values()) > 0.5, found
    for category in CATEGORIES:
        share = {other: counts[category] / counts.total() for other, counts in found.items()}
        assert max(share, key=share.__getitem__) == category, (category, share)


def test_samples_of_the_parameters_go_on_from_their_prompts(ran: Path) -> None:
    samples = pl.read_parquet(artifact(ran, "07_model_output/arxiv/samples.parquet"))
    prompts = samples["prompt"].unique(maintain_order=True).to_list()
    assert prompts[0] == "xxfld 1 cs.NI xxfld 2"
    assert all(text.startswith("cs.ni\n") for text in samples.filter(prompt=prompts[0])["text"])
    words = pl.read_parquet(artifact(ran, "07_model_output/arxiv/next_words.parquet"))
    # A title of three words or more is capitalised, so that the model of the tokens expects a mark of case.
    assert words.filter(prompt=prompts[0], rank=1)["word"].to_list() == ["xxmaj"]


def test_a_title_goes_on_at_the_command_line(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    given = ("--params", f"data_root={ran / 'data'}", "--tokens", "12", "--stop")
    printed = invoke("generate", "arxiv", "xxfld 1 cs.NI xxfld 2 algorithms that", *given).output
    assert "Unknown words" not in printed and "cs.ni" in printed and "algorithms that find" in printed
    one, other = (
        invoke("generate", "arxiv", f"xxfld 1 {category} xxfld 2 Wireless", "--next", "3", *given[:2]).output
        for category in ("cs.NI", "math.CO")
    )
    assert [line.split()[0] for line in one.splitlines()[1:4]] == ["1", "2", "3"] and one != other
