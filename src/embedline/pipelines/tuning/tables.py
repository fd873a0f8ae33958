"""Trials of a table's network, or of its LightGBM, on rows inside the training part."""

from collections.abc import Callable
from functools import partial
from typing import Any

import narwhals as nw
import numpy as np

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import subset
from embedline.pipelines.tabular.baselines import constant_predictions, fit_trees, read_rows, timed_predictions
from embedline.pipelines.tabular.columns import SPLIT_COLUMN, TEST, TRAIN, Columns, Split, local_times
from embedline.pipelines.tabular.defaults import FEW_ROWS
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.model import predict_all
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    TableTraining,
)
from embedline.pipelines.tabular.predictions import loss_name, prediction_loss
from embedline.pipelines.tabular.splits import assign_splits, backtest_windows, fold_rows, mark_split
from embedline.pipelines.tabular.targets import actual_values, read_targets
from embedline.pipelines.tuning.options import FRACTION, TableInner, TableTuning
from embedline.pipelines.tuning.space import Settings
from embedline.pipelines.tuning.study import Evaluation

FOLDS = 5  # of a table of few rows

Rows = nw.DataFrame[Any]


def table_evaluation(
    learned: Rows, columns: Columns, split: Split, untuned: EncodingOptions, options: TableTuning
) -> Evaluation:
    """Encoding and one network, or LightGBM, for each inner split and seed: the loss on the inner held-out rows.

    ``learned`` are the training rows of ``split``, with their column ``split``; ``untuned`` is the encoding of the
    targets, which names the loss, that of :func:`..tabular.predictions.loss_name`; of several targets it is the mean of
    each one's loss, divided by that of a constant. An empty inner split, and settings of ``inner`` that do not fit the
    table, are a DataError.
    """
    parts = inner_splits(learned, columns, split, options.inner)

    def measure(settings: Settings, repetition: int) -> float:
        seed, rows = options.seeds[repetition // len(parts)], parts[repetition % len(parts)]()
        encoding, baselines = settings["encoding"], settings.get("baselines")
        assert isinstance(encoding, EncodingOptions)
        encoder = fit_encoder(subset(rows, TRAIN), columns, encoding)
        encoded = encode(rows, encoder)
        tested, targets = subset(encoded, TEST), encoder.targets
        if isinstance(baselines, BaselineOptions):
            assert baselines.lightgbm is not None  # the node saw to it
            trees = fit_trees(baselines.lightgbm.model_copy(update={"seed": seed}))
            predicted, _ = timed_predictions(read_rows(encoded, encoder), encoder, trees)
        else:
            network, training = settings["network"], settings["training"]
            assert isinstance(network, NetworkOptions) and isinstance(training, TableTraining)
            training = training.model_copy(update={"seeds": (seed,), "weights": None})
            bundle, _ = train_network(encoded, encoder, network, training)
            predicted, targets = predict_all(tested, bundle), read_targets(bundle.encoder)
        actual = {target.column: actual_values(tested, target) for target in targets}
        losses = {one.column: prediction_loss(one, actual[one.column], predicted[one.column]) for one in targets}
        if len(targets) == 1:
            return losses[targets[0].column]
        constant = constant_predictions(read_rows(encoded, encoder), encoder)
        scales = {one.column: prediction_loss(one, actual[one.column], constant[one.column]) for one in encoder.targets}
        return float(np.mean([losses[name] / scales[name] for name in losses]))

    targets = fit_encoder(subset(parts[0](), TRAIN), columns, untuned).targets
    loss = loss_name(targets[0]) if len(targets) == 1 else "relative loss"
    return Evaluation(loss, len(parts) * len(options.seeds), measure)


def inner_splits(learned: Rows, columns: Columns, split: Split, inner: TableInner) -> list[Callable[[], Rows]]:
    """Functions that give the training rows with their inner split: windows, a random share, or folds.

    Without settings: of a window one like it before it, of folds or few rows folds, else a random share.
    """
    if inner.windows is not None or (split.kind == "window" and inner.fraction is None and inner.folds is None):
        parts = _windows(learned, columns, split, inner)
    elif inner.folds is not None or (inner.fraction is None and (split.kind == "folds" or len(learned) < FEW_ROWS)):
        n = inner.folds or (split.n if split.kind == "folds" else FOLDS)
        folds = list(fold_rows(learned, columns, Split(kind="folds", n=n, seed=inner.seed)))
        return [partial(mark_split, learned, held_out) for held_out in folds]
    else:
        parts = [Split(kind="random", fraction=inner.fraction or FRACTION, seed=inner.seed)]
    unsplit = learned.drop(SPLIT_COLUMN)
    for part in parts:
        assign_splits(unsplit, columns, part)  # an empty one is an error before the first trial
    return [lambda part=part: assign_splits(unsplit, columns, part) for part in parts]  # type: ignore[misc]


def _windows(learned: Rows, columns: Columns, split: Split, inner: TableInner) -> list[Split]:
    time = split.column if split.kind == "window" else columns.time
    if time is None:
        raise DataError("windows need columns.time, or a split of the kind window: set fraction or folds instead")
    own = (split.end - split.start).days + 1 if split.start and split.end else None
    length = inner.length or own
    if length is None:
        raise DataError("windows need a length in days, as the split is no window")
    last_day = local_times(learned, time).cast(nw.Date).max()
    return backtest_windows(split, last_day, inner.windows or 1, length, inner.step or length, time=time)
