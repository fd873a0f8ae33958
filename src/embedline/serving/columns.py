"""The columns of a request: MLflow's signature and the service's own check come from the same list."""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError

ColumnType = Literal["string", "long", "double", "boolean", "any"]


class InputColumn(BaseModel):
    """A column of the rows that a service takes.

    Attributes:
        type: MLflow's name of what the values are; ``any`` where pandas and JSON give one value in several types, such
            as 0, "0" and "a" of a holiday. A number that may be missing is a ``double``, as pandas has it.
        required: whether every request has the column; one that is not required counts as missing in all rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: ColumnType
    required: bool = True


def require_columns(rows: pd.DataFrame, columns: Sequence[InputColumn]) -> None:
    """Raise a DataError that names the required columns that ``rows`` lack, or a column that is there twice."""
    if not rows.columns.is_unique:
        raise DataError(f"the request has the column {rows.columns[rows.columns.duplicated()][0]!r} twice")
    missing = [column.name for column in columns if column.required and column.name not in rows.columns]
    if missing:
        had = ", ".join(map(repr, rows.columns)) or "none"
        raise DataError(f"the request has no column {', '.join(map(repr, missing))}; it has {had}")


def signature_of(columns: Sequence[InputColumn], answers: pd.DataFrame) -> Any:
    """``mlflow.models.ModelSignature`` of a service: ``columns`` in, and out what ``answers`` to the example have."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    specs: list[Any] = [
        ColSpec(type=AnyType() if column.type == "any" else column.type, name=column.name, required=column.required)
        for column in columns
    ]
    return ModelSignature(inputs=Schema(specs), outputs=infer_signature(answers).inputs)
