"""Types and limits of the columns of the seven Rossmann files."""

import narwhals as nw

from embedline.frames.tables import Date, Integer, Number, Schema, Text
from embedline.pipelines.rossmann.files import TABLE_COLUMNS

STORE = Integer(nw.Int32, minimum=0)  # a chain may have more than 32,767
FLAG = Integer(nw.Int8, minimum=0, maximum=1)

_CALENDAR: Schema = {
    "Store": STORE,
    "DayOfWeek": Integer(nw.Int8, minimum=1, maximum=7),
    "Date": Date(),
    "Promo": FLAG,
    "StateHoliday": Text(noun="0 or the letter of a kind of holiday", pattern="[0a-z]"),
    "SchoolHoliday": FLAG,
}
TRAIN: Schema = {
    **_CALENDAR,
    "Open": FLAG,
    "Sales": Integer(nw.Int64, minimum=0),  # Polars sums an Int32 column in 32 bits: all sales together overflow
    "Customers": Integer(nw.Int64, minimum=0),
}
TEST: Schema = {
    **_CALENDAR,
    "Open": Integer(nw.Int8, minimum=0, maximum=1, fill=1),  # eleven test rows leave it blank: taken as open
    "Id": Integer(nw.Int32, minimum=0),
}
STORES: Schema = {
    "Store": STORE,
    "StoreType": Text(),
    "Assortment": Text(),
    "CompetitionDistance": Number(minimum=0),
    "CompetitionOpenSinceMonth": Integer(nw.Int8, minimum=1, maximum=12, fill=1),  # the notebook's fills:
    "CompetitionOpenSinceYear": Integer(nw.Int16, minimum=1800, maximum=2200, fill=1900),  # 1900 stands for not known
    "Promo2": FLAG,
    "Promo2SinceWeek": Integer(nw.Int8, minimum=1, maximum=53, fill=1),
    "Promo2SinceYear": Integer(nw.Int16, minimum=1800, maximum=2200, fill=1900),
    "PromoInterval": Text(required=False),
}
STORE_STATES: Schema = {"Store": STORE, "State": Text()}
STATE_NAMES: Schema = {"StateName": Text(), "State": Text()}
TRENDS: Schema = {
    "file": Text(noun="Rossmann_DE or Rossmann_DE_ with a state", pattern="Rossmann_DE(?:_[A-Z]{2})?"),
    "week": Text(
        noun="a week such as 2012-12-02 - 2012-12-08",
        pattern="[0-9]{4}-[0-9]{2}-[0-9]{2} - [0-9]{4}-[0-9]{2}-[0-9]{2}",
    ),
    "first_day": Date(source="week"),
    "last_day": Date(source="week", start=13),
    "trend": Integer(nw.Int8, minimum=0, maximum=100),
}
WEATHER: Schema = {
    **dict.fromkeys(TABLE_COLUMNS["weather"], Number()),
    "file": Text(),
    "Date": Date(),
    "Events": Text(required=False),
}
