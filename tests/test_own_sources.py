"""docs/own-data.md, done word for word on a copy of the project."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
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
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
DIARY = """
diary:
  source: data/01_raw/entries
  classes: [] # no labels: a language model alone
  tokens: {rules: ulmfit}
  vocabulary: {min_freq: 2}
  language_model: {embedding_size: 30, hidden_size: 60, n_layers: 2, drop_mult: 0.2}
  language_model_training: {epochs: 8, batch_size: 8, bptt: 20, lr: 0.02, threads: 1}
  generation: {prompts: ["i wrote on monday"], options: {n_tokens: 4, temperature: 0}}
"""
LETTERS = """
letters:
  source: data/01_raw/letters.csv
  classes: []
  reading: {label_column: null}
  tokens: {rules: ulmfit}
  vocabulary: {min_freq: 2}
  pretrained: data/06_models/diary/language_model.safetensors # its newest version
  language_model: {embedding_size: 30, hidden_size: 60, n_layers: 2, drop_mult: 0.2}
  language_model_training:
    batch_size: 4
    bptt: 20
    threads: 1
    epochs: 1 # not of the stages
    lr: 0.01
    stages: [{unfrozen: 1, epochs: 1, lr: 0.01}, {unfrozen: null, epochs: 2, lr: 0.004}]
"""


def page_blocks() -> list[str]:
    """The YAML files of the page; each says in a comment where it goes."""
    page = (PROJECT / "docs/own-data.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    return [text for text in blocks if text.startswith("# conf/")]


def houses(rng: np.random.Generator, n_rows: int = 3000) -> pl.DataFrame:
    """Prices with a known law: district and area decide, with 10 % noise."""
    district = rng.integers(0, 8, n_rows)
    area = rng.uniform(30, 200, n_rows)
    return pl.DataFrame(
        {
            "District": [f"district {k}" for k in district],
            "Kind": rng.choice(["flat", "house"], n_rows),
            "Area": area,
            "Year": rng.integers(1900, 2020, n_rows),
            "Price": np.exp(7 + 0.2 * district + 0.9 * np.log(area) + rng.normal(0, 0.1, n_rows)),
        }
    )


def loans(rng: np.random.Generator, n_rows: int = 3000) -> pl.DataFrame:
    """Loans with a known law: paid back where income is high for the amount, one in ten against it."""
    amount, income = rng.lognormal(9, 0.6, n_rows), rng.lognormal(10, 0.6, n_rows)
    kept = (income / amount > 2.5) ^ (rng.random(n_rows) < 0.1)
    outcome = np.where(kept, "repaid", np.where(income > np.median(income), "late", "lost"))
    purpose = rng.choice(["car", "home", "studies"], n_rows)
    return pl.DataFrame({"Purpose": purpose, "Amount": amount, "Income": income, "Outcome": outcome})


def albums(rng: np.random.Generator, n_listeners: int = 120, n_albums: int = 80) -> pl.DataFrame:
    """Stars with a known law: listener, album and a match of their tastes, with noise of half a star."""
    of_listener, of_album = rng.normal(0, 0.4, n_listeners), rng.normal(0, 0.5, n_albums)
    taste = rng.normal(0, 0.8, (n_listeners, 2)) @ rng.normal(0, 0.8, (2, n_albums))
    rated = rng.random((n_listeners, n_albums)) < 0.6
    listener, album = np.nonzero(rated)
    stars = 3 + of_listener[listener] + of_album[album] + taste[rated] + rng.normal(0, 0.5, len(album))
    names = [f"album {k}" for k in album]
    return pl.DataFrame({"listener": listener, "album": names, "stars": np.clip(np.rint(stars), 1, 5).astype(int)})


def write_tickets(rng: np.random.Generator, folder: Path, n_rows: int = 1000) -> None:
    """Tickets with a known law: the team's words decide, one in ten has a word of another team as well."""
    for row, team in enumerate(rng.choice(list(WORDS), n_rows)):
        first, second, third = rng.choice(WORDS[team], 3)
        text = f"My {first}. Hello, please look at the {second} and the {third}."
        text += f" It is not about the {rng.choice(ANY)}." if rng.random() < 0.1 else ""
        path = folder / ("test" if row % 5 == 0 else "train") / team / f"{row}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def days(rng: np.random.Generator) -> str:
    """A text of 18 tokens with the first: the next one is known, but for the first day."""
    first = rng.integers(7)
    return f"i wrote on {' '.join(DAYS[(first + k) % 7] for k in range(14))}"


def write_diary(rng: np.random.Generator, folder: Path, n_rows: int = 200) -> None:
    """Text files without labels."""
    folder.mkdir()
    for row in range(n_rows):
        (folder / f"{row}.txt").write_text(days(rng))


def register(project: Path, line: str) -> None:
    """Declare one more source."""
    with (project / "conf/base/sources.yml").open("a") as file:
        file.write(f"{line}\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the page's steps were done for all four sources, and run."""
    project = copy_project(tmp_path_factory.mktemp("own") / "project")
    raw = project / "data/01_raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    houses(rng).write_csv(raw / "houses.csv")
    loans(rng).write_csv(raw / "loans.csv")
    albums(rng).write_csv(raw / "albums.csv")
    write_tickets(rng, raw / "tickets")
    for text in page_blocks():
        found = re.match(r"# (conf/\S+\.yml)\n", text)
        assert found, text
        (project / found[1]).write_text(text)
    kedro(project, "run", "--env", "base", "--pipelines", "houses,loans,albums,tickets")
    return project


def metrics_of(project: Path, source: str) -> dict[str, Any]:
    (path,) = (project / f"data/08_reporting/{source}/metrics.json").glob("*/metrics.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_number_is_predicted(project: Path) -> None:
    metrics = metrics_of(project, "houses")
    assert 0.09 < metrics["exp_rmspe"] < 0.14  # the noise of the law is 0.1
    assert list((project / "data/06_models/houses/model.safetensors").glob("*/model.safetensors"))
    runs = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db").search_experiments()
    assert "embedline" in [experiment.name for experiment in runs]


def test_classes_are_predicted(project: Path) -> None:
    metrics = metrics_of(project, "loans")
    assert 0.85 < metrics["accuracy"] <= 0.93  # one loan in ten is against the law
    assert metrics["confusion"]["classes"] == ["late", "lost", "repaid"]
    assert metrics["accuracy"] > metrics["baselines"]["constant"]["accuracy"] + 0.1


def test_ratings_are_predicted(project: Path) -> None:
    metrics = metrics_of(project, "albums")
    assert 0.5 < metrics["rmse"] < 0.8  # the noise is half a star, and 0.3 of the rounding
    assert metrics["rmse"] < 0.9 * metrics["baselines"]["damped_bias"]["rmse"]
    assert list((project / "data/07_model_output/albums/recommendations.parquet").glob("*/recommendations.parquet"))


def test_texts_are_classified(project: Path) -> None:
    metrics = metrics_of(project, "tickets")
    assert metrics["classifier"]["rows"] == 200
    assert metrics["classifier"]["accuracy"] >= 0.9
    assert metrics["language_model"]["perplexity"] < 30
    shown = kedro(project, "predict", "tickets", "The courier lost my parcel.", "--env", "base")
    assert "delivery" in shown


def test_of_own_sources_no_best_possible_value_is_known(project: Path) -> None:
    for source in ("houses", "loans", "albums", "tickets"):
        assert "ceiling" not in json.dumps(metrics_of(project, source))
    assert not list((project / "data/08_reporting").glob("*/ceiling.json"))


def test_own_sources_are_in_the_report(project: Path) -> None:
    kedro(project, "run", "--env", "base", "--pipelines", "report")
    (path,) = (project / "data/08_reporting/report/report.html").glob("*/report.html")
    page = path.read_text()
    for source in ("houses", "loans", "albums", "tickets"):
        assert f'<section id="{source}">' in page
    for figure in ("houses-forecast_plot", "loans-error_plot", "albums-map_plot", "tickets-confusion_plot"):
        assert f'id="{figure}"' in page
    assert f">{metrics_of(project, 'houses')['exp_rmspe']:#.4g}<" in page


def test_a_table_finds_its_own_roles(project: Path) -> None:
    text = next(text for text in page_blocks() if text.startswith("# conf/base/parameters/houses.yml"))
    own, replaced = re.subn(
        r"columns: \{.*\}", "columns: {target: Price, inputs: auto}", text.replace("houses:", "flats:", 1)
    )
    assert replaced == 1
    (project / "conf/base/parameters/flats.yml").write_text(own)
    register(project, "flats: {learner: tabular, table: houses.table}")
    said = kedro(project, "run", "--env", "base", "--pipelines", "flats")
    assert 'categorical: ["District", "Kind"]' in " ".join(said.split())
    (path,) = (project / "data/05_model_input/flats/encoder.json").glob("*/encoder.json")
    found = json.loads(path.read_text())["inferred"]["columns"]
    assert (found["categorical"], found["continuous"]) == (["District", "Kind"], ["Area", "Year"])
    assert metrics_of(project, "flats")["exp_rmspe"] == metrics_of(project, "houses")["exp_rmspe"]


def test_a_language_model_of_another_source_is_a_start(project: Path) -> None:
    text = next(text for text in page_blocks() if text.startswith("# conf/base/parameters/tickets.yml"))
    own = "\n".join(line for line in text.splitlines() if "language_model" not in line)
    (project / "conf/base/parameters/complaints.yml").write_text(own.replace("tickets:", "complaints:", 1))
    register(project, "complaints: {learner: text, language_model: tickets.language_model}")
    kedro(project, "run", "--env", "base", "--pipelines", "complaints")
    assert metrics_of(project, "complaints")["classifier"]["accuracy"] >= 0.9


def newest(project: Path, path: str) -> Path:
    return max((project / "data" / path).glob("*/*"))


def test_texts_without_labels_get_a_language_model_and_others_start_from_it(project: Path) -> None:
    rng, parameters = np.random.default_rng(1), project / "conf/base/parameters"
    write_diary(rng, project / "data/01_raw/entries")
    pl.DataFrame({"text": [days(rng) for _ in range(40)]}).write_csv(project / "data/01_raw/letters.csv")
    for name, text in (("diary", DIARY), ("letters", LETTERS)):
        (parameters / f"{name}.yml").write_text(text)
        register(project, f"{name}: {{learner: language_model}}")
    kedro(project, "run", "--env", "base", "--pipelines", "diary")
    found = json.loads(newest(project, "08_reporting/diary/language_model_metrics.json").read_text())
    assert 7 ** (1 / 18) - 0.05 < found["language_model"]["perplexity"] < 1.5  # 7 days to choose from in one of 18
    assert 0.8 < found["language_model"]["next_word_accuracy"] < 1.0
    assert found["vocabulary"]["unknown"]["validation"] == 0.0
    samples = pl.read_parquet(newest(project, "07_model_output/diary/samples.parquet"))
    assert samples["text"].to_list() == ["i wrote on monday tuesday wednesday thursday friday"]
    runs = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    (experiment,) = [one for one in runs.search_experiments() if one.name == "embedline"]
    (last,) = runs.search_runs([experiment.experiment_id], "tags.source = 'diary'", max_results=1)
    assert last.data.metrics["headline"] == last.data.metrics["language_model.perplexity"]
    assert last.data.metrics["language_model.perplexity"] == found["language_model"]["perplexity"]

    kedro(project, "run", "--env", "base", "--pipelines", "letters")
    first = {
        name: pl.read_parquet(newest(project, f"06_models/{name}/language_model_history.parquet"))["train_loss"][0]
        for name in ("diary", "letters")
    }
    assert first["letters"] < 0.5 * first["diary"]  # the stage of embedding and decoder begins with what was learned
    assert "all 10 nodes up to date" in kedro(project, "run", "--env", "base", "--pipelines", "letters")
    seed = "diary.language_model_training.seed=1"
    kedro(project, "run", "--env", "base", "--pipelines", "diary", "--params", seed)
    said = kedro(project, "run", "--env", "base", "--pipelines", "letters")  # from the new version of the diary's model
    assert re.search(r"5 of 10 nodes ran in .*, 5 were up to date", " ".join(said.split())), said

    kedro(project, "run", "--env", "base", "--pipelines", "report")
    page = newest(project, "08_reporting/report/report.html").read_text()
    section = page.split('<section id="diary">')[1].split("</section>")[0]
    assert "What the language model writes" in section and "perplexity" in section


@pytest.mark.parametrize(
    ("source", "file", "right", "wrong", "message"),
    [
        ("houses", "houses", "target: Price", "target: Prize", "which columns.target names: did you mean 'Price'?"),
        ("houses", "houses", "[District, Kind]", "[District, Sort]", "'Sort', which columns.categorical names"),
        (
            "houses",
            "houses",
            "{categorical: [District, Kind], continuous: [Area, Year], target: Price}",
            "auto",
            "inputs: auto",
        ),
        ("houses", "houses", "layers:", "layrs:", "houses.network"),
        ("houses", "houses", "  columns:", "  colums:", "did you mean 'houses.columns'?"),
        ("loans", "loans", "{kind: random}", "{kind: column, column: Fold, value: 1}", "which split.column names"),
        ("albums", "albums", "user: listener", "user: hearer", "columns.user"),
        ("tickets", "tickets", "[billing, delivery, other]", "[billing, delivery]", "other"),
        ("tickets", "tickets", "01_raw/tickets", "01_raw/tockets", "tockets"),
    ],
)
def test_a_mistake_is_answered_with_the_key_to_mend(
    project: Path, source: str, file: str, right: str, wrong: str, message: str
) -> None:
    path = project / f"conf/base/parameters/{file}.yml"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    try:
        said = kedro(project, "run", "--env", "base", "--pipelines", source, status=1)
    finally:
        path.write_text(text)
    assert message in " ".join(said.split())
    assert "Traceback" not in said
