"""Tensors of an encoded frame hold its columns in order, and the target in the units in which it is learned."""

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.targets import NumericTarget, invert_target, transform_target

COLUMNS = Columns(categorical=("k", "j"), continuous=("x",), target="y")


def _encoded(make: Any, target: list[float | None]) -> tuple[Any, Any]:
    values = {"j": ["b", "a", "b"], "k": [5, 6, 6], "x": [1.0, None, 3.0], "y": [1.0, np.e, np.e**2]}
    frame = nw.from_native(make({**values, "split": ["train", "test", "train"]}), eager_only=True)
    encoder = fit_encoder(frame, COLUMNS, EncodingOptions(target_transform="log"))
    rows = nw.from_native(make({**values, "y": target, "split": ["train", "test", "train"]}), eager_only=True)
    return encode(rows, encoder), encoder


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_columns_become_tensors_in_the_order_of_the_encoder(make: Any) -> None:
    encoded, encoder = _encoded(make, [1.0, np.e, np.e**2])
    arrays = to_arrays(encoded, encoder)
    assert encoder.code_columns == ("k", "j", "x_na")
    assert torch.equal(arrays.codes, torch.tensor([[1, 2, 1], [2, 1, 2], [2, 2, 1]], dtype=torch.int32))
    deviation = np.std([1.0, 2.0, 3.0])
    torch.testing.assert_close(arrays.continuous, torch.tensor([[-1 / deviation], [0.0], [1 / deviation]]).float())
    assert arrays.target is not None
    torch.testing.assert_close(arrays.target, torch.tensor([0.0, 1.0, 2.0]))
    assert arrays.codes.is_contiguous()
    assert arrays.inputs == (arrays.codes, arrays.continuous)


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_rows_that_are_not_all_labelled_have_no_target(make: Any) -> None:
    encoded, encoder = _encoded(make, [1.0, None, 2.0])
    assert to_arrays(encoded, encoder).target is None
    labelled = to_arrays(subset(encoded, "train"), encoder)
    assert labelled.codes[:, 0].tolist() == [1, 2]
    assert labelled.target is not None
    torch.testing.assert_close(labelled.target, torch.tensor([0.0, np.log(2.0)]).float())


@pytest.mark.parametrize(("transform", "expected"), [("log", [0.0, 1.0]), ("none", [1.0, np.e])])
def test_the_target_goes_there_and_back(transform: Any, expected: list[float]) -> None:
    scale = NumericTarget(column="y", transform=transform, mean=0.0, std=1.0, maximum=1.0)
    there = transform_target(np.array([1.0, np.e], dtype=np.float32), scale)
    assert there.dtype == np.float64
    assert there == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert invert_target(there, scale) == pytest.approx([1.0, np.e], rel=1e-6)
