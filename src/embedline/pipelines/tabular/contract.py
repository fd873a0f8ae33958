"""The table that a user gives, checked once for all nodes that read it: what each column of a role must hold."""

from typing import Any

import narwhals as nw

from embedline.errors import DataError
from embedline.frames.checks import (
    DATE_HINT,
    first_row,
    is_number,
    open_frame,
    require_exact,
    require_finite,
    require_numeric,
    settle_objects,
    short,
)
from embedline.pipelines.tabular.columns import Columns, Split, require_roles
from embedline.pipelines.tabular.encoder import MEND
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.targets import FEW_NUMBERS


def read_table(
    data: Any, columns: Columns, split: Split, *, others: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> nw.DataFrame[Any]:
    """The loaded ``<source>.table`` as an eager frame of pandas or Polars, in which every column of a role fits it.

    Args:
        others: further columns that are read, such as ``("baselines.group_by", ("District",))``: by their YAML key.

    Raises:
        DataError: naming the column and, counted from 1, the row of the frame as it was loaded.
    """
    table = open_frame(data)
    split_column = (split.column,) if split.column else ()
    roles = require_roles(table, columns, {"split.column": split_column, **dict(others)})
    table = settle_objects(table, (name for names in roles.values() for name in names))
    for name in columns.continuous:
        require_numeric(table.get_column(name), name, mend=MEND)
        require_finite(table.get_column(name), name)
    for name in columns.targets:
        require_finite(table.get_column(name), name)
        if name not in columns.classes:
            _refuse_spoilt_numbers(table.get_column(name), name)
    identifying = {
        "columns.categorical": columns.categorical,
        "columns.classes": columns.classes,
        "columns.id": columns.id,
    }
    for key, names in {**identifying, **dict(others)}.items():
        for name in names:
            require_exact(table.get_column(name), name, key)
    _check_dates(table, columns, split)
    return table


def _refuse_spoilt_numbers(values: nw.Series[Any], name: str) -> None:
    """Raise a DataError if a target is text only because a few of its values are no numbers: each would be a class."""
    if values.dtype != nw.String:
        return
    different = values.drop_nulls().unique().to_list()
    texts = {value for value in different if not is_number(value)}
    if len(different) > FEW_NUMBERS and 0 < len(texts) < len(different) / 2:
        row = next(row for row, value in enumerate(values.to_list(), start=1) if value in texts)
        raise DataError(
            f"target {name!r} is text, and most of its {len(different):,} different values are numbers, but row {row} "
            f"holds {short(values[row - 1])}: correct it, or set columns.classes: [{name}] if they are classes"
        )


def refuse_no_logarithm(table: nw.DataFrame[Any], columns: Columns, encoding: EncodingOptions) -> None:
    """Raise a DataError that names the first row whose target has no logarithm, where one is learned."""
    for name in columns.targets:
        values = table.get_column(name)
        if encoding.transform_of(name) != "log" or not values.dtype.is_numeric():
            continue
        if (row := first_row(values <= 0)) is not None:
            raise DataError(
                f"target {name!r} has the value {values[row - 1]} at row {row}, which has no logarithm: drop such rows "
                "or set encoding.target_transform to 'none'"
            )


def _check_dates(table: nw.DataFrame[Any], columns: Columns, split: Split) -> None:
    """Raise a DataError where dates are text, or a row has no date to be split by."""
    if split.kind == "window":
        name = str(split.column)
        values = table.get_column(name)
        if values.dtype == nw.String:
            hint = DATE_HINT.format(name=name)
            raise DataError(f"split.column {name!r} has the type String; a window needs dates: {hint}")
        if (row := first_row(values.is_null())) is not None:
            count = values.null_count()
            raise DataError(
                f"column {name!r} (split.column) has no date in {count:,} row(s), first in row {row}: a window cannot "
                "place them. Fill them in, or take these rows out"
            )
    if columns.time and table.schema[columns.time] == nw.String:
        hint = DATE_HINT.format(name=columns.time)
        raise DataError(f"column {columns.time!r} (columns.time) holds text, not dates or times: {hint}")
