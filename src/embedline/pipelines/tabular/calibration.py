"""Fit the intervals of a table's predictions on training rows that a network did not learn from."""

import logging
from collections.abc import Iterator
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.arrays import subset
from embedline.pipelines.tabular.columns import SPLIT_COLUMN, TEST, TRAIN, Columns, Split, local_times
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.intervals import Bounds, residual_bounds
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.linear import SMALL
from embedline.pipelines.tabular.model import predict_all
from embedline.pipelines.tabular.options import EncodingOptions, IntervalOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.splits import assign_splits, backtest_windows, fold_rows, mark_split
from embedline.pipelines.tabular.targets import NumericTarget, actual_values, transform_target

FRACTION, FOLDS = 0.2, 5  # of the training rows: held out of many, or of few in turn

logger = logging.getLogger(__name__)


def calibrate_intervals(
    rows: nw.DataFrame[Any],
    columns: Columns,
    split: Split,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
) -> Bounds:
    """Fit the encoding and the network of the first seed without some of the training rows, and measure it on these.

    Of a table that is split by a window of time they are the rows of a window of the same length just before it, or at
    the end of the training; else a random fifth, or of few rows each of five folds in turn. An ensemble's residuals are
    smaller than those of one network: its intervals hold slightly more than they should.

    Args:
        rows: with the column ``split``; its training rows are read.

    Returns:
        Nothing for targets of classes and for predicted quantiles, which are intervals themselves.
    """
    options = training.intervals
    if options is None or training.loss == "quantile":
        return {}
    learned = subset(rows, TRAIN).drop(SPLIT_COLUMN)
    seeds = training.model_copy(update={"seeds": training.seeds[:1], "weights": None})
    residuals: dict[str, list[NDArray[np.float64]]] = {}
    for number, inner in enumerate(_inner_splits(learned, columns, split, options)):
        encoder = fit_encoder(subset(inner, TRAIN), columns, encoding)
        targets = [target for target in encoder.targets if isinstance(target, NumericTarget)]
        if not targets:
            return {}
        encoded = encode(inner, encoder)
        bundle, _ = train_network(encoded, encoder, network, seeds, name=f"intervals{number}")
        tested = subset(encoded, TEST)
        predicted = predict_all(tested, bundle)
        for target in targets:
            found = transform_target(actual_values(tested, target), target)
            found -= transform_target(predicted[target.column], target)
            residuals.setdefault(target.column, []).append(found)
    return {name: residual_bounds(np.concatenate(parts), options.levels) for name, parts in residuals.items()}


def _inner_splits(
    learned: nw.DataFrame[Any], columns: Columns, split: Split, options: IntervalOptions
) -> Iterator[nw.DataFrame[Any]]:
    """Training rows with an inner ``split``, once or once a fold; none where a window takes all rows."""
    if split.kind == "window" or (options.days and columns.time):
        window = _inner_window(learned, columns, split, options)
        days = local_times(learned, str(window.column)).cast(nw.Date)
        held_out = np.flatnonzero(((days >= window.start) & (days <= window.end)).to_numpy())
        if 0 < len(held_out) < len(learned):
            yield assign_splits(learned, columns, window)
        else:
            logger.warning(
                "No intervals: the window %s to %s, whose rows would measure them, holds none or all of the training "
                "rows; set training.intervals.days to fewer days",
                window.start,
                window.end,
            )
    elif len(learned) > SMALL:
        yield assign_splits(learned, columns, Split(kind="random", fraction=FRACTION, seed=0))
    else:
        for held_out in fold_rows(learned, columns, Split(kind="folds", n=FOLDS, seed=0)):
            yield mark_split(learned, held_out)


def _inner_window(learned: nw.DataFrame[Any], columns: Columns, split: Split, options: IntervalOptions) -> Split:
    """The window just before the held-out one, or the last days of the training."""
    if split.kind == "window":
        assert split.start is not None and split.end is not None
        last, days = split.start, options.days or (split.end - split.start).days + 1
    else:
        assert columns.time is not None and options.days is not None
        last, days = local_times(learned, columns.time).cast(nw.Date).max(), options.days
    window = backtest_windows(split, last, 1, days, days, time=columns.time)[0]
    return window.model_copy(update={"train": split.train})
