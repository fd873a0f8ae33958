"""Plots of the page: stored ones, whose titles the page writes itself, and the values of its own plots."""

from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from embedline.errors import DataError
from embedline.pipelines.report.comparisons import compare
from embedline.pipelines.report.metrics import known_metrics
from embedline.pipelines.report.plots import forecast, history, in_order, overview, prepare
from embedline.pipelines.report.sections import collect


def stored(figure: go.Figure) -> dict[str, Any]:
    """A plot as the page gets it from the catalog."""
    found: dict[str, Any] = figure.to_plotly_json()
    return found


def test_title_and_note_become_texts_and_the_rest_is_drawn_as_it_is_stored() -> None:
    figure = go.Figure([go.Scatter(y=[1, 2], name="a"), go.Scatter(y=[2, 1], name="b")])
    title = {"text": "Errors", "subtitle": {"text": "of held-out rows"}}
    figure.update_layout(title=title, height=500, margin={"t": 100}, bargap=0.1, template="plotly_white")
    shown = prepare(stored(figure), "error_plot")
    assert (shown["title"], shown["note"]) == ("Errors", "of held-out rows")
    assert shown["layout"] == {"height": 500, "margin": {"t": 100}, "bargap": 0.1} and shown["height"] == 500
    assert shown["data"] == stored(figure)["data"] and not shown["wide"] and shown["least_width"] == 0


def test_panels_side_by_side_keep_a_width_at_which_they_can_be_read() -> None:
    figure = make_subplots(rows=2, cols=3)
    figure.add_scatter(y=[1], row=2, col=3)
    shown = prepare(stored(figure), "error_plot")
    assert shown["wide"] and not shown["fixed"] and shown["least_width"] == 3 * 330
    one_column = make_subplots(rows=4, cols=1)
    assert prepare(stored(one_column), "training_plot")["least_width"] == 0


def test_a_plot_that_says_its_width_keeps_it() -> None:
    shown = prepare(stored(go.Figure(layout={"width": 990, "height": 700})), "map_plot")
    assert shown["fixed"] and shown["wide"] and shown["least_width"] == 990 and "width" not in shown["layout"]


def test_a_plot_without_a_trace_is_left_out() -> None:
    """Errors by no column, embeddings of no variable: what a table of one's own has unless the report asks for some."""
    empty, drawn = make_subplots(rows=1, cols=1), go.Figure(go.Scatter(y=[1, 2]))
    section = collect({"error_plot": empty, "training_plot": drawn}, None)
    assert [plot["name"] for plot in section["plots"]] == ["training_plot"]


def test_no_plot_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="error_plot is no Plotly figure"):
        prepare({"rows": []}, "error_plot")


def test_plots_stand_in_the_order_of_the_page_and_unknown_ones_last() -> None:
    assert in_order(["training_plot", "zoo_plot", "forecast_plot", "error_plot", "a_plot"]) == [
        "forecast_plot",
        "error_plot",
        "training_plot",
        "a_plot",
        "zoo_plot",
    ]


def test_the_overview_is_in_units_of_the_best_baseline() -> None:
    (sales,) = compare(
        {"exp_rmspe": 0.09, "baselines": {"lightgbm": {"exp_rmspe": 0.10}, "group_mean": {"exp_rmspe": 0.15}}}
    )
    (classes,) = compare({"accuracy": 0.7, "baselines": {"lightgbm": {"accuracy": 0.8}}})
    (alone,) = compare({"rmse": 3.0})
    shown = overview({"sales": sales, "loans": classes, "alone": alone})
    assert shown is not None
    by_name = {trace["name"]: trace for trace in shown["data"]}
    assert by_name["embedline"]["y"] == ["sales", "loans"]
    assert by_name["embedline"]["x"] == pytest.approx([0.9, 1.5])  # of classes the share of wrong answers
    assert by_name["baselines"]["y"] == ["sales", "sales", "loans"]
    assert by_name["baselines"]["x"] == pytest.approx([1.0, 1.5, 1.0])
    assert overview({"alone": alone}) is None


def test_the_history_has_a_point_a_run() -> None:
    (metric,) = known_metrics(["rmse"])
    shown = history(metric, [("1 May", 0.9), ("2 May", 0.8)], [("1 May", 1.0)])
    assert [(trace["name"], trace["x"], trace["y"]) for trace in shown["data"]] == [
        ("embedline", ["1 May", "2 May"], [0.9, 0.8]),
        ("best baseline", ["1 May"], [1.0]),
    ]
    assert shown["title"] == "RMSE, run by run"


def test_a_forecast_has_its_mean_and_a_band() -> None:
    shown = forecast(["2015-08-01", "2015-08-02"], [5.0, 6.0], [1.0, 2.0], [9.0, 8.0])
    low, high, mean = shown["data"]
    assert (low["y"], high["y"], mean["y"]) == ([1.0, 2.0], [9.0, 8.0], [5.0, 6.0])
    assert high["fill"] == "tonexty"


def test_plots_of_a_section_survive_the_way_through_json() -> None:
    figure = go.Figure(go.Scatter(x=[0.5, 1.5], y=[1.0, float("nan")]), layout={"title": "A"})
    (shown,) = collect({"training_plot": figure, "error_plot": None})["plots"]
    assert shown["title"] == "A" and shown["data"][0]["type"] == "scatter"
