"""Fit and apply the encoding of a table: the ``proc_df`` of the lessons, with its state kept as an artifact.

Categories become codes, continuous variables are filled in and scaled, and means of the target by group
(:class:`.target_means.TargetMeans`) are added as inputs. Everything is fitted on the training rows alone.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import as_float, require_finite, require_text
from embedline.pipelines.tabular.columns import (
    CONTINUOUS_HINT,
    SPLIT_COLUMN,
    TRAIN,
    Columns,
    require_columns,
    require_dates,
    require_roles,
)
from embedline.pipelines.tabular.dates import DateParts, add_parts, fit_dates, with_parts
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.redundant import LeftOut, find_redundant, refuse_ids
from embedline.pipelines.tabular.roles import InferredRoles
from embedline.pipelines.tabular.row_weights import RowWeights, fit_row_weights
from embedline.pipelines.tabular.target_means import TargetMeans, fit_target_means
from embedline.pipelines.tabular.targets import (
    EPSILON,
    CategoryMap,
    Target,
    all_missing,
    averaged_targets,
    category_codes,
    check_transforms,
    fit_categories,
    fit_target,
    kind_of,
    nonzero_std,
    stored_target,
)
from embedline.pipelines.tabular.texts import TextTopics, add_topics, fit_texts, with_topics

FLAG = "_na"  # suffix of the category that marks a filled-in continuous value
LARGEST = float(np.finfo(np.float64).max)
N_QUANTILES = 1000


class Scaler(BaseModel):
    """Fill value, limits, and mean and population standard deviation of a continuous variable on the training rows.

    Attributes:
        quantiles: of the training rows, for a variable that is scaled by its ranks; ``mean`` and ``std`` are then
            those of the normal scores.
        rows: number of training rows behind the quantiles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fill: float
    mean: float
    std: float
    limits: tuple[float, float] | None = None
    quantiles: tuple[float, ...] | None = None
    rows: int = 0

    def complete(self, number: nw.Expr) -> nw.Expr:
        """The variable with missing values filled in, clipped to its limits."""
        limited = number.clip(*self.limits) if self.limits else number
        return limited.fill_null(self.fill)

    def standardise(self, table: nw.DataFrame[Any], number: nw.Expr, name: str) -> nw.Expr | nw.Series[Any]:
        """Float32 inputs of the network, under ``name``, from the raw ``number`` of ``table``."""
        if self.quantiles is None:
            return ((self.complete(number) - self.mean) / (self.std + EPSILON)).cast(nw.Float32).alias(name)
        values = table.select(self.complete(number).alias(name)).get_column(name).to_numpy()
        scores = (normal_scores(values, self.quantiles, self.rows) - self.mean) / (self.std + EPSILON)
        return nw.new_series(name, scores.astype(np.float32), nw.Float32, backend=table.implementation)


def fit_scaler(values: nw.Series[Any], options: EncodingOptions) -> Scaler:
    """Fit the scaler of a continuous variable on its Float64 values of the training rows."""
    if values.null_count() == len(values):
        raise DataError(
            f"column {values.name!r} holds only missing values on the training rows: take it out of columns.continuous"
        )
    limits = options.limits.get(values.name)
    if limits:  # a limit on one side has .inf on the other, which JSON does not have
        limits = max(limits[0], -LARGEST), min(limits[1], LARGEST)
    limited = values.clip(*limits) if limits else values
    fill = options.fill.get(values.name, float(limited.median()))
    filled = limited.fill_null(fill)
    if options.scaling_of(values.name) == "standard":
        mean = float(filled.mean())
        return Scaler(fill=fill, mean=mean, std=nonzero_std(float(filled.std(ddof=0)), mean), limits=limits)
    numbers = filled.to_numpy()
    quantiles = fit_quantiles(numbers)
    scores = normal_scores(numbers, quantiles, len(numbers))
    mean = float(scores.mean())
    std = nonzero_std(float(scores.std()), mean)
    return Scaler(fill=fill, mean=mean, std=std, limits=limits, quantiles=quantiles, rows=len(numbers))


def fit_quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    """At most :data:`N_QUANTILES` equally spaced quantiles, the minimum and the maximum among them, of float64 [N]."""
    quantiles = np.quantile(values, np.linspace(0.0, 1.0, min(N_QUANTILES, len(values))))
    return tuple(np.maximum.accumulate(quantiles).tolist())  # interpolating equal values may err by a rounding


def normal_scores(values: NDArray[np.float64], quantiles: Sequence[float], n_rows: int) -> NDArray[np.float64]:
    """Normal score of each value, float64 [N]: any distribution becomes a normal one, and outliers lose their weight.

    The rank of a value is ``P(X < x) + P(X = x) / 2`` over the training rows; its score is the point of the standard
    normal distribution with this rank. Scores rise with the values, and equal values have equal scores.

    Ranks between the ``quantiles`` are interpolated, in both directions where several quantiles are equal, as in
    scikit-learn's ``QuantileTransformer``. DIFF(scikit-learn): it sends the lowest and the highest value to ±5.2 even
    where they make up most rows, as the zeros of a capital gain do. Here they have their rank, and ranks are clipped
    half a row before 0 and 1.

    Args:
        values: float64 [N] without missing values.
        quantiles: of :func:`fit_quantiles`.
        n_rows: number of training rows behind the quantiles.
    """
    import torch  # here, since only this scaling needs it; NumPy has no inverse of the normal distribution

    known, ranks = np.asarray(quantiles), np.linspace(0.0, 1.0, len(quantiles))
    upwards = np.interp(values, known, ranks)  # the highest rank of equal quantiles
    downwards = -np.interp(-values, -known[::-1], -ranks[::-1])  # the lowest one
    margin = 0.5 / n_rows
    clipped = np.clip((upwards + downwards) / 2.0, margin, 1.0 - margin)
    return np.asarray(torch.special.ndtri(torch.from_numpy(clipped)).numpy())


class Encoder(BaseModel):
    """Fitted state of the encoding; JSON through ``model_dump(mode="json")`` and ``model_validate``.

    Attributes:
        left_out: listed variables that tell nothing, and are no inputs.
        inferred: the roles that ``columns.inputs: auto`` found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: dict[str, CategoryMap]
    continuous: dict[str, Scaler]
    flags: tuple[str, ...]
    keys: tuple[str, ...]
    targets: tuple[Target, ...]
    groups: dict[str, CategoryMap] = {}
    target_means: tuple[TargetMeans, ...] = ()
    dates: tuple[DateParts, ...] = ()
    texts: tuple[TextTopics, ...] = ()
    left_out: LeftOut = LeftOut()
    inferred: InferredRoles | None = None
    weight: RowWeights | None = None

    @property
    def derived(self) -> tuple[DateParts | TextTopics, ...]:
        """The columns that become several variables: dates and texts."""
        return (*self.dates, *self.texts)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that a row to encode must have: dates and texts themselves, not what they become."""
        parts = {name for each in self.derived for name in (*each.categorical, *each.continuous)}
        wholes = (each.column for each in self.derived)
        return tuple(
            name
            for name in dict.fromkeys((*self.categorical, *self.groups, *self.continuous, *wholes))
            if name not in parts
        )

    @property
    def code_columns(self) -> tuple[str, ...]:
        """Columns of codes of the encoded frame: the categorical variables, then the missing-value flags."""
        return (*self.categorical, *(name + FLAG for name in self.flags))

    @property
    def value_columns(self) -> tuple[str, ...]:
        """Columns of values of the encoded frame: the continuous variables, then the target means."""
        return (*self.continuous, *(means.name for means in self.target_means))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Embedding rows of each code column; a flag has the levels no and yes besides row 0."""
        return (*(levels.size for levels in self.categorical.values()), *(3 for _ in self.flags))


def fit_encoder(table: nw.DataFrame[Any], columns: Columns, options: EncodingOptions) -> Encoder:
    """Fit the categories, scalers, topics, targets and target means on ``table``: training rows only.

    Constant and duplicate variables are left out (:attr:`Encoder.left_out`).

    Args:
        table: labelled training rows; every column of ``columns``.

    Raises:
        DataError: naming the column that is missing, has a wrong type, holds an infinite value or only nulls, or a
            target that its transform cannot take or that has fewer than two classes; a categorical variable that
            identifies the rows; or that no variable varies.
    """
    grouped = tuple(dict.fromkeys(name for group in options.target_means for name in group))
    _check_columns(table, columns, grouped)
    require_dates(table, columns.dates)
    listed, left_out = columns, find_redundant(table, columns)
    columns = left_out.columns(columns)
    refuse_ids(table, columns.categorical)
    dates: tuple[DateParts, ...] = ()
    texts: tuple[TextTopics, ...] = ()
    if columns.dates or columns.text:
        dates, texts = fit_dates(table, columns.dates), fit_texts(table, columns.text, options.text_size)
        _check_derived((*dates, *texts), (*columns.variables, *columns.targets, *columns.keys, *grouped))
        table, columns = add_topics(add_parts(table, dates), texts), with_topics(with_parts(columns, dates), texts)
    _check_names(options, (*listed.continuous, *columns.continuous))
    options = options.model_copy(update={"target_means": left_out.groups(options.target_means)})
    # The wave of a missing date is 0, between its ends; that the date is missing, the flag of its days says.
    options = options.model_copy(update={"fill": {name: 0.0 for each in dates for name in each.cyclic} | options.fill})
    categorical = {name: fit_categories(table, name) for name in columns.categorical}
    many = [name for name, levels in categorical.items() if options.many_levels and levels.size > options.many_levels]
    categorical |= {name: fit_categories(table, name, min_count=options.min_count) for name in many}
    numbers = table.select(*(as_float(table, name, hint=CONTINUOUS_HINT) for name in columns.continuous))
    for name in columns.continuous:
        require_finite(numbers.get_column(name), name)
    scalers = {name: fit_scaler(numbers.get_column(name), options) for name in columns.continuous}
    flags = tuple(
        name for name in columns.continuous if numbers.get_column(name).null_count() > 0 and name not in options.fill
    )
    clashes = [name + FLAG for name in flags if name + FLAG in categorical]
    if clashes:
        raise DataError(f"columns.categorical lists {clashes}, names that mark filled-in values: rename these columns")
    targets = tuple(fit_target(table, name, columns, options) for name in columns.targets)
    check_transforms(options, targets)
    learned = averaged_targets(table, targets) if options.target_means else {}
    groups = {
        name: categorical.get(name) or fit_categories(table, name, key="encoding.target_means")
        for name in dict.fromkeys(chain.from_iterable(options.target_means))
    }
    codes, sizes = _code_arrays(table, groups), {name: levels.size for name, levels in groups.items()}
    return Encoder(
        categorical=categorical,
        continuous=scalers,
        flags=flags,
        keys=columns.keys,
        targets=targets,
        groups=groups,
        dates=dates,
        texts=texts,
        left_out=left_out,
        weight=fit_row_weights(table, columns.weight) if columns.weight else None,
        target_means=tuple(
            fit_target_means(codes, sizes, group, values, options.smoothing, of)
            for group in options.target_means
            for of, values in learned.items()
        ),
    )


def encode(table: nw.DataFrame[Any], encoder: Encoder) -> nw.DataFrame[Any]:
    """Apply a fitted encoding to any frame with the same inputs.

    Returns:
        The key columns and ``split`` where ``table`` has them; of each target that it has, the number (Float64,
        untransformed) or, as ``class:<name>``, the number of its class (Int32, -1 where it is missing); an Int32 column
        ``code:<name>`` for each of ``encoder.code_columns``, a standardised Float32 column ``value:<name>`` for each of
        ``encoder.value_columns``, and ``weight:<name>`` (Float32) where ``table`` has weights. Rows keep their order.

    Target means of the rows whose ``split`` is ``train`` are cross-fitted (:meth:`TargetMeans.cross_fitted`).

    DIFF(fastai): scales come from training rows alone, and the missing-value flags are categories (v2), not continuous
    inputs (v0.7).

    Raises:
        DataError: naming the column that is missing, has a wrong type, holds an infinite value or, as a target, a class
            that no training row has.
    """
    dates, texts = ([each.column for each in several] for several in (encoder.dates, encoder.texts))
    require_columns(table, dates, what="the frame to encode", key="columns.dates")
    require_columns(table, texts, what="the frame to encode", key="columns.text")
    require_dates(table, dates)
    for name in texts:
        require_text(table.get_column(name), name)
    if encoder.derived:
        table = add_topics(add_parts(table, encoder.dates), encoder.texts)
    _check_frame(table, encoder)
    targets = [target for target in encoder.targets if target.column in table.columns]
    stored = {target.stored: stored_target(table, target) for target in targets}
    keys = [nw.col(name) for name in (*encoder.keys, SPLIT_COLUMN) if name in table.columns and name not in stored]
    # A key may be an input too (Store is an id and a variable): its codes go to a column of their own name below.
    codes = [category_codes(table, name, levels).alias(code_name(name)) for name, levels in encoder.categorical.items()]
    numbers = {name: as_float(table, name, hint=CONTINUOUS_HINT) for name in encoder.continuous}
    marks = [(numbers[name].is_null().cast(nw.Int32) + 1).alias(code_name(name + FLAG)) for name in encoder.flags]
    scaled = [scaler.standardise(table, numbers[name], value_name(name)) for name, scaler in encoder.continuous.items()]
    weights = [encoder.weight.scaled(table)] if encoder.weight and encoder.weight.column in table.columns else []
    encoded = table.select(*keys, *stored.values(), *codes, *marks, *scaled, *weights)
    return encoded.with_columns(
        nw.new_series(value_name(means.name), values, nw.Float32, backend=table.implementation)
        for means, values in _mean_inputs(table, encoder)
    )


def _mean_inputs(table: nw.DataFrame[Any], encoder: Encoder) -> Iterator[tuple[TargetMeans, NDArray[np.float32]]]:
    """Each target mean, and its float32 values [N] as the network reads them."""
    if not encoder.target_means:
        return
    codes = _code_arrays(table, encoder.groups)
    training = np.zeros(len(table), dtype=bool)
    if SPLIT_COLUMN in table.columns and all(target.column in table.columns for target in encoder.targets):
        training = (table.get_column(SPLIT_COLUMN) == TRAIN).to_numpy().astype(bool)
    own_codes = {name: values[training] for name, values in codes.items()}
    learned = averaged_targets(table.filter(training.tolist()), encoder.targets) if training.any() else {}
    for means in encoder.target_means:
        values = means.values(codes)
        if training.any():
            values[training] = means.cross_fitted(own_codes, learned[means.of])
        yield means, means.standardised(codes, values)


def code_name(variable: str) -> str:
    """Column of the encoded frame that holds the codes of ``variable``."""
    return f"code:{variable}"


def value_name(variable: str) -> str:
    """Column of the encoded frame that holds the standardised values of ``variable``."""
    return f"value:{variable}"


def _code_arrays(table: nw.DataFrame[Any], groups: dict[str, CategoryMap]) -> dict[str, NDArray[np.integer]]:
    """Codes of several columns as arrays [N]."""
    if not groups:
        return {}
    codes = table.select(*(category_codes(table, name, levels).alias(name) for name, levels in groups.items()))
    return {name: codes.get_column(name).to_numpy() for name in groups}


def _check_columns(table: nw.DataFrame[Any], columns: Columns, grouped: tuple[str, ...]) -> None:
    require_roles(table, columns, {"encoding.target_means": grouped})
    if both := [name for name in columns.targets if name in grouped]:
        raise DataError(f"encoding.target_means groups by the target {both[0]!r}")


def _check_names(options: EncodingOptions, continuous: Sequence[str]) -> None:
    for key in ("fill", "limits", "scalings"):
        unknown = sorted(set(getattr(options, key)) - set(continuous))
        if unknown:
            raise DataError(f"encoding.{key} names {unknown}, which columns.continuous does not list")


def _check_derived(derived: Sequence[DateParts | TextTopics], taken: Sequence[str]) -> None:
    for each in derived:
        if both := [name for name in (*each.categorical, *each.continuous) if name in taken]:
            raise DataError(
                f"column {each.column!r} becomes variables, one by the name {both[0]!r}: rename that column"
            )


def _check_frame(table: nw.DataFrame[Any], encoder: Encoder) -> None:
    """Raise a DataError if ``table`` lacks an input, or one is of another kind or infinite."""
    for key, names in (
        ("columns.categorical", encoder.categorical),
        ("columns.continuous", encoder.continuous),
        ("encoding.target_means", encoder.groups),
    ):
        require_columns(table, list(names), what="the frame to encode", key=key)
    for name, levels in {**encoder.groups, **encoder.categorical}.items():
        if not all_missing(table, name) and (found := kind_of(table, name)) != levels.kind:
            raise DataError(f"column {name!r} holds {found} values; it was fitted on {levels.kind} values")
    numbers = table.select(*(as_float(table, name, hint=CONTINUOUS_HINT) for name in encoder.continuous))
    for name in encoder.continuous:
        require_finite(numbers.get_column(name), name)
