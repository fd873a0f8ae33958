"""From the seven Rossmann files to one table, a row a store and day, sorted by store and date.

The features are those of fast.ai's lesson-3 notebook; differences are marked DIFF(fastai). Nothing is fitted here: the
windows use training and test rows, and the learner fits its statistics on training rows only.
"""

from functools import partial
from typing import Any

import narwhals as nw

from embedline.errors import DataError
from embedline.frames.days import (
    add_date_parts,
    add_gaps,
    add_window_sums,
    day_number,
    day_number_of,
    days_from_next,
    days_since,
    monday_of_week,
    periods_since,
)
from embedline.frames.parts import Parts, SpreadPlan
from embedline.frames.tables import as_categories, describe_key, join_sorted, lookup, require_unique, sorted_by, typed
from embedline.paths import GENERATED, find_source
from embedline.pipelines.rossmann import schemas
from embedline.pipelines.rossmann.calendar_features import (
    add_calendar_features,
    add_closed_ahead,
    add_open_days,
    date_features,
    promo2_months,
    row_features,
)
from embedline.pipelines.rossmann.files import checked_tables, read_tables
from embedline.pipelines.rossmann.horizon import HorizonBlocks, block, day_limits, horizon_blocks
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.recency import add_recency, recency_grid, recency_of_parts
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables, noise_floor
from embedline.pipelines.tabular.columns import Split

# A frame of Polars, pandas or another Narwhals backend, of which nodes return the kind that they are given; or one in
# Parts of whole stores: of the nodes that read the sales, each has itself called for every part, and what it needs of
# all stores is known before.
Frame = Any

EVENTS = ("SchoolHoliday", "StateHoliday", "Promo")
SHARED_STATE = {"NI": "HB,NI"}  # trends know Lower Saxony alone; the stores' states join it with Bremen

_SALES = "train.csv and test.csv"
_NATIONAL = "Rossmann_DE"
# One integer that stands for (Store, Date) and rises with both. On a million rows Polars sorts by it in 0.08 s rather
# than 0.26 s and joins by it in 0.15 s rather than 0.49 s. Exact for Int32 stores and any dates within 179 years.
_KEY = "StoreDay"
_DAYS_A_STORE = 65_536
_AHEAD, _KNOWN_TO = "_ahead", "_known_to"  # working columns: the block of a store, and its last day with a row


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> dict[str, bytes]:
    """Fetch the seven files from the address ``source``, or simulate them; as they are, by table name."""
    if source == GENERATED:
        return checked_tables(generate_tables(generator), source)
    return read_tables(find_source(source), verify=verify)


def measure_ceiling(source: str, generator: GeneratorOptions) -> dict[str, dict[str, float]]:
    """The least ``exp_rmspe`` that a model of generated sales can expect, by target; empty for real sales.

    Exact but for the rounding of sales, and the same for every split: see :func:`.simulator.noise_floor`.
    """
    return {"Sales": {"exp_rmspe": noise_floor(generator.noise)}} if source == GENERATED else {}


def type_sales(train: Frame, test: Frame, *, is_part: bool = False) -> Frame:
    """Type train.csv and test.csv and put their rows together, sorted by store and date where they are in memory.

    A value that is not what its column holds, and two rows of a store for one date, are a DataError. ``is_part`` says
    that these are the rows of some stores, which one of the files may lack.

    Returns:
        Store, Date, DayOfWeek, Open, Promo, SchoolHoliday, StateHoliday (true on any holiday), HolidayKind ("0", "a",
        "b", "c"), Sales and Customers (null on test rows), Id (null on train rows), DayNumber (days since 1970-01-01)
        and StoreDay, an integer key of store and date.
    """
    if hasattr(train, "sparkSession"):
        function = partial(type_sales, is_part=True)
        return SpreadPlan(frames=(train, test), key="Store", function=function, recheck=type_sales)
    labelled = typed(nw.from_native(train), schemas.TRAIN, file="train.csv", may_be_empty=is_part)
    unlabelled = typed(nw.from_native(test), schemas.TEST, file="test.csv", may_be_empty=is_part)
    rows = nw.concat([labelled, unlabelled], how="diagonal")
    return _add_keys(rows, {"train.csv": labelled, "test.csv": unlabelled, _SALES: rows}).to_native()


def type_days(days: Frame, *, file: str) -> Frame:
    """Type rows as in test.csv but for their Id, all text; of equal rows the first stays.

    Columns and errors are those of :func:`type_sales`, Sales and Customers null; messages call the rows ``file`` and
    count them from 1.
    """
    schema = {name: column for name, column in schemas.TEST.items() if name != "Id"}
    rows = typed(nw.from_native(days, eager_only=True), schema, file=file).unique(maintain_order=True)
    unknown = nw.lit(None, dtype=nw.Int64)
    return _add_keys(rows.with_columns(Sales=unknown, Customers=unknown), {file: rows}).to_native()


def type_stores(store: Frame, store_states: Frame, state_names: Frame) -> Frame:
    """Type store.csv and add each store's State and StateName.

    Returns:
        The columns of store.csv, years and months that are not known filled with 1900 and 1 as the notebook has it,
        State, StateName, and the day numbers CompetitionOpenDay (the 15th of its month) and Promo2Day (Monday of its
        ISO week).
    """
    stores = typed(nw.from_native(store), schemas.STORES, file="store.csv")
    require_unique(stores, ["Store"], name="store.csv")
    states = typed(nw.from_native(store_states), schemas.STORE_STATES, file="store_states.csv")
    names = typed(nw.from_native(state_names), schemas.STATE_NAMES, file="state_names.csv")
    stores = lookup(stores, states, ["Store"], name="store.csv", table_name="store_states.csv")
    stores = lookup(stores, names, ["State"], name="store_states.csv", table_name="state_names.csv")
    stores = stores.with_columns(
        CompetitionOpenDay=day_number_of(nw.col("CompetitionOpenSinceYear"), nw.col("CompetitionOpenSinceMonth"), 15),
        Promo2Day=monday_of_week(nw.col("Promo2SinceYear"), nw.col("Promo2SinceWeek")),
        Promo2Months=promo2_months(nw.col("PromoInterval")),
        LogCompetitionDistance=(nw.col("CompetitionDistance").cast(nw.Float64) + 1.0).log().cast(nw.Float32),
    )
    return as_categories(stores, ["StoreType", "Assortment", "PromoInterval", "State", "StateName"]).to_native()


def type_weather(weather: Frame, state_names: Frame) -> Frame:
    """Type weather.csv and name its states: State, Date, every measurement, and features of the date.

    These are DayNumber, Year, Month, Week, Day and :func:`date_features`: here they are computed once a state and day.
    """
    days = typed(nw.from_native(weather), schemas.WEATHER, file="weather.csv")
    names = typed(nw.from_native(state_names), schemas.STATE_NAMES, file="state_names.csv")
    names = names.select(nw.col("StateName").alias("file"), "State")
    days = lookup(days, names, ["file"], name="weather.csv", table_name="state_names.csv").drop("file")
    require_unique(days, ["State", "Date"], name="weather.csv")
    days = add_date_parts(days.with_columns(DayNumber=day_number(nw.col("Date")))).with_columns(**date_features())
    return as_categories(days, ["State", "Events"]).to_native()


def type_trends(googletrend: Frame) -> Frame:
    """Type googletrend.csv and spread every week over its days: State, DayNumber, trend and trend_DE (all Germany).

    DIFF(fastai): a trend belongs to the days that its week covers. The notebook joined on the calendar year and ISO
    week of the week's first day, a Sunday, which ends an ISO week: Monday to Saturday got the trend of the week after.
    """
    weeks = typed(nw.from_native(googletrend), schemas.TRENDS, file="googletrend.csv")
    weeks = weeks.with_columns(first=day_number(nw.col("first_day")), last=day_number(nw.col("last_day")))
    odd = weeks.filter(nw.col("last") - nw.col("first") != 6).select("file", "week").head(1).lazy().collect()
    if rows := odd.rows(named=True):
        raise DataError(f"googletrend.csv: {describe_key(rows[0])} is not a week of seven days")
    require_unique(weeks, ["file", "week"], name="googletrend.csv")
    days = nw.concat([weeks.select("file", "week", "trend", DayNumber=nw.col("first") + offset) for offset in range(7)])
    national = days.filter(nw.col("file") == _NATIONAL).select("DayNumber", trend_DE=nw.col("trend"))
    code = nw.col("file").str.slice(len(_NATIONAL) + 1)
    state = code
    for own, shared in SHARED_STATE.items():
        state = nw.when(code == own).then(nw.lit(shared)).otherwise(state)
    regional = days.filter(nw.col("file") != _NATIONAL).select("week", "DayNumber", "trend", State=state)
    require_unique(regional, ["State", "DayNumber"], name="googletrend.csv, weeks overlap")
    table_name = f"the rows of {_NATIONAL} there"
    joined = lookup(
        regional, national, ["DayNumber"], name="googletrend.csv", table_name=table_name, show=["State", "week"]
    )
    return as_categories(joined.select("State", "DayNumber", "trend", "trend_DE"), ["State"]).to_native()


def join_tables(
    sales: Frame,
    stores: Frame,
    weather: Frame,
    trends: Frame,
    features: FeatureOptions,
    split: Split,
    *,
    name: str = _SALES,
) -> Frame:
    """Join every row of the sales with its store, and with the weather and the trends of that store's state.

    They are those of the row's day or, with ``features.conditions: lagged``, those of the last day before its block,
    see :mod:`.horizon`; then no later day needs any. Messages call the sales ``name``. A store, and the weather or
    trend of a day, that are not known are a DataError.

    Returns:
        The sales, without Customers (known only after the day), with the columns of the stores, date parts, trend,
        trend_DE and the weather columns of ``features.weather``.
    """
    if isinstance(sales, Parts):
        return sales.map(join_tables, stores, weather, trends, features, _window_of(sales, features, split), name=name)
    date_parts = ("Year", "Month", "Week", "Day", *date_features())
    days = nw.from_native(weather).select("State", "Date", "DayNumber", *date_parts, *features.weather)
    days = days.join(nw.from_native(trends), on=["State", "DayNumber"], how="inner")
    rows = nw.from_native(sales).drop("Customers")
    rows = lookup(rows, nw.from_native(stores).drop("StateName"), ["Store"], name=name, table_name="store.csv")
    if features.conditions == "lagged":
        blocks = horizon_blocks(split, rows, features.horizon)
        joined = add_lagged_conditions(rows, days.drop("Date", *date_parts), blocks, name=name)
    else:
        days = days.drop("DayNumber")
        joined = lookup(rows, days, ["State", "Date"], name=name, table_name="both weather.csv and googletrend.csv")
    return as_categories(joined, ["State"]).to_native()  # again: pandas joins differing categories as plain text


def build_calendar(sales: Frame, features: FeatureOptions, split: Split) -> Frame:
    """Days since and until the events of each store, and counts of the events around, on all rows, closed days too.

    With ``features.calendar: window`` what looks ahead sees nothing beyond the end of the row's block, see
    :mod:`.horizon`: an event after it is as one that never comes, and OpenDaysInWeek is missing where the week goes on.

    Returns:
        StoreDay and, for each of SchoolHoliday, StateHoliday and Promo, After… (days since), Before… (days until,
        counted downwards to 0), …_bw and …_fw (rows with the event among the last and the next ``features.window``,
        this one included); ClosedBefore and ClosedAfter, the days that the store is closed just before and after the
        date (with ``window`` as far as is known); and the features of :func:`add_open_days` and
        :func:`add_calendar_features`.
    """
    if isinstance(sales, Parts):
        return sales.map(build_calendar, features, _window_of(sales, features, split))
    rows = nw.from_native(sales)
    flags = rows.select(_KEY, "Store", "DayNumber", "Open", *EVENTS).with_columns(nw.col(*EVENTS).cast(nw.Int8))
    ahead, known_to = "Store", None
    if features.calendar == "window":
        ahead, known_to = _AHEAD, _KNOWN_TO
        number = horizon_blocks(split, rows, features.horizon).number(nw.col("DayNumber")).cast(nw.Int64)
        flags = flags.with_columns((nw.col("Store").cast(nw.Int64) * (2 * _DAYS_A_STORE) + number).alias(ahead))
        flags = flags.with_columns(nw.col("DayNumber").max().over(ahead).alias(known_to))
    flags = add_open_days(flags, known_to=known_to)
    elapsed: dict[str, nw.Expr] = {}
    for event in EVENTS:
        happens = nw.col(event) == 1
        elapsed[f"After{event}"] = days_since(happens, day="DayNumber", group="Store")
        elapsed[f"Before{event}"] = days_from_next(happens, day="DayNumber", group="Store", known_to=known_to)
    calendar = flags.with_columns(**elapsed)
    calendar = add_window_sums(calendar, EVENTS, window=features.window, order="DayNumber", group="Store", ahead=ahead)
    gaps = {"before": "ClosedBefore", "after": "ClosedAfter"}
    calendar = add_gaps(calendar, nw.col("Open") == 1, day="DayNumber", group="Store", known_to=known_to, **gaps)
    if known_to:
        calendar = add_closed_ahead(calendar, known_to=known_to)
    calendar = add_calendar_features(calendar, known_to=known_to)
    return calendar.drop("Store", "DayNumber", "Open", *EVENTS).drop(_AHEAD, _KNOWN_TO, strict=False).to_native()


def build_recency(sales: Frame, features: FeatureOptions, split: Split) -> Frame:
    """How each store sold before each block of the horizon, by weekday and promotion, see :func:`recency_grid`."""
    if isinstance(sales, Parts):
        return recency_of_parts(sales, split, horizon_blocks(split, nw.from_native(sales.scan()), features.horizon))
    rows = nw.from_native(sales)
    return recency_grid(rows, split, horizon_blocks(split, rows, features.horizon)).to_native()


def build_table(
    joined: Frame,
    calendar: Frame,
    recency: Frame,
    features: FeatureOptions,
    split: Split,
    *,
    first_day: int | None = None,
) -> Frame:
    """The canonical frame: labelled rows with sales (Sales ≠ 0) and all test rows, with every feature.

    It has the columns of the joined rows and of the calendar, CompetitionMonthsOpen and Promo2Weeks (both capped), Days
    (since the first date in the data, or the day number ``first_day``), the :func:`row_features`, and what the recency
    features say of the row's store, weekday, promotion and block.
    """
    if isinstance(joined, Parts):
        first_day, _ = day_limits(nw.from_native(joined.scan()))
        window = _window_of(joined, features, split)
        return joined.map(build_table, calendar, recency, features, window, first_day=first_day)
    rows = nw.from_native(joined)
    blocks = horizon_blocks(split, rows, features.horizon)
    if first_day is None:
        first_day, _ = day_limits(rows)
    rows = join_sorted(rows, nw.from_native(calendar), _KEY)
    rows = rows.with_columns(Days=(nw.col("DayNumber") - first_day).cast(nw.Int16))
    rows = rows.filter(nw.col("Sales").is_null() | (nw.col("Sales") != 0)).with_columns(
        CompetitionMonthsOpen=periods_since(
            nw.col("CompetitionOpenDay"),
            day="DayNumber",
            start_year="CompetitionOpenSinceYear",
            length=30,
            cap=features.competition_months_cap,
        ),
        Promo2Weeks=periods_since(
            nw.col("Promo2Day"),
            day="DayNumber",
            start_year="Promo2SinceYear",
            length=7,
            cap=features.promo2_weeks_cap,
        ),
    )
    rows = add_recency(rows.with_columns(**row_features()), nw.from_native(recency), blocks)
    working = (_KEY, "DayNumber", "CompetitionOpenDay", "Promo2Day", "Promo2Months", "MonthBit")
    return sorted_by(rows, _KEY).drop(*working).to_native()


def window_table(
    sales: Frame, stores: Frame, weather: Frame, trends: Frame, features: FeatureOptions, split: Split
) -> Frame:
    """The canonical frame for another window than that of the run, as back-tests need it.

    It has the rows up to the end of the window, with ``train: others`` the later ones, too. No window is a DataError.
    """
    if split.kind != "window":
        raise DataError(f"split.kind {split.kind!r} has no window to make a table for; it takes 'window'")
    rows = nw.from_native(sales)
    blocks = horizon_blocks(split, rows, features.horizon)
    used = (rows if split.train == "others" else rows.filter(nw.col("DayNumber") <= blocks.end)).to_native()
    joined = join_tables(used, stores, weather, trends, features, split)
    calendar = build_calendar(sales, features, split)  # of all rows: with `calendar: all` the later ones count
    return build_table(joined, calendar, build_recency(used, features, split), features, split)


def make_window(
    sales: Frame, stores: Frame, weather: Frame, trends: Frame, features: FeatureOptions, window: dict[str, Any]
) -> Frame:
    """The canonical frame of a window of a back-test, in memory; without rows for one that is not asked for."""
    if isinstance(sales, Parts):
        sales = sales.scan()
    if not window:
        return nw.from_native(sales).head(0).lazy().collect(backend="polars").to_native()
    table = window_table(sales, stores, weather, trends, features, Split.model_validate(window["split"]))
    frame = nw.from_native(table)
    return table if isinstance(frame, nw.DataFrame) else frame.collect(backend="polars").to_native()


def make_submission(table: Frame, forecast: Frame) -> Frame:
    """Columns ``Id`` and ``Sales`` of ``sample_submission.csv``, ordered by Id: closed days 0, else the forecast.

    The rows of ``table`` without ``Sales`` are the ones to submit; ``Open`` is 1 where the raw file leaves it blank.
    ``forecast`` has ``Store``, ``Date`` and ``predicted``; that a row has none is a DataError.
    """
    rows = (
        nw.from_native(table, eager_only=True).filter(nw.col("Sales").is_null()).select("Id", "Store", "Date", "Open")
    )
    joined = rows.join(nw.from_native(forecast, eager_only=True), on=["Store", "Date"], how="left")
    missing = joined.filter(nw.col("predicted").is_null())
    if len(missing):
        raise DataError(f"the forecast has no prediction for {len(missing)} rows, the first with Id {missing['Id'][0]}")
    sales = nw.when(nw.col("Open").cast(nw.Int8) == 0).then(nw.lit(0.0)).otherwise(nw.col("predicted")).alias("Sales")
    return joined.select(nw.col("Id").cast(nw.Int64), sales).sort("Id").to_native()


def _window_of(rows: Parts, features: FeatureOptions, split: Split) -> Split:
    """The split, with the window that its blocks come from where it has none: a part does not tell that of all."""
    return (
        split
        if split.kind == "window"
        else horizon_blocks(split, nw.from_native(rows.scan()), features.horizon).window()
    )


def _add_keys(rows: Any, files: dict[str, Any]) -> Any:
    """Add DayNumber, StoreDay and the kind of holiday to typed sales; check that a store has one row a date.

    ``files`` holds the frames to name in messages; the last one is all rows.
    """
    day = nw.col("DayNumber")
    rows = rows.with_columns(
        DayNumber=day_number(nw.col("Date")),
        HolidayKind=nw.col("StateHoliday"),
        StateHoliday=nw.col("StateHoliday") != "0",
    )
    rows = rows.with_columns((nw.col("Store").cast(nw.Int64) * _DAYS_A_STORE + day).alias(_KEY))
    if isinstance(rows, nw.DataFrame):  # others are put in order once, at the end
        rows = rows.sort(_KEY)
    facts = rows.select(
        nw.len().alias("rows"), nw.col(_KEY).n_unique(), day.min().alias("first"), day.max().alias("last")
    )
    n_rows, n_keys, first, last = facts.lazy().collect().row(0)
    if first < 0 or last >= _DAYS_A_STORE:
        raise DataError(f"{[*files][-1]}: dates have to lie between 1970-01-01 and 2149-06-06")
    if n_keys < n_rows:
        for name, frame in files.items():
            require_unique(frame, ["Store", "Date"], name=name)
    return as_categories(rows, ["HolidayKind"])


def add_lagged_conditions(rows: Any, days: Any, blocks: HorizonBlocks, *, name: str) -> Any:
    """Add date parts of each row's own day, and the conditions of its state on the day before its block.

    Rows whose block begins before the first day of the tables take the conditions of that day.

    Args:
        rows: Narwhals frame with State, Date and DayNumber; days of the future may be without conditions.
        days: conditions by State and DayNumber; no row of a state, or an end before a block begins, is a DataError.
        name: of the rows in messages.
    """
    dates = rows.select("Date", "DayNumber").unique()
    dates = add_date_parts(dates).with_columns(**date_features()).drop("Date")
    rows = rows.join(dates, on=["DayNumber"], how="left").with_columns(Block=blocks.number(nw.col("DayNumber")))
    first_known = days.group_by("State").agg(nw.col("DayNumber").min().alias("_first"))
    asked = nw.concat(
        [
            first_known.with_columns(block(number), _origin=nw.lit(blocks.first_day(number) - 1))
            for number in blocks.numbers(*day_limits(rows))
        ]
    )
    origin = nw.max_horizontal("_first", "_origin").cast(nw.Int32)
    asked = asked.select("State", "Block", DayNumber=origin).join(days, on=["State", "DayNumber"], how="inner")
    table_name = "both weather.csv and googletrend.csv on the day before its block"
    conditions = asked.drop("DayNumber")
    found = lookup(rows, conditions, ["State", "Block"], name=name, table_name=table_name, show=["State", "Date"])
    return found.drop("Block")
