"""The example of docs/ratings.md, done word for word on a copy of the project: plays of albums, without a rating."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from copies import PROJECT, copy_project, kedro

PAGE = (PROJECT / "docs/ratings.md").read_text()
N_LISTENERS, N_ALBUMS = 90, 60


def plays() -> pl.DataFrame:
    """Plays with a known law: listeners play albums of the style of their number, some of them again and again."""
    random, rows = np.random.default_rng(0), []
    for listener in range(N_LISTENERS):
        own = [album for album in range(N_ALBUMS) if album % 3 == listener % 3]
        for album in random.choice(own, 10, replace=False).tolist():
            rows += [(f"listener {listener}", f"album {album}")] * int(random.integers(1, 4))
    frame = pl.DataFrame(rows, schema=["listener", "album"], orient="row")
    return frame.sample(fraction=1.0, shuffle=True, seed=1).with_row_index("at")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the page's steps were done and run."""
    project = copy_project(tmp_path_factory.mktemp("plays") / "project")
    (project / "data/01_raw").mkdir(parents=True)
    plays().write_csv(project / "data/01_raw/plays.csv")
    blocks = re.findall(r"```(yaml|bash)\n(.*?)```", PAGE.split("## Events")[1], flags=re.DOTALL)
    for language, text in blocks:
        if language == "yaml":
            found = re.match(r"# (conf/\S+\.yml)\n", text)
            assert found, text
            (project / found[1]).write_text(text)
    (command,) = (
        line for language, text in blocks if language == "bash" for line in text.splitlines() if "run" in line
    )
    kedro(project, *command.split("#")[0].split()[1:])
    return project


def newest(project: Path, path: str) -> Path:
    return max((project / "data" / path).glob("*/*"))


def test_events_reach_metrics_and_recommendations(project: Path) -> None:
    metrics: dict[str, Any] = json.loads(newest(project, "08_reporting/plays/metrics.json").read_text())
    ranking = metrics["ranking"]
    assert metrics["train_rows"] + metrics["test_rows"] == 10 * N_LISTENERS  # pairs: plays of one album add up
    assert ranking["ndcg_at_10"] > 2 * ranking["baselines"]["popularity"]["ndcg_at_10"] and ranking["beaten_by"] == []
    found = pl.read_parquet(newest(project, "07_model_output/plays/recommendations.parquet"))
    assert found.columns == ["user", "rank", "item", "title", "score"]
    assert found["user"].n_unique() == N_LISTENERS
    numbers = found.filter(pl.col("rank") <= 3).select(pl.col("user", "item").str.extract(r"(\d+)").cast(int) % 3)
    assert (numbers["user"] == numbers["item"]).mean() > 0.9


def test_a_listener_is_recommended_to_at_the_command_line(project: Path) -> None:
    printed = kedro(project, "recommend", "plays", "--rated", "album 3=2", "--rated", "album 9=1", "--env", "base")
    best = [int(number) for number in re.findall(r"album (\d+)", printed)][:6:2]  # id and title
    assert len(best) == 3 and all(number % 3 == 0 for number in best)
    told = kedro(project, "recommend", "plays", "--rated", "albun 33=1", "--env", "base", status=1)
    assert "'album 33'" in told
