"""Settings that cannot mean anything stop with a line that names the key."""

from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ValidationError

from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import fit_encoder
from embedline.pipelines.ratings.network import network_config
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork, RatingRange, RatingsTraining


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (RatingSplit, {"kind": "random"}, "'random' needs a fraction"),
        (RatingSplit, {"kind": "latest"}, "either n, such as 1, or a fraction"),
        (RatingSplit, {"kind": "latest", "n": 1, "fraction": 0.2}, "either n, such as 1, or a fraction"),
        (RatingSplit, {"kind": "column", "column": "fold"}, "needs a column and the value"),
        (RatingSplit, {"kind": "random", "fraction": 1.0}, "fraction"),
        (RatingNetwork, {"kind": "mlp"}, "needs layers"),
        (RatingNetwork, {"layers": [10]}, "of the kind 'mlp'"),
        (RatingNetwork, {"dropout": 0.1}, "of the kind 'mlp'"),
        (RatingNetwork, {"kind": "mlp", "layers": [10, 5], "dropout": [0.1]}, "lists 1 rates for 2 layers"),
        (RatingNetwork, {"kind": "mlp", "layers": 10, "dropout": 1.0}, "must lie in"),
        (RatingNetwork, {"y_range": [5, 1]}, "must rise"),
        (RatingNetwork, {"factor": 5}, "factor"),
        (RatingColumns, {"user": "a", "item": "a"}, "different columns"),
        (RatingColumns, {"user": "split"}, "'split'"),
        *((RatingRange, value, "") for value in (5, [1, 2, 3], "wide", {"low": 1})),
        (RatingRange, [5, 1], "must rise"),
        (FeatureOptions, {"items": ["year", "year"]}, "features.items lists a column more than once"),
        (RatingsTraining, {"batch_size": 8, "epochs": 1, "lr": 0.1, "loss": "relative"}, "loss"),
        (RatingsTraining, {"batch_size": 8, "epochs": 1, "lr": 0.1, "penalty": {"factors": -1}}, "penalty.factors"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(model: type[BaseModel], values: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_a_rating_range_that_is_left_out_is_that_of_the_ratings() -> None:
    assert RatingRange().root == "auto"
    assert RatingRange.model_validate([1, 5]).root == (1.0, 5.0)


def test_hidden_layers_and_dropout_are_a_number_or_a_list() -> None:
    encoder = fit_encoder(pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0]}), RatingColumns())
    for layers, dropout, expected in ((10, 0.1, [0.1]), ([10, 5], 0.1, [0.1, 0.1]), ([10, 5], [0.1, 0.2], [0.1, 0.2])):
        options = RatingNetwork.model_validate({"kind": "mlp", "layers": layers, "dropout": dropout})
        config = network_config(encoder, options)
        assert (len(config["layers"]), config["dropouts"]) == (len(expected), expected)
    assert network_config(encoder, RatingNetwork())["dropouts"] == []
