"""The encoding by hand on small frames, equal on Polars and pandas, and what it refuses."""

import json
import math
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.targets import NumericTarget

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
LOG, NONE = EncodingOptions(target_transform="log"), EncodingOptions()

TRAIN: dict[str, Any] = {
    "shop": ["b", None, "a", "b"],
    "size": [10, 2, 2, 30],
    "open": [True, False, True, True],
    "gap": [4.0, None, 1.0, 7.0],
    "heat": [1.0, 2.0, 3.0, 4.0],
    "flat": [0.1, 0.1, 0.1, 0.1],
    "sales": [1.0, math.e, math.e**2, math.e],
}
COLUMNS = Columns(
    categorical=("shop", "size", "open"), continuous=("gap", "heat", "flat"), target="sales", id=("size",)
)
NEW: dict[str, Any] = {
    "size": [30, 99, 2],
    "shop": ["a", "zz", None],
    "open": [False, True, False],
    "gap": [None, 10.0, 4.0],
    "heat": [None, 2.5, 0.0],
    "flat": [0.1, 2.1, None],
}


def _frame(engine: str, values: dict[str, Any]) -> Any:
    if engine == "polars":
        return nw.from_native(pl.DataFrame(values), eager_only=True)
    frame = pd.DataFrame(values)
    frame.index = pd.Index(range(len(frame) + 3, 3, -1))
    return nw.from_native(frame, eager_only=True)


def _fit(engine: str, values: dict[str, Any] | None = None, options: EncodingOptions = LOG) -> Encoder:
    return fit_encoder(_frame(engine, values or TRAIN), COLUMNS, options)


def _one(frame: Any, *, categorical: bool) -> Encoder:
    role = {"categorical": ("x",)} if categorical else {"continuous": ("x",)}
    frame = nw.from_native(frame, eager_only=True)
    return fit_encoder(frame, Columns.model_validate({**role, "target": "y"}), NONE)


def _apply(frame: Any, encoder: Encoder) -> dict[str, list[Any]]:
    return dict(encode(nw.from_native(frame, eager_only=True), encoder).to_dict(as_series=False))


@ENGINES
def test_levels_are_sorted_and_missing_ones_left_out(engine: str) -> None:
    encoder = _fit(engine)
    assert {name: (m.kind, m.levels) for name, m in encoder.categorical.items()} == {
        "shop": ("string", ("a", "b")),
        "size": ("integer", (2, 10, 30)),  # as numbers, not as text
        "open": ("boolean", (False, True)),
    }
    assert encoder.flags == ("gap",)
    assert encoder.code_columns == ("shop", "size", "open", "gap_na")
    assert encoder.cardinalities == (3, 4, 3, 3)
    assert encoder.keys == ("size",)


@ENGINES
def test_scales_are_median_and_population_deviation_after_filling_in(engine: str) -> None:
    scales = _fit(engine).continuous
    gap, heat = scales["gap"], scales["heat"]
    assert (gap.fill, gap.mean, gap.std) == pytest.approx((4.0, 4.0, math.sqrt(18 / 4)))
    assert (heat.fill, heat.mean, heat.std) == pytest.approx((2.5, 2.5, math.sqrt(1.25)))


@ENGINES
def test_the_target_is_scaled_in_its_logarithm(engine: str) -> None:
    (target,) = _fit(engine).targets
    assert isinstance(target, NumericTarget)
    assert (target.column, target.transform) == ("sales", "log")
    assert (target.mean, target.std, target.maximum) == pytest.approx((1.0, math.sqrt(0.5), 2.0))
    (plain,) = _fit(engine, options=NONE).targets
    assert isinstance(plain, NumericTarget)
    assert plain.maximum == pytest.approx(math.e**2)
    assert plain.std == pytest.approx(float(np.std(TRAIN["sales"])))


@ENGINES
def test_codes_are_zero_for_missing_and_unseen_and_rows_keep_their_order(engine: str) -> None:
    encoded = encode(_frame(engine, NEW), _fit(engine))
    assert encoded.implementation.value == engine
    codes = {name: encoded.get_column(f"code:{name}").to_list() for name in ("shop", "size", "open", "gap_na")}
    assert codes == {"shop": [1, 0, 0], "size": [3, 0, 1], "open": [1, 2, 1], "gap_na": [2, 1, 1]}
    assert encoded.get_column("size").to_list() == [30, 99, 2]  # a key that is an input stays as it was, too
    assert {str(encoded.schema[f"code:{name}"]) for name in codes} == {"Int32"}


@ENGINES
def test_values_are_filled_in_and_standardised_by_the_training_rows(engine: str) -> None:
    encoded = encode(_frame(engine, NEW), _fit(engine))
    assert encoded.get_column("value:gap").to_list() == pytest.approx([0.0, 6 / math.sqrt(4.5), 0.0], abs=1e-6)
    heat = [0.0, 0.0, -2.5 / math.sqrt(1.25)]  # a value missing only later gets the median and no flag
    assert encoded.get_column("value:heat").to_list() == pytest.approx(heat, abs=1e-6)
    assert str(encoded.schema["value:heat"]) == "Float32"
    assert "sales" not in encoded.columns


@ENGINES
def test_a_constant_column_with_a_gap_stays_small_where_a_new_value_comes(engine: str) -> None:
    encoded = encode(_frame(engine, NEW), _fit(engine, {**TRAIN, "flat": [0.1, None, 0.1, 0.1]}))
    assert encoded.get_column("value:flat").to_list() == pytest.approx([0.0, 2.0, 0.0], abs=1e-6)


@ENGINES
def test_a_constant_target_has_the_scale_one(engine: str) -> None:
    (target,) = _fit(engine, {**TRAIN, "sales": [0.1] * 4}, NONE).targets
    assert isinstance(target, NumericTarget)
    assert (target.mean, target.std) == pytest.approx((0.1, 1.0))


@ENGINES
def test_target_and_part_travel_along(engine: str) -> None:
    table = _frame(engine, {**TRAIN, "split": ["train"] * 4, "other": [1, 2, 3, 4]})
    encoded = encode(table, _fit(engine))
    assert encoded.columns[:3] == ["size", "split", "sales"]
    assert "other" not in encoded.columns
    assert encoded.get_column("sales").to_list() == pytest.approx(TRAIN["sales"])
    assert table.columns == [*TRAIN, "split", "other"]  # and the input has no new column


def test_both_engines_agree() -> None:
    first, second = _fit("polars"), _fit("pandas")
    assert (first.categorical, first.flags) == (second.categorical, second.flags)
    for name, scale in first.continuous.items():
        assert scale.model_dump() == pytest.approx(second.continuous[name].model_dump())
    ours, theirs = (encode(_frame(engine, NEW), _fit("polars")) for engine in ("polars", "pandas"))
    assert ours.columns == theirs.columns
    for name in ours.columns:
        assert ours.get_column(name).to_list() == theirs.get_column(name).to_list()


@ENGINES
def test_an_encoder_from_json_encodes_alike(engine: str) -> None:
    encoder = _fit(engine)
    again = Encoder.model_validate(json.loads(json.dumps(encoder.model_dump(mode="json"))))
    assert again == encoder
    assert [type(level) for level in again.categorical["open"].levels] == [bool, bool]
    first, second = (encode(_frame(engine, NEW), one) for one in (encoder, again))
    assert first.to_dict(as_series=False).keys() == second.to_dict(as_series=False).keys()
    assert first.get_column("code:open").to_list() == second.get_column("code:open").to_list() == [1, 2, 1]


@pytest.mark.parametrize(
    ("column", "kind", "levels", "codes"),
    [
        (pl.Series(["b", None, "a"], dtype=pl.Categorical), "string", ("a", "b"), [2, 0, 1]),
        (pl.Series(["b", None, "a"], dtype=pl.Enum(["b", "z", "a"])), "string", ("a", "b"), [2, 0, 1]),
        (pl.Series([True, None, True]), "boolean", (True,), [1, 0, 1]),
        (pl.Series([300, None, 20], dtype=pl.UInt16), "integer", (20, 300), [2, 0, 1]),
        (pl.Series([3.0, None, float("nan")]), "integer", (3,), [1, 0, 0]),
        (pd.Categorical(["b", None, "a"]), "string", ("a", "b"), [2, 0, 1]),
        (pd.array([True, None, False], dtype="boolean"), "boolean", (False, True), [2, 0, 1]),
        (np.array([True, np.nan, False], dtype=object), "boolean", (False, True), [2, 0, 1]),
        (pd.array([3, None, 1], dtype="Int64"), "integer", (1, 3), [2, 0, 1]),
        (np.array([3.0, np.nan, 1.0]), "integer", (1, 3), [2, 0, 1]),
        (pd.array(["q", None, "p"], dtype="string[pyarrow]"), "string", ("p", "q"), [2, 0, 1]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")) or None,
)
def test_kinds_of_categorical_columns(column: Any, kind: str, levels: tuple[Any, ...], codes: list[int]) -> None:
    make: Any = pl.DataFrame if isinstance(column, pl.Series) else pd.DataFrame
    frame = make({"x": column, "y": [1.0, 2.0, 3.0]})
    encoder = _one(frame, categorical=True)
    assert (encoder.categorical["x"].kind, encoder.categorical["x"].levels) == (kind, levels)
    assert _apply(frame, encoder)["code:x"] == codes


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.5, np.nan, 3.0]),
        pd.array([1.5, None, 3.0], dtype="Float64"),
        pd.array([1.5, None, 3.0], dtype="double[pyarrow]"),
    ],
    ids=["numpy", "nullable", "arrow"],
)
def test_kinds_of_continuous_columns_of_pandas(column: Any) -> None:
    frame = pd.DataFrame({"x": column, "y": [1.0, 2.0, 3.0]})
    encoder = _one(frame, categorical=False)
    assert (encoder.continuous["x"].fill, encoder.flags) == (2.25, ("x",))
    encoded = _apply(frame, encoder)
    assert encoded["code:x_na"] == [1, 2, 1]
    assert encoded["value:x"] == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-6)


def test_booleans_may_be_continuous() -> None:
    frame = pl.DataFrame({"x": [True, False], "y": [1.0, 2.0]})
    assert _apply(frame, _one(frame, categorical=False))["value:x"] == pytest.approx([1.0, -1.0], abs=1e-6)


def test_a_key_that_is_a_continuous_input_is_kept() -> None:
    frame = nw.from_native(pl.DataFrame({"x": [1.0, 3.0], "y": [1.0, 2.0]}), eager_only=True)
    encoder = fit_encoder(frame, Columns(continuous=("x",), target="y", time="x"), NONE)
    assert _apply(frame.to_native(), encoder)["x"] == [1.0, 3.0]


@pytest.mark.parametrize("empty", [pl.DataFrame({"x": [None, None]}), pd.DataFrame({"x": [None, None]})])
@pytest.mark.parametrize("levels", [["a", "b"], [1, 2], [True, False]])
def test_a_column_without_any_value_is_all_missing_whatever_its_type(empty: Any, levels: list[Any]) -> None:
    encoder = _one(pl.DataFrame({"x": levels, "y": [1.0, 2.0]}), categorical=True)
    assert _apply(empty, encoder)["code:x"] == [0, 0]


@pytest.mark.parametrize("nothing", [pl.DataFrame({"x": [None, None]}), pd.DataFrame({"x": [np.nan, np.nan]})])
def test_numbers_that_are_all_missing_become_the_median(nothing: Any) -> None:
    encoder = _one(pl.DataFrame({"x": [1.0, 2.0, None, 6.0], "y": [1.0] * 4}), categorical=False)
    encoded = _apply(nothing, encoder)
    assert encoded["code:x_na"] == [2, 2]
    scale = encoder.continuous["x"]
    assert encoded["value:x"] == pytest.approx([(2.0 - scale.mean) / scale.std] * 2, rel=1e-5)


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"size": [1.5, 2, 3, 4]},
            "column 'size' has the type Float64, which cannot be categorical: give it whole.*columns.categorical",
        ),
        (
            {"heat": ["1", "2", "x", "4"]},
            "column 'heat' has the type String where numbers are needed: take it out of columns",
        ),
        ({"gap": [1.0, 2.0, -math.inf, 4.0]}, "column 'gap' holds an infinite value at row 3"),
        ({"shop": [None] * 4}, "column 'shop' holds only missing values on the training rows: .* columns.categorical"),
        ({"gap": [None] * 4}, "column 'gap' holds only missing values on the training rows: .* columns.continuous"),
        ({"sales": [1.0, 2.0, -1.5, 4.0]}, "target 'sales' has the value -1.5, which has no logarithm: drop these"),
        ({"sales": [1.0, 0.0, 1.5, 4.0]}, "target 'sales' has the value 0.0, which has no logarithm"),
        ({"sales": [1.0, None, 1.5, 4.0]}, "target 'sales' has 1 missing values on the training rows"),
        ({"sales": [1.0, math.inf, 1.5, 4.0]}, "column 'sales' holds an infinite value at row 2"),
    ],
)
def test_fitting_names_the_column_at_fault(engine: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _fit(engine, {**TRAIN, **change})


@ENGINES
def test_fitting_names_a_missing_column(engine: str) -> None:
    with pytest.raises(DataError, match=r"has no column 'heat', 'flat', which columns\.continuous names: It has"):
        _fit(engine, {name: values for name, values in TRAIN.items() if name not in ("heat", "flat")})


def test_a_name_that_marks_filled_in_values_is_taken() -> None:
    frame = nw.from_native(pl.DataFrame({"x": [1, None], "x_na": [0, 1], "y": [1.0, 2.0]}), eager_only=True)
    with pytest.raises(DataError, match=r"columns.categorical lists \['x_na'\]"):
        fit_encoder(frame, Columns(categorical=("x_na",), continuous=("x",), target="y"), NONE)


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shop": [1, 2, 3]}, "column 'shop' holds integer values; it was fitted on string values"),
        ({"size": ["30", "99", "2"]}, "column 'size' holds string values; it was fitted on integer values"),
        ({"open": [1, 0, 1]}, "column 'open' holds integer values; it was fitted on boolean values"),
        ({"size": [30.5, 99.0, 2.0]}, "column 'size' has the type Float64, which cannot be categorical"),
        ({"heat": ["1", "2", "x"]}, "column 'heat' has the type String"),
        ({"heat": [1.0, 2.0, math.inf]}, "column 'heat' holds an infinite value at row 3"),
        ({"sales": [1.0, 0.0, 1.5]}, "target 'sales' has the value 0.0, which has no logarithm"),
    ],
)
def test_applying_names_the_column_at_fault(engine: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(_frame(engine, {**NEW, **change}), _fit(engine))


@ENGINES
def test_applying_names_a_missing_column(engine: str) -> None:
    frame = _frame(engine, {name: values for name, values in NEW.items() if name != "gap"})
    with pytest.raises(DataError, match=r"the frame to encode has no column 'gap', which columns\.continuous names"):
        encode(frame, _fit(engine))


@ENGINES
def test_rows_without_any_target_and_a_table_of_categories_alone(engine: str) -> None:
    fitted_on = _frame(engine, {"x": [3, 1, 2], "y": [1.0, 2.0, 3.0]})
    encoder = fit_encoder(fitted_on, Columns(categorical=("x",), target="y"), LOG)
    encoded = encode(_frame(engine, {"x": [1, 9]}), encoder)
    assert encoded.columns == ["code:x"]
    assert encoded.get_column("code:x").to_list() == [1, 0]
    unlabelled = encode(_frame(engine, {"x": [1, 9], "y": [None, 2.0]}), encoder)
    assert unlabelled.get_column("y").null_count() == 1


@ENGINES
def test_a_fill_replaces_the_median_and_the_flag_and_limits_hold(engine: str) -> None:
    options = EncodingOptions(fill={"gap": 9.0}, limits={"gap": (2.0, 9.0)})
    encoder = _fit(engine, options=options)
    # 4, missing, 1, 7 become 4, 9, 2, 7
    scale = encoder.continuous["gap"]
    assert (scale.fill, scale.mean, scale.std) == pytest.approx(
        (9.0, 5.5, math.sqrt((2.25 + 12.25 + 12.25 + 2.25) / 4))
    )
    assert encoder.flags == ()
    again = Encoder.model_validate(json.loads(json.dumps(encoder.model_dump(mode="json"))))
    applied = _apply(_frame(engine, NEW).to_native(), again)["value:gap"]  # missing, 10, 4
    assert applied == pytest.approx([(x - 5.5) / scale.std for x in (9.0, 9.0, 4.0)], rel=1e-5)


@pytest.mark.parametrize("options", [{"fill": {"gapp": 1.0}}, {"limits": {"gapp": (0.0, 1.0)}}])
def test_a_misspelt_fill_or_limit_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"encoding\.{next(iter(options))} names \['gapp'\]"):
        _fit("polars", options=EncodingOptions.model_validate(options))


def test_limits_must_rise() -> None:
    with pytest.raises(ValueError, match="limits of gap must rise"):
        EncodingOptions(limits={"gap": (1.0, 1.0)})
