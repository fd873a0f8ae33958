"""The traces of the plots hold the values of the frames that they are drawn from."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.pipelines.ratings import plots
from embedline.pipelines.ratings.options import RatingReport
from embedline.training.ensemble import history_frame
from embedline.training.plots import ACCENT, SECOND

BIASES = pl.DataFrame(
    {
        "item": [1, 2, 3, 4, 5],
        "title": ["Calm", "Same", "Loud", "Same", "Rare"],
        "n_ratings": [30, 20, 40, 25, 1],
        "mean_rating": [4.0, 3.0, 2.0, 3.5, 5.0],
        "bias": [0.9, -0.2, -1.1, 0.4, 2.0],
        "deviation": [0.1, 0.0, 0.2, 0.0, 0.0],
    }
)


def test_biases_are_sorted_from_the_highest_to_the_lowest() -> None:
    figure = plots.plot_bias(BIASES, RatingReport(biases=1, min_ratings=20), "Biases")
    (bars,) = figure.data
    assert (list(bars.x), list(bars.y)) == ([0.9, -1.1], ["Calm", "Loud"])
    assert (list(bars.marker.color), list(bars.error_x.array)) == ([ACCENT, SECOND], [0.1, 0.2])
    assert "the 1 highest and 1 lowest of 4 (items with at least 20 ratings)" in figure.layout.title.subtitle.text
    assert figure.layout.shapes[0].y0 == 0.5  # between the two
    # Items of one title keep bars of their own; one member has no deviation.
    (bars,) = plots.plot_bias(BIASES.with_columns(deviation=0.0), RatingReport(biases=9), "Biases").data
    assert list(bars.x) == [2.0, 0.9, 0.4, -0.2, -1.1]  # five items: none twice
    assert [label.strip("\u200b") for label in bars.y] == ["Rare", "Calm", "Same", "Same", "Loud"]
    assert len(set(bars.y)) == 5
    assert bars.error_x.array is None


POINTS = pl.DataFrame(
    [[1, "One", 40, 0.5, 0.0, 0.0], [2, "Two", 20, -1.0, 1.0, 1.0], [3, "T" * 50, 10, 0.0, 2.0, -1.0]],
    schema=["item", "title", "n_ratings", "bias", "x", "y"],
    orient="row",
)


def test_the_map_has_every_item_within_its_frame() -> None:
    figure = plots.plot_map(POINTS, "Map")
    (dots,) = figure.data
    assert (list(dots.x), list(dots.y)) == ([0.0, 1.0, 2.0], [0.0, 1.0, -1.0])
    assert list(dots.text) == ["One", "Two", "T" * 33 + "…"]
    assert list(dots.marker.size) == [16.0, 11.0, 8.5]
    assert (dots.marker.cmin, dots.marker.cmax) == (-1.0, 1.0)
    for axis, values in ((figure.layout.xaxis, dots.x), (figure.layout.yaxis, dots.y)):
        assert axis.range[0] < min(values) and axis.range[1] > max(values)
    assert list(plots.plot_map(POINTS.head(1), "Map").data[0].text) == ["One"]


def boxes_of(points: np.ndarray, labels: list[str], places: list[str]) -> np.ndarray:
    half = np.array([[plots.LETTER * len(label) / 2, plots.LINE / 2] for label in labels])
    shifts = np.array([plots.PLACES[place] for place in places])
    centres = points + half * shifts[:, :2] + shifts[:, 2:]
    return np.hstack([centres - half, centres + half])


def shared(boxes: np.ndarray) -> float:
    area = 0.0
    for k in range(len(boxes)):
        for other in boxes[k + 1 :]:
            sides = np.minimum(boxes[k][2:], other[2:]) - np.maximum(boxes[k][:2], other[:2])
            area += float(np.prod(np.maximum(sides, 0.0)))
    return area


def test_labels_step_aside() -> None:
    points = np.array([[100.0, 100.0], [110.0, 102.0], [104.0, 120.0], [20.0, 50.0], [290.0, 190.0]])
    labels = ["first label", "second label", "third label", "at the left edge", "in the corner"]
    places = plots.place_labels(points, labels, 300.0, 200.0)
    boxes = boxes_of(points, labels, places)
    assert shared(boxes) == 0.0
    assert shared(boxes_of(points, labels, ["top center"] * 5)) > 100.0
    assert boxes.min() >= 0.0 and (boxes[:, 2] <= 300.0).all() and (boxes[:, 3] <= 200.0).all()


def test_the_crosstab_tells_ratings_from_predictions() -> None:
    nan = float("nan")
    rows = [[7, 1, "A", 5.0, False, 4.4], [7, 2, "B", nan, False, 3.24], [9, 1, "A", 2.5, True, 2.0]]
    names = ["user", "item", "title", "actual", "held_out", "predicted"]
    cells = pl.DataFrame([*rows, [9, 2, "B", 1.0, False, 1.5]], schema=names, orient="row")
    heat, known, held, blank = plots.plot_crosstab(cells, "Crosstab").data
    assert [list(row) for row in heat.z] == [[5.0, None], [2.5, 1.0]]
    assert (list(heat.x), list(heat.y)) == (["A", "B"], ["7", "9"])
    assert (heat.zmin, heat.zmax) == (1.0, 5.0)
    found = [list(zip(trace.y, trace.x, trace.text, trace.customdata, strict=True)) for trace in (known, held, blank)]
    assert found[0] == [("7", "A", "5", 4.4), ("9", "B", "1", 1.5)]
    assert found[1] == [("9", "A", "2.5", 2.0)]
    assert found[2] == [("7", "B", "3.2", 3.24)]
    assert held.mode == "markers+text" and blank.textfont.color == plots.MUTED


def test_training_shows_both_errors_on_one_scale() -> None:
    history = history_frame(
        [
            {"member": 0, "epoch": 0.5, "lr": 0.1, "train_loss": 2.0},
            {"member": 0, "epoch": 1.0, "lr": 0.2, "train_loss": 1.5, "mse": 1.7, "rmse": 1.3},
            {"member": 1, "epoch": 1.0, "lr": 0.2, "train_loss": 1.4, "mse": 1.6, "rmse": 1.2},
        ]
    )
    loss, held, other_loss, other_held, rate = plots.plot_training(history, "Training").data
    assert (list(loss.x), list(loss.y)) == ([0.5, 1.0], [2.0, 1.5])
    assert (list(held.x), list(held.y)) == ([1.0], [1.7])
    assert (list(other_loss.y), list(other_held.y)) == ([1.4], [1.6])
    assert list(rate.y) == [0.1, 0.2]
    assert loss.yaxis == held.yaxis
    alone = plots.plot_training(history.drop("mse"), "Training").data
    assert [trace.name for trace in alone] == ["training loss", "training loss", None]


def predictions(rows: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    actual = random.integers(1, 6, rows).astype(float)
    return pl.DataFrame(
        {
            "actual": actual,
            "predicted": actual + random.normal(size=rows),
            "damped_bias": actual + 2 * random.normal(size=rows),
            "user_ratings": random.integers(0, 60, rows),
            "item_ratings": np.where(np.arange(rows) < 5, 0, 2500),
        }
    )


def rmse(frame: pl.DataFrame, column: str) -> float:
    return float(((frame[column] - frame["actual"]) ** 2).mean() ** 0.5)


def test_errors_by_classes_of_training_ratings() -> None:
    frame = predictions()
    found = plots.count_classes(frame, "user_ratings")
    classes = {"1-4": (1, 4), "5-9": (5, 9), "10-19": (10, 19), "20-49": (20, 49), "50-99": (50, 99)}
    assert set(found["label"]) <= {"0", *classes}
    assert found["label"].to_list()[-3:] == ["10-19", "20-49", "50-99"]
    for label, rows, ours, theirs in found.select("label", "rows", "predicted", "damped_bias").iter_rows():
        own = frame.filter(pl.col("user_ratings").is_between(*classes[label]))
        assert rows == len(own) >= plots.FEWEST_IN_CLASS
        assert (ours, theirs) == (pytest.approx(rmse(own, "predicted")), pytest.approx(rmse(own, "damped_bias")))


def test_the_error_plot_has_a_panel_for_each_side_and_the_ratings() -> None:
    frame, models = predictions(), ["model", "damped biases"]
    traces = plots.plot_error(frame, "Errors").data
    assert [trace.name for trace in traces] == [*models, *models, "prediction = rating", *models]
    assert list(traces[2].y) == pytest.approx([rmse(frame.filter(pl.col("item_ratings") == 2500), "predicted")])
    means = frame.group_by("actual").agg(pl.col("predicted").mean()).sort("actual")
    assert list(traces[5].x) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert list(traces[5].y) == pytest.approx(means["predicted"].to_list())


def one(value: float, **more: Any) -> dict[str, Any]:
    return {"mse": value**2, "rmse": value, **more}


def test_the_cold_start_shows_every_way_and_baseline() -> None:
    given = {n: one(1.0 - k / 10, baselines={"damped_bias": one(1.1 - k / 20)}) for k, n in enumerate(("0", "5"))}
    of_items = one(1.04, no_features=one(1.06), features_and_average=one(1.01), rows=70, items=4, users=9)
    of_items["baselines"] = {"damped_bias": one(1.07), "user_mean": one(1.05)}
    report = {"new_users": {"users": 3, "rows": 20, "given": given}, "new_items": of_items}
    ours, theirs, dots = plots.plot_cold_start(report, "Cold start").data
    assert (list(ours.x), list(ours.y)) == (["0", "5"], [1.0, 0.9])
    assert list(theirs.y) == [1.1, 1.05]
    assert dict(zip(dots.x, dots.y, strict=True)) == {
        "model:<br>features": 1.04,
        "model:<br>no features": 1.06,
        "model: features<br>+ average item": 1.01,
        "damped<br>biases": 1.07,
        "mean rating<br>of the user": 1.05,
    }
    assert list(dots.text) == ["1.040", "1.060", "1.010", "1.070", "1.050"]
    assert list(dots.marker.symbol) == ["circle", "circle-open", "circle-open", "circle", "circle"]
    bare = {**report, "new_items": {name: of_items[name] for name in ("rows", "items", "rmse", "mse", "baselines")}}
    assert plots.plot_cold_start(bare, "Cold start").data[2].x[0] == "model:<br>no features"
