"""The true effects of the simulated ratings, by hand and by drawing."""

import math

import numpy as np
import pytest

from embedline.pipelines.movielens.simulator import (
    FILM_SD,
    GENRE_BIAS,
    GENRE_FACTORS,
    HALF_STARS,
    MATCH_SD,
    MEAN,
    USER_SD,
    WHOLE_STARS,
    Scale,
    Tastes,
    draw_tastes,
    expected_rating,
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


def test_levels() -> None:
    assert WHOLE_STARS.levels.tolist() == [1, 2, 3, 4, 5]
    assert HALF_STARS.levels.tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]


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
        (mean,) = expected_rating(likings[:1], noise, scale)
        assert drawn.mean() == pytest.approx(mean, abs=0.01)
        assert least_mse(likings[:1], noise, scale) == pytest.approx(drawn.var(), rel=0.03, abs=1e-3)


def test_the_floor_is_a_mean_over_likings_and_no_noise_means_none() -> None:
    likings = np.array([1.2, 3.5])
    each = [least_mse(likings[[k]], 0.6) for k in (0, 1)]
    assert least_mse(likings, 0.6) == pytest.approx(sum(each) / 2)
    assert least_mse(np.array([2.9, 4.2]), 0.0) == 0.0


def test_variances_are_what_the_effects_say() -> None:
    rng = np.random.default_rng(0)
    genres = rng.random((20_000, 400)) < 0.005  # many genres, so that those of one draw average out
    genres[0] = False
    tastes = draw_tastes(20_000, genres, rng)
    users, films = rng.integers(0, 20_000, 200_000), rng.integers(0, 20_000, 200_000)
    assert tastes.user_bias.std() == pytest.approx(USER_SD, rel=0.03)
    has_genre = genres.any(axis=1)
    assert tastes.film_bias[has_genre].std() == pytest.approx(FILM_SD, rel=0.05)
    assert tastes.film_bias[~has_genre].std() == pytest.approx(FILM_SD * math.sqrt(1 - GENRE_BIAS), rel=0.05)
    match = np.einsum("nk,nk->n", tastes.user_factors[users], tastes.film_factors[films])
    assert match[has_genre[films]].std() == pytest.approx(MATCH_SD, rel=0.05)
    assert match[~has_genre[films]].std() == pytest.approx(MATCH_SD * math.sqrt(1 - GENRE_FACTORS), rel=0.06)


def test_genres_explain_their_share() -> None:
    """Films with one and the same genre have a common part; the rest is their own."""
    genres = np.zeros((30_000, 2), dtype=bool)
    genres[:15_000, 0] = genres[15_000:, 1] = True
    factors = np.array([draw_tastes(2, genres, np.random.default_rng(seed)).film_factors for seed in range(40)])
    unit = factors * math.sqrt(3) / MATCH_SD
    assert unit[:, :15_000].var(axis=1).mean() == pytest.approx(1 - GENRE_FACTORS, rel=0.02)
    common = unit[:, :15_000].mean(axis=1)  # [seed, factor]: sqrt(share) times a standard normal
    assert common.var() == pytest.approx(GENRE_FACTORS, rel=0.4)
