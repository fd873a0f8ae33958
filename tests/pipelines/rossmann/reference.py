"""The features of a store's rows computed one row at a time, in plain Python: slow, and plain to read."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np

EVENTS = ("SchoolHoliday", "StateHoliday", "Promo")
WEATHER = (
    *("Max_TemperatureC", "Mean_TemperatureC", "Min_TemperatureC", "Max_Humidity", "Mean_Humidity", "Min_Humidity"),
    *("Max_Wind_SpeedKm_h", "Mean_Wind_SpeedKm_h", "CloudCover"),
)
Row = dict[str, Any]


def reference_table(tables: Mapping[str, list[dict[str, str]]]) -> list[Row]:
    """Every row of ``rossmann.table``, sorted by store and date."""
    states = {row["Store"]: row["State"] for row in tables["store_states"]}
    names = {row["State"]: row["StateName"] for row in tables["state_names"]}
    weather = {(row["file"], row["Date"]): row for row in tables["weather"]}
    trends = {(row["file"], day): int(row["trend"]) for row in tables["googletrend"] for day in _days(row["week"])}
    stores = {row["Store"]: row for row in tables["store"]}
    first = min(row["Date"] for row in tables["train"])
    table: list[Row] = []
    for store in sorted(stores, key=int):
        rows = [row for name in ("train", "test") for row in tables[name] if row["Store"] == store]
        rows.sort(key=lambda row: row["Date"])
        for number, row in enumerate(rows):
            if row.get("Sales") == "0":
                continue
            day, state = date.fromisoformat(row["Date"]), states[store]
            region = {"HB,NI": "NI"}.get(state, state)
            table.append(
                {
                    "Store": int(store),
                    "Date": row["Date"],
                    "Days": (day - date.fromisoformat(first)).days,
                    "Sales": int(row["Sales"]) if "Sales" in row else None,
                    "Id": int(row["Id"]) if "Id" in row else None,
                    "Open": int(row["Open"] or 1),
                    "DayOfWeek": day.isoweekday(),
                    **{"Year": day.year, "Month": day.month, "Day": day.day, "Week": day.isocalendar().week},
                    "State": state,
                    "trend": trends[f"Rossmann_DE_{region}", row["Date"]],
                    "trend_DE": trends["Rossmann_DE", row["Date"]],
                    **_weather(weather[names[state], row["Date"]]),
                    **_durations(stores[store], day),
                    **_surroundings(rows, number),
                }
            )
    return table


def _days(week: str) -> Iterator[str]:
    day, last = (date.fromisoformat(text) for text in week.split(" - "))
    while day <= last:
        yield day.isoformat()
        day += timedelta(days=1)


def _weather(row: dict[str, str]) -> Row:
    measures = {name: float(np.float32(row[name])) if row[name] else None for name in WEATHER}
    return {**measures, "Events": row["Events"] or None}


def _durations(store: dict[str, str], day: date) -> Row:
    year, month = int(store["CompetitionOpenSinceYear"] or 1900), int(store["CompetitionOpenSinceMonth"] or 1)
    promo_year, promo_week = int(store["Promo2SinceYear"] or 1900), int(store["Promo2SinceWeek"] or 1)
    competition = (day - date(year, month, 15)).days if year >= 1990 else 0
    promo2 = (day - date.fromisocalendar(promo_year, promo_week, 1)).days if promo_year >= 1990 else 0
    return {
        "CompetitionOpenSinceYear": year,
        "Promo2SinceYear": promo_year,
        "CompetitionMonthsOpen": min(max(competition, 0) // 30, 24),
        "Promo2Weeks": min(max(promo2, 0) // 7, 25),
    }


def _surroundings(rows: list[dict[str, str]], number: int) -> Row:
    """Elapsed days, counts and closed days of one row among all rows of its store, sorted by date."""
    day = date.fromisoformat(rows[number]["Date"])
    found: Row = {}
    for event in EVENTS:
        past = [row for row in rows[: number + 1] if row[event] != "0"]
        coming = [row for row in rows[number:] if row[event] != "0"]
        found[f"After{event}"] = (day - date.fromisoformat(past[-1]["Date"])).days if past else None
        found[f"Before{event}"] = (day - date.fromisoformat(coming[0]["Date"])).days if coming else None
        found[f"{event}_bw"] = sum(row[event] != "0" for row in rows[max(number - 6, 0) : number + 1])
        found[f"{event}_fw"] = sum(row[event] != "0" for row in rows[number : number + 7])
    earlier = next((row for row in reversed(rows[:number]) if row["Open"] != "0"), None)
    later = next((row for row in rows[number + 1 :] if row["Open"] != "0"), None)
    found["ClosedBefore"] = (day - date.fromisoformat(earlier["Date"])).days - 1 if earlier else None
    found["ClosedAfter"] = (date.fromisoformat(later["Date"]) - day).days - 1 if later else None
    return found
