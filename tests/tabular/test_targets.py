"""What is a number and what a class, the classes in order, and what neither can be; on Polars and on pandas."""

import io
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, read_targets

MAKERS = pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
VALUES: dict[str, Any] = {
    "x": [1.0, 2.0, 3.0, 4.0],
    "grade": ["b", "c", "a", "c"],
    "stars": [5, 1, 5, 3],
    "good": [True, False, True, True],
    "price": [1.0, np.e, np.e**2, np.e],
}


def _frame(make: Any, values: dict[str, Any]) -> Any:
    frame = make(values)
    if make is pd.DataFrame:
        frame.index = pd.Index(range(len(frame) + 3, 3, -1))
    return nw.from_native(frame, eager_only=True)


def _columns(target: Any, *classes: str) -> Columns:
    return Columns(continuous=("x",), target=target, classes=classes)


def _fit(make: Any, target: Any, *classes: str, values: dict[str, Any] | None = None, **options: Any) -> Encoder:
    settings = EncodingOptions.model_validate(options)
    encoder = fit_encoder(_frame(make, values or VALUES), _columns(target, *classes), settings)
    return Encoder.model_validate_json(encoder.model_dump_json())


@MAKERS
@pytest.mark.parametrize(
    ("target", "classes", "names", "counts", "codes"),
    [
        ("grade", (), ("a", "b", "c"), (1, 1, 2), [1, 2, 0, 2]),
        ("good", (), ("False", "True"), (1, 3), [1, 0, 1, 1]),
        ("stars", ("stars",), ("1", "3", "5"), (1, 1, 2), [2, 0, 2, 1]),
    ],
)
def test_classes_are_numbered_in_sorted_order(
    make: Any, target: str, classes: tuple[str, ...], names: Any, counts: Any, codes: list[int]
) -> None:
    encoder = _fit(make, target, *classes)
    (found,) = encoder.targets
    assert isinstance(found, ClassTarget)
    assert (found.names, found.counts, found.width) == (names, counts, len(names))
    encoded = encode(_frame(make, VALUES), encoder)
    assert encoded.get_column(f"class:{target}").to_list() == codes
    learned = to_arrays(encoded, encoder).target
    assert learned is not None
    assert (learned.tolist(), str(learned.dtype)) == (codes, "torch.int64")


@MAKERS
def test_numbers_are_quantities_unless_they_are_named(make: Any) -> None:
    (found,) = _fit(make, "stars").targets
    assert isinstance(found, NumericTarget)
    assert found.mean == 3.5


@MAKERS
def test_several_targets_stand_side_by_side_each_with_its_kind(make: Any) -> None:
    encoder = _fit(make, ["price", "grade", "stars"], "stars", target_transform={"price": "log"})
    assert [type(target) for target in encoder.targets] == [NumericTarget, ClassTarget, ClassTarget]
    assert read_targets(encoder.model_dump(mode="json")) == encoder.targets
    learned = to_arrays(encode(_frame(make, VALUES), encoder), encoder).target
    assert learned is not None
    np.testing.assert_allclose(learned, [[0, 1, 2], [1, 2, 0], [2, 0, 2], [1, 2, 1]], rtol=1e-6)


@MAKERS
def test_a_row_is_labelled_only_with_all_targets(make: Any) -> None:
    values = {**VALUES, "grade": ["b", None, "a", "c"], "price": [1.0, 2.0, float("nan"), 3.0]}
    splits = assign_splits(_frame(make, values), _columns(["grade", "price"]), Split(kind="none"))
    assert splits.get_column("split").to_list() == ["train", "predict", "predict", "train"]


@MAKERS
def test_rows_without_a_class_have_none_and_no_target(make: Any) -> None:
    encoder = _fit(make, "stars", "stars")
    encoded = encode(_frame(make, {"x": [1.0, 2.0], "stars": [3, None]}), encoder)
    assert encoded.get_column("class:stars").to_list() == [1, -1]
    assert to_arrays(encoded, encoder).target is None


@MAKERS
def test_a_class_that_training_never_saw_is_named(make: Any) -> None:
    rows = _frame(make, {"x": [1.0, 2.0, 3.0], "grade": ["a", "f", "f"]})
    with pytest.raises(
        DataError, match=r"target 'grade' has the class 'f', which no training row has: 2 rows; .*a, b, c"
    ):
        encode(rows, _fit(make, "grade"))


@MAKERS
@pytest.mark.parametrize(
    ("target", "change", "options", "message"),
    [
        ("grade", {"grade": ["a"] * 4}, {}, "target 'grade' has the one class 'a' .* columns.target needs"),
        ("grade", {"grade": ["a", None, "b", "c"]}, {}, "target 'grade' has 1 missing values on the training rows"),
        ("grade", {}, {"target_transform": "log"}, r"encoding.target_transform 'log' needs a numeric .*\['grade'\]"),
        ("price", {}, {"target_transform": {"prise": "log"}}, r"target_transform names \['prise'\]; .*\['price'\]"),
        (["price", "grade"], {"price": [1.0, 0.0, 2.0, 3.0]}, {"target_transform": "log"}, "'price' has the value 0.0"),
    ],
)
def test_a_target_that_cannot_be_learned_is_named(
    make: Any, target: Any, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _fit(make, target, values={**VALUES, **change}, **options)


def test_numbers_that_are_not_whole_are_no_classes() -> None:
    values = {**VALUES, "x": [1.0, 2.0, 3.0, 4.0], "price": [1.5, 2.5, 1.5, 3.0]}
    with pytest.raises(DataError, match=r"column 'price' has the type Float64.*take it out of columns\.classes"):
        _fit(pl.DataFrame, "price", "price", values=values)


def test_dates_are_no_target() -> None:
    values = {**VALUES, "price": pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 1, 4), "1d", eager=True)}
    with pytest.raises(DataError, match=r"column 'price' has the type Date where numbers are needed: columns\.target"):
        _fit(pl.DataFrame, "price", values=values)


def test_classes_of_another_kind_are_refused() -> None:
    rows = _frame(pl.DataFrame, {"x": [1.0], "grade": [3]})
    with pytest.raises(DataError, match="target 'grade' holds integer values; it was fitted on string values"):
        encode(rows, _fit(pl.DataFrame, "grade"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": []}, r"columns.target must name one or more different columns, got \[\]"),
        ({"target": ["a", "a"]}, "columns.target must name one or more different columns"),
        ({"target": ["a", "x"]}, "lists the target 'x' as an input"),
        ({"target": ["a", "split"]}, "lists 'split', the name of the column that holds the split"),
        ({"target": "a", "classes": ["b"]}, r"columns.classes names \['b'\], which columns.target does not list"),
    ],
)
def test_bad_targets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Columns.model_validate({"continuous": ["x"], **changes})


@MAKERS
def test_target_means_of_classes_are_their_shares(make: Any) -> None:
    values = {"shop": ["p", "p", "q", "q"], "grade": ["a", "b", "b", "c"]}
    columns = Columns(categorical=("shop",), target="grade")
    options = EncodingOptions(target_means=(("shop",),), smoothing=2.0)
    encoder = fit_encoder(_frame(make, values), columns, options)
    assert encoder.value_columns == ("mean(b; shop)", "mean(c; shop)")
    b, c = encoder.target_means
    # The share of b is 1/2 overall and in each shop; of c 1/4, and (0 + 2/4) / 4 and (1 + 2/4) / 4.
    assert b.levels[0].means == pytest.approx((0.5, 0.5))
    assert c.levels[0].means == pytest.approx((0.125, 0.375))
    several = fit_encoder(
        _frame(make, {**values, "price": [1.0, 2.0, 3.0, 5.0]}),
        Columns(categorical=("shop",), target=("price", "grade")),
        options,
    )
    assert several.value_columns == ("mean(price; shop)", "mean(grade=b; shop)", "mean(grade=c; shop)")


def test_booleans_of_which_pandas_reads_some_as_missing_are_classes() -> None:
    table = pd.read_csv(io.StringIO("x,good\n1,True\n2,False\n3,\n4,True\n"))
    assert table["good"].dtype == object
    columns = Columns(continuous=("x",), target="good")
    splits = assign_splits(nw.from_native(table, eager_only=True), columns, Split(kind="none"))
    encoder = fit_encoder(splits.filter(nw.col("split") == "train"), columns, EncodingOptions())
    assert encode(splits, encoder).get_column("class:good").to_list() == [1, 0, -1, 1]
