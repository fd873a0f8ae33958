"""The traces of the plots hold the values of the frames that they are drawn from."""

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.tabular import plots
from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.targets import UNKNOWN
from embedline.training.ensemble import history_frame
from embedline.training.plots import principal_components

HISTORY = history_frame(
    [
        {"member": 0, "step": 1, "epoch": 0.5, "lr": 0.1, "train_loss": 4.0},
        {"member": 0, "step": 2, "epoch": 1.0, "lr": 0.2, "train_loss": 2.0, "exp_rmspe": 0.3, "rmse": 9.0},
        {"member": 1, "step": 1, "epoch": 0.5, "lr": 0.1, "train_loss": 5.0},
        {"member": 1, "step": 2, "epoch": 1.0, "lr": 0.2, "train_loss": 3.0, "exp_rmspe": 0.4, "rmse": 8.0},
    ]
)
PREDICTIONS = pl.DataFrame(
    {
        "shop": [3, 1, 2, 1, 2, 3],
        "day": [date(2020, 1, day) for day in (1, 2, 1, 1, 2, 2)],
        "actual": [10.0, 20.0, 40.0, 10.0, 20.0, 30.0],
        "predicted": [11.0, 18.0, 40.0, 12.0, 20.0, 30.0],
    }
)


def _points(trace: Any) -> tuple[list[Any], list[Any]]:
    return list(trace.x), list(trace.y)


def test_history_is_null_where_nothing_was_measured() -> None:
    assert HISTORY["exp_rmspe"].to_list() == [None, 0.3, None, 0.4]
    assert HISTORY["train_loss"].to_list() == [4.0, 2.0, 5.0, 3.0]


def test_history_of_metrics_that_first_come_late() -> None:
    late = [{"step": k} for k in range(500)] + [{"step": 500, "rmse": 1.5}]
    assert history_frame(late)["rmse"][-1] == 1.5


def test_training_shows_losses_held_out_metrics_and_rates() -> None:
    figure = plots.plot_training(HISTORY, "Training")
    assert figure.layout.title.text == "Training"
    loss0, held0, loss1, held1, rate = figure.data
    assert _points(loss0) == ([0.5, 1.0], [4.0, 2.0])
    assert _points(loss1) == ([0.5, 1.0], [5.0, 3.0])
    assert _points(held0) == ([1.0], [0.3])
    assert _points(held1) == ([1.0], [0.4])
    assert held0.name == "held-out exp_rmspe"
    assert _points(rate) == ([0.5, 1.0], [0.1, 0.2])
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False, False]


def test_training_without_held_out_rows_shows_no_such_trace() -> None:
    figure = plots.plot_training(HISTORY.drop("exp_rmspe", "rmse").filter(member=0), "Training")
    assert [trace.name for trace in figure.data] == ["training loss", None]


def test_a_table_without_time_shows_predicted_against_actual() -> None:
    figure = plots.plot_actual_predicted(PREDICTIONS, "Agreement")
    drawn = sorted(zip(figure.data[1].x, figure.data[1].y, strict=True))
    assert drawn == sorted(PREDICTIONS.select("actual", "predicted").rows())
    assert (min(figure.data[0].x), max(figure.data[0].x)) == (min(figure.data[1].x), max(figure.data[1].x))


def test_errors_of_a_target_with_zeros_are_in_its_own_units() -> None:
    rows = pl.DataFrame({"shop": [1, 1], "actual": [0.0, 2.0], "predicted": [3.0, 6.0]})
    figure = plots.plot_errors(rows, ReportOptions(error_by=("shop",)), "Errors")
    assert list(figure.data[0].y) == pytest.approx([np.sqrt((9 + 16) / 2)])
    assert list(figure.data[1].y) == pytest.approx([3.5])


def test_the_forecast_has_a_panel_for_each_series_in_the_order_of_time() -> None:
    report = ReportOptions(series_by="shop", n_series=2)
    figure = plots.plot_forecast(PREDICTIONS, "day", report, "Forecast")
    days = [date(2020, 1, 1), date(2020, 1, 2)]
    assert [annotation.text for annotation in figure.layout.annotations] == ["shop 1", "shop 3"]  # spread evenly
    assert [trace.name for trace in figure.data] == ["actual", "predicted"] * 2
    assert [_points(trace) for trace in figure.data] == [
        (days, [10.0, 20.0]),
        (days, [12.0, 18.0]),
        (days, [10.0, 30.0]),
        (days, [11.0, 30.0]),
    ]


def test_the_forecast_of_no_series_is_the_mean_by_time() -> None:
    figure = plots.plot_forecast(PREDICTIONS, "day", ReportOptions(), "Forecast")
    assert [list(trace.y) for trace in figure.data] == [
        pytest.approx([20.0, 70 / 3]),
        pytest.approx([21.0, 68 / 3]),
    ]


@pytest.mark.parametrize("n_series", [1, 3, 50])
def test_never_more_series_than_there_are(n_series: int) -> None:
    report = ReportOptions(series_by="shop", n_series=n_series)
    assert len(plots.plot_forecast(PREDICTIONS, "day", report, "Forecast").data) == 2 * min(3, n_series)


def test_many_series_fit() -> None:
    many = PREDICTIONS.drop("shop").join(pl.DataFrame({"shop": range(40)}), how="cross")
    figure = plots.plot_forecast(many, "day", ReportOptions(series_by="shop", n_series=40), "Forecast")
    assert len(figure.data) == 80


def test_errors_by_the_values_of_a_column() -> None:
    figure = plots.plot_errors(PREDICTIONS, ReportOptions(error_by=("shop", "day")), "Errors")
    error, bias = figure.data[0], figure.data[1]
    # shop 1: +20 % and -10 %; shop 2: none; shop 3: +10 % and none
    assert list(error.x) == ["1", "2", "3"]
    assert list(error.y) == pytest.approx([np.sqrt((0.04 + 0.01) / 2), 0.0, np.sqrt(0.01 / 2)])
    assert list(error.customdata) == [2, 2, 2]
    assert list(bias.y) == pytest.approx([0.05, 0.0, 0.05])
    assert list(figure.data[2].x) == ["2020-01-01", "2020-01-02"]
    assert len(figure.data) == 4


def test_embeddings_are_drawn_by_their_first_two_components() -> None:
    vectors = [[9.0, 9.0, 9.0], [1.0, 0.0, 2.0], [0.0, 5.0, 1.0], [-2.0, 1.0, 0.0]]
    embeddings = pl.DataFrame(
        {
            "variable": ["shop"] * 4 + ["day"] * 2,
            "value": [UNKNOWN, "a", "b", "c", UNKNOWN, "x"],
            "embedding": [*vectors, [1.0], [2.0]],
        }
    )
    figure = plots.plot_embeddings(embeddings, ReportOptions(embeddings=("shop", "day")), "Embeddings")
    expected = principal_components(np.array(vectors[1:]))  # the row for the unseen would pull the picture apart
    assert list(figure.data[0].text) == ["a", "b", "c"]
    assert list(figure.data[0].x) == pytest.approx(expected[:, 0])
    assert list(figure.data[0].y) == pytest.approx(expected[:, 1])
    assert list(figure.data[1].text) == ["x"]


def test_an_embedding_that_is_not_there_is_named() -> None:
    embeddings = pl.DataFrame({"variable": ["shop"], "value": ["a"], "embedding": [[1.0, 2.0]]})
    with pytest.raises(DataError, match=r"report\.embeddings names 'city', which has no embedding; these have: shop"):
        plots.plot_embeddings(embeddings, ReportOptions(embeddings=("city",)), "Embeddings")


def test_every_figure_is_json_for_the_catalog() -> None:
    figure = plots.plot_errors(PREDICTIONS, ReportOptions(error_by=("shop",)), "Errors")
    assert '"Errors"' in figure.to_json()
