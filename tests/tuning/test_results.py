"""What a search says of its best trial, and the table of its trials."""

import numpy as np
import polars as pl
import pytest
import scipy.stats
import yaml

from embedline.pipelines.tabular.options import NetworkOptions, TableTraining
from embedline.pipelines.tuning.options import Dimension
from embedline.pipelines.tuning.results import best_of, trials_frame, tuned_yaml
from embedline.pipelines.tuning.space import Settings
from embedline.pipelines.tuning.study import TrialRecord

SETTINGS: Settings = {
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
    text = tuned_yaml([DEFAULT, tried(2, 9.0, state="pruned"), best], SETTINGS, "houses", "rmse")
    interval = scipy.stats.ttest_rel(best.losses, DEFAULT.losses).confidence_interval(0.95)
    assert all(f"{value:+.5f}" in text for value in (np.mean(shift), interval.low, interval.high))
    assert ("NOT distinguishable" in text) != is_told_apart
    assert "training.lr: 0.1, was 0.5" in text and "network" not in text  # its layers are as they were
    assert yaml.safe_load(text) == {"houses": {"training": {"epochs": 3, "batch_size": 8, "lr": 0.1}}}


def test_where_nothing_is_better_nothing_is_to_paste() -> None:
    text = tuned_yaml([DEFAULT, tried(1, 5.0, 5.0, 5.0)], SETTINGS, "houses", "rmse")
    assert yaml.safe_load(text) is None and "2.16667" in text


def test_untuned_settings_that_diverged_are_said_to() -> None:
    failed = TrialRecord(0, "failed", True, {}, (), 1.0, "its rmse is nan")
    text = tuned_yaml([failed, tried(1, 5.0)], SETTINGS, "houses", "rmse")
    assert "its rmse is nan" in text and yaml.safe_load(text)["houses"]["training"]["lr"] == 0.1


def test_of_equal_losses_the_first_trial_is_the_best() -> None:
    assert best_of([tried(3, 0.1, state="pruned"), tried(2, 1.0), tried(1, 1.0), tried(0, 2.0)]).number == 1


def test_the_table_has_a_row_a_trial_and_a_column_a_setting() -> None:
    dimensions = {
        "training.lr": Dimension(low=0.01, high=1.0),
        "network.layers": Dimension(choices=([8], [9, 9])),
    }
    records = [DEFAULT, tried(1, 2.0, state="pruned"), tried(2, state="failed", reason="its loss is nan")]
    frame = trials_frame([*records, TrialRecord(3, "interrupted", False, {})], SETTINGS, dimensions)
    assert frame["state"].to_list() == ["complete", "pruned", "failed", "interrupted"]
    assert frame["loss"].to_list() == [pytest.approx(6.5 / 3), 2.0, None, None]
    assert frame["std"].to_list() == [pytest.approx(np.std(DEFAULT.losses, ddof=1)), None, None, None]
    assert frame["repetitions"].to_list() == [3, 1, 0, 0] and frame["reason"][2] == "its loss is nan"
    assert frame["training.lr"].to_list() == [0.5, 0.1, 0.1, None]
    assert frame["network.layers"].to_list() == ["[8]", "[8]", "[8]", None]
    assert frame.schema["training.lr"] == pl.Float64
