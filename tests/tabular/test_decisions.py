"""Which class is predicted: by costs, by F-beta on rows held out of the training, and by the weights of classes."""

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import ValidationError
from sklearn.metrics import average_precision_score, fbeta_score

from embedline.errors import DataError
from embedline.pipelines.tabular import learner
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular.columns import TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.decisions import (
    best_threshold,
    check_decision,
    choose_decisions,
    decide,
    decision_threshold,
)
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.predictions import actual_columns, baseline_columns, compare, predicted_columns
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import CategoryMap, ClassTarget, NumericTarget
from embedline.serving.tables import measure_target
from embedline.training.metrics import precision_difference

LOST = ClassTarget(column="lost", levels=CategoryMap(kind="string", levels=("no", "yes")), counts=(95, 5))
FIRST = LOST.model_copy(update={"positive": "no"})
GRADE = ClassTarget(column="grade", levels=CategoryMap(kind="string", levels=("a", "b", "c")), counts=(6, 3, 1))
PRICE = NumericTarget(column="price", transform="none", mean=0.0, std=1.0, maximum=2.0)


def _training(**changes: Any) -> TableTraining:
    values = {"epochs": 12, "batch_size": 128, "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return TableTraining.model_validate({**values, **changes})


@pytest.mark.parametrize("target", [LOST, FIRST], ids=["last", "first"])
def test_costs_set_the_threshold_of_the_positive_class(target: ClassTarget) -> None:
    training = _training(decision={"false_positive": 1.0, "false_negative": 9.0})
    decision = choose_decisions([target], training, {})["lost"]
    assert decision_threshold(target, decision) == pytest.approx(0.1)
    positive = 1 if target is LOST else 0
    probability = np.array([0.09, 0.11, 0.5])
    both = np.stack([1 - probability, probability], axis=1)[:, :: 1 if positive else -1]
    assert (decide(both, decision) == positive).tolist() == [False, True, True]
    assert (decide(both, None) == positive).tolist() == [False, False, positive == 0]  # the first of equals


def test_the_threshold_with_the_highest_f_beta_is_found() -> None:
    random = np.random.default_rng(0)
    probability = np.round(random.beta(1, 6, 500), 2)  # with ties
    actual = random.random(500) < probability
    for beta in (0.5, 1.0, 3.0):
        tried = np.append(np.unique(probability) - 0.001, 0.0)
        scores = [fbeta_score(actual, probability > each, beta=beta) for each in tried]
        chosen = best_threshold(actual, probability, beta)
        assert fbeta_score(actual, probability > chosen, beta=beta) == pytest.approx(max(scores), abs=1e-12)
    with pytest.raises(DataError, match=r"early_stopping.fraction"):
        best_threshold(np.zeros(5, dtype=bool), np.linspace(0, 1, 5), 1.0)


def test_targets_without_two_classes_keep_their_most_probable_class() -> None:
    several = _training(decision={"false_positive": 1, "false_negative": 3}, class_weights={"grade": {"c": 4}})
    assert choose_decisions([PRICE, GRADE, LOST], several, {}) == {"grade": [1.0, 1.0, 4.0], "lost": [0.25, 0.75]}
    assert choose_decisions([PRICE, GRADE, LOST], _training(), {}) == {}


@pytest.mark.parametrize(
    ("targets", "settings", "named"),
    [
        ([GRADE], {"decision": {"false_positive": 1, "false_negative": 2}}, r"training.decision .* \['grade'\]"),
        ([LOST], {"decision": {"beta": 2}}, r"training.decision.beta .* training.early_stopping"),
    ],
)
def test_a_decision_that_nothing_can_be_chosen_for_is_refused(
    targets: list[ClassTarget], settings: dict[str, Any], named: str
) -> None:
    training = _training(**settings)
    assert training.decision is not None
    with pytest.raises(DataError, match=named):
        check_decision(targets, training.decision, training.early_stopping)


@pytest.mark.parametrize(
    "decision", [{}, {"false_positive": 1}, {"beta": 1, "false_positive": 1, "false_negative": 1}, {"beta": 0}]
)
def test_costs_and_beta_exclude_each_other(decision: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="decision"):
        _training(decision=decision)


def _rare_table() -> tuple[nw.DataFrame[Any], Any]:
    random = np.random.default_rng(1)
    x = random.normal(size=6000)
    lost = np.where(random.random(6000) < 1 / (1 + np.exp(3.5 - 1.5 * x)), "yes", "no")
    table = nw.from_native(pl.DataFrame({"x": x, "lost": lost, "test": np.arange(6000) % 3 == 0}), eager_only=True)
    columns = Columns(continuous=("x",), target="lost")
    rows = assign_splits(table, columns, Split(kind="column", column="test", value=True))
    encoder = fit_encoder(rows.filter(nw.col("split") == TRAIN), columns, EncodingOptions())
    return encode(rows, encoder), encoder


def test_f_beta_is_chosen_on_rows_that_no_member_learned_from() -> None:
    encoded, encoder = _rare_table()
    training = _training(
        epochs=4, decision={"beta": 2.0}, seeds=2, early_stopping={"fraction": 0.2, "rotate": True, "patience": 4}
    )
    bundle, _ = learner.train_network(encoded, encoder, NetworkOptions(layers=(16,)), training)
    test = encoded.filter(nw.col("split") == TEST)
    actual = test.get_column("class:lost").to_numpy() == 1
    probabilities, (decision,) = models.predict(test, bundle), bundle.metrics["decisions"].values()
    chosen, usual = (fbeta_score(actual, decide(probabilities, each) == 1, beta=2.0) for each in (decision, None))
    best = max(fbeta_score(actual, probabilities[:, 1] > each, beta=2.0) for each in np.linspace(0.02, 0.6, 60))
    assert chosen > usual + 0.1
    assert chosen > 0.93 * best
    assert decision_threshold(encoder.targets[0], decision) < 0.3


def _frame(decision: list[float] | None) -> tuple[nw.DataFrame[Any], Any]:
    random = np.random.default_rng(2)
    score = random.normal(size=3000)
    actual = (random.random(3000) < 1 / (1 + np.exp(3.5 - 1.5 * score))).astype(int)
    weak = 1 / (1 + np.exp(3.5 - 0.3 * score + 0.5 * random.normal(size=3000)))
    ours = 1 / (1 + np.exp(3.5 - 1.5 * score))
    both = [np.stack([1 - each, each], axis=1) for each in (ours, weak)]
    decisions = {"lost": decision} if decision else {}
    columns = {
        **actual_columns(LOST, actual, ""),
        **predicted_columns(LOST, both[0], "", decisions),
        **baseline_columns(LOST, both[1], "weak", ""),
    }
    return nw.from_native(pl.DataFrame(columns), eager_only=True), (actual, both)


def test_a_rare_class_is_reported_by_its_average_precision() -> None:
    frame, (actual, both) = _frame([0.1, 0.9])
    metrics = compare(frame, LOST, "", {"weak": {}}, decision=[0.1, 0.9])
    assert metrics["main_metric"] == "average_precision"
    assert metrics["threshold"] == pytest.approx(0.1)
    found = metrics["baselines"]["weak"]["differences"]["average_precision"]
    precisions = [average_precision_score(actual, each[:, 1]) for each in both]
    assert found["difference"] == pytest.approx(precisions[0] - precisions[1])
    assert found["low"] < found["difference"] < found["high"]
    assert found["verdict"] == "better"
    predicted = both[0][:, 1] > 0.1
    assert metrics["by_class"][1]["recall"] == pytest.approx(predicted[actual == 1].mean())
    assert metrics["accuracy"] == pytest.approx((predicted == actual).mean())
    theirs = metrics["baselines"]["weak"]
    assert theirs["accuracy"] == pytest.approx(((both[1][:, 1] > 0.1) == actual).mean())
    assert "main_metric" not in compare(frame, LOST.model_copy(update={"counts": (80, 20)}), "", {"weak": {}})


def test_equal_models_do_not_differ_in_average_precision_and_rows_are_drawn_with_their_repeats() -> None:
    random = np.random.default_rng(3)
    actual, noisy = random.random(400) < 0.1, random.random(400)
    same = precision_difference(actual, noisy, noisy, np.arange(400))
    assert (same["difference"], same["low"], same["high"], same["verdict"]) == (0.0, 0.0, 0.0, "no difference")
    good = np.where(actual, 0.5, 0.0) + random.random(400)
    once = precision_difference(actual, good, noisy, np.arange(400))
    repeated = [np.tile(each, 4) for each in (actual, good, noisy, np.arange(400))]
    four_times = precision_difference(*repeated)
    widths = [each["high"] - each["low"] for each in (once, four_times)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)  # four copies of a row tell no more than one


def test_a_served_model_is_measured_by_its_decisions_and_without_a_rare_row_by_accuracy() -> None:
    rows = {"predicted": ["yes", "yes", "no"], "p_no": [0.8, 0.7, 0.9], "p_yes": [0.2, 0.3, 0.1]}
    common = LOST.model_copy(update={"counts": (80, 20)})
    found = measure_target([common], pd.DataFrame(rows), pd.Series(["yes", "no", "no"]))
    assert (found.path, found.value) == (("accuracy",), pytest.approx(2 / 3))
    found = measure_target([LOST], pd.DataFrame(rows), pd.Series(["no", "no", "no"]))
    assert (found.path, found.value) == (("accuracy",), pytest.approx(1 / 3))
    assert measure_target([LOST], pd.DataFrame(rows), pd.Series(["yes", "no", "no"])).path == ("average_precision",)
