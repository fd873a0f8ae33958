"""Sections into one page: what it says, what it escapes, and what it refuses."""

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest

from embedline.errors import DataError
from embedline.pipelines.report.options import PageOptions
from embedline.pipelines.report.page import moment, render
from embedline.pipelines.report.sections import collect

METRICS = {"rmse": 0.5, "baselines": {"damped_bias": {"rmse": 0.6}}}
PAST = [
    {"version": "2026-05-01T10.00.00.000Z", "metrics": {**METRICS, "rmse": 0.55}, "changes": []},
    {
        "version": "2026-05-02T10.30.00.000Z",
        "metrics": METRICS,
        "changes": ["parameter films.training.epochs changed 5 → 10", "code of a.b changed", "code of a.c changed"],
    },
]
HOSTILE = "</script><script>alert(1)</script>"


def section(**more: Any) -> dict[str, Any]:
    """A source with metrics, two runs and a plot."""
    figure = go.Figure(go.Scatter(y=[1.0, 2.0]), layout={"title": "Held-out ratings"})
    return collect({"metrics": METRICS, "metrics_history": PAST, "error_plot": figure, **more}, "https://data.example")


def plots_in(page: str) -> dict[str, Any]:
    """The plots that the page stores, by their ids."""
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    values: dict[str, Any] = json.loads(found[1])
    return values


def text_of(page: str) -> str:
    """What the page says, without its script."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.split('id="plots"', maxsplit=1)[0].split("</style>")[1]).split())


def test_results_runs_and_plots_are_on_the_page() -> None:
    page = render({"films": section()}, PageOptions(title="My films"))
    text = text_of(page)
    assert "<title>My films</title>" in page
    assert "16.7 % lower error than damped biases" in text
    assert "2026-05-02 10:30 UTC 0.5000 better films.training.epochs changed 5 → 10; code of 2 definitions" in text
    assert "2026-05-01 10:00 UTC 0.5500 the oldest one kept" in text
    assert "data: https://data.example" in text and "Generated data" not in text
    plots = plots_in(page)
    assert list(plots) == ["films-history-0", "films-error_plot", "overview"]
    assert plots["films-history-0"]["data"][0]["y"] == [0.55, 0.5]
    for name in plots:
        assert f'id="{name}"' in page
    assert 'data-plots="3"' in page


def test_a_change_within_chance_is_no_trend_and_a_rare_metric_is_explained() -> None:
    rival = {"exp_rmspe": 0.12, "differences": {"exp_rmspe": {"low": -0.03, "high": -0.01, "verdict": "better"}}}
    past = [
        {"version": f"2026-05-0{day}T10.00.00.000Z", "metrics": {"exp_rmspe": value}, "changes": []}
        for day, value in ((1, 0.125), (2, 0.105), (3, 0.1))
    ]
    metrics = {"exp_rmspe": 0.1, "baselines": {"lightgbm": rival}}
    text = text_of(render({"sales": collect({"metrics": metrics, "metrics_history": past}, "x")}, PageOptions()))
    assert "10:00 UTC 0.1050 better" in text  # by 0.02
    assert "10:00 UTC 0.1000 better" not in text and "10:00 UTC 0.1000 worse" not in text  # half the interval is 0.01
    assert "exp RMSPE: root mean square" in text


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render({"films": section()}, PageOptions())
    head = page.split('id="plots"')[0]
    assert re.findall(r'(?:src|href)="([^"#][^"]*)"', head) == ["data:,"]
    assert "default-src 'none'" in head


def test_a_lost_comparison_says_so() -> None:
    text = text_of(render({"films": section(metrics={**METRICS, "rmse": 0.66})}, PageOptions()))
    assert "The model does not beat its best baseline: 10.0 % higher error than damped biases." in text


def test_what_a_source_contains_cannot_end_a_script_or_become_markup() -> None:
    figure = go.Figure(go.Scatter(y=[1.0, float("nan")], name=HOSTILE), layout={"title": HOSTILE})
    page = render({"films": section(error_plot=figure)}, PageOptions(title=HOSTILE))
    assert HOSTILE not in page
    assert plots_in(page)["films-error_plot"]["data"][0]["name"] == HOSTILE


def test_values_that_json_lacks_become_null() -> None:
    plot = {"data": [{"type": "scatter", "y": [1.0, float("nan"), float("inf")]}], "layout": {}}
    page = render({"films": section(error_plot=plot)}, PageOptions())
    assert plots_in(page)["films-error_plot"]["data"][0]["y"] == [1.0, None, None]


def test_generated_data_are_called_so() -> None:
    generated = collect({"metrics": METRICS}, "generated")
    text = text_of(render({"films": generated}, PageOptions()))
    assert "Generated data. films learned from data that the project's own generator made" in text


def test_the_best_that_a_model_can_expect_is_on_the_tile_and_in_the_table() -> None:
    metrics = {**METRICS, "mae": 0.4, "ceiling": {"rmse": 0.45}}
    page = render({"films": collect({"metrics": metrics}, "generated"), "books": section()}, PageOptions())
    tile, other = re.findall(r'<a class="card".*?</a>', page, flags=re.DOTALL)
    assert '<span class="verdict">no model can expect less than 0.4500</span>' in tile and "expect" not in other
    (row,) = re.findall(r"<tr><th[^>]*>the best that a model can expect</th>(.*?)</tr>", page)
    assert re.findall(r"<td class=\"(.*?)\">(.*?)</td>", row) == [("number", "0.4500"), ("number", "\N{EN DASH}")]
    assert '<td class="number best">0.5000</td>' in page  # no contestant: the best one is still marked


def test_folders_and_passwords_of_the_origin_and_of_earlier_runs_are_not_shown() -> None:
    assert collect({}, "/home/somebody/secret/ml-100k.zip")["origin"] == "ml-100k.zip"
    assert collect({}, "https://joe:S3CRET@host/a.zip?sig=S3CRET")["origin"] == "https://***@host/a.zip?sig=***"
    past = [{"version": "1", "metrics": {}, "changes": ["parameter a.source changed s3://K:S3CRET@b/a → generated"]}]
    assert collect({"metrics_history": past})["past"][0]["changes"] == ["a.source changed s3://***@b/a → generated"]


def test_sources_without_artifacts_are_named_and_left_out() -> None:
    page = render({"films": section(), "books": collect({"metrics": None, "error_plot": None})}, PageOptions())
    assert "Not in this report, since nothing is stored of them yet: books" in text_of(page)
    assert '<section id="books">' not in page


def test_the_sources_that_are_asked_for_stand_in_their_order() -> None:
    sections = {name: section() for name in ("a", "b", "c")}
    page = render(sections, PageOptions(sources=("c", "a")))
    assert re.findall(r'<section id="(\w)">', page) == ["c", "a"]


@pytest.mark.parametrize(
    ("sections", "options", "message"),
    [
        ({"films": {}}, {"sources": ["filsm"]}, "report.sources names 'filsm', .* did you mean 'films'?"),
        ({"films": {}}, {"sources": ["xyz"]}, "report.sources names 'xyz', .*; there are films"),
        ({"films": None}, {}, "nothing to report: no artifact is stored of films"),
    ],
)
def test_what_cannot_be_reported_is_refused(sections: dict[str, Any], options: dict[str, Any], message: str) -> None:
    made = {name: collect({}) if given is None else section() for name, given in sections.items()}
    with pytest.raises(DataError, match=message):
        render(made, PageOptions.model_validate(options))


def test_versions_are_moments() -> None:
    assert moment("2026-11-22T14.04.53.346Z") == "2026-11-22 14:04 UTC"
    assert moment("my version") == "my version"
