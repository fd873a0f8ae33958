"""The service of the Rossmann model: predictions for rows as in test.csv.

A row of a request describes a day of a store. If it equals the row of the days to forecast, the stored forecast is
returned. Any other row replaces its day in the calendar of the store, or extends the calendar, and the nodes of the
pipeline compute the features of all rows of this store in the request.
"""

import re
import reprlib

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.frames.types import typed
from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.schemas import TEST
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.columns import PREDICT, SPLIT_COLUMN
from embedline.pipelines.tabular.encoder import encode
from embedline.pipelines.tabular.learner import load_model
from embedline.pipelines.tabular.predictions import PREDICTED
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
DAY = ("Store", "Date", "DayOfWeek", "Open", "Promo", "StateHoliday", "SchoolHoliday")  # the columns of a day
OPEN = DAY.index("Open")
LONGEST = 40  # characters of a value; none has more than those of a date

Day = tuple[str, ...]  # the values of DAY as test.csv has them

# type_sales takes labelled rows as well; this one is no store's, and is dropped again.
_LABELLED = dict(zip(DAY, ("32767", "1970-01-01", "4", "0", "0", "0", "0"), strict=True)) | {
    "Sales": "0",
    "Customers": "0",
}


class RossmannService:
    """Sales of stores on days, for rows as in test.csv.

    ``Id`` may be left out, and comes back where it is given. ``Open`` may be blank or left out: the store is open, as
    the pipeline takes it. A closed store sells nothing. Answers have ``Store``, ``Date`` (text) and ``Sales``.

    As in a run of the pipeline, a store that store.csv does not have and a day without weather or trends are errors.
    """

    def __init__(self, service: Service) -> None:
        self._model = load_model(service.bundle)
        self._features = FeatureOptions.model_validate(service.settings["features"])
        self._stores, self._calendar = service.tables["stores"], service.tables["calendar"]
        self._weather, self._trends = service.tables["weather"], service.tables["trends"]
        # A row of the first day of all, from which the pipeline counts Days; sales of 0 take it out of the table again.
        earliest = self._calendar.filter(pl.col("DayNumber") == pl.col("DayNumber").min()).head(1)
        self._earliest = earliest.with_columns(Sales=0, Customers=0, Id=None)
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
            computed = {index: day for index, day in enumerate(days) if day[0] in changed}
            sales[list(computed)] = self._compute(computed, days)
        sales[np.array([day[OPEN] == "0" for day in days], dtype=bool)] = 0.0
        answers = {"Id": rows["Id"].to_numpy()} if "Id" in rows.columns else {}
        return pd.DataFrame(
            {**answers, "Store": [int(day[0]) for day in days], "Date": [day[1] for day in days], "Sales": sales}
        )

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """The main metric of the model."""
        return measure_target(self._model.encoder.targets, answers.rename(columns={"Sales": PREDICTED}), actual)

    def _compute(self, computed: dict[int, Day], days: list[Day]) -> NDArray[np.float64]:
        """Predictions for rows of a request, by their places among all its ``days``, from the nodes of the pipeline."""
        try:
            # Twice the same row is one day; Id carries the place in the request through the nodes.
            first = {day: index for index, day in reversed(computed.items())}
            request = nodes.type_sales(
                pl.DataFrame([_LABELLED]), _as_file({index: day for day, index in first.items()})
            )
            request = request.filter(pl.col("Id").is_not_null())
            self._require_known(request)
            encoded = self._encode(request)
        except DataError as error:
            typed(nw.from_native(_as_file(dict(enumerate(days)))), TEST, file="the request")  # names the very row
            message = str(error).replace("train.csv and test.csv", "the request").replace("test.csv", "the request")
            raise DataError(message) from error
        arrays = to_arrays(nw.from_native(encoded, eager_only=True), self._model.encoder)
        (predicted,) = self._model.predict(arrays).values()
        of = dict(zip(encoded.get_column("Id").to_list(), predicted.tolist(), strict=True))
        return np.array([of[first[day]] for day in computed.values()])

    def _encode(self, request: pl.DataFrame) -> pl.DataFrame:
        """Encoded rows of the typed ``request`` with their ``Id``."""
        keys, stores = request.get_column("StoreDay"), request.get_column("Store").unique()
        calendar_rows = self._calendar.filter(pl.col("Store").is_in(stores.implode()))
        others = calendar_rows.filter(~pl.col("StoreDay").is_in(keys.implode()))
        said = request.select(others.columns)
        calendar = pl.concat([others.cast(said.schema), said]).sort("StoreDay")  # Spark has no categories
        if request.get_column("DayNumber").min() > self._earliest.item(0, "DayNumber"):
            request = pl.concat([request, self._earliest.select(request.columns).cast(request.schema)])
        # Weather and trends of other days would only make the join slower.
        days, numbers = request.get_column("Date").unique(), request.get_column("DayNumber").unique()
        joined = nodes.join_tables(
            request.sort("StoreDay"),
            self._stores,
            self._weather.filter(pl.col("Date").is_in(days.implode())),
            self._trends.filter(pl.col("DayNumber").is_in(numbers.implode())),
            self._features,
        )
        table = nodes.build_table(joined, nodes.build_calendar(calendar, self._features), self._features)
        encoded = encode(nw.from_native(table.drop("Sales"), eager_only=True), self._model.encoder)
        return encoded.to_native().with_columns(table.get_column("Id"))

    def _require_known(self, request: pl.DataFrame) -> None:
        lost = request.filter(~pl.col("Store").is_in(self._stores.get_column("Store").implode())).sort("Id")
        if len(lost):
            store, place = lost.item(0, "Store"), lost.item(0, "Id")
            raise DataError(f"the request: column Store, row {place + 1}: store.csv has no store {store}")


def days_of(rows: pd.DataFrame) -> list[Day]:
    """The day of each row of a request, in the texts of test.csv; a blank ``Open`` counts as open.

    Raises:
        DataError: naming column and row of a value that no cell of test.csv could have.
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
) -> Service:
    """Pack the model with the typed tables of the pipeline, and its forecast of the days without sales.

    Args:
        encoded: encoding of ``rossmann.table``; its rows of the split ``predict`` are the days to forecast, in order.
    """
    sales = sales.sort("StoreDay")  # as encoded is; Spark keeps no order
    days = sales.filter(pl.col("Sales").is_null())
    inputs = nw.from_native(encoded, eager_only=True).filter(nw.col(SPLIT_COLUMN) == PREDICT)
    if len(inputs) != len(days):
        raise DataError(f"rossmann.encoded has {len(inputs)} rows to predict, and rossmann.sales {len(days)}")
    loaded = load_model(model)
    predicted = np.empty(0)
    if len(inputs):
        (predicted,) = loaded.predict(to_arrays(inputs, loaded.encoder)).values()
    as_said = days.with_columns(StateHoliday=pl.col("HolidayKind").cast(pl.String), Date=pl.col("Date").cast(pl.String))
    return Service(
        service=SERVICE,
        bundle=model,
        tables={
            "calendar": sales.drop("Sales", "Customers", "Id"),
            "stores": stores,
            "weather": weather,
            "trends": trends,
            "ahead": as_said.select(pl.col(*DAY).cast(pl.String), pl.Series(PREDICTED, predicted, dtype=pl.Float64)),
        },
        settings={"features": features.model_dump(mode="json")},
        columns=COLUMNS,
        example=as_said.head(EXAMPLE_ROWS).select(column.name for column in COLUMNS).to_dicts(),
    )


def _as_file(days: dict[int, Day]) -> pl.DataFrame:
    """Rows as test.csv has them, all text; ``Id`` is the place in the request."""
    columns = {name: [day[k] for day in days.values()] for k, name in enumerate(DAY)}
    return pl.DataFrame({**columns, "Id": [str(index) for index in days]}, schema_overrides={"Id": pl.String})
