"""The outputs of an ensemble's members, averaged."""

import numpy as np
import pytest

from embedline.training.ensemble import weighted_mean


def test_members_count_as_much_as_they_weigh() -> None:
    first, second = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 2.0], [-1.0, 0.0]])
    assert weighted_mean([first, second], [3.0, 1.0]).tolist() == [[2.0, 2.0], [2.0, 3.0]]
    assert weighted_mean([first, second], [0.75, 0.25]).tolist() == [[2.0, 2.0], [2.0, 3.0]]  # ratios alone count
    assert weighted_mean([first, second], [1.0, 1.0]).tolist() == np.mean([first, second], axis=0).tolist()


def test_one_member_is_its_own_mean_to_the_last_bit() -> None:
    output = np.random.default_rng(0).normal(size=7).astype(np.float32)
    found = weighted_mean([output], [0.3])
    assert found.dtype == np.float64
    assert (found == output).all()


def test_the_mean_is_exact_where_a_single_precision_sum_is_not() -> None:
    outputs = [np.full(1, 1e8, dtype=np.float32), np.full(1, 1.0, dtype=np.float32)]
    assert weighted_mean(outputs, [0.5, 0.5]).tolist() == [50_000_000.5]


@pytest.mark.parametrize(("n_outputs", "n_weights"), [(2, 1), (1, 2), (0, 0)])
def test_each_output_needs_a_weight(n_outputs: int, n_weights: int) -> None:
    with pytest.raises(ValueError, match=f"need a weight for each output, got {n_weights} for {n_outputs}"):
        weighted_mean([np.zeros(3)] * n_outputs, [1.0] * n_weights)
