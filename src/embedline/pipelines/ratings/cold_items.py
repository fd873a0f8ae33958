"""The cold start of items: known users' ratings of items that were never seen in training."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.baselines import Biases, damped_biases
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import BaselineOptions
from embedline.pipelines.ratings.vectors import Vectors, average_item, item_vectors, score_pairs, user_vectors
from embedline.training.ensemble import weighted_mean

NO_FEATURES, FEATURES, AVERAGE = "no_features", "features", "features_and_average"


def measure_items(
    rows: pl.DataFrame,
    model: RatingModel,
    encoded: pl.DataFrame,
    biases: Biases,
    baselines: BaselineOptions,
) -> dict[str, Any]:
    """Predict ratings of new items by their features.

    Args:
        rows: ratings of new items by users whom the model knows.
        encoded: the ratings that the model was trained on.
        biases: damped ones of the same ratings.

    Returns:
        ``rows``, ``items``, ``users``, and ``mse`` and ``rmse`` of the model by the item's features alone; of
        ``no_features``: row 0, what the model says of an item that nothing is known of (the same, where there are
        no features); of ``features_and_average`` (only with features): the mean own row of the training ratings beside
        them, since a rating is more often one of a liked item than of a disliked one; of ``baselines``:
        ``damped_bias``, the mean and the user's bias, and ``user_mean``, the user's damped mean rating, whatever the
        items were.
    """
    encoder = model.encoder
    columns = encoder.columns
    user_rows = encoder.user_rows(rows[columns.user])
    actual = rows[columns.rating].to_numpy().astype(np.float64)
    new, place = np.unique(rows[columns.item].to_numpy(), return_inverse=True)
    new_rows = encoder.item_rows(pl.Series(new))
    counts = np.bincount(encoded[ITEM_ROW].to_numpy(), minlength=len(encoder.items) + 1)
    has_features = encoder.item_features.size > 0
    outputs: dict[str, list[NDArray[np.float32]]] = {NO_FEATURES: [], FEATURES: [], AVERAGE: []}
    for network in model.networks:
        users = user_vectors(network, np.arange(len(encoder.users) + 1))
        features, average = item_vectors(network, new_rows), average_item(network, counts)
        nothing = Vectors(features.factors * 0.0, features.biases * 0.0)
        typical = Vectors(features.factors + average.factors, features.biases + average.biases)
        for way, vectors in ((NO_FEATURES, nothing), (FEATURES, features), (AVERAGE, typical)):
            if has_features or way == NO_FEATURES:
                outputs[way].append(score_pairs(network, users, user_rows, vectors, place))
    figures = {
        way: errors(weighted_mean(members, model.weights), actual, encoder.rating_range)
        for way, members in outputs.items()
        if members
    }
    nowhere = np.zeros_like(user_rows)
    means = damped_biases(
        encoded[USER_ROW].to_numpy(),
        np.zeros(len(encoded), dtype=np.int32),
        encoded[RATING].to_numpy(),
        len(encoder.users),
        len(encoder.items),
        baselines.user_damping,
        baselines.item_damping,
    )
    theirs = {"damped_bias": biases, "user_mean": means}
    return {
        "rows": len(rows),
        "items": len(new),
        "users": len(np.unique(user_rows)),
        **figures.pop(FEATURES if has_features else NO_FEATURES),
        **figures,
        "baselines": {
            name: errors(one.predict(user_rows, nowhere), actual, encoder.rating_range) for name, one in theirs.items()
        },
    }


def errors(
    predicted: NDArray[np.floating], actual: NDArray[np.float64], rating_range: tuple[float, float]
) -> dict[str, float]:
    """Mean squared error of predictions [N], cut off at the rating range, and its root."""
    mse = float(np.mean((np.clip(predicted, *rating_range) - actual) ** 2))
    return {"mse": mse, "rmse": float(np.sqrt(mse))}
