"""Ranks of the training rows as a scale: any distribution becomes a normal one, and a heavy tail loses its weight.

The rank of a value is the share of the training rows below it, those of the same value counting half:
``P(X < x) + P(X = x) / 2``. Its normal score is the point of the standard normal distribution that has this rank. It
rises with the value, and is the same for equal values however many they are.

At most 1000 quantiles of the training rows are kept, and ranks between them interpolated, in both directions where
several are equal, as scikit-learn's ``QuantileTransformer`` does it. DIFF(scikit-learn): that one sends the lowest and
the highest value to ±5.2 even where they are most of the rows, as the zeros of a capital gain are; here they have their
rank, and ranks end half a row before 0 and 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

N_QUANTILES = 1000


def fit_quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Quantiles at equal distances from 0 to 1, at most :data:`N_QUANTILES`, of float64 [N] without missing values."""
    quantiles = np.quantile(values, np.linspace(0.0, 1.0, min(N_QUANTILES, len(values))))
    return tuple(np.maximum.accumulate(quantiles).tolist())  # interpolating equal values may err by a rounding


def normal_scores(values: NDArray[np.float64], quantiles: Sequence[float], n_rows: int) -> NDArray[np.float64]:
    """Normal score of each value, float64 [N], by the ``quantiles`` of ``n_rows`` training rows."""
    import torch  # here, since only this scaling needs it; NumPy has no inverse of the normal distribution

    known, ranks = np.asarray(quantiles), np.linspace(0.0, 1.0, len(quantiles))
    upwards = np.interp(values, known, ranks)  # the highest rank of equal quantiles
    downwards = -np.interp(-values, -known[::-1], -ranks[::-1])  # the lowest one
    margin = 0.5 / n_rows
    shares = np.clip((upwards + downwards) / 2.0, margin, 1.0 - margin)
    return np.asarray(torch.special.ndtri(torch.from_numpy(shares)).numpy())
