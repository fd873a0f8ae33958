"""`embedline init`: what it writes about a file, and the way from a strange CSV to a served model without an edit."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.validation.type_extractor import TypeExtractor
from pydantic import TypeAdapter

from command_line import invoke
from embedline import pipeline_registry
from embedline.errors import DataError
from embedline.sources import Source, read_sources

N = 400


def flats(rng: np.random.Generator, n_rows: int = N, n_streets: int = 90) -> pd.DataFrame:
    """Flats with a row number, many streets, days first, booleans with gaps, texts and missing numbers."""
    area = rng.uniform(20, 200, n_rows)
    frame = pd.DataFrame(
        {
            "flat_id": np.arange(n_rows) + 1000,
            "street": [f"Street {k}" for k in rng.integers(0, n_streets, n_rows)],
            "area": area,
            "balcony": pd.Series(rng.random(n_rows) < 0.5, dtype=object),
            "sold": pd.date_range("2020-01-01", periods=n_rows).strftime("%d/%m/%Y"),
            "remarks": [f"near the {rng.choice(['park', 'lake'])} with {k} old trees" for k in range(n_rows)],
            "price": 3000 * area * np.exp(rng.normal(0, 0.1, n_rows)),
        }
    )
    for column in ("area", "balcony", "remarks"):
        frame.loc[rng.random(n_rows) < 0.15, column] = None
    return frame


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `init` writes into."""
    for folder in ("parameters", "catalog"):
        (tmp_path / "conf/base" / folder).mkdir(parents=True)
    for module in ("embedline.commands.init", "embedline.sources"):
        monkeypatch.setattr(importlib.import_module(module), "project_root", lambda: tmp_path)
    return tmp_path


def written(project: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a source, and its catalog, empty where it has none."""
    read = [project / f"conf/base/{folder}/{name}.yml" for folder in ("parameters", "catalog")]
    found = [yaml.safe_load(path.read_text()) if path.exists() else {} for path in read]
    return found[0][name], found[1]


def test_a_table_gets_roles_and_a_reader(project: Path) -> None:
    rows = flats(np.random.default_rng(0), 1200)
    rows.to_csv(project / "Flats 2024.csv", index=False)
    said = invoke("init", str(project / "Flats 2024.csv"), "--target", "price").output
    assert "embedline run flats_2024" in said
    parameters, catalog = written(project, "flats_2024")
    assert parameters["columns"] == {
        "target": "price",
        "categorical": ["street", "balcony"],
        "continuous": ["area"],
        "dates": ["sold"],
        "text": ["remarks"],
        "id": ["flat_id"],
    }
    assert parameters["split"] == {"kind": "random", "fraction": 0.2}
    entry = catalog["flats_2024.table"]
    assert entry["filepath"] == "Flats 2024.csv"
    assert entry["load_args"] == {"parse_dates": ["sold"], "date_format": {"sold": "%d/%m/%Y"}}
    text = (project / "conf/base/parameters/flats_2024.yml").read_text()
    assert "90 categories" in text and "2020-01-01" in text and "% missing" in text
    assert read_sources() == {"flats_2024": Source(learner="tabular")}
    assert "--name" in invoke("init", str(project / "Flats 2024.csv"), "--target", "price", status=1).output


def test_semicolons_decimal_commas_and_classes(project: Path) -> None:
    lines = ["size;grade", *(f"{k},5;{k % 3}" for k in range(60))]
    (project / "parts.csv").write_text("\n".join(lines))
    invoke("init", str(project / "parts.csv"), "--target", "grade")
    parameters, catalog = written(project, "parts")
    assert catalog["parts.table"]["load_args"] == {"sep": ";", "decimal": ","}
    assert parameters["columns"] == {"target": "grade", "classes": ["grade"], "continuous": ["size"]}
    assert parameters["split"] == {"kind": "folds", "n": 5}


def test_texts_and_ratings(project: Path) -> None:
    frame = pd.DataFrame({"body": ["a b", "c d"] * 5, "team": ["x", "y"] * 5})
    frame.to_csv(project / "mails.csv", index=False)
    invoke("init", str(project / "mails.csv"), "--text", "body", "--label", "team")
    parameters, _ = written(project, "mails")
    assert parameters["classes"] == ["x", "y"] and parameters["source"] == "mails.csv"
    assert parameters["reading"] == {"text_columns": ["body"], "label_column": "team", "test_fraction": 0.2}
    for number in range(3):
        (project / "notes").mkdir(exist_ok=True)
        (project / f"notes/{number}.txt").write_text("words")
    invoke("init", str(project / "notes"))
    pd.DataFrame({"who": [1, 2], "what": ["a", "b"], "stars": [1, 5]}).to_parquet(project / "stars.parquet")
    invoke("init", str(project / "stars.parquet"), "--user", "who", "--item", "what", "--rating", "stars")
    parameters, catalog = written(project, "stars")
    assert parameters["columns"]["rating"] == "stars" and catalog["stars.ratings"]["type"] == "pandas.ParquetDataset"
    invoke("init", str(project / "stars.parquet"), "--name", "views", "--user", "who", "--item", "what")
    assert {name: source.learner for name, source in read_sources().items()} == {
        "mails": "text",
        "notes": "language_model",
        "stars": "ratings",
        "views": "ratings",
    }
    assert read_sources()["views"].events
    found = pipeline_registry.register_pipelines()
    for name in ("mails", "notes", "stars", "views"):  # every block is one that the learner takes
        types = TypeExtractor({name: found[name]}).extract_types_from_pipelines()
        blocks = {f"{name}.{block}": value for block, value in written(project, name)[0].items() if block != "source"}
        assert all(TypeAdapter(types[key]).validate_python(value) is not None for key, value in blocks.items())


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["flats.csv"], 2, ("--target", "street")),
        (["flats.csv", "--target", "prize"], 1, ("prize", "'price'")),
        (["flots.csv", "--target", "price"], 1, ("flots.csv",)),
        (["flats.csv", "--target", "price", "--text", "remarks"], 2, ("--target",)),
        (["flats.csv", "--user", "street"], 2, ("--item",)),
        (["flats.csv", "--target", "price", "--name", "adult"], 1, ("adult", "--name")),
        (["broken.csv", "--target", "a"], 1, ("broken.csv",)),
        (["empty", "--text", "a"], 1, ("empty",)),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, named: tuple[str, ...]
) -> None:
    flats(np.random.default_rng(0), 30).to_csv(project / "flats.csv", index=False)
    (project / "broken.csv").write_text('a,b\n"1,2\n')
    (project / "empty").mkdir()
    monkeypatch.chdir(project)
    said = invoke("init", *arguments, status=status).output
    assert all(name in said for name in named) and "Traceback" not in said
    assert not list((project / "conf/base").glob("*/*.yml")) and not read_sources()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("flats: {lerner: tabular}", ("flats", "lerner")),
        ("flats: {learner: tabula}", ("flats.learner",)),
        ("flats: {learner: tabular, events: true}", ("flats", "events")),
        ("flats-2: {learner: tabular}", ("flats-2",)),
        ("flats", ("sources.yml",)),
        ("flats: [", ("sources.yml",)),
    ],
)
def test_a_wrong_declaration_is_answered_with_its_key(tmp_path: Path, content: str, named: tuple[str, ...]) -> None:
    path = tmp_path / "sources.yml"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        read_sources(path)
    assert all(name in str(raised.value) for name in (*named, str(path)))


def test_a_declared_source_has_its_pipelines(project: Path) -> None:
    (project / "conf/base/sources.yml").write_text(
        "flats: {learner: tabular, backtest: true}\nmails: {learner: text}\nnotes: {learner: language_model}\n"
        "stars: {learner: ratings}\nviews: {learner: ratings, events: true}\n"
    )
    names = set(pipeline_registry.register_pipelines())
    for source in ("flats", "mails", "stars"):
        assert {source, f"{source}_predict", f"{source}_publish", f"{source}_tune"} <= names
    assert {"flats_backtest", "notes", "views"} <= names and "views_publish" not in names
    (project / "conf/base/sources.yml").write_text("adult: {learner: tabular}")
    with pytest.raises(DataError, match="adult"):
        pipeline_registry.register_pipelines()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predct", "adult"], ("predct", "'predict'")),
        (["adult"], ("embedline run adult",)),
        (["run", "adlt"], ("adlt", "adult")),
        (["run", "adult", "--pipelines", "imdb"], ("--pipelines",)),
    ],
)
def test_a_misspelt_command_or_source(arguments: list[str], named: tuple[str, ...], capsys: Any) -> None:
    from embedline.__main__ import main

    with pytest.raises(SystemExit):
        main(arguments)
    said = "".join(capsys.readouterr())
    assert all(name in said for name in named) and "Traceback" not in said


def test_the_help_shows_all_commands() -> None:
    from embedline.cli import cli

    said = invoke("--help").output
    listed = {name for lines in type(cli).purposes.values() for name in lines}
    assert listed == set(cli.commands) and all(f"  {name} " in said for name in listed)
