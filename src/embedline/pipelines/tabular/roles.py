"""Roles of the columns that ``columns.inputs: auto`` finds by what the training rows hold."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

import narwhals as nw
import numpy as np
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import DATE_HINT, is_string, settle_objects
from embedline.pipelines.tabular.columns import (
    FEW_NUMBERS,
    SPLIT_COLUMN,
    TRAIN,
    Columns,
    Split,
    boxed_booleans,
    local_times,
    present,
)
from embedline.pipelines.tabular.redundant import ID_SHARE, count_values
from embedline.pipelines.tabular.splits import assign_splits

TEXT_WORDS = 3.0  # words of a text, on average, from which on strings that mostly differ are free text
LEVEL_ROWS = 5  # rows of each whole number, on average, from which on a few of them are codes
ID_GAPS = 4  # row numbers may lack all but one in so many: rows that are held out or were dropped
NAMED_ID = re.compile(r"(^|[_\W])[iI][dD]$|[a-z]I[dD]$")  # user_id and userId, not paid
ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

Role = Literal["categorical", "continuous", "dates", "text", "id"]


class InferredRoles(BaseModel):
    """What ``columns.inputs: auto`` stands for.

    Attributes:
        columns: the roles, those that were listed first.
        left_out: the columns that have none, each with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Columns
    left_out: dict[str, str]

    def yaml(self) -> str:
        """The block of parameters that says the same without ``inputs: auto``."""
        block = self.columns.model_dump(mode="json", exclude_defaults=True)
        lines = [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in block.items()]
        lines += [f"  # {name} is left out: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(["columns:", *lines])


def infer_roles(table: nw.DataFrame[Any], columns: Columns, split: Split) -> InferredRoles:
    """Give a role to every column of the table that has none, by its training rows.

    * strings: categorical; free text where most differ and have :data:`TEXT_WORDS` words or more
    * booleans: categorical
    * dates and times: dates
    * whole numbers: categorical where they are few and repeated; an id where all differ and they are row numbers or
      are named so; else continuous
    * other numbers: continuous

    Columns without a value, strings that differ in nearly every row, strings of dates, and lists, bytes and the like
    are left out. So is the column that splits the rows.

    Args:
        table: of :func:`.columns.read_table`, all rows.

    Raises:
        DataError: if no column is an input.
    """
    left_out: dict[str, str] = {}
    taken = {*columns.variables, *columns.targets, *columns.keys, columns.weight}
    names = [name for name in table.columns if name not in taken]
    for name in names:
        try:
            table = settle_objects(table, [name])
        except DataError as error:  # a listed column would be refused for it
            left_out[name] = str(error).removeprefix(f"column {name!r} ")
    if split.column in names:
        left_out[split.column] = "it splits the rows (split.column)"
    if SPLIT_COLUMN in names:
        left_out[SPLIT_COLUMN] = "its name is that of the column that holds the split: rename it"
    rows = assign_splits(table, columns, split).filter(nw.col(SPLIT_COLUMN) == TRAIN)
    found: dict[Role, list[str]] = {"categorical": [], "continuous": [], "dates": [], "text": [], "id": []}
    for name in names:
        if name in left_out:
            continue
        role, reason = _infer_role(rows, name)
        if role is None:
            left_out[name] = reason
        else:
            found[role].append(name)
    update: dict[str, Any] = {role: (*getattr(columns, role), *added) for role, added in found.items()}
    roles = columns.model_copy(update=update | {"inputs": None})
    if not roles.variables:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in left_out.items())
        ids = f"ids: {found['id']}; " if found["id"] else ""
        raise DataError(
            f"columns.inputs: auto finds no input in the table ({ids}{reasons}): list the inputs under columns"
        )
    return InferredRoles(columns=roles, left_out=left_out)


def fitted_columns(columns: Columns, encoder: Mapping[str, Any]) -> Columns:
    """The roles that an encoder was fitted with, from its JSON values: ``columns``, or what ``inputs: auto`` found."""
    inferred = encoder.get("inferred")
    return Columns.model_validate(inferred["columns"]) if inferred else columns


def _infer_role(rows: nw.DataFrame[Any], name: str) -> tuple[Role | None, str]:
    """The role of a column, or None and the reason why it has none."""
    dtype, nothing = rows.schema[name], "it has no value in the training rows"
    if rows.get_column(name).null_count() == len(rows):
        return None, nothing
    is_boolean = dtype == nw.Boolean or boxed_booleans(rows, name)
    is_date = local_times(rows, name).dtype in (nw.Date, nw.Datetime)
    if dtype == nw.Object and not is_boolean:  # of Python objects, others are settled or refused
        return None, f"it holds Python dates: {DATE_HINT.format(name=name)}"
    if not (is_boolean or is_date or is_string(dtype) or dtype.is_numeric()):
        return None, f"its type is {dtype}, neither numbers, strings, booleans nor dates"
    count, distinct = count_values(rows, name)
    if is_string(dtype):
        return _role_of_strings(rows, name, count, distinct)
    role: Role = "categorical" if is_boolean else "dates" if is_date else "continuous"
    if dtype.is_integer() or _is_integer_with_gaps(rows, name):
        role = _role_of_integers(rows, name, count, distinct)
    return (role, "") if count else (None, nothing)  # of NaN alone


def _role_of_strings(rows: nw.DataFrame[Any], name: str, count: int, distinct: int) -> tuple[Role | None, str]:
    values = rows.get_column(name).cast(nw.String).drop_nulls().unique().to_list()
    if all(_is_iso_date(value) for value in values):
        return None, f"it holds dates as text: {DATE_HINT.format(name=name)}"
    words = sum(len(value.split()) for value in values) / len(values)
    if words >= TEXT_WORDS and distinct > count / 2:
        return "text", ""
    if distinct >= ID_SHARE * count:
        return None, f"{distinct:,} different strings in {count:,} rows tell nothing about other rows, as ids do"
    return "categorical", ""


def _role_of_integers(rows: nw.DataFrame[Any], name: str, count: int, distinct: int) -> Role:
    if distinct == count == len(rows) and (NAMED_ID.search(name) or _are_row_numbers(rows.get_column(name).to_list())):
        return "id"
    if distinct <= FEW_NUMBERS and count >= LEVEL_ROWS * distinct:
        return "categorical"
    return "categorical" if NAMED_ID.search(name) and distinct < ID_SHARE * count else "continuous"


def _are_row_numbers(values: list[int]) -> bool:
    """Whether whole numbers rise from row to row without large gaps."""
    rising = all(first < second for first, second in pairwise(values))
    return rising and len(values) > 1 and values[-1] - values[0] < ID_GAPS * len(values)


def _is_integer_with_gaps(rows: nw.DataFrame[Any], name: str) -> bool:
    """Whether a column of floats holds whole numbers and missing values: so pandas has integers of which some lack."""
    if not rows.schema[name].is_float():
        return False
    values = rows.filter(present(rows, name)).get_column(name).to_numpy().astype(np.float64)
    return len(values) < len(rows) and bool(np.all(values % 1 == 0))


def _is_iso_date(value: str) -> bool:
    if not ISO_DAY.match(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
