"""Ranks as normal scores: scikit-learn's values inside, mid-ranks for ties and at the ends."""

import json
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.preprocessing import QuantileTransformer

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import N_QUANTILES, Encoder, encode, fit_encoder, fit_quantiles, normal_scores
from embedline.pipelines.tabular.options import EncodingOptions


def _scores(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    return normal_scores(values, fit_quantiles(train), len(train))


@pytest.mark.parametrize("n_rows", [50, 5000])
def test_scores_are_those_of_scikit_learn_but_for_the_ends(n_rows: int) -> None:
    random = np.random.default_rng(0)
    train = np.exp(2 * random.normal(size=n_rows))
    train[: n_rows // 5] = np.round(train[: n_rows // 5])  # some ties
    transformer = QuantileTransformer(n_quantiles=min(n_rows, 1000), output_distribution="normal", subsample=None).fit(
        train[:, None]
    )
    values = np.sort(np.exp(2 * random.normal(size=300)))
    inside = (values > train.min()) & (values < train.max())
    assert inside.sum() > 200
    expected = transformer.transform(values[inside, None])[:, 0]
    inner = np.abs(expected) < norm.isf(0.5 / n_rows)
    np.testing.assert_allclose(_scores(train, values[inside])[inner], expected[inner], atol=1e-9)


def test_most_rows_at_the_lowest_value_have_their_middle_rank() -> None:
    train = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    scores = _scores(train, np.array([0.0, 50.0, 100.0, 1e9, -5.0]))
    # Zeros are the ranks 0 to 0.9; 50 is near rank 0.95; both ends lie half a row from 0 and 1.
    np.testing.assert_allclose(scores[0], norm.ppf(0.45), atol=2e-3)
    np.testing.assert_allclose(scores[1], norm.ppf(0.9495), atol=5e-3)
    np.testing.assert_allclose(scores[2:], [norm.ppf(0.9995)] * 2 + [norm.ppf(0.0005)], rtol=1e-9)


def test_scores_rise_with_the_value_and_are_near_normal() -> None:
    random = np.random.default_rng(1)
    train = random.pareto(1.0, 20_000)
    values = np.sort(random.pareto(1.0, 1000))
    scores = _scores(train, values)
    assert (np.diff(scores) >= 0).all()
    own = _scores(train, train)
    assert (own.mean(), own.std()) == pytest.approx((0.0, 1.0), abs=0.01)
    assert np.abs(own).max() == pytest.approx(norm.isf(0.5 / 20_000))


def test_a_constant_has_the_score_zero_and_one_row_is_enough() -> None:
    assert _scores(np.full(7, 3.0), np.array([3.0])).tolist() == [0.0]
    assert _scores(np.array([3.0]), np.array([1.0, 3.0, 9.0])).tolist() == [0.0] * 3


def test_no_more_quantiles_are_kept_than_there_is_room_for() -> None:
    assert len(fit_quantiles(np.arange(5000.0))) == N_QUANTILES == 1000
    assert fit_quantiles(np.array([3.0, 1.0, 2.0])) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_the_encoder_scales_single_variables_by_their_ranks(make: Any) -> None:
    gain = [0.0] * 6 + [10.0, None, 1e6, 20.0]
    frame = make({"gain": gain, "age": [float(k) for k in range(10)], "y": [1.0, 2.0] * 5})
    if make is pd.DataFrame:
        frame.index = pd.Index(range(10, 0, -1))
    table = nw.from_native(frame, eager_only=True)
    options = EncodingOptions(scalings={"gain": "quantile"})
    encoder = fit_encoder(table, Columns(continuous=("gain", "age"), target="y"), options)
    encoder = Encoder.model_validate(json.loads(json.dumps(encoder.model_dump(mode="json"))))
    assert encoder.continuous["age"].quantiles is None
    encoded = encode(table, encoder)
    assert [name for name in encoded.columns if name.startswith("value:")] == ["value:gain", "value:age"]
    # Ten rows: the missing value becomes a zero (the median); seven zeros hold the ranks 0 to 6/9, in the middle 3/9.
    ranks = np.clip(np.array([3.0, 7.0, 8.0, 9.0]) / 9, 0.05, 0.95)
    raw = norm.ppf(ranks)[[0, 0, 0, 0, 0, 0, 1, 0, 3, 2]]
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(encoded.get_column("value:gain").to_numpy(), expected, rtol=1e-5)
    assert encoded.get_column("code:gain_na").to_list() == [1] * 7 + [2, 1, 1]
    age = np.arange(10.0)
    np.testing.assert_allclose(encoded.get_column("value:age").to_numpy(), (age - 4.5) / age.std(), rtol=1e-5)


def test_one_scaling_for_all_and_another_for_one() -> None:
    options = EncodingOptions(scaling="quantile", scalings={"age": "standard"})
    assert (options.scaling_of("gain"), options.scaling_of("age")) == ("quantile", "standard")


def test_a_scaling_of_no_input_is_named() -> None:
    table = nw.from_native(pl.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]}), eager_only=True)
    with pytest.raises(
        DataError, match=r"encoding\.scalings names \['gain'\], which columns\.continuous does not list"
    ):
        fit_encoder(table, Columns(continuous=("x",), target="y"), EncodingOptions(scalings={"gain": "quantile"}))
