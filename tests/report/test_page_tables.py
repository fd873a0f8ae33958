"""Stored frames as tables of the page."""

from datetime import date

import polars as pl
import pytest

from embedline.pipelines.report import tables


def test_cells_are_texts_and_numbers_stand_to_the_right() -> None:
    frame = pl.DataFrame({"document_id": ["a", None], "confidence": [0.98765, 0.5], "n": [3, 4]})
    shown = tables.table(frame, "A title", drop=("n",))
    assert shown["columns"] == [{"label": "document", "numeric": False}, {"label": "confidence", "numeric": True}]
    assert shown["rows"] == [["a", "0.988"], ["", "0.500"]]


@pytest.mark.parametrize("engine", ["polars", "pandas"])
def test_the_surest_mistakes_come_first(engine: str) -> None:
    frame = pl.DataFrame({"document_id": [f"d{k}" for k in range(30)], "confidence": [1 - k / 100 for k in range(30)]})
    shown = tables.mistakes(frame if engine == "polars" else frame.to_pandas())
    assert [row[0] for row in shown["rows"]] == [f"d{k}" for k in range(8)]
    assert shown["note"] == "8 of 30 listed, surest first"


def test_next_words_are_a_row_a_prompt() -> None:
    frame = pl.DataFrame(
        {
            "prompt": ["it", "it", "a", "a"],
            "rank": [2, 1, 1, 2],
            "word": ["was", "is", "b", "c"],
            "probability": [0.1, 0.456, 0.3, 0.0049],  # the last one would be 0 %
        }
    )
    assert tables.next_words(frame)["rows"] == [["a", "b 30 %"], ["it", "is 46 %, was 10 %"]]


def test_recommendations_are_a_column_a_user() -> None:
    frame = pl.DataFrame(
        {
            "user": [7, 7, 3],
            "rank": [1, 2, 1],
            "item": [10, 11, 11],
            "title": ["Ten", None, "Eleven"],
            "score": [4.51, 4.0, 3.25],
        }
    )
    shown = tables.recommendations(frame)
    assert [column["label"] for column in shown["columns"]] == ["rank", "user 7", "user 3"]
    assert shown["rows"] == [["1", "Ten (4.51)", "Eleven (3.25)"], ["2", "11 (4.00)", ""]]
    assert shown["note"].endswith("the first 2 of 2 users")
    rated = tables.recommendations(frame.with_columns(predicted=pl.Series([5.0, 4.5, 3.0])))
    assert rated["rows"] == [["1", "Ten (5.00)", "Eleven (3.00)"], ["2", "11 (4.50)", ""]]
    assert "predicted rating" in rated["note"] and "score" in shown["note"]


def test_folds_end_in_their_mean() -> None:
    fold = {"value": 1, "rmse": 0.9, "mse": 0.81, "baselines": {"damped_bias": {"rmse": 0.96}}}
    values = {
        "folds": [fold],
        "mean_rmse": 0.9,
        "mean_mse": 0.81,
        "baselines": {"damped_bias": {"mean_rmse": 0.96}},
    }
    shown = tables.folds(values)
    assert [column["label"] for column in shown["columns"]] == ["fold", "RMSE", "MSE", "RMSE, damped bias"]
    assert shown["rows"] == [["1", "0.9000", "0.8100", "0.9600"], ["mean", "0.9000", "0.8100", "0.9600"]]


def test_a_forecast_by_day() -> None:
    days = [date(2015, 8, 2)] * 2 + [date(2015, 8, 1)] * 2
    found = tables.daily(pl.DataFrame({"Store": [1, 2, 1, 2], "Date": days, "predicted": [10.0, 20.0, 1.0, 3.0]}))
    assert found is not None
    dates, mean, low, high = found
    assert dates == ["2015-08-01", "2015-08-02"] and mean == [2.0, 15.0]
    assert low == pytest.approx([1.2, 11.0]) and high == pytest.approx([2.8, 19.0])
    assert tables.daily(pl.DataFrame({"Store": [1], "predicted": [1.0]})) is None
    assert tables.daily(pl.DataFrame({"Date": days[:1], "predicted": ["a"]})) is None
