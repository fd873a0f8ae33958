"""The table at the end of a run: metrics, baselines, intervals and the best possible values, in 80 columns."""

import io
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro_datasets.json import JSONDataset
from rich.console import Console

from embedline.hooks.scoreboard import Scoreboard, next_steps, scoreboard
from embedline.pipelines.report.comparisons import compare
from kedro_incremental.report import RunReport, Step

DIFFERENCE = {"difference": -0.0037, "low": -0.00412, "high": -0.0033, "verdict": "better"}
SALES: dict[str, Any] = {
    "exp_rmspe": 0.08134,
    "seconds": 133.0,
    "ceiling": {"exp_rmspe": 0.07987},
    "baselines": {
        "trees": {"exp_rmspe": 0.08504, "differences": {"exp_rmspe": DIFFERENCE}},
        "constant": {"exp_rmspe": 0.4},
    },
}
TEXTS: dict[str, Any] = {
    "classifier": {"accuracy": 0.8521, "rows": 1000, "training": {"seconds": 41.0}},
    "language_model": {"perplexity": 112.3, "seconds": 61.0},
    "members": {"baseline": {"accuracy": 0.8575}},
}


def drawn(metrics: dict[str, Any], width: int = 80, **settings: Any) -> list[str]:
    """Lines of the table."""
    file = io.StringIO()
    Console(file=file, width=width, **settings).print(scoreboard(metrics))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_row_has_the_metric_the_best_baseline_the_interval_the_ceiling_and_the_time() -> None:
    header, first, second = drawn({"rossmann": SALES})
    assert header.split()[:3] == ["source", "embedline", "best"]
    assert first.split() == "rossmann exp RMSPE 0.08134 0.08504 better -0.0037".split()
    assert second.split() == "at best 0.07987, 2 min LightGBM alone -0.0041 to -0.0033".split()


def test_a_text_has_two_rows_and_what_has_no_interval_or_baseline_says_so() -> None:
    lines = drawn({"imdb": TEXTS})
    assert lines[1].split() == "imdb accuracy 0.8521 0.8575 worse -0.0054".split()
    assert lines[2].split()[:3] == ["classifier", "41", "s"] and "NB-SVM" in lines[2] and " to " not in lines[2]
    row = next(line for line in lines if "perplexity" in line)
    assert row.split() == "imdb perplexity 112.3 no baseline".split()


def test_it_says_what_the_tiles_of_the_report_say() -> None:
    within = {**DIFFERENCE, "low": -0.008, "high": 0.001, "verdict": "no difference"}
    sales = {**SALES, "baselines": {"trees": {"exp_rmspe": 0.08504, "differences": {"exp_rmspe": within}}}}
    (tile,) = compare(sales)
    assert tile.verdict is not None and tile.verdict[0] == "no difference"
    assert "no difference" in drawn({"rossmann": sales})[1]


def test_a_default_run_fits_80_columns_and_a_console_of_windows() -> None:
    metrics = {
        "adult": {"accuracy": 0.8575, "baselines": {"trees": {"accuracy": 0.8571}}},
        "imdb": TEXTS,
        "movielens": {"rmse": 0.912, "r2": 0.3, "baselines": {"damped_bias": {"rmse": 0.93}, "popularity": {}}},
        "rossmann_notebook": SALES,
    }
    lines = drawn(metrics)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 1 + 2 * 5
    assert "\n".join(lines).encode("cp1252").decode("cp1252") == "\n".join(lines)
    assert scoreboard({"houses": {"rows": 3}}) is None


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = {"force_terminal": True, "color_system": "standard", "legacy_windows": False}
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mbetter" in "\n".join(drawn({"rossmann": SALES}, **terminal))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in "\n".join(drawn({"rossmann": SALES}, **terminal))


def identity(value: object) -> object:
    return value


PIPELINE = Pipeline([Node(identity, "sales.predictions", "sales.metrics", name="sales.evaluate")])


@pytest.fixture
def catalog(tmp_path) -> DataCatalog:
    """Metrics of an earlier run."""
    metrics = JSONDataset(filepath=str(tmp_path / "metrics.json"))
    metrics.save(SALES)
    return DataCatalog({"sales.metrics": metrics, "sales.predictions": MemoryDataset(1)})


@pytest.mark.parametrize(
    ("state", "verbosity", "n_lines"),
    [("ran", "normal", 3), ("failed", "normal", 0), ("skipped", "normal", 0), ("ran", "quiet", 0)],
)
def test_it_is_printed_once_all_nodes_have_run(state: Any, verbosity: str, n_lines: int, catalog, capsys) -> None:
    hook = Scoreboard()
    hook.before_pipeline_run(pipeline=PIPELINE, catalog=catalog)
    steps = [Step("sales.evaluate", "run", ["first run"], state), Step("other", "run", ["first run"], "ran")]
    hook.after_incremental_run(report=RunReport("v1", steps if state != "skipped" else steps[:1], verbosity=verbosity))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == n_lines and ("0.08134" in "".join(said)) is bool(n_lines)
    if state != "failed":  # Kedro does not call this hook then
        hook.after_pipeline_run(run_params={"env": "base", "runtime_params": {"data_root": "/a b", "sales.x": 1}})
        said = capsys.readouterr().out
        assert (said == "") is (verbosity == "quiet")
        assert verbosity == "quiet" or "run --pipelines report --env base --params 'data_root=/a b'\n" in said


def test_a_page_that_is_up_to_date_is_named_and_an_old_one_is_not(catalog, tmp_path) -> None:
    page = JSONDataset(filepath=str(tmp_path / "report.html"))
    page.save("page")
    catalog["report.page"] = page
    kept = next_steps(PIPELINE, catalog, {}, is_new=False)
    assert kept[0].split() == ["report", str(tmp_path / "report.html")]
    assert kept[-1].split() == ["origin", "kedro", "why", "sales.metrics"]
    assert "--pipelines report" in next_steps(PIPELINE, catalog, {}, is_new=True)[0]
