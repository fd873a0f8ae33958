"""Ridge and logistic regression on one-hot categories and standardised numbers: a baseline, and a part of the network.

scikit-learn and SciPy are imported inside the functions, since services need neither.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.options import LinearOptions
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target

INNER_SHARE = 0.15  # of the training rows, held out to choose settings by
SMALL = 2_000  # with fewer training rows, five folds of them choose
RARE = 5  # levels with fewer training rows share one coefficient
# scikit-learn's own tolerance of a logistic regression ends before a class of 0.5 % of the rows is learned at all.
TOLERANCE = 1e-7
MOST_STEPS = 500
MOST_ROWS = 500_000
NO_COLUMN = -1

Weights = NDArray[np.floating] | None
LinearInputs = tuple[NDArray[np.integer], NDArray[np.floating], NDArray[Any], Target, tuple[int, ...], Weights]
"""Codes [N, V], numbers [N, C], the transformed numbers or the classes [N] of a target, the target, its numbers of
codes, and the weights [N] of the rows, if they have any."""


@dataclass(frozen=True)
class OneHot:
    """Columns of the levels of categorical variables in a matrix, after ``n_numbers`` columns of numbers.

    Attributes:
        columns: for each variable the column of each code, int64 [codes]; :data:`NO_COLUMN` for none. Levels of few
            training rows share a column, and a code that no training row has is one of them.
    """

    columns: tuple[NDArray[np.int64], ...]
    n_numbers: int
    width: int

    @classmethod
    def fit(
        cls, codes: NDArray[np.integer], cardinalities: tuple[int, ...], n_numbers: int, weights: Weights = None
    ) -> Self:
        """Fit to the codes [N, V] of training rows, those of the weight 0 left out."""
        codes = codes if weights is None else codes[weights > 0]
        found, width = [], n_numbers
        for variable, size in enumerate(cardinalities):
            counts = np.bincount(codes[:, variable], minlength=size)
            columns = np.full(size, NO_COLUMN, dtype=np.int64)
            own = counts >= RARE
            columns[own] = width + np.arange(own.sum())
            width += int(own.sum())
            if counts[~own].any():
                columns[~own] = width
                width += 1
            found.append(columns)
        return cls(tuple(found), n_numbers, width)

    def matrix(self, codes: NDArray[np.integer], values: NDArray[np.floating]) -> Any:
        """Sparse float64 matrix [N, width] of codes [N, V] and numbers [N, C]."""
        from scipy.sparse import csr_matrix, hstack

        n_rows = len(codes)
        columns = [of_codes[codes[:, variable]] for variable, of_codes in enumerate(self.columns)]
        places = np.stack(columns, axis=1) if columns else np.empty((n_rows, 0), dtype=np.int64)
        used = places != NO_COLUMN
        rows = np.concatenate([[0], used.sum(axis=1).cumsum()])
        levels = csr_matrix(
            (np.ones(rows[-1]), places[used] - self.n_numbers, rows), shape=(n_rows, self.width - self.n_numbers)
        )
        return hstack([csr_matrix(values.astype(np.float64)), levels]).tocsr()


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear model.

    Attributes:
        one_hot: the columns of its matrix.
        coefficients: float64 [K, width] of K outputs: logits, or the transformed number in standard deviations.
        intercepts: float64 [K].
    """

    one_hot: OneHot
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def outputs(self, codes: NDArray[np.integer], values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Outputs float64 [N, K] for codes [N, V] and numbers [N, C]."""
        return np.asarray(self.one_hot.matrix(codes, values) @ self.coefficients.T + self.intercepts)

    def effects(self, variable: int) -> NDArray[np.float64]:
        """Coefficients float64 [codes, K] of the codes of a variable."""
        columns = self.one_hot.columns[variable]
        found: NDArray[np.float64] = self.coefficients[:, columns].T.copy()
        found[columns == NO_COLUMN] = 0.0
        return found

    def repeated(self, times: int) -> "LinearModel":
        """Each output so many times, side by side: one for each quantile."""
        return replace(
            self,
            coefficients=self.coefficients.repeat(times, axis=0),
            intercepts=self.intercepts.repeat(times),
        )

    @property
    def slopes(self) -> NDArray[np.float64]:
        """Coefficients float64 [K, C] of the numbers."""
        return self.coefficients[:, : self.one_hot.n_numbers]


def choose_penalty(
    codes: NDArray[np.integer],
    values: NDArray[np.floating],
    labels: NDArray[Any],
    target: Target,
    cardinalities: tuple[int, ...],
    weights: Weights,
    options: LinearOptions,
) -> float:
    """The one of ``options.penalties`` with the lowest loss on inner held-out rows; arguments as in fitting.

    scikit-learn's search for the penalty of the ridge scores the inner rows without their weights.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from threadpoolctl import threadpool_limits

    matrix = OneHot.fit(codes, cardinalities, values.shape[1], weights).matrix(codes, values)
    labels = _learned(labels, target)
    penalties, folds = np.array(options.penalties), inner_folds(len(labels), target, options.seed)
    if len(penalties) == 1 or len(labels) < 4:
        return float(penalties[0])
    # Threads that wait for one another take most of the time of such small products. Of the weakest penalties some do
    # not converge; these are worse than others, and the fit with the chosen one warns by itself.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if isinstance(target, NumericTarget):
            return float(
                RidgeCV(alphas=penalties * len(labels), cv=folds).fit(matrix, labels, weights).alpha_ / len(labels)
            )
        model = LogisticRegressionCV(
            Cs=np.sort(1.0 / (penalties * len(labels))),  # from strong to weak: each starts from the one before
            cv=folds,
            l1_ratios=(0.0,),
            scoring="neg_log_loss",
            max_iter=MOST_STEPS,
            tol=TOLERANCE,
            use_legacy_attributes=False,
        ).fit(matrix, labels, weights)
    return float(1.0 / (model.C_ * len(labels)))


def fit_linear_model(
    codes: NDArray[np.integer],
    values: NDArray[np.floating],
    labels: NDArray[Any],
    target: Target,
    cardinalities: tuple[int, ...],
    weights: Weights,
    penalty: float,
) -> LinearModel:
    """Fit on training rows, given as :data:`LinearInputs`.

    Args:
        penalty: as in :class:`.options.LinearOptions`.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from threadpoolctl import threadpool_limits

    one_hot = OneHot.fit(codes, cardinalities, values.shape[1], weights)
    matrix = one_hot.matrix(codes, values)
    learned = _learned(labels, target)
    weight = penalty * len(labels)
    with threadpool_limits(1):
        if isinstance(target, NumericTarget):
            ridge = Ridge(alpha=weight).fit(matrix, learned, weights)
            return LinearModel(one_hot, ridge.coef_[None], np.array([ridge.intercept_]))
        # scikit-learn's C weighs the sum of the losses, not their mean.
        model = LogisticRegression(C=1.0 / weight, max_iter=MOST_STEPS, tol=TOLERANCE).fit(matrix, learned, weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients, intercepts = np.stack([0 * coefficients[0], coefficients[0]]), np.array([0.0, intercepts[0]])
    found = np.zeros((target.width, one_hot.width))
    # A class that none of these rows has is as rare as one that half a row has.
    started = np.full(target.width, np.log(0.5 / len(labels)))
    found[model.classes_], started[model.classes_] = coefficients, intercepts
    return LinearModel(one_hot, found, started)


def some_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """``rows`` int64 [N], or :data:`MOST_ROWS` of them, rising: more teach a linear model little."""
    if len(rows) <= MOST_ROWS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))


def _learned(labels: NDArray[Any], target: Target) -> NDArray[Any]:
    """Numbers in standard deviations, or classes as integers."""
    return (labels - target.mean) / target.std if isinstance(target, NumericTarget) else labels.astype(np.int64)


def inner_folds(n_rows: int, target: Target, seed: int) -> Any:
    """scikit-learn's splitter of training rows: five folds of few rows, one held-out share of many."""
    from sklearn import model_selection as sk

    stratified = isinstance(target, ClassTarget) and min(target.counts) >= 5
    if n_rows < SMALL:
        folds = sk.StratifiedKFold if stratified else sk.KFold
        return folds(min(5, n_rows), shuffle=True, random_state=seed)
    shuffled = sk.StratifiedShuffleSplit if stratified else sk.ShuffleSplit
    return shuffled(1, test_size=INNER_SHARE, random_state=seed)
