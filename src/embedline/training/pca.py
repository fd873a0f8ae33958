"""Principal components: learned vectors in a plane."""

import numpy as np
from numpy.typing import NDArray


def principal_components(vectors: NDArray[np.floating], n_components: int = 2) -> NDArray[np.float64]:
    """Project rows [N, D] on their first principal components, [N, n_components], zero-padded where D is smaller.

    The sign of each axis is fixed (its largest loading is positive), so that a picture does not flip between runs.
    """
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:n_components]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    projected = centred @ (axes * signs[:, None]).T
    return np.pad(projected, ((0, 0), (0, n_components - projected.shape[1])))
