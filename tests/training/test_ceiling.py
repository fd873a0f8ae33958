"""The best that a model can expect, beside what it has."""

import logging

import pytest

from embedline.training.ceiling import beside


def test_it_stands_beside_the_metrics_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"accuracy": 0.8575, "log_loss": 0.36, "f1": 0.7}
    with caplog.at_level(logging.INFO):
        assert beside(metrics, {"accuracy": 0.89, "log_loss": 0.35712}, "income.") == {
            "ceiling": {"accuracy": 0.89, "log_loss": 0.35712}
        }
    assert caplog.messages == [
        "income.accuracy 0.8575, and no model can expect more than 0.8900; "
        "income.log_loss 0.3600, and no model can expect less than 0.3571 (by the law of the generated data)"
    ]


def test_of_what_was_not_measured_and_of_real_data_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert beside({"rmse": 650.0}, {"exp_rmspe": 0.08}) == {}  # sales that are learned without a logarithm
        assert beside({"rmse": 650.0}, {}) == beside({"rmse": 650.0}, None) == {}
    assert not caplog.messages
