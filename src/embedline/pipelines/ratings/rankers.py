"""Rankers: scores of all items from one row of interactions, so that a new user needs no training.

A ranker learns from a sparse matrix of users by items, float32 CSR [U, I], with values from 0 to 1: ratings over the
highest one, and 0 where there is none. It keeps nothing about the users: ``scores`` takes rows of interactions, be they
training rows or those of somebody new. A row without interactions scores every item alike, 0, but by popularity.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from embedline.errors import DataError, input_name

BLOCK_CELLS = 2**24  # cells of a dense block of items by items: 64 MB in float32
GRAM_BLOCKS = 8  # of columns at least: of a triangle in blocks only the diagonal ones are computed in vain
BLOCK_NUMBERS = 2**18  # numbers in the gathered factors of a block of rows: 1 MB in float32, which a cache holds
EASE_ROWS = 256  # mirrored at a time
EASE_BYTES = 12  # of a pair of items while EASE is solved: float64 in place, and the float32 that is kept

Weights = dict[str, Tensor]


class Ranker(Protocol):
    """A fitted ranker of ``n_items`` items."""

    kind: ClassVar[str]

    def scores(self, rows: sp.csr_array) -> NDArray[np.float32]:
        """Scores float32 [n, I] of all items for rows of interactions, CSR [n, I]."""
        ...

    def weights(self) -> Weights:
        """What the ranker has learned, for a model bundle."""
        ...


class Popularity:
    """How many users have chosen an item, the same order for everybody."""

    kind: ClassVar[str] = "popularity"

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts

    @classmethod
    def fit(cls, matrix: sp.csr_array, *, least: float = 0.0) -> "Popularity":
        """Count the interactions whose value is at least ``least``."""
        chosen = matrix.indices[matrix.data >= least]
        return cls(torch.from_numpy(np.bincount(chosen, minlength=matrix.shape[1]).astype(np.float32)))

    def scores(self, rows: sp.csr_array) -> NDArray[np.float32]:
        """The counts, for each row."""
        return np.tile(self.counts.numpy(), (rows.shape[0], 1))

    def weights(self) -> Weights:
        """``counts`` [I]."""
        return {"counts": self.counts}


class Ease:
    """EASE: a linear model of each item by all others, in closed form (Steck 2019, arXiv:1905.03375).

    ``min |X - XB|² + penalty |B|²`` with a zero diagonal of B: ``B = I - P / diag(P)``, ``P = (XᵀX + penalty I)⁻¹``.
    """

    kind: ClassVar[str] = "ease"

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    @classmethod
    def fit(cls, matrix: sp.csr_array, *, penalty: float, max_items: int | None = None) -> "Ease":
        """Solve for B.

        Args:
            penalty: ridge penalty, in squared values of ``matrix``; above 0.
            max_items: refuse more items than this.

        Raises:
            DataError: if there are more items, with the memory that they would take.
        """
        n = matrix.shape[1]
        require_items(n, max_items)
        gram = np.empty((n, n), dtype=np.float64, order="F")
        for start, block in gram_blocks(matrix, lower=True):
            gram[start:, start : start + block.shape[1]] = block
        gram[np.diag_indices(n)] += penalty
        factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)  # P overwrites XᵀX: one matrix in memory
        if failed:
            raise DataError(f"EASE's matrix of {n:,} items cannot be inverted with ease.penalty {penalty:g}: raise it")
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        upper = inverse.T  # LAPACK fills one triangle alone, here that above the diagonal in the order of C
        weights = np.empty((n, n), dtype=np.float32)
        for start in range(0, n, EASE_ROWS):
            rows = slice(start, start + EASE_ROWS)
            weights[rows, start:] = upper[rows, start:]
            weights[start:, rows] = upper[rows, start:].T
            corner = np.triu(upper[rows, rows])
            weights[rows, rows] = corner + np.triu(corner, 1).T
        weights /= -upper.diagonal().astype(np.float32)
        np.fill_diagonal(weights, 0.0)
        return cls(torch.from_numpy(weights))

    def scores(self, rows: sp.csr_array) -> NDArray[np.float32]:
        """``rows @ B``."""
        return np.asarray(rows @ self.matrix.numpy(), dtype=np.float32)

    def weights(self) -> Weights:
        """``matrix`` B [I, I]."""
        return {"matrix": self.matrix}


def require_items(n_items: int, max_items: int | None) -> None:
    """Raise a DataError if a dense matrix of items by items is larger than the settings allow."""
    if max_items is not None and n_items > max_items:
        raise DataError(
            f"{input_name('recommendation')}.ranker ease: {n_items:,} items need {EASE_BYTES * n_items**2:,} bytes of "
            f"memory, and rankers.ease.max_items allows {max_items:,} items "
            f"({EASE_BYTES * max_items**2:,} bytes): raise it, or set the ranker to als"
        )


def gram_blocks(matrix: sp.csr_array, *, lower: bool = False) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """First column and dense columns float32 [I, b] of ``XᵀX``; its sparse form would take three times the memory.

    Args:
        lower: from the row of the first column down: the matrix is symmetric.
    """
    columns, transposed = matrix.tocsc(), matrix.T.tocsr()
    size = max(1, min(BLOCK_CELLS // matrix.shape[1], -(-matrix.shape[1] // GRAM_BLOCKS)))
    for start in range(0, matrix.shape[1], size):
        rows = transposed[start:] if lower else transposed
        yield start, (rows @ columns[:, start : start + size]).toarray(order="F")


class ItemKnn:
    """Nearest items by the cosine of their columns: an item's score is the sum over its neighbours in the row.

    ``s_ij = x_i·x_j / (|x_i| |x_j| + shrinkage)``; of each item the ``neighbours`` largest stay (Deshpande & Karypis
    2004, "Item-based top-N recommendation algorithms"; the shrinkage is that of Bell & Koren 2007).
    """

    kind: ClassVar[str] = "item_knn"

    def __init__(self, items: Tensor, similarities: Tensor) -> None:
        self.items, self.similarities = items, similarities
        n, k = items.shape
        pairs = (items.numpy().ravel(), np.repeat(np.arange(n), k))
        self._matrix = sp.csr_array((similarities.numpy().ravel(), pairs), shape=(n, n))

    @classmethod
    def fit(cls, matrix: sp.csr_array, *, neighbours: int, shrinkage: float) -> "ItemKnn":
        """Find the neighbours."""
        n = matrix.shape[1]
        k = min(neighbours, max(1, n - 1))
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
        items, values = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
        for start, block in gram_blocks(matrix):
            own = np.arange(start, start + block.shape[1])
            products = np.outer(lengths, lengths[own]) + shrinkage
            cosines = np.divide(block, products, out=np.zeros_like(block), where=products > 0)
            cosines[own, own - start] = 0.0  # itself
            best = np.argsort(-cosines, axis=0, kind="stable")[:k].T
            items[own] = best
            values[own] = np.take_along_axis(cosines.T, best, axis=1)
        return cls(torch.from_numpy(items), torch.from_numpy(values))

    def scores(self, rows: sp.csr_array) -> NDArray[np.float32]:
        """Sum over each item's neighbours of similarity times value."""
        return (rows @ self._matrix).toarray().astype(np.float32)

    def weights(self) -> Weights:
        """``items`` int32 [I, k], the neighbours' columns, and their ``similarities`` [I, k]."""
        return {"items": self.items, "similarities": self.similarities}


class Als:
    """Implicit alternating least squares (Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback").

    Over all cells, with ``value`` 0 where there is no interaction, it minimises ::

        sum of (1 + alpha * value) * (value - p_u · q_i)² + penalty * (|P|² + |Q|²)

    DIFF(Hu): the wanted value of a cell is that of the interaction, there always 1, so that a low rating counts as a
    weak choice: on an inner split of ml-100k's training ratings NDCG@10 is 0.248 instead of 0.234.

    Users and items are solved in turn, each exactly. A user's vector is always that of the last half-step, computed
    from the row: a known user and a new one are treated alike, and no vector of a user is kept.
    """

    kind: ClassVar[str] = "als"

    def __init__(self, items: Tensor, alpha: float, penalty: float) -> None:
        self.items, self.alpha, self.penalty = items, alpha, penalty
        self._basis = _whitening(items, penalty)

    @classmethod
    def fit(
        cls, matrix: sp.csr_array, *, factors: int, penalty: float, alpha: float, iterations: int, seed: int = 0
    ) -> "Als":
        """Alternate ``iterations`` times, from normal vectors of ``seed``."""
        drawn = np.random.default_rng(seed).normal(0.0, 0.1, (matrix.shape[1], factors)).astype(np.float32)
        items, (n_users, n_items) = torch.from_numpy(drawn), matrix.shape
        of_users, of_items = (list(row_blocks(one, factors)) for one in (matrix, matrix.T.tocsr()))
        for _ in range(iterations):
            users = solve_rows(of_users, n_users, items, alpha=alpha, penalty=penalty)
            items = solve_rows(of_items, n_items, users, alpha=alpha, penalty=penalty)
        return cls(items, alpha, penalty)

    def vectors(self, rows: sp.csr_array) -> Tensor:
        """Vectors float32 [n, k] of users by their rows."""
        settings: dict[str, Any] = {"alpha": self.alpha, "penalty": self.penalty, "basis": self._basis}
        return solve_rows(row_blocks(rows, self.items.shape[1]), rows.shape[0], self.items, **settings)

    def scores(self, rows: sp.csr_array) -> NDArray[np.float32]:
        """Products of the users' vectors with those of all items."""
        return (self.vectors(rows) @ self.items.T).numpy()

    def weights(self) -> Weights:
        """``items`` [I, k]."""
        return {"items": self.items}


def _whitening(vectors: Tensor, penalty: float) -> Tensor:
    """R float64 [k, k] with ``R Rᵀ = (QᵀQ + penalty I)⁻¹``: in the basis ``Q R`` all rows share the unit matrix."""
    exact = vectors.double()
    gram = exact.T @ exact + penalty * torch.eye(vectors.shape[1], dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise DataError("ALS: the penalty is too small for vectors of this size: raise rankers.als.penalty")
    unit = torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve_triangular(lower, unit, upper=False).T


class RowBlock(NamedTuple):
    """Rows of about one length: their places [b], and the columns int32 [b, L] and values float32 [b, L] of each.

    The shorter ones are padded with values of 0.
    """

    places: Tensor
    columns: Tensor
    values: Tensor


def row_blocks(rows: sp.csr_array, width: int) -> Iterator[RowBlock]:
    """The rows of a matrix that are not empty, the shortest first, in blocks for :func:`solve_rows` of ``width``."""
    lengths = np.diff(rows.indptr)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    most = max(1, BLOCK_NUMBERS // width**2)  # of a block: each row has a matrix of width by width, too
    while len(order):
        longest = np.maximum(lengths[order[:most]], width)  # rising
        fits = np.arange(1, len(longest) + 1) * longest * width <= BLOCK_NUMBERS
        chosen, order = np.split(order, [max(1, int(fits.sum()))])
        slots = np.arange(lengths[chosen[-1]])
        inside = slots < lengths[chosen][:, None]
        places = np.where(inside, rows.indptr[chosen][:, None] + slots, 0)
        values = np.where(inside, rows.data[places], np.float32(0))
        yield RowBlock(*map(torch.from_numpy, (chosen, rows.indices[places], values)))


def solve_rows(
    blocks: Iterable[RowBlock], n: int, others: Tensor, *, alpha: float, penalty: float, basis: Tensor | None = None
) -> Tensor:
    """Half a step of :class:`Als`: vectors float32 [n, k] of the rows, with the vectors ``others`` [I, k] fixed.

    ``(QᵀQ + penalty I + sum alpha r q qᵀ) p = sum (1 + alpha r) r q``, both sums over the row's interactions. With R of
    :func:`_whitening` and Z the rows ``sqrt(alpha r) q R`` of the interactions, ``p = R x`` where ::

        (I + ZᵀZ) x = Zᵀ w   or, the same,   x = Zᵀ y with (I + ZZᵀ) y = w,   w = (1 + alpha r) sqrt(r / alpha)

    The second system is the smaller one for rows of fewer than k interactions, as most items have. Rows of about one
    length are solved together by Cholesky decomposition, in float32, and in float64 where that fails.

    Args:
        blocks: of :func:`row_blocks`, of a matrix of ``n`` rows.
        basis: of :func:`_whitening`, where it is known.
    """
    basis = _whitening(others, penalty) if basis is None else basis
    white = (others.double() @ basis).float()
    found = torch.zeros(n, others.shape[1])
    for block in blocks:
        found[block.places] = _solve_block(block, white, alpha)
    return (found.double() @ basis.T).float()


def _solve_block(block: RowBlock, white: Tensor, alpha: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """x float32 [b, k] of the rows of a block."""
    values = block.values.to(dtype)
    scale = (alpha * values).sqrt_()
    rows = white.to(dtype).index_select(0, block.columns.view(-1)).view(*values.shape, -1)
    rows *= scale[..., None]  # [b, L, k]
    wanted = ((1.0 + alpha * values) * scale / alpha)[:, None]  # [b, 1, L]
    short = rows.shape[1] < rows.shape[2]
    left, right = (rows, wanted.mT) if short else (rows.mT, (wanted @ rows).mT)
    unit = torch.eye(left.shape[1], dtype=dtype).expand(len(left), -1, -1)
    factor, failed = torch.linalg.cholesky_ex(torch.baddbmm(unit, left, left.mT))
    solved = torch.cholesky_solve(right, factor)
    solved = (solved.mT @ rows)[:, 0].float() if short else solved[..., 0].float()
    if failed.any():  # rounding has eaten the unit: of an item with hundreds of thousands of interactions, say
        if dtype == torch.float64:
            raise DataError("ALS: the penalty is too small for vectors of this size: raise rankers.als.penalty")
        again = failed.nonzero()[:, 0]
        solved[again] = _solve_block(RowBlock(*(part[again] for part in block)), white, alpha, torch.float64)
    return solved
