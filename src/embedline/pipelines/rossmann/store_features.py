"""Inputs of the model for single days of stores: the features of :mod:`.nodes` in NumPy, their encodings looked up.

The nodes take the time of their 400 expressions, however few the rows are. Here a request takes some 150 operations on
the calendars of its stores. Each feature is a whole number, or a function of one, or stands in a table by store, by
state and day, or by store, weekday, promotion and block. What the model reads of these numbers and tables is made once,
by the nodes' own expressions and the encoder: it equals what it reads in a run to the last bit.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from embedline.frames.days import EARLIEST_YEAR
from embedline.pipelines.rossmann import calendar_features as calendar
from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.horizon import HorizonBlocks, horizon_blocks
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.recency import RECENCY, grid_row, row_number
from embedline.pipelines.tabular.arrays import TableArrays, to_arrays
from embedline.pipelines.tabular.columns import Split
from embedline.pipelines.tabular.encoder import Encoder, encode

DAY = ("Store", "Date", "DayOfWeek", "Open", "Promo", "StateHoliday", "SchoolHoliday")  # the columns of a day
Day = tuple[str, ...]  # their values, as test.csv has them
Integers = NDArray[np.int64]

_FLAGS = ("Open", *nodes.EVENTS)
_KINDS = ("0", *string.ascii_lowercase)  # of holidays
_DAY_BITS = 16  # of StoreDay
_DAY_MASK = 2**_DAY_BITS - 1
_LEAST_SPAN = 1_024  # days: CompetitionSince stays as it is beyond 540
_YEAR = 366  # days after the last conditions for which lagged ones are looked up
_WHOLE = (
    *("DayOfWeek", "Open", "Promo", "SchoolHoliday", "Days", "CompetitionMonthsOpen", "Promo2Weeks", "Promo2Active"),
    *("OpenDaysInWeek", "PromoDay", *(f"{event}{side}" for event in nodes.EVENTS for side in ("_bw", "_fw"))),
)
_REAL = (
    *(f"{side}{event}" for event in nodes.EVENTS for side in ("After", "Before", "DaysSince", "DaysUntil")),
    *("ClosedBefore", "ClosedAfter", "DaysClosedBefore", "DaysClosedAfter", "DaysSinceReopening", "DaysUntilClosing"),
    *(f"{flag}{suffix}" for suffix, flags in calendar.NEIGHBOURS.values() for flag in flags),
)


class StoreFeatures:
    """The inputs of days that replace days in the calendars of their stores, or extend them.

    Attributes:
        complete: whether it knows every input of the encoder; dates and texts it does not.
    """

    def __init__(
        self, encoder: Encoder, tables: Mapping[str, pl.DataFrame], features: FeatureOptions, split: Split
    ) -> None:
        self._features, self._blocks = features, horizon_blocks(split, None, features.horizon)
        days = tables["calendar"].sort("StoreDay")
        self._keys, self._flags = _integers(days, "StoreDay"), np.stack([_integers(days, name) == 1 for name in _FLAGS])
        first, last = int(days["DayNumber"].min()), int(days["DayNumber"].max())  # type: ignore[arg-type]
        self._calendar_begins = first

        stores = tables["stores"].sort("Store")
        self._stores = {name: _integers(stores, name) for name in ("Store", "CompetitionOpenDay", "Promo2Day")}
        self._competes = _integers(stores, "CompetitionOpenSinceYear") >= EARLIEST_YEAR
        self._has_promo2 = _integers(stores, "Promo2SinceYear") >= EARLIEST_YEAR
        self._months = _integers(stores, "Promo2Months")

        conditions = _conditions(tables, features, split, self._blocks, first)
        number, states = _integers(conditions, "DayNumber"), conditions["State"].cast(pl.String)
        self._first = min((*number.tolist(), first))
        place = {state: place for place, state in enumerate(states.unique())}
        self._state = np.array([place.get(state, len(place)) for state in stores["State"].cast(pl.String)], np.int64)
        self._conditions = np.full((len(place) + 1, max((*number.tolist(), last)) - self._first + 1), -1)
        self._conditions[[place[state] for state in states], number - self._first] = np.arange(len(number))

        recency = pl.DataFrame(nw.from_native(tables["recency"]).with_columns(_row=grid_row()).to_native()).sort("_row")
        self._cells = _integers(recency, "_row")
        no_recency = recency.clear(1).select(RECENCY)  # a row that is missing

        dates = (self._first + np.arange(self._conditions.shape[1])).astype("datetime64[D]").astype(str).tolist()
        texts = {"Store": stores["Store"].cast(pl.String), "Date": dates, "StateHoliday": _KINDS}
        self._texts = [{text: place for place, text in enumerate(texts.get(name, "01"))} for name in DAY]
        self._texts[DAY.index("DayOfWeek")] = {str(weekday): weekday for weekday in range(1, 8)}

        self._missing = max(_LEAST_SPAN, self._conditions.shape[1] + 1)  # above all numbers
        sources = [stores, conditions, pl.concat([recency.select(RECENCY), no_recency]), _functions(self._missing)]
        # The groups of target means are encoded as further categories.
        whole = encoder.model_copy(update={"categorical": {**encoder.categorical, **encoder.groups}})
        self._encoder, self._codes = encoder, whole.code_columns
        self.complete = not encoder.derived and {*whole.inputs} <= {name for each in sources for name in each.columns}
        self._encoded = [EncodedTable(source, whole) for source in sources] if self.complete else []

    def inputs(self, days: Sequence[Day]) -> tuple[TableArrays, Integers] | None:
        """Inputs of the different ones among ``days`` [N], by store and date, and the place of each day among them [N].

        None where the nodes have to say what is wrong with a day, or know how it is meant: a text that is not written
        as files have it, an unknown store, a day without weather or trends, two days that differ for one date.
        """
        if not self.complete:
            return None
        try:
            asked = np.array([[known[text] for known, text in zip(self._texts, day, strict=True)] for day in days]).T
        except KeyError:
            return None
        keys = (self._stores["Store"][asked[0]] << _DAY_BITS) + self._first + asked[1]
        keys, first, place = np.unique(keys, return_index=True, return_inverse=True)
        conditions = self._conditions[self._state[asked[0]], asked[1]]
        if (conditions < 0).any() or (asked != asked[:, first[place]]).any():
            return None
        store, _, weekday, is_open, promo, kind, school = asked[:, first]
        found = {"DayOfWeek": weekday, "HolidayKind": kind, "StateHoliday": kind > 0}
        found |= {"Open": is_open, "Promo": promo, "SchoolHoliday": school}
        found |= self._calendar(keys, store, np.stack([found[name] == 1 for name in _FLAGS]))
        found |= self._row_features(keys & _DAY_MASK, store, found)
        block = _block(keys & _DAY_MASK, self._blocks)
        cell = row_number(keys >> _DAY_BITS, weekday, promo, block)
        row = np.searchsorted(self._cells, cell).clip(max=len(self._cells) - 1)
        recency = np.where(self._cells[row] == cell, row, len(self._cells))
        return self._gather([store, conditions[first], recency], found), place

    def _gather(self, rows: Sequence[Integers], found: Mapping[str, NDArray[np.integer]]) -> TableArrays:
        """The inputs, from the rows of three tables and the numbers behind the other features."""
        n_rows, encoder = len(rows[0]), self._encoder
        codes = np.empty((n_rows, len(self._codes)), np.int32)
        values = np.empty((n_rows, len(encoder.value_columns)), np.float32)
        *tables, numbers = self._encoded
        for table, row in zip(tables, rows, strict=True):
            codes[:, table.code_places], values[:, table.value_places] = table.codes[row], table.values[row]
        for known, places, names, into in (
            (numbers.codes, numbers.code_places, numbers.code_names, codes),
            (numbers.values, numbers.value_places, numbers.value_names, values),
        ):
            for column, (place, name) in enumerate(zip(places, names, strict=True)):
                into[:, place] = known[found[name] + (self._missing - 1), column]
        of_groups = {name: codes[:, self._codes.index(name)] for name in encoder.groups}
        for number, means in enumerate(encoder.target_means, start=len(encoder.continuous)):
            values[:, number] = means.standardised(of_groups)
        own = [self._codes.index(name) for name in encoder.code_columns]
        return TableArrays(torch.from_numpy(codes[:, own]), torch.from_numpy(values), None)

    def _calendar(self, asked: Integers, store: Integers, flags: NDArray[np.bool_]) -> dict[str, Integers]:
        """The numbers behind :func:`.nodes.build_calendar` of days that replace those in the calendar or extend it.

        Args:
            asked: StoreDay, int64 [N], sorted; ``store``: place of the store [N].
            flags: of :data:`_FLAGS`, bool [4, N].
        """
        own = self._stores["Store"][np.unique(store)] << _DAY_BITS
        begin, end = np.searchsorted(self._keys, own), np.searchsorted(self._keys, own + 2**_DAY_BITS)
        sizes = end - begin
        rows = np.arange(sizes.sum()) + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)
        keys, all_flags = self._keys[rows], self._flags[:, rows]
        at = np.searchsorted(keys, asked)
        is_new = (keys[at.clip(max=len(keys) - 1)] != asked) if len(keys) else np.ones(len(at), dtype=bool)
        if is_new.any():
            all_flags = np.insert(all_flags, at[is_new], flags[:, is_new], axis=1)
            keys = np.insert(keys, at[is_new], asked[is_new])
            at = np.searchsorted(keys, asked)
        all_flags[:, at] = flags
        return calendar_numbers(keys, all_flags, at, self._features, self._blocks, self._missing)

    def _row_features(self, day: Integers, store: Integers, found: Mapping[str, Integers]) -> dict[str, Integers]:
        """The numbers behind what :func:`.nodes.build_table` adds but for the recency features."""
        competes, has_promo2 = self._competes[store], self._has_promo2[store]
        opened, started = day - self._stores["CompetitionOpenDay"][store], day - self._stores["Promo2Day"][store]
        month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
        numbers = {
            "Days": day - min(self._calendar_begins, day.min()),
            "CompetitionMonthsOpen": competes * (opened // 30).clip(0, self._features.competition_months_cap),
            "Promo2Weeks": has_promo2 * (started // 7).clip(0, self._features.promo2_weeks_cap),
            "Promo2Active": has_promo2 * (started >= 0) * (self._months[store] >> month & 1),
            "CompetitionSince": np.where(competes, opened.clip(-_LEAST_SPAN + 1, _LEAST_SPAN - 1), self._missing),
        }
        for event, cap in calendar.EVENT_CAPS.items():
            for name, days in (("DaysSince", found[f"After{event}"]), ("DaysUntil", -found[f"Before{event}"])):
                numbers[f"{name}{event}"] = np.where(np.abs(days) == self._missing, cap, days.clip(0, cap))
        return numbers


class EncodedTable:
    """The inputs that come from the columns of a table, a row of codes and of values for each row of the table.

    Attributes:
        codes, values: int32 [N, V] and float32 [N, C].
        code_places, value_places: of these columns among those of the encoder; ``…_names``: the table's columns.
    """

    def __init__(self, table: pl.DataFrame, encoder: Encoder) -> None:
        part = encoder.model_copy(
            update={
                "categorical": {name: each for name, each in encoder.categorical.items() if name in table.columns},
                "continuous": {name: each for name, each in encoder.continuous.items() if name in table.columns},
                "flags": tuple(name for name in encoder.flags if name in table.columns),
                **{
                    "groups": {},
                    "target_means": (),
                    "keys": (table.columns[0],),
                },  # a key: a frame without columns has no rows
            }
        )
        arrays = to_arrays(encode(nw.from_native(table, eager_only=True), part), part)
        self.codes, self.values = arrays.codes.numpy(), arrays.continuous.numpy()
        self.code_places = [encoder.code_columns.index(name) for name in part.code_columns]
        self.value_places = [encoder.value_columns.index(name) for name in part.value_columns]
        self.code_names = (*part.categorical, *part.flags)
        self.value_names = (*part.continuous,)


@dataclass(frozen=True)
class AskedDays:
    """Some rows of the calendars of stores, and what lies around them.

    Attributes:
        keys: StoreDay of all days of the stores, int64 [M], sorted.
        at: the asked rows [N]; ``begin``: the first rows of their stores.
        end_of: the last row that is known to each [M].
        missing: number that stands for a missing one.
    """

    keys: Integers
    at: Integers
    begin: Integers
    end_of: Integers
    missing: int

    @classmethod
    def of(cls, keys: Integers, at: Integers, blocks: HorizonBlocks | None, missing: int) -> Self:
        """Rows to which all is known until the end of the calendar or, with ``blocks``, of their block."""
        part = store = keys >> _DAY_BITS
        if blocks is not None:
            part = (store << 2 * _DAY_BITS) + _block(keys & _DAY_MASK, blocks)
        ends = np.flatnonzero(np.append(part[1:] != part[:-1], True))
        end_of = np.repeat(ends, np.diff(ends, prepend=-1))
        return cls(keys, at, np.searchsorted(keys, store[at] << _DAY_BITS), end_of, missing)

    @property
    def end(self) -> Integers:
        """The last rows that are known to the asked ones [N]."""
        return self.end_of[self.at]

    def since(self, found: Integers, step: int = 0) -> Integers:
        """Days since the last of the ``found`` rows at or before each asked one, or ``step`` rows from there."""
        row = np.append(-1, found)[np.searchsorted(found, self.at + step, side="right")]
        return np.where(row >= self.begin, self.keys[self.at] - self.keys[row], self.missing)

    def until(self, found: Integers, step: int = 0) -> Integers:
        """Days until the first of the ``found`` rows at or after each asked one, or ``step`` rows from there."""
        row = np.append(found, len(self.keys))[np.searchsorted(found, self.at + step)]
        days = self.keys[row.clip(max=len(self.keys) - 1)] - self.keys[self.at]
        return np.where(row <= self.end, days, self.missing)


def calendar_numbers(
    keys: Integers,
    flags: NDArray[np.bool_],
    at: Integers,
    features: FeatureOptions,
    blocks: HorizonBlocks,
    missing: int,
) -> dict[str, Integers]:
    """The numbers behind the features of :func:`.nodes.build_calendar`.

    Args:
        keys: StoreDay of all days of some stores, int64 [M], sorted.
        flags: of :data:`_FLAGS`, bool [4, M].
        at: the rows that are asked for, [N].
        missing: number that stands for a missing one.
    """
    windowed = features.calendar == "window"
    asked = AskedDays.of(keys, at, blocks if windowed else None, missing)
    own, begin, end = keys[at], asked.begin, asked.end
    known_ahead = keys[end] - own  # days
    numbers: dict[str, Integers] = {}
    for event, happens in zip(_FLAGS[1:], flags[1:], strict=True):
        rows, total = np.flatnonzero(happens), np.append(0, np.cumsum(happens))
        coming = asked.until(rows)
        numbers[f"After{event}"] = asked.since(rows)
        numbers[f"Before{event}"] = np.where(coming == missing, missing, -coming)
        numbers[f"{event}_bw"] = total[at + 1] - total[np.maximum(at - features.window + 1, begin)]
        numbers[f"{event}_fw"] = total[np.minimum(at + features.window - 1, end) + 1] - total[at]
    for offset, (suffix, names) in calendar.NEIGHBOURS.items():
        row = np.searchsorted(keys, own + offset).clip(max=len(keys) - 1)
        there = keys[row] == own + offset
        if windowed:
            there &= offset <= known_ahead
        for name in names:
            numbers[f"{name}{suffix}"] = np.where(there, flags[_FLAGS.index(name), row], missing)
    promo = flags[_FLAGS.index("Promo")]
    starts = promo.copy()
    starts[1:] &= ~(promo[:-1] & (np.diff(keys) == 1))
    numbers["PromoDay"] = np.where(promo[at], asked.since(np.flatnonzero(starts)) + 1, 0)
    weekday = ((own & _DAY_MASK) + 3) % 7  # from Monday, 0
    opened = np.append(0, np.cumsum(flags[0]))
    last = np.minimum(np.searchsorted(keys, own - weekday + 7), np.searchsorted(keys, (own | _DAY_MASK) + 1))
    week = opened[last] - opened[np.maximum(np.searchsorted(keys, own - weekday), begin)]
    numbers["OpenDaysInWeek"] = np.where(windowed & (6 - weekday > known_ahead), missing, week)
    return numbers | _closures(asked, np.flatnonzero(flags[0]), known_ahead if windowed else None)


def _closures(asked: AskedDays, rows: Integers, known_ahead: Integers | None) -> dict[str, Integers]:
    """The numbers behind the features of closed days, from the ``rows`` with an open store.

    Args:
        known_ahead: days after each asked one that are known; None where nothing is said of those after the calendar.
    """
    missing, keys, end_of = asked.missing, asked.keys, asked.end_of
    before, after = (
        np.where(gap == missing, missing, gap - 1) for gap in (asked.since(rows, -1), asked.until(rows, 1))
    )
    if known_ahead is not None:  # it may stay closed for longer
        after = np.where((after == missing) & (known_ahead > 0), known_ahead, after)
    gaps, same_store = keys[rows[1:]] - keys[rows[:-1]] - 1, keys[rows[1:]] >> _DAY_BITS == keys[rows[:-1]] >> _DAY_BITS
    is_long = same_store & (gaps >= calendar.LONG_CLOSURE)
    reopenings = rows[1:][is_long]
    is_known = np.append(rows[1:], len(keys)) <= end_of[rows]
    ahead = np.where(is_known, np.append(gaps, 0), 0 if known_ahead is None else keys[end_of[rows]] - keys[rows])
    since, until = asked.since(reopenings), asked.until(rows[ahead >= calendar.LONG_CLOSURE])
    length = np.append(missing, gaps[is_long])[np.searchsorted(reopenings, asked.at, side="right")]
    return {
        "ClosedBefore": before,
        "ClosedAfter": after,
        **{
            f"DaysClosed{side}": np.where(gap == missing, missing, np.minimum(gap, calendar.GAP_CAP))
            for side, gap in (("Before", before), ("After", after))
        },
        "DaysSinceReopening": np.where(since <= calendar.SHORT_MEMORY, since, missing),
        "DaysUntilClosing": np.where(until <= calendar.SHORT_MEMORY, until, missing),
        "SinceReopening": since,
        "UntilClosing": until,
        "ClosureLength": np.where(since <= calendar.LONG_MEMORY, length, missing),
    }


def _functions(missing: int) -> pl.DataFrame:
    """The features that are functions of a number, for each from ``1 - missing`` to ``missing - 1`` and for none."""
    numbers = pl.DataFrame({"number": pl.Series([*range(1 - missing, missing), None], dtype=pl.Int32)})
    kind = pl.col("number").replace_strict(dict(enumerate(_KINDS)), default=None, return_dtype=pl.String)
    rows = numbers.select(
        pl.col("number").cast(pl.Float32).alias("days"),
        kind.alias("HolidayKind"),
        (pl.col("number") == 1).alias("StateHoliday"),
        *(pl.col("number").alias(name) for name in _WHOLE),
        *(pl.col("number").cast(pl.Float32).alias(name) for name in _REAL),
    )
    days = nw.col("days")
    gone = nw.when(days >= 0).then(days)
    found = nw.from_native(rows).with_columns(
        SinceReopening=calendar.fading(gone, calendar.REOPENING_SCALE),
        UntilClosing=calendar.fading(gone, calendar.CLOSING_SCALE),
        ClosureLength=calendar.log_length(gone),
        CompetitionSince=calendar.half_years(days).fill_null(calendar.UNKNOWN_COMPETITION).cast(nw.Float32),
    )
    return found.drop("days").to_native()


def _conditions(
    tables: Mapping[str, pl.DataFrame], features: FeatureOptions, split: Split, blocks: HorizonBlocks, first: int
) -> pl.DataFrame:
    """Weather, trends and date parts of each state and day that :func:`.nodes.join_tables` knows, and DayNumber."""
    key = ["State", "DayNumber"]
    known = tables["weather"].select(*key, "Date").join(tables["trends"].select(key), on=key)
    if features.conditions == "lagged":
        limits = known.group_by("State").agg(begins=pl.col("DayNumber").min(), ends=pl.col("DayNumber").max())
        days = pl.int_ranges(pl.min_horizontal("begins", first), pl.col("ends") + _YEAR, dtype=pl.Int32)
        every = limits.with_columns(DayNumber=days).explode("DayNumber")
        number = blocks.number(nw.col("DayNumber"))
        origin = nw.max_horizontal("begins", blocks.first_day(number) - 1).cast(nw.Int32)
        every = nw.from_native(every).with_columns(_origin=origin).to_native()
        every = every.join(known.select("State", _origin="DayNumber"), on=["State", "_origin"], how="semi")
        known = every.select(*key, Date=pl.col("DayNumber").cast(pl.Date))
    ones = tables["stores"].unique("State", keep="first", maintain_order=True).select("Store", "State")
    rows = known.join(ones, on="State").select("Store", "Date", "DayNumber", Customers=None)
    joined: pl.DataFrame = nodes.join_tables(
        rows, tables["stores"], tables["weather"], tables["trends"], features, split
    )
    return joined.drop(name for name in tables["stores"].columns if name != "State" and name in joined.columns)


def _block(day: Integers, blocks: HorizonBlocks) -> Integers:
    """As :meth:`.HorizonBlocks.number`."""
    return np.minimum((day - blocks.start) // blocks.length, 1)


def _integers(table: pl.DataFrame, name: str) -> Integers:
    return table[name].cast(pl.Int64).to_numpy()
