"""Answers for table rows as the canonical table has them: encoded, and predicted by the network of a tabular bundle."""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray
from pydantic import Field

from embedline.errors import DataError, about_frame
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.encoder import Encoder, encode
from embedline.pipelines.tabular.intervals import Bounds, interval_columns
from embedline.pipelines.tabular.model import KIND, load_model
from embedline.pipelines.tabular.predictions import (
    PREDICTED,
    all_metrics,
    main_metric,
    predicted_columns,
    probability_names,
)
from embedline.pipelines.tabular.targets import ClassTarget, Target, prefix_of
from embedline.serving.columns import ColumnType, InputColumn, Kind, require_columns, typed_values
from embedline.serving.service import Score, Service
from embedline.training.model_file import ModelBundle
from embedline.training.options import Options

SERVICE = f"{__name__}.TableService"
EXAMPLE_ROWS = 2

_DTYPES: dict[str, Any] = {
    "boolean": pl.Boolean,
    "integer": pl.Int64,
    "string": pl.String,
    "number": pl.Float64,
    "date": pl.Datetime("us"),
}
_TYPES: dict[Kind, ColumnType] = {  # whole numbers may be missing
    "boolean": "boolean",
    "integer": "double",
    "string": "string",
    "number": "double",
    "date": "any",
}


class TableInputs(Options):
    """``settings`` of the service of a table.

    Attributes:
        kinds: what each input of the encoder holds, by its column.
        keys: columns that come back with the answers where the request has them.
        intervals: of the answers, as :func:`.calibration.calibrate_intervals` gives them; may be empty.
    """

    kinds: dict[str, Kind]
    keys: tuple[str, ...] = ()
    intervals: Bounds = Field(default={})

    @classmethod
    def of(cls, encoder: Encoder, intervals: Bounds | None = None) -> "TableInputs":
        """The inputs of a fitted encoder: its variables, and the columns that target means group by."""
        kinds: dict[str, Kind] = {name: levels.kind for name, levels in (encoder.categorical | encoder.groups).items()}
        kinds |= {name: "number" for name in encoder.continuous if name not in kinds}
        kinds |= {parts.column: "date" for parts in encoder.dates}
        kinds |= {topics.column: "string" for topics in encoder.texts}
        inputs = {name: kinds[name] for name in encoder.inputs}
        keys = tuple(name for name in encoder.keys if name not in inputs)
        return cls(kinds=inputs, keys=keys, intervals=intervals or {})


def request_columns(inputs: TableInputs, table: pl.DataFrame) -> tuple[InputColumn, ...]:
    """The columns of a request, by what ``table`` holds: whole numbers with missing ones are doubles, as in pandas.

    A variable without a value counts as in training: as a category of its own, or by its fill.
    """
    named = {name: True for name in inputs.kinds} | {name: False for name in inputs.keys if name in table.columns}
    return tuple(
        InputColumn(name=name, type=_column_type(table.get_column(name), inputs.kinds.get(name)), required=required)
        for name, required in named.items()
    )


def pack_table(model: ModelBundle, table: pl.DataFrame, intervals: Bounds | None = None) -> Service:
    """Pack a tabular bundle for requests with the columns of ``table``, the canonical one; its first rows are shown.

    Answers have the columns of the ``intervals``, too.
    """
    inputs = TableInputs.of(Encoder.model_validate(model.encoder), intervals)
    columns = request_columns(inputs, table)
    example = table.head(EXAMPLE_ROWS).select(column.name for column in columns)
    example = example.with_columns(cs.temporal().cast(pl.String), cs.decimal().cast(pl.Float64))
    return Service(
        service=SERVICE,
        bundle=model,
        tables={},
        settings=inputs.model_dump(mode="json"),
        columns=columns,
        example=example.with_columns(cs.float().fill_nan(None)).to_dicts(),
    )


def pack_model(model: ModelBundle, intervals: Bounds | None = None) -> Service:
    """A tabular bundle as a service without its table: the types of the columns are those that the encoder reads.

    Answers have the columns of the ``intervals``, too. The model of something else is a DataError.
    """
    if model.kind != KIND:
        raise DataError(f"the model bundle is of the kind {model.kind!r}, not {KIND!r}: it has no table's rows")
    inputs = TableInputs.of(Encoder.model_validate(model.encoder), intervals)
    columns = [InputColumn(name=name, type=_TYPES[kind]) for name, kind in inputs.kinds.items()]
    columns += [InputColumn(name=name, type="any", required=False) for name in inputs.keys]
    settings = inputs.model_dump(mode="json")
    return Service(service=SERVICE, bundle=model, tables={}, settings=settings, columns=tuple(columns), example=[])


def _column_type(column: pl.Series, kind: Kind | None) -> ColumnType:
    """The type of a column of the table in requests; ``kind`` is None for a key, which no model reads."""
    if kind == "date":
        return "any"  # text, or the times of pandas
    if kind == "boolean" or column.dtype == pl.Boolean:
        return "boolean"
    if kind == "string" or column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return "string"
    if column.dtype.is_integer() and not column.null_count():
        return "long"
    return "double" if kind or column.dtype.is_numeric() else "any"


class TableService:
    """Rows with the columns of the canonical table; a category never seen and a missing value count as in batch.

    Answers have the key columns that the request has, ``predicted``, ``p_<class>`` of each class, and of a number the
    predicted quantiles, such as ``q10``, and intervals, ``lower_80`` and ``upper_80``.
    """

    def __init__(self, service: Service) -> None:
        self._inputs, self._columns = TableInputs.model_validate(service.settings), service.columns
        self._model = load_model(service.bundle)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """A row out for each row in, in their order.

        A DataError names a missing column, or column and row of a value of another type or beyond all measure.
        """
        require_columns(rows, self._columns)
        encoder = self._model.encoder
        typed = typed_rows(rows, self._inputs.kinds)
        with about_frame("request"):
            encoded = encode(nw.from_native(typed, eager_only=True), encoder)
        with np.errstate(invalid="ignore"):  # probabilities of infinite logits are NaN: refused below, by their row
            predicted = self._model.predict(to_arrays(encoded, encoder))
        _require_finite(predicted, typed)
        answers = {name: rows[name].to_numpy() for name in self._inputs.keys if name in rows.columns}
        for target in encoder.targets:
            prefix = prefix_of(target, encoder.targets)
            answers |= predicted_columns(target, predicted[target.column], prefix, self._model.decisions)
            answers |= interval_columns(target, predicted[target.column], self._inputs.intervals, prefix)
        return pd.DataFrame(answers)

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """The main metric of the first target."""
        return measure_target(self._model.encoder.targets, answers, actual)


def measure_target(targets: Sequence[Target], answers: pd.DataFrame, actual: pd.Series) -> Score:
    """The main metric of the first of ``targets``, from its columns among ``answers`` and the true values [N]."""
    target, name = targets[0], main_metric(targets[0])
    prefix = prefix_of(target, targets)
    predicted: NDArray[np.float64]  # [N], or probabilities [N, C]
    decided: NDArray[np.int64] | None = None
    if isinstance(target, ClassTarget):
        numbers = {level: k for k, level in enumerate(target.names)}
        true = np.array([numbers[str(value)] for value in actual], dtype=np.int64)
        predicted = answers[probability_names(target, prefix)].to_numpy(dtype=np.float64)
        decided = np.array([numbers[str(value)] for value in answers[prefix + PREDICTED]], dtype=np.int64)
    else:
        true, predicted = actual.to_numpy(dtype=np.float64), answers[prefix + PREDICTED].to_numpy(dtype=np.float64)
    metrics = all_metrics(target, true, predicted, predicted=decided)
    name = name if name in metrics else "accuracy"  # without a row of a rare class, as in the metrics of the run
    path = ("targets", target.column, name) if len(targets) > 1 else (name,)
    return Score(path=path, value=metrics[name], better="higher" if isinstance(target, ClassTarget) else "lower")


def typed_rows(rows: pd.DataFrame, kinds: dict[str, Kind]) -> pl.DataFrame:
    """The columns of ``kinds`` with their types; raise a DataError that names the column and the row of another value.

    Missing values (None, NaN, NaT) are null. Whole numbers may be floats, as pandas and JSON have them.
    """
    return pl.DataFrame(
        [
            pl.Series(name, typed_values(rows[name], kind), dtype=_DTYPES[kind], strict=kind == "date")
            for name, kind in kinds.items()
        ]
    )


def _require_finite(predicted: dict[str, NDArray[np.float64]], rows: pl.DataFrame) -> None:
    """A number that is finite in a request may overflow in the network, which counts in 32 bits."""
    for values in predicted.values():
        is_finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
        if not is_finite.all():
            row = int(is_finite.argmin())
            numbers = rows.select(cs.numeric().cast(pl.Float64)).row(row, named=True)
            name = max(numbers, key=lambda name: abs(numbers[name] or 0.0))
            raise DataError(f"the request: column {name!r}, row {row + 1}: {numbers[name]:g} is too large a number")
