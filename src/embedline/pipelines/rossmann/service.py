"""The service of the Rossmann model: predictions for rows as in test.csv.

A row of a request describes a day of a store. If it equals the row of the days to forecast, the stored forecast is
returned. Any other row replaces its day in the calendar of the store, or extends the calendar, and the features of all
rows of this store in the request are computed: by :mod:`.store_features`, or, where that cannot, by the nodes.
"""

import re
import reprlib
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.horizon import horizon_blocks
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.store_features import DAY, Day, StoreFeatures
from embedline.pipelines.tabular.arrays import TableArrays, to_arrays
from embedline.pipelines.tabular.columns import PREDICT, SPLIT_COLUMN, Split
from embedline.pipelines.tabular.encoder import encode
from embedline.pipelines.tabular.intervals import Bounds, interval_columns
from embedline.pipelines.tabular.model import LoadedModel, load_model
from embedline.pipelines.tabular.predictions import PREDICTED
from embedline.pipelines.tabular.targets import point_prediction
from embedline.serving.columns import InputColumn, as_text, plain_values, require_columns
from embedline.serving.service import Score, Service
from embedline.serving.tables import EXAMPLE_ROWS, measure_target
from embedline.training.model_file import ModelBundle

SERVICE = f"{__name__}.RossmannService"
COLUMNS = (
    InputColumn(name="Id", type="long", required=False),
    InputColumn(name="Store", type="long"),
    InputColumn(name="DayOfWeek", type="long"),
    InputColumn(name="Date", type="string"),
    InputColumn(name="Open", type="double", required=False),  # a column with blanks is one of floats in pandas
    InputColumn(name="Promo", type="long"),
    InputColumn(name="StateHoliday", type="string"),
    InputColumn(name="SchoolHoliday", type="long"),
)
OPEN = DAY.index("Open")
REQUEST = "the request"  # in messages
LONGEST = 40  # characters of a value; none has more than those of a date


class RossmannService:
    """Sales of stores on days, for rows as in test.csv.

    ``Id`` may be left out, and comes back where it is given. ``Open`` may be blank or left out: the store is open, as
    the pipeline takes it. A closed store sells nothing. Answers have ``Store``, ``Date`` (text), ``Sales`` and its
    intervals, such as ``lower_80`` and ``upper_80``.

    As in a run of the pipeline, a store that store.csv does not have and a day without weather or trends are errors.
    """

    def __init__(self, service: Service) -> None:
        self._model = load_model(service.bundle)
        self._features = FeatureOptions.model_validate(service.settings["features"])
        self._split = Split.model_validate(service.settings["split"])
        self._stores, self._calendar = service.tables["stores"], service.tables["calendar"]
        self._recency = service.tables["recency"]
        self._intervals: Bounds = service.settings["intervals"]
        self._weather, self._trends = service.tables["weather"], service.tables["trends"]
        self._inputs = StoreFeatures(self._model.encoder, service.tables, self._features, self._split)
        self._first_day: int = self._calendar.get_column("DayNumber").min()  # type: ignore[assignment]
        ahead = service.tables["ahead"]
        days = zip(*(ahead[name].to_list() for name in DAY), strict=True)
        self._forecast: dict[Day, float] = dict(zip(days, ahead[PREDICTED].to_list(), strict=True))

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predict each row of a request, in the same order."""
        require_columns(rows, COLUMNS)
        days = days_of(rows)
        # A changed day may change the features of its neighbours: all rows of such a store are computed.
        changed = {day[0] for day in days if day not in self._forecast}
        sales = np.array([self._forecast.get(day, 0.0) for day in days], dtype=np.float64)
        if changed:
            is_computed = np.array([day[0] in changed for day in days])
            if (inputs := self._inputs.inputs([day for day in days if day[0] in changed])) is not None:
                arrays, places = inputs
                sales[is_computed] = point_predictions(self._model, arrays)[places]
            else:
                rows_of_file = pl.DataFrame({name: [day[k] for day in days] for k, name in enumerate(DAY)})
                sales[is_computed] = self._compute(rows_of_file, is_computed)
        (target,) = self._model.encoder.targets
        found = {"Sales": sales, **interval_columns(target, sales, self._intervals, "")}
        is_open = np.array([day[OPEN] != "0" for day in days], dtype=bool)
        answers: dict[str, Any] = {"Id": rows["Id"].to_numpy()} if "Id" in rows.columns else {}
        answers |= {"Store": [int(day[0]) for day in days], "Date": [day[1] for day in days]}
        return pd.DataFrame(answers | {name: np.where(is_open, values, 0.0) for name, values in found.items()})

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """The main metric of the model."""
        return measure_target(self._model.encoder.targets, answers.rename(columns={"Sales": PREDICTED}), actual)

    def _compute(self, rows: pl.DataFrame, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Predict the ``chosen`` among the rows of a request by the nodes of the pipeline."""
        typed = nodes.type_days(rows, file=REQUEST)
        stores, dates = rows.get_column("Store").cast(pl.Int32), rows.get_column("Date").str.to_date()
        lost = (~stores.is_in(self._stores.get_column("Store").implode())).arg_true()
        if len(lost):
            raise DataError(f"{REQUEST}: column Store, row {lost[0] + 1}: store.csv has no store {stores[lost[0]]}")
        typed = typed.filter(pl.col("Store").is_in(stores.filter(pl.Series(chosen)).implode()))
        encoded = self._encode(typed)
        arrays = to_arrays(nw.from_native(encoded, eager_only=True), self._model.encoder)
        predicted = point_predictions(self._model, arrays)
        found = encoded.select("Store", "Date", sales=predicted)
        asked = pl.DataFrame({"Store": stores, "Date": dates}).filter(pl.Series(chosen))
        return asked.join(found, on=["Store", "Date"], how="left", maintain_order="left")["sales"].to_numpy()

    def _encode(self, request: pl.DataFrame) -> pl.DataFrame:
        """Encoded rows of the typed ``request``, with ``Store`` and ``Date``."""
        stores = request.get_column("Store").unique()
        calendar = self._calendar.filter(pl.col("Store").is_in(stores.implode()))
        others = calendar.filter(~pl.col("StoreDay").is_in(request.get_column("StoreDay").implode()))
        said = request.select(others.columns)
        calendar = pl.concat([others.cast(said.schema), said]).sort("StoreDay")  # categories or text
        weather, trends = self._weather, self._trends
        if self._features.conditions == "known":  # those of other days would only make the join slower
            days = request.get_column("DayNumber").unique().implode()
            weather, trends = (table.filter(pl.col("DayNumber").is_in(days)) for table in (weather, trends))
        options = (self._features, self._split)
        joined = nodes.join_tables(request, self._stores, weather, trends, *options, name=REQUEST)
        recency = self._recency.filter(pl.col("Store").is_in(stores.implode()))
        first = min(self._first_day, int(request.get_column("DayNumber").min()))  # type: ignore[arg-type]
        table = nodes.build_table(joined, nodes.build_calendar(calendar, *options), recency, *options, first_day=first)
        encoded = encode(nw.from_native(table.drop("Sales"), eager_only=True), self._model.encoder)
        return encoded.to_native().with_columns(table.get_column("Store").alias("Store"), table.get_column("Date"))


def point_predictions(model: LoadedModel, arrays: TableArrays) -> NDArray[np.float64]:
    """Sales of each row, float64 [N]; of predicted quantiles the median."""
    (target,) = model.encoder.targets
    return point_prediction(target, model.predict(arrays)[target.column])


def days_of(rows: pd.DataFrame) -> list[Day]:
    """The day of each row of a request, in the texts of test.csv; a blank ``Open`` counts as open.

    A value that no cell of test.csv could have is a DataError that names column and row.
    """
    texts = [
        [as_text(value) for value in plain_values(rows[name])] if name in rows.columns else [""] * len(rows)
        for name in DAY
    ]
    texts[OPEN] = [text or "1" for text in texts[OPEN]]  # as schemas.TEST fills it
    for name, column in zip(DAY, texts, strict=True):
        for row, text in enumerate(column, start=1):
            if not text.isdigit() or text[0] == "0" != text:
                column[row - 1] = _plain_number(text)
            if len(text) > LONGEST or not text.isascii():
                raise DataError(
                    f"the request: column {name}, row {row}: {reprlib.repr(text)} is no value of this column"
                )
    return list(zip(*texts, strict=True))


def _plain_number(text: str) -> str:
    """A whole number as in the file, 1 for "01" and "+1"; any other text unchanged."""
    whole = re.fullmatch(r"[+-]?[0-9]{1,9}", text, flags=re.ASCII)
    return str(int(text)) if whole else text


def pack(
    model: ModelBundle,
    encoded: pl.DataFrame,
    sales: pl.DataFrame,
    stores: pl.DataFrame,
    weather: pl.DataFrame,
    trends: pl.DataFrame,
    features: FeatureOptions,
    split: Split,
    intervals: Bounds,
) -> Service:
    """Pack the model with the typed tables of the pipeline, and its forecast of the days without sales.

    The rows of ``encoded``, of ``rossmann.table``, of the split ``predict`` are the days to forecast, in order.
    """
    sales = sales.sort("StoreDay")  # as encoded is
    days = sales.filter(pl.col("Sales").is_null())
    inputs = nw.from_native(encoded, eager_only=True).filter(nw.col(SPLIT_COLUMN) == PREDICT)
    if len(inputs) != len(days):
        raise DataError(f"rossmann.encoded has {len(inputs)} rows to predict, and rossmann.sales {len(days)}")
    loaded = load_model(model)
    predicted = np.empty(0)
    if len(inputs):
        predicted = point_predictions(loaded, to_arrays(inputs, loaded.encoder))
    as_said = days.with_columns(StateHoliday=pl.col("HolidayKind").cast(pl.String), Date=pl.col("Date").cast(pl.String))
    return Service(
        service=SERVICE,
        bundle=model,
        tables={
            "calendar": sales.drop("Sales", "Customers", "Id"),
            "recency": _recency(sales, stores, features, split),
            "stores": stores,
            "weather": weather,
            "trends": trends,
            "ahead": as_said.select(pl.col(*DAY).cast(pl.String), pl.Series(PREDICTED, predicted, dtype=pl.Float64)),
        },
        settings={
            "features": features.model_dump(mode="json"),
            "split": horizon_blocks(split, nw.from_native(sales), features.horizon).window().model_dump(mode="json"),
            "intervals": intervals,
        },
        columns=COLUMNS,
        example=as_said.head(EXAMPLE_ROWS).select(column.name for column in COLUMNS).to_dicts(),
    )


def _recency(sales: pl.DataFrame, stores: pl.DataFrame, features: FeatureOptions, split: Split) -> pl.DataFrame:
    """``rossmann.recency``, and rows of the stores that have no day in the sales: a request may have the first."""
    strangers = stores.join(sales.select("Store").unique(), on="Store", how="anti").select("Store")
    closed = sales.head(1).drop("Store").with_columns(Open=pl.lit(0, dtype=pl.Int8), Sales=pl.lit(None, dtype=pl.Int64))
    further = strangers.join(closed, how="cross").select(sales.columns)
    grid: pl.DataFrame = nodes.build_recency(pl.concat([sales, further]), features, split)
    return grid
