"""The true effects of the simulated ratings, by hand and by drawing."""

import math

import numpy as np
import pytest

from embedline.pipelines.movielens.simulator import (
    HALF_STARS,
    MEAN,
    WHOLE_STARS,
    Scale,
    Tastes,
    least_mse,
    rate,
    rating_shares,
)


def test_liking_by_hand() -> None:
    tastes = Tastes(
        user_bias=np.array([0.5, -0.25]),
        film_bias=np.array([1.0, 0.0, -1.0]),
        user_factors=np.array([[1.0, 2.0], [0.0, -1.0]]),
        film_factors=np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.25]]),
    )
    liking = tastes.liking(np.array([0, 1, 1]), np.array([0, 1, 2]))
    np.testing.assert_allclose(liking, [MEAN + 0.5 + 1.0 + 1.5, MEAN - 0.25, MEAN - 0.25 - 1.0 - 0.25])


def test_shares_by_hand() -> None:
    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    (shares,) = rating_shares(np.array([3.2]), 0.5)
    borders = [phi((border - 3.2) / 0.5) for border in (1.5, 2.5, 3.5, 4.5)]
    np.testing.assert_allclose(shares, np.diff([0.0, *borders, 1.0]), rtol=1e-12)
    assert rating_shares(np.array([-9.0, 9.0, 2.9]), 0.0).tolist() == [
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("scale", [WHOLE_STARS, HALF_STARS])
@pytest.mark.parametrize("noise", [0.1, 0.6, 1.5])
def test_shares_mean_and_floor_are_those_of_drawn_ratings(scale: Scale, noise: float) -> None:
    for liking in (0.7, 2.4, 3.5, 4.9):
        likings = np.full(200_000, liking)
        drawn = rate(likings, noise, np.random.default_rng(7), scale)
        found = [(drawn == level).mean() for level in scale.levels]
        expected = rating_shares(likings[:1], noise, scale)[0]
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(200_000))
        assert least_mse(likings[:1], noise, scale) == pytest.approx(drawn.var(), rel=0.03, abs=1e-3)
