"""Spaces of settings, values of a trial in the settings of a learner, and what a search says of its best trial."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
import yaml
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.ratings.options import RatingNetwork, RatingsTraining
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.text.options import ClassifierTraining
from embedline.pipelines.tuning.options import Dimension, TableTuning, TuneOptions
from embedline.pipelines.tuning.results import best_of, trials_frame, tuned_yaml
from embedline.pipelines.tuning.space import Settings, check_space, current_value, put_in, untuned_parameters
from embedline.pipelines.tuning.study import TrialRecord
from embedline.training.options import HeldOutStopping

SETTINGS: Settings = {
    "encoding": EncodingOptions(),
    "network": NetworkOptions(layers=(20, 10), dropout=(0.1, 0.2)),
    "training": TableTraining(epochs=3, batch_size=32, lr=0.01),
}


def dimensions(**space: Any) -> dict[str, Dimension]:
    return {name.replace("__", "."): Dimension.model_validate(given) for name, given in space.items()}


def test_values_take_their_places_and_the_rest_stays() -> None:
    stages = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"epochs": 2, "lr": 0.01}]
    text: Settings = {"classifier_training": ClassifierTraining.model_validate({"batch_size": 8, "stages": stages})}
    stage = put_in(text, {"classifier_training.stages.1.lr": 0.5})["classifier_training"].stages  # type: ignore[attr-defined]
    assert [one.lr for one in stage] == [0.02, 0.5] and stage[0].unfrozen == 1
    found = put_in(SETTINGS, {"training.lr": 0.5, "network.dropout": 0.3, "training.early_stopping.patience": 4})
    assert found["training"] == TableTraining(
        epochs=3, batch_size=32, lr=0.5, early_stopping=HeldOutStopping(patience=4)
    )
    assert found["network"] == NetworkOptions(layers=(20, 10), dropout=0.3)
    assert found["encoding"] is SETTINGS["encoding"]


def test_what_is_not_given_still_follows_the_table() -> None:
    settings: Settings = {"training": TableTraining(lr=0.01), "network": NetworkOptions()}
    assert put_in(settings, {"training.lr": 0.02})["training"].model_fields_set == {"lr"}


def test_a_mapping_for_a_block_is_laid_over_it() -> None:
    settings: Settings = {"network": RatingNetwork(factors=7)}
    found = put_in(settings, {"network": {"kind": "mlp", "layers": [9]}})["network"]
    assert found == RatingNetwork(factors=7, kind="mlp", layers=(9,))


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"trainig.lr": {"low": 0.1, "high": 0.2}}, ["adult.tune.space", "trainig.lr", "'training'"]),
        ({"training.lrr": {"low": 0.1, "high": 0.2}}, ["adult.tune.space", "training.lrr", "'lr'"]),
        ({"training.lr": {"low": 0.0, "high": 0.2}}, ["adult.tune.space", "training.lr", "0.0"]),
        ({"training.epochs": {"low": 1, "high": 2.5}}, ["training.epochs", "2.5"]),
        ({"network.layers": {"choices": [[9, 9], [0]]}}, ["network.layers", "[0]"]),
        ({"network.layers": {"choices": [[9, 9], [8, 8, 8]]}}, ["network.layers", "[8, 8, 8]", "dropout"]),
        ({"encoding.smoothing": {"choices": ["auto", "none"]}}, ["encoding.smoothing", '"none"']),
        ({"network": {"choices": [1, 2]}}, ["'network'", "mappings"]),
        ({"training.seeds": {"choices": [1, 2]}}, ["'training.seeds'", "adult.tune.seeds"]),
        ({"columns.target": {"choices": ["a", "b"]}}, ["columns.target", "encoding, network, training"]),
    ],
)
def test_what_a_block_refuses_is_named_with_its_key(space: dict[str, Any], named: list[str]) -> None:
    options = TableTuning.model_validate({"space": space})
    with pytest.raises(DataError) as caught:
        check_space(SETTINGS, options.dimensions, "adult.tune.space")
    assert all(each in str(caught.value) for each in named), caught.value


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"low": 1}, "high"),
        ({"low": 2, "high": 1}, "below"),
        ({"low": 0, "high": 1, "log": True}, "log"),
        ({"low": float("nan"), "high": 1.0}, "finite"),
        ({"choices": [1]}, "2"),
        ({"choices": [1, 1]}, "twice"),
        ({"choices": [1, 2], "low": 1}, "choices"),
        ({"lo": 1, "high": 2}, "lo"),
    ],
)
def test_a_faulty_dimension_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Dimension.model_validate(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"space": {}}, "space"),
        ({"space": {"training.lr": None}}, "space"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"trials": 0}, "trials"),
        ({"inner": {"folds": 3, "fraction": 0.2}}, "fraction and folds"),
        ({"inner": {"length": 3}}, "windows"),
    ],
)
def test_faulty_options_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        TableTuning.model_validate({"space": {"training.lr": {"low": 0.1, "high": 1.0}}, **given})
    with pytest.raises(ValidationError, match="windows"):  # ratings and texts have none
        TuneOptions.model_validate({"space": {"a.b": {"low": 1, "high": 2}}, "inner": {"windows": 2}})


def test_settings_outside_of_the_space_are_no_parameters_of_it() -> None:
    inside = dimensions(training__lr={"low": 0.001, "high": 0.1}, network__layers={"choices": [[20, 10], [5, 5]]})
    assert untuned_parameters(SETTINGS, inside) == {"training.lr": 0.01, "network.layers": "[20, 10]"}
    assert untuned_parameters(SETTINGS, inside | dimensions(training__epochs={"low": 4, "high": 9})) == {}
    assert untuned_parameters(SETTINGS, dimensions(encoding__smoothing={"low": 1, "high": 9})) == {}  # it is auto


def test_current_values_are_found_with_defaults() -> None:
    settings: Settings = {"training": RatingsTraining(epochs=1, lr=0.1, batch_size=4)}
    assert current_value(settings, "training.penalty.factors") == 0.0
    assert current_value(SETTINGS, "network.dropout.1") == 0.2
    assert current_value(SETTINGS, "network.numeric_embedding.bins") is None


def test_a_number_of_seeds_stands_for_the_first_ones() -> None:
    assert TuneOptions.model_validate({"seeds": 3, "space": {"a.b": {"low": 1, "high": 2}}}).seeds == (0, 1, 2)


UNTUNED: Settings = {
    "network": NetworkOptions(layers=(8,)),
    "training": TableTraining(epochs=3, batch_size=8, lr=0.5),
}
DEFAULT = TrialRecord(0, "complete", True, {}, (1.0, 2.0, 3.5), 2.0)


def tried(number: int, *losses: float, state: str = "complete", lr: float = 0.1, reason: str = "") -> TrialRecord:
    values = {"training.lr": lr, "network.layers": [8]}
    return TrialRecord(number, state, False, values, losses, 1.0, reason)


@pytest.mark.parametrize(("shift", "is_told_apart"), [((-0.5, -0.51, -0.49), True), ((-0.9, 0.1, -0.1), False)])
def test_the_best_trial_is_compared_with_the_untuned_settings(shift: tuple[float, ...], is_told_apart: bool) -> None:
    best = tried(1, *np.add(DEFAULT.losses, shift))
    text = tuned_yaml([DEFAULT, tried(2, 9.0, state="pruned"), best], UNTUNED, "houses", "rmse")
    interval = scipy.stats.ttest_rel(best.losses, DEFAULT.losses).confidence_interval(0.95)
    assert all(f"{value:+.5f}" in text for value in (np.mean(shift), interval.low, interval.high))
    assert ("NOT distinguishable" in text) != is_told_apart
    assert "training.lr: 0.1, was 0.5" in text and "network" not in text  # its layers are as they were
    assert yaml.safe_load(text) == {"houses": {"training": {"epochs": 3, "batch_size": 8, "lr": 0.1}}}


def test_where_nothing_is_better_nothing_is_to_paste() -> None:
    text = tuned_yaml([DEFAULT, tried(1, 5.0, 5.0, 5.0)], UNTUNED, "houses", "rmse")
    assert yaml.safe_load(text) is None and "2.16667" in text


def test_untuned_settings_that_diverged_are_said_to() -> None:
    failed = TrialRecord(0, "failed", True, {}, (), 1.0, "its rmse is nan")
    text = tuned_yaml([failed, tried(1, 5.0)], UNTUNED, "houses", "rmse")
    assert "its rmse is nan" in text and yaml.safe_load(text)["houses"]["training"]["lr"] == 0.1


def test_of_equal_losses_the_first_trial_is_the_best() -> None:
    assert best_of([tried(3, 0.1, state="pruned"), tried(2, 1.0), tried(1, 1.0), tried(0, 2.0)]).number == 1


def test_the_table_has_a_row_a_trial_and_a_column_a_setting() -> None:
    dimensions = {
        "training.lr": Dimension(low=0.01, high=1.0),
        "network.layers": Dimension(choices=([8], [9, 9])),
    }
    records = [DEFAULT, tried(1, 2.0, state="pruned"), tried(2, state="failed", reason="its loss is nan")]
    frame = trials_frame([*records, TrialRecord(3, "interrupted", False, {})], UNTUNED, dimensions)
    assert frame["state"].to_list() == ["complete", "pruned", "failed", "interrupted"]
    assert frame["loss"].to_list() == [pytest.approx(6.5 / 3), 2.0, None, None]
    assert frame["std"].to_list() == [pytest.approx(np.std(DEFAULT.losses, ddof=1)), None, None, None]
    assert frame["repetitions"].to_list() == [3, 1, 0, 0] and frame["reason"][2] == "its loss is nan"
    assert frame["training.lr"].to_list() == [0.5, 0.1, 0.1, None]
    assert frame["network.layers"].to_list() == ["[8]", "[8]", "[8]", None]
    assert frame.schema["training.lr"] == pl.Float64
