"""The plane of the principal components keeps the distances of flat data, and does not flip."""

import numpy as np
import pytest

from embedline.training.pca import principal_components


def _distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None, :], axis=-1)


def test_components_reproduce_the_distances_of_flat_data() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(9, 2)) * [3.0, 1.0]
    axes, _ = np.linalg.qr(random.normal(size=(6, 2)))
    lifted = flat @ axes.T + random.normal(size=6)
    points = principal_components(lifted)
    assert points.shape == (9, 2)
    assert _distances(points) == pytest.approx(_distances(flat))
    assert points.mean(axis=0) == pytest.approx([0.0, 0.0])
    assert points[:, 0].var() > points[:, 1].var()
    assert (points[:, 0] * points[:, 1]).sum() == pytest.approx(0.0, abs=1e-9)


def test_the_sign_of_an_axis_is_that_of_its_largest_loading() -> None:
    steps = np.arange(5.0)[:, None]
    assert principal_components(steps * [1.0, -3.0])[:, 0] == pytest.approx((2 - np.arange(5.0)) * 10**0.5)
    assert principal_components(steps * [-1.0, 3.0])[:, 0] == pytest.approx((np.arange(5.0) - 2) * 10**0.5)


@pytest.mark.parametrize("rows", [[[1.0], [3.0]], [[2.0, 5.0, 1.0]]])
def test_missing_components_are_zero(rows: list[list[float]]) -> None:
    points = principal_components(np.array(rows))
    assert points.shape == (len(rows), 2)
    assert points[:, 1].tolist() == [0.0] * len(rows)
    assert abs(points[:, 0]).tolist() == pytest.approx([1.0, 1.0] if len(rows) == 2 else [0.0])
