"""The report of a small run: made anew only where something changed, and opened in a browser from disk."""

import json
import math
import re
from pathlib import Path

import mlflow
import pytest

from browsers import Browser
from copies import kedro
from embedline.datasets.history import MetricsHistory
from embedline.errors import DataError
from small_runs import SAID, SOURCES, newest

pytestmark = pytest.mark.slow
PAGE = "08_reporting/report/report.html"


@pytest.fixture(scope="module")
def reports(small_project: Path) -> tuple[Path, list[str]]:
    """The project, and what `kedro run` said of three runs: a report, the same, a training of rossmann and a report.

    The second one is not told to be verbose.
    """
    report = ("run", "--pipelines", "report")
    trained = ("run", "--verbose", "--pipelines", "rossmann,report", "--params", "rossmann.training.epochs=3")
    runs = ((*report, "--verbose"), report, trained)
    return small_project, [kedro(small_project, *arguments) for arguments in runs]


def states(said: str) -> dict[str, str]:
    """By node of the report, whether it ran or was skipped."""
    return dict(re.findall(r"^(report\.\S+) +(ran|skipped)", said, flags=re.MULTILINE))


def test_only_what_changed_is_collected_again(reports: tuple[Path, list[str]]) -> None:
    _, (first, again, after) = reports
    assert states(first)["report.collect_imdb"] == "ran" and states(first)["report.write_page"] == "ran"
    nodes = len(states(first))
    assert f"all {nodes} nodes up to date" in again and newest(reports[0], PAGE).name in again
    assert len(again.splitlines()) <= 5, again
    changed = {name for name, state in states(after).items() if state == "ran"}
    assert changed == {"report.collect_rossmann", "report.write_page"}, after


def test_a_run_fits_a_screen_and_ends_with_its_results(small_project: Path) -> None:
    said = (small_project / SAID).read_text()
    lines = said.splitlines()
    assert sum(max(1, math.ceil(len(line) / 80)) for line in lines) <= 40, said
    assert "\x1b" not in said and "\r" not in said  # it is no terminal
    table = lines[next(place for place, line in enumerate(lines) if line.startswith("source ")) :]
    for source in SOURCES:
        assert any(line.startswith(f"{source} ") for line in table), said
    assert all(len(line.rstrip()) <= 80 for line in table), said
    path = sorted((small_project / "data/sample/08_reporting/rossmann/metrics.json").glob("*/metrics.json"))[0]
    metrics = json.loads(path.read_text())  # of this run: others have made more versions
    assert f"exp RMSPE {metrics['exp_rmspe']:#.4g}" in said
    assert re.search(r"^(\d+) of \1 nodes ran in .*, 0 were up to date$", said, flags=re.MULTILINE)
    assert "kedro run --pipelines report" in lines[-3]


def test_the_page_has_the_runs_and_what_differed(reports: tuple[Path, list[str]]) -> None:
    page = newest(reports[0], PAGE).read_text()
    metrics = json.loads(newest(reports[0], "08_reporting/rossmann/metrics.json").read_text())
    assert f">{metrics['exp_rmspe']:#.4g}<" in page
    assert page.count("rossmann.training.epochs changed 2 → 3") == 1
    assert 'id="rossmann-history-0"' in page and 'id="imdb-confusion_plot"' in page
    assert f"no model can expect less than {metrics['ceiling']['exp_rmspe']:#.4g}" in page
    assert page.count("the best that a model can expect") == 3  # of all three laws
    assert "What the language model writes" in page and "Recommendations" in page
    said = "Not in this report, since nothing is stored of them yet: <code>rossmann_notebook</code>, "
    assert said in page and '<section id="adult">' not in page
    assert "<strong>Generated data.</strong> rossmann, imdb, movielens learned" in page


def test_no_model_is_better_than_its_law_lets_it_be(reports: tuple[Path, list[str]]) -> None:
    """Beyond chance, which is 4 standard errors of the held-out rows."""
    found = {
        source: json.loads(newest(reports[0], f"08_reporting/{source}/metrics.json").read_text())
        for source in ("imdb", "movielens")
    }
    classifier, ratings = found["imdb"]["classifier"], found["movielens"]
    best, least = classifier["ceiling"]["accuracy"], ratings["ceiling"]["mse"]
    assert 0.9 < best < 1 and 0.36 < least < 0.45
    assert classifier["accuracy"] < best + 4 * math.sqrt(best * (1 - best) / classifier["rows"])
    # The standard deviation of the squared errors is about 1.4 times their mean: that of a normal error's.
    assert ratings["mse"] > least * (1 - 4 * 1.4 / math.sqrt(ratings["test_rows"]))


def test_mlflow_has_the_page(reports: tuple[Path, list[str]]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{reports[0]}/mlflow.db")
    experiment = client.get_experiment_by_name("embedline")
    runs = client.search_runs([experiment.experiment_id])
    paths = [file.path for run in runs for file in client.list_artifacts(run.info.run_id, "report")]
    assert paths.count("report/page.html") == 2


@pytest.mark.browser
@pytest.mark.parametrize("width", [1360, 390])
def test_every_plot_is_drawn_from_disk(reports: tuple[Path, list[str]], browser: Browser, width: int) -> None:
    visit = browser.visit(newest(reports[0], PAGE).as_uri(), width=width)
    stored = json.loads(_between(visit.tree, 'id="plots">', "</script>"))
    assert len(stored) >= 19
    assert visit.attribute("data-drawn") == str(len(stored)) and visit.attribute("data-failed") == "0"
    for name in stored:
        drawn = _between(visit.tree, f'id="{name}"', "</figure>")
        assert 'class="main-svg"' in drawn, f"{name} is not drawn"
        marks = len(re.findall(r'class="(?:trace scatter|trace bars|hm|point)', drawn))
        assert marks, f"{name} is drawn without a trace"
    assert visit.errors == [] and visit.requests == []


@pytest.mark.browser
def test_the_browser_would_notice_an_error_and_a_request(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="https://data.example/a.png"><script>console.error("it failed")</script>')
    visit = browser.visit(page.as_uri())
    assert visit.errors == ["it failed"] and visit.requests == ["https://data.example/a.png"]


def _between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


def test_the_history_names_parameters_and_knows_what_no_run_recorded(reports: tuple[Path, list[str]]) -> None:
    project = reports[0]
    folder = project / "data/sample/08_reporting/rossmann/metrics.json"
    history = MetricsHistory(
        filepath=str(folder), dataset="rossmann.metrics", manifest={"filepath": str(project / "data/sample/.runs")}
    )
    first, second = history.load()
    assert first["changes"] == [] and second["changes"] == ["parameter rossmann.training.epochs changed 2 → 3"]
    assert first["version"] < second["version"] and first["metrics"]["epochs"] == 2
    unknown = MetricsHistory(filepath=str(folder), dataset="rossmann.metrics", manifest={"filepath": str(project)})
    assert [version["changes"] for version in unknown.load()] == [[], None]


def test_a_history_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json" / "2026-05-01T10.00.00.000Z" / "metrics.json"
    path.parent.mkdir(parents=True)
    history = MetricsHistory(
        filepath=str(tmp_path / "metrics.json"), dataset="a.metrics", manifest={"filepath": str(tmp_path)}
    )
    assert not history.exists()
    path.write_text("[1, 2]")
    with pytest.raises(Exception, match="holds a list, not metrics by their names") as raised:
        history.load()
    assert isinstance(raised.value.__cause__, DataError)
    path.write_text("{")
    with pytest.raises(Exception, match=r"metrics\.json is no JSON"):
        history.load()
