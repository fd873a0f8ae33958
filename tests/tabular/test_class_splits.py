"""A random split of a table with classes, and the positive one of two."""

import logging
from collections import Counter
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.predictions import compare
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import Target, read_targets
from embedline.training.metrics import classification_metrics

N = 400
COLUMNS = Columns(continuous=("x",), target="y")
RANDOM = Split(kind="random", fraction=0.2)


def _classes(rare: int = 1) -> list[str]:
    """Of each of two classes about half; ``rare`` rows of a third, all of which a draw of all rows would hold out."""
    drawn = np.random.default_rng(RANDOM.seed).random(N) < RANDOM.fraction
    y = np.array(["a", "b"], dtype=object)[np.random.default_rng(0).integers(0, 2, N)]
    y[np.flatnonzero(drawn)[:rare]] = "rare"
    return list(y)


def _table(engine: str, y: list[Any]) -> Any:
    values = {"x": np.arange(len(y)) / len(y), "y": y}
    return pl.DataFrame(values) if engine == "polars" else pd.DataFrame(values)


def _held_out(table: Any, columns: Columns = COLUMNS, split: Split = RANDOM) -> list[bool]:
    splits = assign_splits(nw.from_native(table, eager_only=True), columns, split)
    return [name == "test" for name in splits.get_column("split").to_list()]


@pytest.mark.parametrize("engine", ["polars", "pandas"])
@pytest.mark.parametrize("rare", [1, 2, 3, 10])
def test_each_class_is_held_out_by_its_share_and_keeps_a_row_to_train_on(engine: str, rare: int) -> None:
    y = _classes(rare)
    table = _table(engine, y)
    flags = _held_out(table)
    assert sum(flags) == pytest.approx(0.2 * N, abs=1)
    for name in ("a", "b", "rare"):
        of_class = [flag for flag, each in zip(flags, y, strict=True) if each == name]
        assert sum(of_class) == pytest.approx(0.2 * len(of_class), abs=1)
        assert not all(of_class)
    encoder = nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())
    nodes.encode(table, encoder, COLUMNS, RANDOM)  # no class is unknown
    assert encoder["targets"][0]["levels"]["levels"] == ["a", "b", "rare"]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 1, 1, 2] * (N // 4), ("y",)),
        ([0.0, 1.0, None, 2.0] * (N // 4), ("y",)),
        ([True, False, False, None] * (N // 4), ()),
    ],
)
def test_both_engines_hold_the_same_rows_out(y: list[Any], classes: tuple[str, ...]) -> None:
    columns = COLUMNS.model_copy(update={"classes": classes})
    flags = _held_out(_table("polars", y), columns)
    assert flags == _held_out(_table("pandas", y), columns)
    assert not any(flag for flag, value in zip(flags, y, strict=True) if value is None)
    assert sum(flags) == pytest.approx(0.2 * sum(value is not None for value in y), abs=3)


def test_of_many_small_classes_some_rows_are_held_out() -> None:
    y = [f"class {k % 200}" for k in range(N)]
    flags = _held_out(_table("polars", y))
    assert sum(flags) == N // 5
    held_out = Counter(name for flag, name in zip(flags, y, strict=True) if flag)
    assert set(held_out.values()) == {1}
    assert flags == _held_out(_table("pandas", y))


def test_a_row_without_another_target_is_none_of_its_class() -> None:
    columns = Columns(continuous=("x",), target=("y", "z"))
    table = _table("polars", ["a", "a", "b", "b"] * 50).with_columns(
        z=pl.when(pl.int_range(200) % 4 != 2).then(1.5 + pl.int_range(200))  # of half of class b nothing is learned
    )
    splits = assign_splits(nw.from_native(table, eager_only=True), columns, RANDOM).group_by("y", "split").agg(nw.len())
    counts = {(y, name): n for y, name, n in splits.rows()}
    assert counts == {
        ("a", "train"): 80,
        ("a", "test"): 20,
        ("b", "train"): 40,
        ("b", "test"): 10,
        ("b", "predict"): 50,
    }


def test_the_draw_for_numbers_is_that_of_all_rows() -> None:
    flags = _held_out(_table("polars", [float(k) for k in range(N)]))
    assert flags == (np.random.default_rng(RANDOM.seed).random(N) < 0.2).tolist()


def test_no_class_of_a_further_target_is_held_out_whole() -> None:
    first = ["a", "b"] * (N // 2)
    columns = Columns(continuous=("x",), target=("y", "z"))
    table = _table("polars", first)
    alone = np.flatnonzero(_held_out(table))[:2]  # rows that the first target's classes hold out
    second = ["rare" if k in alone else "usual" for k in range(N)]
    flags = _held_out(table.with_columns(z=pl.Series(second)), columns)
    assert [flags[k] for k in alone].count(False) == 1
    assert sum(flags) == N // 5 - 1


@pytest.mark.parametrize(
    ("y", "given", "name"),
    [
        (["fraud", "ok"] * 20, "fraud", "fraud"),
        (["fraud", "ok"] * 20, None, "ok"),
        ([0, 1] * 20, 0, "0"),
        ([True, False] * 20, False, "False"),
    ],
)
def test_the_positive_class_can_be_chosen(y: list[Any], given: Any, name: str) -> None:
    columns = Columns.model_validate(
        {"continuous": ["x"], "target": "y", "classes": ["y"], **({} if given is None else {"positive": given})}
    )
    encoder = nodes.fit_encoder(_table("polars", y), columns, RANDOM, EncodingOptions())
    (target,) = read_targets(encoder)
    names = [str(each) for each in sorted(set(y))]
    probabilities = {f"p_{names[0]}": [0.2] * len(y), f"p_{names[1]}": [0.8] * len(y)}
    frame = pl.DataFrame({"actual": [str(each) for each in y], "predicted": names[1], **probabilities})
    metrics = compare(nw.from_native(frame), target, "", {})
    assert metrics["positive"] == name
    assert metrics["f1"] == pytest.approx(2 / 3 if name == names[1] else 0.0)
    assert (metrics["roc_auc"], metrics["average_precision"]) == (0.5, 0.5)


def test_metrics_of_the_positive_class_by_hand() -> None:
    actual, probabilities = np.array([0, 1, 1, 1]), np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]])
    metrics = classification_metrics(actual, probabilities, ("fraud", "ok"), positive="fraud")
    assert metrics["positive"] == "fraud"
    assert metrics["f1"] == pytest.approx(2 / 3)  # one hit, one false alarm
    assert metrics["roc_auc"] == pytest.approx(2 / 3)
    assert metrics["average_precision"] == pytest.approx(0.5)
    usual = classification_metrics(actual, probabilities, ("fraud", "ok"))
    assert (usual["positive"], usual["f1"]) == ("ok", pytest.approx(0.8))
    assert "positive" not in classification_metrics(np.array([0]), np.ones((1, 3)) / 3, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("y", "changes", "named"),
    [
        (["a", "b"] * 20, {"positive": "c"}, ["columns.positive", "'c'", "'y'", "a, b"]),
        (["a", "b", "c"] * 20, {"positive": "c"}, ["columns.positive", "two classes", "a, b, c"]),
        ([1.5, 2.5] * 20, {"positive": 1}, ["columns.positive", "'y'", "numbers"]),
    ],
)
def test_a_positive_class_that_there_is_not_is_refused(y: list[Any], changes: dict[str, Any], named: list[str]) -> None:
    columns = Columns.model_validate({"continuous": ["x"], "target": "y", **changes})
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(_table("polars", y), columns, RANDOM, EncodingOptions())
    assert [text for text in named if text not in str(caught.value)] == []


@pytest.mark.parametrize("positive", ["a", {"q": "a"}])
def test_a_positive_class_of_several_targets_names_its_target(positive: Any) -> None:
    with pytest.raises(ValidationError, match=r"columns\.positive"):
        Columns.model_validate({"continuous": ["x"], "target": ["y", "z"], "positive": positive})


def test_a_model_that_ranks_a_rare_class_is_not_beaten_by_its_share() -> None:
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-rng.normal(-8, 2.2, 20_000)))
    fraud = rng.random(20_000) < p
    p, share = np.clip(p, 0, 0.49), np.full(20_000, fraud.mean())
    columns = Columns(continuous=("x",), target="y", positive="fraud")
    table = _table("polars", np.where(fraud, "fraud", "ok").tolist())
    target: Target = read_targets(nodes.fit_encoder(table, columns, RANDOM, EncodingOptions()))[0]
    frame = pl.DataFrame(
        {
            "actual": np.where(fraud, "fraud", "ok"),
            "predicted": "ok",
            "p_fraud": p,
            "p_ok": 1 - p,
            "share.p_fraud": share,
            "share.p_ok": 1 - share,
        }
    )
    metrics = compare(nw.from_native(frame), target, "", {"share": {}})
    assert metrics["accuracy"] == metrics["baselines"]["share"]["accuracy"]  # neither ever says fraud
    assert metrics["beaten_by"] == []
    assert metrics["average_precision"] > 5 * metrics["baselines"]["share"]["average_precision"]
    swapped = frame.select("actual", "predicted", p_fraud="share.p_fraud", p_ok="share.p_ok").with_columns(
        pl.Series("share.p_fraud", p), pl.Series("share.p_ok", 1 - p)
    )
    assert compare(nw.from_native(swapped), target, "", {"share": {}})["beaten_by"] == ["share"]


@pytest.mark.parametrize(
    ("y", "changes", "warned"),
    [
        ([0, 1, 2, 1] * 10, {}, True),
        ([-1.0, 1.0, None, 1.0] * 10, {}, True),
        ([0, 1, 2, 1] * 10, {"classes": ["y"]}, False),
        (list(range(40)), {}, False),
        ([0.5, 1.0] * 20, {}, False),
        (["0", "1"] * 20, {}, False),
    ],
)
def test_numbers_that_may_be_classes_are_warned_of_once(
    y: list[Any], changes: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    columns = Columns.model_validate({"continuous": ["x"], "target": "y", **changes})
    with caplog.at_level(logging.WARNING):
        encoder = nodes.fit_encoder(_table("polars", y), columns, RANDOM, EncodingOptions())
    said = [message for message in caplog.messages if "columns.classes: [y]" in message]
    assert len(said) == warned
    assert ("transform" in encoder["targets"][0]) == (warned or isinstance(y[0], float) or len(set(y)) == 40)


def test_a_training_of_few_steps_says_how_many_and_what_to_lower(caplog: pytest.LogCaptureFixture) -> None:
    from embedline.pipelines.tabular.options import NetworkOptions, TableTraining

    table = _table("polars", ["a", "b"] * 70)
    split = Split(kind="none")
    encoder = nodes.fit_encoder(table, COLUMNS, split, EncodingOptions())
    encoded = nodes.encode(table, encoder, COLUMNS, split)
    for batch_size, steps in ((128, 40), (14, 200)):
        caplog.clear()
        training = TableTraining(epochs=20, batch_size=batch_size, lr=0.003, seeds=(1, 2), device="cpu")
        with caplog.at_level(logging.WARNING):
            _, history = nodes.train(encoded, encoder, NetworkOptions(layers=(4,)), training)
        assert history["step"].max() == steps
        said = [message for message in caplog.messages if "training.batch_size" in message]
        assert len(said) == (steps < 100)
        assert all("40 step" in message and "128" in message for message in said)
