"""The README's "A corpus of your own", done word for word on a copy of the project."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from copies import PROJECT, copy_project, kedro

WORDS = {
    "billing": ["invoice", "refund", "charged", "card", "twice"],
    "delivery": ["parcel", "courier", "late", "address", "lost"],
    "other": ["account", "password", "question", "website", "feedback"],
}
ANY = [word for words in WORDS.values() for word in words]


def readme_blocks() -> list[str]:
    """The code blocks of the section, in order: parameters, registry line."""
    section = (PROJECT / "README.md").read_text().split("## A corpus of your own")[1].split("\n## ")[0]
    blocks = re.findall(r"```\w+\n(.*?)```", section, flags=re.DOTALL)
    return ["\n".join(line.removeprefix("   ") for line in block.splitlines()) + "\n" for block in blocks]


def tickets(n_rows: int = 1000) -> pl.DataFrame:
    """Tickets with a known law: the team's words decide, one in ten has a word of another team as well."""
    rng = np.random.default_rng(0)
    team = rng.choice(list(WORDS), n_rows)
    subject = [f"My {rng.choice(WORDS[name])}" for name in team]
    body = [
        f"Hello, please look at the {rng.choice(WORDS[name])} and the {rng.choice(WORDS[name])}."
        + (f" It is not about the {rng.choice(ANY)}." if rng.random() < 0.1 else "")
        for name in team
    ]
    return pl.DataFrame({"subject": subject, "body": body, "team": team})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the README's steps were done."""
    project = copy_project(tmp_path_factory.mktemp("corpus") / "project")
    (project / "data/01_raw").mkdir(parents=True)
    tickets().write_csv(project / "data/01_raw/tickets.csv")
    parameters, line = readme_blocks()
    (project / "conf/base/parameters/tickets.yml").write_text(parameters)
    register(project, line)
    return project


def register(project: Path, line: str) -> None:
    """Add a line to the registry's dictionary."""
    registry = project / "src/embedline/pipeline_registry.py"
    marker = '        "rossmann_features": features,\n'
    assert marker in registry.read_text()
    registry.write_text(registry.read_text().replace(marker, marker + "        " + line.strip() + "\n"))


def test_a_csv_reaches_metrics_as_the_readme_says(project: Path) -> None:
    kedro(project, "run", "--env", "base", "--pipelines", "tickets")
    (path,) = (project / "data/08_reporting/tickets/metrics.json").glob("*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["classifier"]["rows"] == 200
    assert metrics["classifier"]["accuracy"] >= 0.9
    assert metrics["language_model"]["perplexity"] < 30
    shown = kedro(project, "predict", "tickets", "The courier lost my parcel.", "--env", "base")
    assert "delivery" in shown


def test_a_language_model_of_another_source_is_a_start(project: Path) -> None:
    kedro(project, "run", "--env", "base", "--pipelines", "tickets", "--to-nodes", "tickets.train_language_model")
    parameters = (project / "conf/base/parameters/tickets.yml").read_text()
    own = "\n".join(line for line in parameters.splitlines() if "language_model" not in line and "prompts" not in line)
    other = own.replace("tickets:", "complaints:", 1)
    (project / "conf/base/parameters/complaints.yml").write_text(other)
    source = 'imdb.create_corpus_pipeline("complaints") + text.create_pipeline("complaints", '
    register(project, f'"complaints": {source}language_model="tickets.language_model"),')
    kedro(project, "run", "--env", "base", "--pipelines", "complaints")
    (path,) = (project / "data/08_reporting/complaints/metrics.json").glob("*/metrics.json")
    assert json.loads(path.read_text())["classifier"]["accuracy"] >= 0.9
