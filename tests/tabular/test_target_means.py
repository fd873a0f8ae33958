"""Shrunk means of the target by group, by hand, and their place in the encoded frame."""

import math
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.target_means import TargetMeans, fit_target_means

CODES = {"a": np.array([1, 1, 1, 2]), "b": np.array([1, 1, 2, 1])}
SIZES = {"a": 4, "b": 4}
TARGET = np.array([2.0, 4.0, 9.0, 1.0])  # mean 4
# With two rows of smoothing: group a=1 (15 + 2·4) / 5, a=2 (1 + 2·4) / 3; (1, 1) (6 + 2·4.6) / 4, (1, 2) (9 + 9.2) / 3.
ONE, TWO, ONE_ONE, ONE_TWO, TWO_ONE = 4.6, 3.0, 3.8, 18.2 / 3, (1 + 2 * 3.0) / 3


def _fit() -> TargetMeans:
    return fit_target_means(CODES, SIZES, ("a", "b"), TARGET, smoothing=2.0)


def test_each_group_is_shrunk_towards_the_wider_one() -> None:
    fitted = _fit()
    assert fitted.name == "mean(a, b)"
    assert fitted.overall == 4.0
    assert fitted.levels[0].means == pytest.approx((ONE, TWO))
    assert fitted.values(CODES).tolist() == pytest.approx([ONE_ONE, ONE_ONE, ONE_TWO, TWO_ONE])
    rows = np.array([ONE_ONE, ONE_ONE, ONE_TWO, TWO_ONE])
    assert (fitted.mean, fitted.std) == pytest.approx((rows.mean(), rows.std()))


def test_an_unseen_group_takes_the_value_of_the_wider_one() -> None:
    codes = {"a": np.array([2, 1, 3, 0, 1]), "b": np.array([2, 3, 1, 1, 1])}
    assert _fit().values(codes).tolist() == pytest.approx([TWO, ONE, 4.0, 4.0, ONE_ONE])


def _frame(make: Any, values: dict[str, Any]) -> Any:
    frame = make(values)
    if make is pd.DataFrame:
        frame.index = pd.Index(range(len(frame) + 5, 5, -1))
    return nw.from_native(frame, eager_only=True)


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_the_encoded_frame_has_the_standardised_mean_of_each_row(make: Any) -> None:
    table = {"shop": ["x", "x", "x", "y"], "day": [7, 7, 8, 7], "sales": [math.exp(value) for value in TARGET]}
    columns = Columns(categorical=("shop",), target="sales")  # day groups, but is no input of its own
    options = EncodingOptions(target_transform="log", target_means=(("shop", "day"),), smoothing=2.0)
    encoder = fit_encoder(_frame(make, table), columns, options)
    encoder = Encoder.model_validate_json(encoder.model_dump_json())
    rows = _frame(make, {"day": [8, 7, 7, 9], "shop": ["x", "y", "unseen", "x"]})
    encoded = encode(rows, encoder)
    assert encoder.value_columns == ("mean(shop, day)",)
    fitted = encoder.target_means[0]
    expected = [(value - fitted.mean) / fitted.std for value in (ONE_TWO, TWO_ONE, 4.0, ONE)]
    assert encoded.get_column("value:mean(shop, day)").to_list() == pytest.approx(expected, rel=1e-5)
    assert encoded.get_column("code:shop").to_list() == [1, 2, 0, 1]
    assert "code:day" not in encoded.columns
    assert to_arrays(encoded, encoder).continuous[:, 0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("groups", [[[]], [["a", "a"]], [["a", "b"], ["a", "b"]]])
def test_bad_groups_are_refused(groups: list[list[str]]) -> None:
    with pytest.raises(ValidationError, match="target_means needs lists of different columns, each list once"):
        EncodingOptions.model_validate({"target_means": groups})


def test_groups_of_the_target_or_of_no_column_are_refused() -> None:
    table, columns = _frame(pl.DataFrame, {"shop": ["x"], "sales": [1]}), Columns(categorical=("shop",), target="sales")
    with pytest.raises(DataError, match=r"encoding\.target_means groups by the target 'sales'"):
        fit_encoder(table, columns, EncodingOptions(target_means=(("sales",),)))
    with pytest.raises(DataError, match="the table has no column 'till'"):
        fit_encoder(table, columns, EncodingOptions(target_means=(("till",),)))


def test_more_combinations_than_a_key_can_hold_are_refused() -> None:
    sizes = {name: 2**32 for name in "ab"}
    codes = {name: np.zeros(2, dtype=np.int64) for name in "ab"}
    with pytest.raises(DataError, match=r"\['a', 'b'\] have more combinations"):
        fit_target_means(codes, sizes, ("a", "b"), np.zeros(2), 1.0)


def test_a_constant_target_is_left_unscaled() -> None:
    fitted = fit_target_means({"a": np.array([0, 1, 1])}, {"a": 2}, ("a",), np.full(3, 0.1), 1.0)
    assert fitted.std == 1.0


def _noise_table(n_levels: int, n_rows: int = 2_000) -> Any:
    random = np.random.default_rng(4)
    return nw.from_native(
        pl.DataFrame(
            {
                "shop": random.integers(0, n_levels, n_rows),
                "sales": random.normal(size=n_rows),
                "split": np.where(np.arange(n_rows) < n_rows // 2, "train", "test"),
            }
        )
    )


def _correlations(n_levels: int) -> tuple[float, float]:
    """Correlation of a target mean of pure noise with its target, on training rows and on others."""
    table = _noise_table(n_levels)
    columns = Columns(categorical=("shop",), target="sales")
    options = EncodingOptions(target_means=(("shop",),), smoothing=1.0, many_levels=None)
    encoded = encode(table, fit_encoder(table.filter(nw.col("split") == "train"), columns, options))
    rows = [encoded.filter(nw.col("split") == split) for split in ("train", "test")]
    first, second = (np.corrcoef(r["value:mean(shop)"].to_numpy(), r["sales"].to_numpy())[0, 1] for r in rows)
    return float(first), float(second)


def test_a_mean_of_few_rows_does_not_tell_a_training_row_its_own_target() -> None:
    on_train, on_test = _correlations(n_levels=400)  # with their own targets: 0.57 on training rows
    assert abs(on_train) < 0.1 and abs(on_test) < 0.1


def test_a_mean_of_many_rows_is_one_value_on_all_rows() -> None:
    table = _noise_table(n_levels=4)
    options = EncodingOptions(target_means=(("shop",),), smoothing=20.0)
    encoder = fit_encoder(
        table.filter(nw.col("split") == "train"), Columns(categorical=("shop",), target="sales"), options
    )
    encoded = encode(table, encoder).to_native()
    assert encoded.group_by("code:shop").agg(pl.col("value:mean(shop)").n_unique())["value:mean(shop)"].max() == 1


def test_other_rows_have_the_means_of_all_training_rows() -> None:
    table = _noise_table(n_levels=400)
    columns = Columns(categorical=("shop",), target="sales")
    encoder = fit_encoder(table.filter(nw.col("split") == "train"), columns, EncodingOptions(target_means=(("shop",),)))
    rows = table.filter(nw.col("split") == "test")
    served = encode(rows.drop("split", "sales"), encoder)["value:mean(shop)"].to_list()
    assert encode(table, encoder).filter(nw.col("split") == "test")["value:mean(shop)"].to_list() == served


def test_a_group_of_hundreds_of_rows_has_few_where_the_class_is_rare() -> None:
    """With its own target in it, the mean of 300 rows of one or two positive ones tells which these are."""
    random = np.random.default_rng(7)
    shop, lost = random.integers(0, 40, 12_000), random.random(12_000) < 0.005
    codes = {"shop": shop}
    means = fit_target_means(codes, {"shop": 40}, ["shop"], lost.astype(float), 200.0)
    own, crossed = means.values(codes), means.cross_fitted(codes, lost.astype(float))
    assert np.corrcoef(own, lost)[0, 1] > 0.03
    assert np.corrcoef(crossed, lost)[0, 1] < 0.01
