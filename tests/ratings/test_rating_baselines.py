"""Damped biases by hand, and as the ridge means that they are."""

import numpy as np

from embedline.pipelines.ratings.evaluation import damped_biases

USERS = np.array([1, 1, 2, 3], dtype=np.int32)
ITEMS = np.array([1, 2, 1, 1], dtype=np.int32)
RATINGS = np.array([5.0, 3.0, 4.0, 2.0], dtype=np.float32)  # mean 3.5


def test_biases_by_hand() -> None:
    biases = damped_biases(USERS, ITEMS, RATINGS, 4, 3, user_damping=1.0, item_damping=2.0)
    assert biases.mean == 3.5
    item = [0.0, (1.5 + 0.5 - 1.5) / 5, -0.5 / 3, 0.0]  # item 3 has no rating
    np.testing.assert_allclose(biases.item, item)
    user = [0.0, (1.5 - item[1] - 0.5 - item[2]) / 3, (0.5 - item[1]) / 2, (-1.5 - item[1]) / 2, 0.0]
    np.testing.assert_allclose(biases.user, user)
    np.testing.assert_allclose(
        biases.predict(np.array([1, 0, 4]), np.array([2, 1, 0])), [3.5 + user[1] + item[2], 3.5 + item[1], 3.5]
    )


def test_without_damping_the_biases_are_means() -> None:
    biases = damped_biases(USERS, ITEMS, RATINGS, 3, 3, user_damping=0.0, item_damping=0.0)
    np.testing.assert_allclose(biases.item, [0.0, np.mean([1.5, 0.5, -1.5]), -0.5, 0.0])  # no 0 / 0 for item 3
    assert RATINGS.tolist() == [5.0, 3.0, 4.0, 2.0]  # untouched


def test_scores_are_the_predictions_of_all_items() -> None:
    biases = damped_biases(USERS, ITEMS, RATINGS, 3, 2, user_damping=1.0, item_damping=1.0)
    scores = biases.scores(np.array([3, 0], dtype=np.int32))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], biases.predict(np.array([3, 3]), np.array([1, 2])), rtol=1e-6)
    np.testing.assert_allclose(scores[1], biases.predict(np.array([0, 0]), np.array([1, 2])), rtol=1e-6)
