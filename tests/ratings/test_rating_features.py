"""Codes and weights of the columns that describe users and items."""

import numpy as np
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.ratings.encoder import FeatureColumn, Features, fit_feature


def fit(values: list[object], bins: int = 4, **kwargs: object) -> FeatureColumn:
    return fit_feature(pl.Series("x", values, **kwargs), bins, key="features.items")


def test_levels_are_sorted_and_have_names() -> None:
    assert fit(["b", "a", None, "b"]).levels == ("a", "b")
    assert fit([["b", "c"], [], None, ["a"]]).levels == ("a", "b", "c")
    assert fit([True, None]).names == ["True"]


def test_numbers_are_cut_into_bins_of_one_width() -> None:
    feature = fit(list(range(101)))  # the first percentile is 1, the last 99
    assert feature.cuts == (25.5, 50.0, 74.5)
    assert feature.names == ["[-inf, 25.5)", "[25.5, 50)", "[50, 74.5)", "[74.5, inf)"]


def test_a_bin_without_a_value_joins_the_one_below() -> None:
    feature = fit([0.0] * 50 + [1.0] * 50 + [10.0] * 50)  # cuts at 2.5, 5, 7.5
    assert feature.cuts == (7.5,)
    assert fit([3, 3, 3]).size == 1  # a single value is a single bin


def test_codes_of_several_columns_follow_one_another() -> None:
    train = pl.DataFrame({"g": [["b", "a"], ["c"], None], "y": [0.0, 10.0, 20.0], "h": [True, False, True]})
    features = Features(columns=tuple(fit_feature(train[name], 2, key="features.items") for name in ("g", "y", "h")))
    assert features.size == 3 + 2 + 2
    codes = features.codes(train, "the items frame")
    assert codes.tolist() == [[1, 2, 4, 7], [3, 0, 5, 6], [0, 0, 5, 7]]  # the cut at 10 begins the second bin
    assert codes.dtype == np.int32


def test_a_weight_is_one_over_the_root_of_the_features_of_the_same_column() -> None:
    train = pl.DataFrame({"g": [["b", "a"], ["c"], None], "h": ["x", "y", "x"]})
    features = Features(columns=tuple(fit_feature(train[name], 2, key="features.items") for name in ("g", "h")))
    weights = features.weights(features.codes(train, "the items frame"))
    root = 1 / np.sqrt(2)
    np.testing.assert_allclose(weights, [[root, root, 1], [1, 0, 1], [0, 0, 1]], rtol=1e-6)


def test_new_rows_may_have_more_features_and_unseen_ones_are_none() -> None:
    features = Features(columns=(fit([["a"], ["b"], ["c"]]),))
    codes = features.codes(pl.DataFrame({"x": [["c", "new", "a", "b", "a"], ["new"], None]}), "the items frame")
    assert codes.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]  # each once
    assert features.codes(pl.DataFrame({"x": [["new"]]}), "the items frame").shape == (1, 0)


def test_missing_numbers_are_no_feature() -> None:
    features = Features(columns=(fit([1.0, 2.0, 3.0, None, float("nan")], bins=2),))
    frame = pl.DataFrame({"x": [None, float("nan"), -50.0, 50.0]})
    assert features.codes(frame, "the items frame").tolist() == [[0], [0], [1], [2]]


def test_a_column_of_nothing_has_no_features_in_a_new_frame() -> None:
    features = Features(columns=(fit(["a", "b"]), fit([["a"]]), fit([1.0, 2.0], bins=2)))
    empty = pl.DataFrame({"x": [None, None]})
    assert not features.codes(empty, "the items frame").any()


def test_a_column_at_fault_is_named() -> None:
    with pytest.raises(DataError, match=r"column 'x' holds only missing values in training: take it out of features\."):
        fit([None, None], dtype=pl.String)
    with pytest.raises(DataError, match="column 'x' holds List"):
        fit([[1], [2]])
    features = Features(columns=(fit(["a", "b"]),))
    with pytest.raises(DataError, match="the items frame has no column 'x', a feature"):
        features.codes(pl.DataFrame({"y": ["a"]}), "the items frame")
    with pytest.raises(DataError, match="column 'x' of the items frame is a number feature; in training it was a str"):
        features.codes(pl.DataFrame({"x": [1]}), "the items frame")
