"""Baselines of an image model: multinomial regressions on small pictures and on the features of a frozen body."""

import logging
import time
import warnings
from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from embedline.pipelines.images.evaluation import prediction_frame
from embedline.pipelines.images.examples import TEST, TRAIN, VALIDATION, Classes, class_codes
from embedline.pipelines.images.options import BaselineOptions, NetworkOptions

logger = logging.getLogger(__name__)

PIXELS, FEATURES = "pixels", "frozen_features"
AT_ONCE = 1_000  # pictures that are made small at a time


def small_pixels(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Mean colours, from 0 to 1, of ``size`` areas of each picture uint8 [N, H, W, 3]: float32 [N, h w 3]."""
    found = []
    for start in range(0, len(pixels), AT_ONCE):
        block = torch.from_numpy(np.asarray(pixels[start : start + AT_ONCE])).permute(0, 3, 1, 2).float() / 255.0
        found.append(F.adaptive_avg_pool2d(block, size).flatten(1).numpy())
    return np.concatenate(found)


def predict_baselines(
    arrays: Mapping[str, NDArray[np.uint8]],
    examples: pl.DataFrame,
    classes: Classes,
    network: NetworkOptions,
    activations: Mapping[str, NDArray[np.float32]],
    options: BaselineOptions,
) -> pl.DataFrame:
    """Fit the baselines on all training pictures, those held out included, and predict the test pictures.

    Returns:
        Predictions (:func:`.evaluation.prediction_frame`) with a column ``member``: ``pixels`` and, where an
        architecture has weights, ``frozen_features`` of the first such.
    """
    splits = examples["split"].to_numpy()
    learned, test = np.flatnonzero(np.isin(splits, (TRAIN, VALIDATION))), np.flatnonzero(splits == TEST)
    codes = class_codes(examples, classes)
    first = network.architectures()[0]
    inputs = {PIXELS: small_pixels(arrays[first.key], options.size)}
    if activations:
        inputs[FEATURES] = next(iter(activations.values()))
    frames = []
    for name, values in inputs.items():
        began = time.perf_counter()
        parts = [
            _regression(values[learned], codes[learned, place], values[test], len(names), options, name)
            for place, names in enumerate(classes.values())
        ]
        logger.info("Baseline %s of %d values: %.0f s", name, values.shape[1], time.perf_counter() - began)
        frame = prediction_frame(examples[test.tolist()], np.concatenate(parts, axis=1), classes)
        frames.append(frame.with_columns(member=pl.lit(name)))
    return pl.concat(frames)


def _regression(
    train: NDArray[np.float32],
    codes: NDArray[np.int64],
    test: NDArray[np.float32],
    n_classes: int,
    options: BaselineOptions,
    name: str,
) -> NDArray[np.float64]:
    """Probabilities float64 [M, C] of the test rows by a multinomial regression on scaled inputs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=options.c, max_iter=options.max_iterations, random_state=0)
    )
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:  # small matrices: threads only wait
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train, codes)
    if caught:
        logger.info("The solver of the baseline %s ended at %d iterations", name, options.max_iterations)
    found = np.zeros((len(test), n_classes))
    found[:, model.classes_] = model.predict_proba(test)
    return found
