"""Trials of the text classifier, on documents inside the training part."""

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.text.documents import TRAIN, VALIDATION, SplitOptions, assign_splits, stratified_folds
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.pipelines.tuning.options import InnerOptions, TuneOptions
from embedline.pipelines.tuning.space import Settings
from embedline.pipelines.tuning.study import Evaluation
from embedline.training.model_file import ModelBundle


def text_evaluation(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: list[str],
    language_model: ModelBundle,
    options: TuneOptions,
) -> Evaluation:
    """One classifier for each inner split and seed: the log loss on the inner held-out documents.

    A forward one: both directions have the same settings, and a search of both takes twice the time. ``ids`` are of the
    splits ``train`` and ``validation``; without settings of ``inner``, the latter is held out.
    """
    parts = _text_parts(ids, options.inner)

    def measure(settings: Settings, repetition: int) -> float:
        network, training = settings["classifier"], settings["classifier_training"]
        assert isinstance(network, ClassifierOptions) and isinstance(training, ClassifierTraining)
        seed, part = options.seeds[repetition // len(parts)], parts[repetition % len(parts)]
        training = training.model_copy(update={"seeds": (seed,), "weights": None})
        bundle, _ = train_classifier(part(), vocabulary, classes, language_model, network, training)
        return float(bundle.metrics["validation_loss"])

    return Evaluation("log_loss", len(parts) * len(options.seeds), measure)


def _text_parts(ids: pl.DataFrame, inner: InnerOptions) -> list[Callable[[], pl.DataFrame]]:
    if inner.fraction is None and inner.folds is None:
        return [lambda: ids]
    if inner.fraction is not None:
        unsplit = ids.with_columns(split=pl.lit(TRAIN))
        drawn = SplitOptions(validation=inner.fraction, seed=inner.seed)
        return [lambda: ids.with_columns(assign_splits(unsplit, drawn))]
    assert inner.folds is not None
    fold = stratified_folds(ids["label"].rank("dense").to_numpy(), inner.folds, seed=inner.seed)
    return [partial(_with_fold, ids, fold == number) for number in range(inner.folds)]


def _with_fold(ids: pl.DataFrame, held_out: NDArray[np.bool_]) -> pl.DataFrame:
    return ids.with_columns(split=pl.Series(np.where(held_out, VALIDATION, TRAIN).tolist(), dtype=pl.String))
