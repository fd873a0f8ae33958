"""The evaluation of an image model: predictions beside labels, metrics of each target, network and baseline, mistakes.

Of one target ``label`` the columns of predictions are ``label``, ``predicted``, ``confidence`` and ``p_<class>``; of
several, each target ``t`` has ``t``, ``predicted_<t>``, ``confidence_<t>`` and ``p_<t>_<class>``.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.images.examples import ID, Classes, class_codes
from embedline.pipelines.images.options import ReportOptions
from embedline.training.ceiling import beside
from embedline.training.metrics import check_probabilities, classification_metrics, paired_difference, row_log_losses

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MEMBER_METRICS = ("accuracy", "accuracy_low", "accuracy_high", "f1_macro", "log_loss", "calibration_error")


def column(what: str, target: str, classes: Classes, name: str = "") -> str:
    """Name of a column of predictions: ``predicted``, ``confidence`` or ``p`` (of class ``name``) of a target."""
    own = f"_{target}" if len(classes) > 1 else ""
    return f"{what}{own}" + (f"_{name}" if what == "p" else "")


def answer_columns(probabilities: Array, classes: Classes) -> list[pl.Series]:
    """Predicted class, confidence and probabilities of each target, given float [N, C], target beside target."""
    found = []
    for target, part in zip(classes, split_targets(probabilities, classes), strict=True):
        names = list(classes[target])
        predicted = [names[k] for k in part.argmax(axis=1)]
        found.append(pl.Series(column("predicted", target, classes), predicted, dtype=pl.String))
        found.append(pl.Series(column("confidence", target, classes), part.max(axis=1), dtype=pl.Float64))
        found += [pl.Series(column("p", target, classes, name), part[:, k]) for k, name in enumerate(names)]
    return found


def split_targets(probabilities: Array, classes: Classes) -> list[Array]:
    """The columns of each target, float [N, C_t] each, of float [N, C]."""
    return np.split(probabilities, np.cumsum([len(names) for names in classes.values()])[:-1], axis=1)


def prediction_frame(images: pl.DataFrame, probabilities: Array, classes: Classes) -> pl.DataFrame:
    """Labels of ``images`` and predictions, given probabilities float [N, C], target beside target.

    Raises:
        DataError: if a row of a target's probabilities is no probability distribution.
    """
    codes = class_codes(images, classes)
    for place, part in enumerate(split_targets(probabilities, classes)):
        check_probabilities(codes[:, place], part, [*classes.values()][place])
    return images.select(ID, *classes).with_columns(answer_columns(probabilities, classes))


def prediction_arrays(predictions: pl.DataFrame, target: str, classes: Classes) -> tuple[NDArray[np.int64], Array]:
    """Actual class of each row, int64 [N], and probabilities, float64 [N, C_t], of a target."""
    columns = [column("p", target, classes, name) for name in classes[target]]
    if missing := [name for name in (ID, target, *columns) if name not in predictions.columns]:
        raise DataError(f"the predictions have no column {missing[0]!r}; they have {', '.join(predictions.columns)}")
    codes = class_codes(predictions, {target: classes[target]})[:, 0]
    return codes, predictions.select(columns).to_numpy().astype(np.float64)


def require_same_images(frames: Mapping[str, pl.DataFrame]) -> None:
    """Raise a DataError if two frames, by the names of their models, have not the same column ``image_id``."""
    (first, ours), *others = frames.items()
    for which, theirs in others:
        for one, other, name in ((ours, theirs, first), (theirs, ours, which)):
            if len(alone := one.join(other, on=ID, how="anti")):
                raise DataError(f"only the {name} predicts the picture {alone[ID][0]!r}: {len(alone)} such pictures")


def evaluate(
    predictions: pl.DataFrame,
    member_predictions: pl.DataFrame,
    baselines: pl.DataFrame,
    classes: Classes,
    training: Mapping[str, Any],
    options: ReportOptions,
    ceiling: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Metrics of the model, of each of its networks and of the baselines on the test pictures, as JSON values.

    Args:
        member_predictions, baselines: as ``predictions``, with a column ``member``.
        training: metrics of the bundle.
        ceiling: the best that a model can expect by metric, where the law of the pictures is known.

    Returns:
        Of one target its :func:`embedline.training.metrics.classification_metrics` beside the training's; of several,
        ``targets``, these by name. ``networks`` and ``baselines``, by name: :data:`MEMBER_METRICS`, and of a baseline
        ``differences``: the model's accuracy and log loss less its own.

    Raises:
        DataError: if the pictures of two frames differ.
    """
    rivals = {
        kind: {name: rows for (name,), rows in frame.group_by("member", maintain_order=True)}
        for kind, frame in (("networks", member_predictions), ("baselines", baselines))
    }
    for frames in rivals.values():
        require_same_images({"model": predictions, **{str(name): rows for name, rows in frames.items()}})
    found: dict[str, dict[str, Any]] = {}
    for target in classes:
        names = list(classes[target])
        actual, ours = prediction_arrays(predictions, target, classes)
        found[target] = classification_metrics(actual, ours, names, n_bins=options.calibration_bins)
        for kind, frames in rivals.items():
            found[target][kind] = {
                name: _rival(predictions, rows, target, classes, ours, actual, options, compared=kind == "baselines")
                for name, rows in frames.items()
            }
        prefix = f"{target}." if len(classes) > 1 else ""
        found[target] |= beside(found[target], ceiling, prefix)
        _log(found[target], prefix)
    shared = {"train_rows": training["rows"], "test_rows": len(predictions)} | {
        name: training[name] for name in ("epochs", "members", "seconds", "rows_per_second", "device", "precision")
    }
    skipped = {"skipped_pictures": training["skipped"]} if training.get("skipped") else {}
    return {**(next(iter(found.values())) if len(found) == 1 else {"targets": found}), **shared, **skipped}


def _rival(
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    target: str,
    classes: Classes,
    ours: Array,
    actual: NDArray[np.int64],
    options: ReportOptions,
    *,
    compared: bool,
) -> dict[str, Any]:
    columns = [column("p", target, classes, name) for name in classes[target]]
    aligned = predictions.select(ID, target).join(rows.select(ID, *columns), on=ID, how="left", maintain_order="left")
    theirs = prediction_arrays(aligned, target, classes)[1]
    measured = classification_metrics(actual, theirs, list(classes[target]), n_bins=options.calibration_bins)
    metrics: dict[str, Any] = {name: measured[name] for name in MEMBER_METRICS}
    if compared:
        losses = [row_log_losses(actual, each) for each in (ours, theirs)]
        correct = [each.argmax(axis=1) == actual for each in (ours, theirs)]
        metrics["differences"] = {
            "accuracy": paired_difference(*correct, higher_is_better=True),
            "log_loss": paired_difference(*losses),
        }
    return metrics


def _log(metrics: Mapping[str, Any], prefix: str) -> None:
    """Log the accuracy beside those of the baselines: a warning where one of them is better, outside of chance."""
    for name, baseline in metrics["baselines"].items():
        found = baseline["differences"]["accuracy"]
        logger.log(
            logging.WARNING if found["verdict"] == "worse" else logging.INFO,
            "Test %saccuracy %.4f, %s %.4f: %s (%+.4f, 95 %% interval %+.4f to %+.4f)",
            *(prefix, metrics["accuracy"], name, baseline["accuracy"]),
            *(found["verdict"], found["difference"], found["low"], found["high"]),
        )


def mistakes(predictions: pl.DataFrame, classes: Classes, options: ReportOptions) -> pl.DataFrame:
    """The most confident mistakes of all targets, at most ``options.mistakes`` rows, surest first.

    Returns:
        ``image_id``, ``target``, ``label``, ``predicted``, ``confidence``.
    """
    frames = [
        predictions.select(
            ID,
            target=pl.lit(target),
            label=pl.col(target),
            predicted=pl.col(column("predicted", target, classes)),
            confidence=pl.col(column("confidence", target, classes)),
        )
        for target in classes
    ]
    wrong = pl.concat(frames).filter(pl.col("predicted") != pl.col("label"))
    return wrong.sort("confidence", ID, descending=[True, False]).head(options.mistakes)


def neighbour_frame(
    ids: Sequence[str],
    features: NDArray[np.floating],
    rows: NDArray[np.integer],
    among: NDArray[np.integer],
    count: int,
) -> pl.DataFrame:
    """The ``count`` pictures ``among`` that are nearest to each of ``rows``, by the cosine of their features [N, F].

    Returns:
        ``item`` (the picture's id), ``rank`` from 1, ``neighbour`` and ``cosine``.
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(count, len(among)), metric="cosine").fit(features[among])
    distances, places = index.kneighbors(features[rows])
    n_found = places.shape[1]
    return pl.DataFrame(
        {
            "item": np.repeat([ids[row] for row in rows], n_found),
            "rank": np.tile(np.arange(1, n_found + 1), len(rows)),
            "neighbour": [ids[place] for place in np.asarray(among)[places].flatten()],
            "cosine": 1.0 - distances.flatten().astype(np.float64),
        }
    )
