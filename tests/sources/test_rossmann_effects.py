"""The true effects of the simulated sales and their noise floor."""

import dataclasses

import numpy as np
import pytest

from embedline.pipelines.rossmann.simulator import Conditions, expected_log_sales, noise_floor

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
