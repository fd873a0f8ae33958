"""Cross-validation of a small table: each row is predicted by networks and baselines that did not learn from it."""

import logging
from collections import Counter
from typing import Any

import narwhals as nw
import numpy as np

from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.baselines import all_predictions
from embedline.pipelines.tabular.columns import (
    PREDICT,
    SPLIT_COLUMN,
    TEST,
    TRAIN,
    Columns,
    Split,
)
from embedline.pipelines.tabular.encoder import encode, fit_encoder
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.model import MODEL, load_model
from embedline.pipelines.tabular.options import BaselineOptions, EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.predictions import (
    NamedArrays,
    actual_columns,
    baseline_columns,
    predicted_columns,
    prediction_loss,
)
from embedline.pipelines.tabular.splits import fold_rows, mark_split
from embedline.pipelines.tabular.targets import Target, actual_values, prefix_of, read_targets

REPEAT, FOLD, ROW = "repeat", "fold", "row"  # columns of the predictions, counted from 0

logger = logging.getLogger(__name__)


def cross_validate(
    table: nw.DataFrame[Any],
    columns: Columns,
    split: Split,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
) -> tuple[NamedArrays, dict[str, Any]]:
    """Fit encoding, networks and baselines on all folds but one, and predict that one, for each fold of each repeat.

    Args:
        table: rows with the column ``split``; those without a target are left out.

    Returns:
        Columns of :mod:`.predictions` by their names, and ``repeat``, ``fold`` and ``row`` (of the labelled rows),
        int64, each [repeats · rows]; and the costs of the baselines, summed over the folds.

    Raises:
        DataError: if there are too few rows, or a class has one row only.
    """
    labelled = table.filter(nw.col(SPLIT_COLUMN) != PREDICT)
    found: list[NamedArrays] = []
    costs: dict[str, dict[str, Any]] = {}
    in_folds = Counter[str]()
    for number, held_out in enumerate(fold_rows(labelled, columns, split)):
        repeat, fold = divmod(number, split.n)
        rows = mark_split(labelled, held_out)
        places = {key: np.full(len(held_out), value) for key, value in ((REPEAT, repeat), (FOLD, fold))}
        values, spent, _ = held_out_predictions(
            rows, columns, encoding, network, training, baselines, name=f"fold{number}"
        )
        found.append({**places, ROW: held_out, **values})
        in_folds.update(spent.keys())
        for baseline, cost in spent.items():
            before = costs.get(baseline, {}).get("seconds", 0.0)
            costs[baseline] = cost | ({"seconds": before + cost["seconds"]} if "seconds" in cost else {})
    # Of a blend whose share is chosen, a fold may have no trees: the members then have no predictions of all rows.
    columns_of_all = [key for key in found[0] if all(key in values for values in found)]
    costs = {name: cost for name, cost in costs.items() if in_folds[name] == len(found)}
    return {key: np.concatenate([values[key] for values in found]) for key in columns_of_all}, costs


def held_out_predictions(
    rows: nw.DataFrame[Any],
    columns: Columns,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
    *,
    name: str = "",
) -> tuple[NamedArrays, dict[str, dict[str, Any]], tuple[Target, ...]]:
    """Fit encoding, networks and baselines on the training rows, and predict the test rows.

    Returns:
        Columns of :mod:`.predictions` by their names, [test rows] each; the costs of the members of a blend and of the
        baselines; and the targets.
    """
    encoder = fit_encoder(subset(rows, TRAIN), columns, encoding)
    encoded = encode(rows, encoder)
    model, _ = train_network(encoded, encoder, network, training, name=name)
    tested = subset(encoded, TEST)
    members = load_model(model).predict_members(to_arrays(tested, encoder))
    predicted = members.pop(MODEL)
    others, costs = all_predictions(rows, encoded, encoder, baselines)
    others, costs = members | others, {name: {} for name in members} | costs
    values: NamedArrays = {}
    targets = read_targets(model.encoder)  # with the quantiles, which only the model has
    for target in targets:
        prefix, actual = prefix_of(target, targets), actual_values(tested, target)
        values |= actual_columns(target, actual, prefix)
        values |= predicted_columns(target, predicted[target.column], prefix, model.metrics.get("decisions", {}))
        for baseline, by_target in others.items():
            values |= baseline_columns(target, by_target[target.column], baseline, prefix)
        loss = prediction_loss(target, actual, predicted[target.column])
        logger.info("%s: %sloss %.4f", name or "held-out rows", prefix, loss)
    return values, costs, targets
