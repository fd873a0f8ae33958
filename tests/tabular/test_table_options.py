"""Every check of the network's, the baselines' and the report's settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from embedline.pipelines.tabular.options import (
    BaselineOptions,
    LinearOptions,
    NetworkOptions,
    ReportOptions,
    TreeOptions,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "layers\n.*at least 1 item"),
        ({"layers": [4, 0]}, "layers.1\n.*greater than or equal to 1"),
        ({"layers": 0}, "layers.0\n.*greater than or equal to 1"),
        ({"embedding_sizes": {"a": 0}}, "embedding_sizes.a\n.*greater than or equal to 1"),
        ({"numeric_embedding": {"kind": "splines"}}, "numeric_embedding\n.*'piecewise_linear', 'periodic'"),
        ({"numeric_embedding": {"kind": "periodic", "bins": 3}}, "numeric_embedding.periodic.bins\n.*Extra inputs"),
        (
            {"numeric_embedding": {"kind": "periodic"}, "continuous_batch_norm": True},
            "continuous_batch_norm and numeric_embedding exclude each other",
        ),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": [0.1, -0.1]}, r"dropout must lie in \[0, 1\), got \(0.1, -0.1\)"),
        ({"dropout": [0.1]}, "dropout lists 1 rates for 2 layers"),
        ({"embedding_dropout": 1.0}, "embedding_dropout\n.*less than 1"),
        ({"embedding_rule": "dl2"}, "embedding_rule\n.*'dl1' or 'v2'"),
        ({"y_range": [2.0, 2.0]}, r"y_range must rise, got \[2.0, 2.0\]"),
        ({"y_range": "wide"}, "y_range"),
        ({"drop_out": 0.1}, "drop_out\n.*Extra inputs"),
    ],
)
def test_a_bad_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkOptions.model_validate({"layers": [4, 2], **changes})


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (TreeOptions, {"n_estimators": 0}, "n_estimators\n.*greater than or equal to 1"),
        (TreeOptions, {"learning_rate": 0.0}, "learning_rate\n.*greater than 0"),
        (TreeOptions, {"num_leaves": 1}, "num_leaves.*\n.*greater than or equal to 2"),
        (TreeOptions, {"early_stopping": 0}, "early_stopping\n.*greater than or equal to 1"),
        (LinearOptions, {"penalties": []}, "penalties\n.*at least 1 item"),
        (LinearOptions, {"penalties": [0.0]}, "penalties.0\n.*greater than 0"),
        (TreeOptions, {"leaves": 3}, "leaves\n.*Extra inputs"),
        (BaselineOptions, {"lightgbm": {"trees": 3}}, "lightgbm.trees\n.*Extra inputs"),
        (BaselineOptions, {"groupby": ["a"]}, "groupby\n.*Extra inputs"),
        (ReportOptions, {"n_series": 0}, "n_series\n.*greater than or equal to 1"),
        (ReportOptions, {"error_bye": ["a"]}, "error_bye\n.*Extra inputs"),
    ],
)
def test_other_bad_settings_are_refused(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_null_switches_a_baseline_off() -> None:
    assert BaselineOptions.model_validate({"linear": None}).linear is None
    assert BaselineOptions.model_validate({"lightgbm": None}).lightgbm is None
    assert BaselineOptions().lightgbm == TreeOptions()
