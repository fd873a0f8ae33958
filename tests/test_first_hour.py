"""A new user's first hour: two commands to a report, and four from a strange CSV file to a served model.

python tests/test_first_hour.py    # both, with the seconds of each command
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import shared
from copies import copy_project, kedro
from test_init import flats

Command = Callable[..., str]
WAIT = 120  # seconds for a server to start on a busy machine


@contextlib.contextmanager
def answering(project: Path, *arguments: str) -> Iterator[str]:
    """`embedline serve` on a free port, and the address that it names; it is told to stop at the end."""
    command = [sys.executable, "-m", "embedline", "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=said, stderr=said)
        try:
            until, address = time.monotonic() + WAIT, None
            while address is None and process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
                said.seek(0)
                address = re.search(r"answers at (http\S+)", said.read())
            said.seek(0)
            assert address, said.read()
            yield address[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT) == 0


def reach_a_report(project: Path, run: Command) -> str:
    """The report of the sample run of a demo: the page."""
    said = run(project, "run", "adult")
    assert re.search(r"^adult +accuracy 0\.[78]", said, flags=re.MULTILINE), said
    found = re.search(r"\S+report\.html", " ".join(run(project, "report").split()))
    assert found, "the report's path is not said"
    return (project / found[0]).read_text()


def reach_a_service(project: Path, rows: pd.DataFrame, run: Command) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """What a model of the rows predicts of 20 of them, as a file and behind HTTP: in four commands, and no edit."""
    rows.to_csv(project / "flats.csv", index=False)
    new = rows.drop(columns="price").head(20)
    new.to_csv(project / "new.csv", index=False)
    run(project, "init", "flats.csv", "--target", "price")
    run(project, "run", "flats")
    run(project, "predict", "flats", "new.csv", "--output", "answers.csv")
    new["sold"] = pd.to_datetime(new["sold"], format="%d/%m/%Y").dt.strftime("%Y-%m-%d")  # in JSON as ISO has them
    body = json.dumps({"dataframe_records": json.loads(new.to_json(orient="records"))}).encode()
    with answering(project, "flats") as address:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            served = json.loads(answer.read())["predictions"]
    return pd.read_csv(project / "answers.csv"), served


def timed(project: Path, *arguments: str, **options: Any) -> str:
    """A command in a new interpreter, whose seconds are shown."""
    began = time.monotonic()
    said = kedro(project, *arguments, cold=True, program="embedline", **options)
    print(f"{time.monotonic() - began:6.1f} s  embedline {' '.join(arguments)}")  # noqa: T201
    return said


def warm_embedline(project: Path, *arguments: str, **options: Any) -> str:
    """A command in a process whose libraries are imported already."""
    return kedro(project, *arguments, program="embedline", **options)


@pytest.mark.slow
def test_two_commands_to_a_report(tmp_path: Path) -> None:
    page = reach_a_report(copy_project(tmp_path / "project"), warm_embedline)
    assert '<section id="adult">' in page and "accuracy" in page


@pytest.mark.slow
def test_four_commands_from_a_strange_file_to_a_served_model(tmp_path: Path) -> None:
    project, rows = copy_project(tmp_path / "project"), flats(np.random.default_rng(0))
    answers, served = reach_a_service(project, rows, warm_embedline)
    assert answers["flat_id"].tolist() == rows["flat_id"].head(20).tolist()
    # 10 % noise, and a tenth more for each missing area: a third of the prices' spread is a model that has learned.
    wrong = (answers["predicted"] - rows["price"].head(20)).abs()[rows["area"].head(20).notna()]
    assert wrong.mean() < rows["price"].std() / 3
    assert np.allclose([row["predicted"] for row in served], answers["predicted"])
    assert re.match("all 17 nodes up to date", warm_embedline(project, "run", "flats"))


def main() -> None:
    """Both ways, on 4,000 flats in 600 streets."""
    with tempfile.TemporaryDirectory() as folder:
        shared.share(Path(folder))
        reach_a_report(copy_project(Path(folder, "demo")), timed)
        rows = flats(np.random.default_rng(0), 4000, 600)
        began = time.monotonic()
        reach_a_service(copy_project(Path(folder, "own")), rows, timed)
        print(f"{time.monotonic() - began:6.1f} s  from the file to an answer behind HTTP")  # noqa: T201


if __name__ == "__main__":
    main()
