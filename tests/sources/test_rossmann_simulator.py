"""Simulated tables: the layout and quirks of the originals, the known effects, the same bytes for the same seed."""

import dataclasses
import datetime as dt
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.pipelines.rossmann import simulator
from embedline.pipelines.rossmann.files import TABLE_COLUMNS, read_tables
from embedline.pipelines.rossmann.simulator import Conditions, expected_log_sales, noise_floor


def read(data: bytes) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(data), try_parse_dates=True, schema_overrides={"StateHoliday": pl.String})


@pytest.fixture(scope="module")
def raw() -> dict[str, bytes]:
    return simulator.generate_tables(simulator.GeneratorOptions())


@pytest.fixture(scope="module")
def train(raw: dict[str, bytes]) -> pl.DataFrame:
    return read(raw["train"])


def test_same_seed_same_bytes(raw: dict[str, bytes]) -> None:
    assert simulator.generate_tables(simulator.GeneratorOptions()) == raw
    other = simulator.generate_tables(simulator.GeneratorOptions(seed=1))
    assert {name for name in raw if other[name] != raw[name]} == set(raw) - {"state_names"}


def test_layout(raw: dict[str, bytes]) -> None:
    assert list(raw) == list(TABLE_COLUMNS)
    heads = {name: data.split(b"\n")[0].decode() for name, data in raw.items()}
    for name, columns in TABLE_COLUMNS.items():
        assert heads[name].replace('"', "").rstrip("\r") == ",".join(columns)
    assert heads["train"].startswith('"Store","DayOfWeek","Date"')
    assert heads["weather"].startswith("file,Date,Max_TemperatureC")
    lines = {name: data.decode().splitlines()[1:] for name, data in raw.items()}
    patterns = {
        "train": r'\d+,[1-7],\d{4}-\d\d-\d\d,\d+,\d+,[01],[01],"[0abc]","[01]"',
        "test": r'\d+,\d+,[1-7],2015-0[89]-\d\d,[01]?,[01],"[0abc]","[01]"',
        "store": r'\d+,"[abcd]","[abc]",\d*,\d*,\d*,[01],\d*,\d*,"(|Jan,Apr,Jul,Oct|Feb,May,Aug,Nov|Mar,Jun,Sept,Dec)"',
        "store_states": r'\d+,([A-Z]{2}|"HB,NI")',
        "state_names": r'[A-Za-z]+,([A-Z]{2}|"HB,NI")',
        "googletrend": r"Rossmann_DE(_[A-Z]{2})?,\d{4}-\d\d-\d\d - \d{4}-\d\d-\d\d,\d+",
        "weather": r"[A-Za-z]+,\d{4}-\d\d-\d\d(,-?\d+){12}(,(\d+\.0)?){3}(,\d+){2},(\d+\.0)?,\d+\.\d+"
        r",([0-8]\.0)?,[A-Za-z-]*,-?\d+",
    }
    for name, pattern in patterns.items():
        wrong = pl.Series(lines[name]).filter(~pl.Series(lines[name]).str.contains(f"^{pattern}$"))
        assert wrong.to_list() == [], name


def test_sales_rows(train: pl.DataFrame) -> None:
    assert train["Store"].n_unique() == 60
    assert (train["Date"].max(), train["Date"].min()) == (dt.date(2015, 7, 31), dt.date(2013, 1, 1))
    keys = train.select("Date", "Store")
    assert keys.equals(keys.sort(["Date", "Store"], descending=[True, False]))
    assert (train["DayOfWeek"] == train["Date"].dt.weekday()).all()
    assert not train.select("Store", "Date").is_duplicated().any()
    assert (train.filter(Open=0)["Sales"] == 0).all() and (train.filter(Open=0)["Customers"] == 0).all()
    assert 1 <= train.filter(Open=1, Sales=0).height <= 10
    assert train.filter(DayOfWeek=7)["Open"].mean() < 0.1
    assert set(train["StateHoliday"]) == {"0", "a", "b", "c"}
    assert 0.35 < train["Promo"].mean() < 0.42
    assert 0.1 < train["SchoolHoliday"].mean() < 0.25
    # As in the originals: 184 days without rows for a sixth of the stores, and some closed for weeks on end.
    rows = train.group_by("Store").len()["len"]
    assert sorted(set(rows)) == [942 - 184, 942] and (rows == 942 - 184).sum() == 10
    weekdays = train.filter(pl.col("DayOfWeek") < 7, pl.col("StateHoliday") == "0")
    closed = weekdays.group_by("Store").agg((pl.col("Open") == 0).sum().alias("days"))
    assert (closed["days"] >= 12).sum() == 6


def test_test_rows(raw: dict[str, bytes]) -> None:
    test = read(raw["test"])
    assert test["Id"].to_list() == list(range(1, test.height + 1))
    assert test.height == 46 * 48
    assert (test["Date"][0], test["Date"][-1]) == (dt.date(2015, 9, 17), dt.date(2015, 8, 1))
    blank = test.filter(pl.col("Open").is_null())
    assert blank.height == 11 and blank["Store"].n_unique() == 1 and (blank["DayOfWeek"] < 7).all()


def test_store_quirks(raw: dict[str, bytes]) -> None:
    store, states = read(raw["store"]), read(raw["store_states"])
    nulls = {name: store[name].null_count() for name in store.columns if name.startswith("Competition")}
    assert nulls == {"CompetitionDistance": 1, "CompetitionOpenSinceMonth": 19, "CompetitionOpenSinceYear": 19}
    assert set(store["StoreType"]) == {"a", "b", "c", "d"}
    assert store.filter(pl.col("CompetitionDistance").is_null())["CompetitionOpenSinceYear"].null_count() == 1
    assert store["CompetitionOpenSinceYear"].min() == 1900
    outside = store.filter(Promo2=0)
    assert outside.height == 29
    assert outside.select("Promo2SinceWeek", "Promo2SinceYear").null_count().row(0) == (29, 29)
    assert (outside["PromoInterval"].fill_null("") == "").all()
    assert "HB,NI" in states["State"]
    assert raw["store_states"].count(b"\r\n") == 61


def test_weather_and_trends(raw: dict[str, bytes]) -> None:
    weather, trends = read(raw["weather"]), read(raw["googletrend"])
    assert weather.height == 16 * 990 and weather["file"].n_unique() == 16
    assert 0.05 < weather["CloudCover"].is_null().mean() < 0.1
    assert 0.2 < weather["Events"].is_null().mean() < 0.35
    assert {"Rain", "Snow", "Fog-Rain", "Rain-Snow", "Rain-Thunderstorm", "Fog"} <= set(weather["Events"])
    low, mean, high = (weather[f"{name}_TemperatureC"] for name in ("Min", "Mean", "Max"))
    assert (low < mean).all() and (mean < high).all()
    january, july = (mean.filter(weather["Date"].dt.month() == month).mean() for month in (1, 7))
    assert july - january > 14
    assert trends.height == 14 * 148
    assert (trends["week"][0], trends["week"][147]) == ("2012-12-02 - 2012-12-08", "2015-09-27 - 2015-10-03")
    assert set(trends.group_by("file").agg(pl.col("trend").max())["trend"]) == {100}


def test_the_noise_is_the_only_difference_from_the_true_effects(raw: dict[str, bytes], train: pl.DataFrame) -> None:
    quiet = simulator.generate_tables(simulator.GeneratorOptions(noise=0))
    assert {name for name in raw if quiet[name] != raw[name]} == {"train"}
    quiet_train = read(quiet["train"])
    changed = {name for name in train.columns if not train[name].equals(quiet_train[name])}
    assert changed == {"Sales", "Customers"}
    sold = train["Sales"].to_numpy() > 0
    assert ((quiet_train["Sales"].to_numpy() > 0) == sold).all()
    noisy, best = train["Sales"].to_numpy()[sold], quiet_train["Sales"].to_numpy()[sold]
    noise = np.log(noisy / best)
    assert abs(noise.mean()) < 0.002
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    forecast = best * np.exp(-1.5 * 0.08**2)
    assert np.sqrt(np.mean((1 - forecast / noisy) ** 2)) == pytest.approx(simulator.noise_floor(0.08), rel=0.02)
    # The sales without noise show the effects of the promotion.
    logs = quiet_train.filter(pl.col("Sales") > 0).with_columns(pl.col("Sales").log())
    at = {(day, promo): mean for day, promo, mean in logs.group_by("DayOfWeek", "Promo").agg(pl.mean("Sales")).rows()}
    for day, effect in enumerate((0.42, 0.34, 0.29, 0.27, 0.22), start=1):
        assert at[day, 1] - at[day, 0] == pytest.approx(effect, abs=0.06)


def test_wrong_options_are_named() -> None:
    wrong = [("n_store", 10), ("n_stores", 3), ("noise", -0.1), ("noise", float("inf")), ("seed", -1)]
    wrong += [("last_day", "2012-01-01"), ("first_day", "yesterday"), ("first_day", "1990-12-31")]
    for name, value in wrong:
        with pytest.raises(ValidationError, match=name):
            simulator.GeneratorOptions.model_validate({name: value})
    right = {"first_day": "2013-01-01", "noise": 0}
    assert simulator.GeneratorOptions.model_validate(right).first_day == dt.date(2013, 1, 1)


def test_calendar() -> None:
    days = np.arange("2013-01-01", "2016-01-01", dtype="datetime64[D]")
    states = ["BY", "HE", "SN"]
    codes = simulator.state_holidays(days, states)
    found = {str(day): "".join(row) for day, row in zip(days, codes, strict=True)}
    expected = {
        "ccc": ["2014-12-25", "2013-12-26"],
        "bbb": ["2013-03-29", "2013-04-01", "2014-04-18", "2014-04-21", "2015-04-03", "2015-04-06"],  # Easter
        "aaa": ["2015-05-14", "2015-05-25", "2015-06-04"],
        "a00": ["2013-01-06", "2015-08-15"],
        "00a": ["2013-11-20", "2014-11-19", "2013-10-31"],
        "000": ["2015-07-15"],
    }
    assert {code: [day for day in listed if found[day] == code] for code, listed in expected.items()} == expected
    school = simulator.school_holidays(days, states)[days == np.datetime64("2015-07-28")][0]
    assert school.tolist() == [False, True, True]
    week = np.arange("2013-01-07", "2013-01-21", dtype="datetime64[D]")
    assert simulator.promo_days(week).tolist() == [True] * 5 + [False] * 9


def test_state_holidays_of_the_real_rows(real_data: Path) -> None:
    tables = read_tables(str(real_data / "rossmann.tgz"))
    real = read(tables["train"]).join(read(tables["store_states"]), on="Store")
    days = np.arange("2013-01-01", "2015-08-01", dtype="datetime64[D]")
    states = sorted(set(real["State"]))
    keys = {"Date": np.repeat(days, len(states)), "State": np.tile(states, len(days))}
    ours = pl.DataFrame({**keys, "ours": simulator.state_holidays(days, states).ravel()})
    joined = real.join(ours, on=["Date", "State"])
    assert joined.height == real.height
    wrong = joined.filter(pl.col("ours") != pl.col("StateHoliday"))
    assert wrong.group_by("Date", "State", "StateHoliday", "ours").len().sort("Date", "State").rows() == [
        (dt.date(2015, 1, 1), "TH", "0", "a", 36)  # the originals forget New Year 2015 in Thuringia
    ]


FAR = 99


@pytest.fixture
def quiet() -> Conditions:
    """Monday 10 and Tuesday 11 June 2013, two stores of types a and b, every effect but weekday and season at rest."""
    of_day = {"days": np.array(["2013-06-10", "2013-06-11"], dtype="datetime64[D]"), "promo": np.array([False, False])}
    of_day |= {"trend_national": np.array([65, 65])}
    of_store = {
        "levels": np.array([8.0, 9.0]),
        "types": np.array([0, 1]),
        "competition_distance": np.array([np.nan, 600]),
    }
    nothing = dict.fromkeys(("school_holiday", "promo2", "rain", "snow"), np.zeros((2, 2), dtype=bool))
    rest = {"days_to_holiday": FAR, "days_since_holiday": FAR, "competition_months": np.nan, "temperature": 10.0}
    at_rest = {name: np.full((2, 2), value) for name, value in {**rest, "trend": 65}.items()}
    return Conditions(**of_day, **of_store, **nothing, **at_rest)


def test_levels_weekdays_and_season(quiet: Conditions) -> None:
    season = [0.04 * np.cos(2 * np.pi * day / 365.25) + 0.03 * (159 + day) / 365.25 for day in (1, 2)]
    expected = [[8.0 + 0.03 + season[0], 9.0 + 0.04 + season[0]], [8.0 - 0.03 + season[1], 9.0 - 0.03 + season[1]]]
    np.testing.assert_allclose(expected_log_sales(quiet), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ({"promo": np.array([True, False])}, [[0.42, 0.42 * 0.45], [0, 0]]),
        ({"days_to_holiday": np.array([[1, 2], [3, 4]])}, [[0.15, 0.08], [0.04, 0]]),
        ({"days_since_holiday": np.array([[1, 2], [3, 0]])}, [[0.08, 0.03], [0, 0]]),
        ({"school_holiday": np.array([[True, False], [False, True]])}, [[0.03, 0], [0, 0.03]]),
        # Store 0 has no distance. Store 1's rival, 600 m away, opens in a month or has been open for 48.
        ({"competition_months": np.array([[12, -1], [12, 48]])}, [[0, 0], [0, -0.12 * np.exp(-0.2)]]),
        ({"competition_months": np.array([[6, 6], [6, 12]])}, np.array([[0, -0.03], [0, -0.06]]) * np.exp(-0.2)),
        ({"promo2": np.array([[True, False], [False, False]])}, [[0.04, 0], [0, 0]]),
        ({"temperature": np.array([[20.0, 0.0], [10.0, 10.0]])}, [[0.02, -0.02], [0, 0]]),
        ({"rain": np.array([[True, False], [True, True]])}, [[-0.015, 0], [-0.015, -0.015]]),
        ({"snow": np.array([[True, False], [False, False]])}, [[-0.04, 0], [0, 0]]),
        ({"trend": np.array([[75, 65], [65, 55]])}, [[0.015, 0], [0, -0.015]]),
        ({"trend_national": np.array([65, 75])}, [[0, 0], [0.01, 0.01]]),
    ],
)
def test_each_effect(quiet: Conditions, change: dict[str, np.ndarray], effect: list[list[float]]) -> None:
    changed = expected_log_sales(dataclasses.replace(quiet, **change))  # type: ignore[arg-type]
    np.testing.assert_allclose(changed - expected_log_sales(quiet), effect, atol=1e-12)


def test_christmas_and_january(quiet: Conditions) -> None:
    def on(day: str) -> float:
        days = np.array([day, day], dtype="datetime64[D]")
        return float(expected_log_sales(dataclasses.replace(quiet, days=days))[0, 0])

    # A week apart: weekday and the rest equal but for a little of the yearly cycle.
    assert on("2013-12-23") - on("2013-12-16") == pytest.approx(0.3 * (1 - (16 / 23) ** 2), abs=0.005)
    assert on("2014-01-10") - on("2014-01-17") == pytest.approx(-0.08, abs=0.005)


@pytest.mark.parametrize("noise", [0.05, 0.08, 0.3])
def test_the_noise_floor_is_the_least_of_all_forecasts(noise: float) -> None:
    shares = np.exp(noise * np.random.default_rng(0).standard_normal(2_000_000))  # sales over their median

    def error(c: float) -> float:
        return float(np.sqrt(np.mean((1 - c / shares) ** 2)))

    best = np.exp(-1.5 * noise**2)
    assert error(best) == pytest.approx(noise_floor(noise), rel=2e-3)
    assert error(best) < min(error(best * 1.01), error(best * 0.99), error(1.0))
    assert noise_floor(0) == 0

    sales = np.rint(4000 * shares)  # as in the files: whole numbers
    assert np.sqrt(np.mean((1 - best * 4000 / sales) ** 2)) == pytest.approx(error(best), rel=1e-4)
