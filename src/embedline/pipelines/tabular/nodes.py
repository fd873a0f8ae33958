"""Nodes of the tabular learner: they take and return frames, settings and model bundles.

Frames are Polars or pandas, as the catalog loads them; a node returns the kind that it is given. PyTorch, LightGBM and
Plotly are imported inside the functions, since every Kedro command reads this module.
"""

import functools
import logging
import operator
from collections.abc import Iterable
from typing import Any

import narwhals as nw
import polars as pl

from embedline.errors import DataError, about_frame
from embedline.frames.checks import first_row
from embedline.pipelines.tabular.columns import (
    PREDICT,
    TEST,
    TRAIN,
    Columns,
    Split,
    present,
    read_table,
    require_columns,
    require_logarithms,
)
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.encoder import encode as apply_encoder
from embedline.pipelines.tabular.encoder import fit_encoder as fit
from embedline.pipelines.tabular.options import (
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)
from embedline.pipelines.tabular.redundant import possible_codes
from embedline.pipelines.tabular.roles import InferredRoles, fitted_columns, infer_roles
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import actual_values, prefix_of, read_targets
from embedline.training.ceiling import beside
from embedline.training.options import FinderOptions

logger = logging.getLogger(__name__)
results = logging.getLogger("embedline.results")  # what it logs is shown without --verbose

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.model_file.ModelBundle


def fit_encoder(table: Frame, columns: Columns, split: Split, encoding: EncodingOptions) -> dict[str, Any]:
    """Fit the encoding on the training rows of the split; JSON values of :class:`Encoder`."""
    with about_frame("table"):
        rows, inferred = read_labelled(table, columns, split, encoding)
        train_rows = rows.filter(nw.col("split") == TRAIN)
        columns = inferred.columns if inferred else columns
        encoder = fit(train_rows, columns, encoding)
    if inferred:
        results.info("columns.inputs: auto found these roles; to keep or change them, paste them:\n%s", inferred.yaml())
    left_out = encoder.left_out
    if left_out.constant:
        logger.warning("Left out, with one value in all training rows: %s", ", ".join(map(repr, left_out.constant)))
    if left_out.duplicates:
        pairs = ", ".join(f"{name!r} (as {other!r})" for name, other in left_out.duplicates.items())
        logger.warning("Left out, with the same values as another column in all training rows: %s", pairs)
    if codes := possible_codes(train_rows, left_out.keep(columns.continuous)):
        logger.info(
            "Whole numbers of few values under columns.continuous: %s; if they are codes, list them under "
            "columns.categorical",
            ", ".join(map(repr, codes)),
        )
    logger.info("Fitted %d categorical and %d continuous variables", len(encoder.code_columns), len(encoder.continuous))
    return encoder.model_copy(update={"inferred": inferred}).model_dump(mode="json")


def read_labelled(
    table: Frame, columns: Columns, split: Split, encoding: EncodingOptions, *others: tuple[str, tuple[str, ...]]
) -> tuple[nw.DataFrame[Any], InferredRoles | None]:
    """Rows of the table with their ``split`` and all that a fit needs, and the roles that ``inputs: auto`` stands for.

    Args:
        others: further columns, as for :func:`.columns.read_table`.
    """
    grouped = tuple(dict.fromkeys(name for group in encoding.target_means for name in group))
    others = (("encoding.target_means", grouped), *others)
    rows, inferred = read_table(table, columns, split, others=others), None
    if columns.inputs == "auto":
        inferred = infer_roles(rows, columns, split)
        columns = inferred.columns
        rows = read_table(table, columns, split, others=others)
    require_logarithms(rows, columns, encoding)
    return assign_splits(rows, columns, split), inferred


def encode(table: Frame, encoder: dict[str, Any], columns: Columns, split: Split) -> Frame:
    """Encode all rows of the table: codes, standardised values and the split of each row."""
    fitted, columns = Encoder.model_validate(encoder), fitted_columns(columns, encoder)
    with about_frame("table"):
        rows = read_table(table, columns, split, others=(("encoding.target_means", tuple(fitted.groups)),))
        encoded = apply_encoder(assign_splits(rows, columns, split), fitted)
    counts = dict(sorted(encoded.group_by("split").agg(nw.len().alias("rows")).rows()))
    logger.info("Encoded rows: %s", ", ".join(f"{name} {number:,}" for name, number in counts.items()))
    if PREDICT in counts:
        unlabelled = rows.select(~functools.reduce(operator.and_, (present(rows, name) for name in columns.targets)))
        logger.info(
            "%s of these rows, the first in row %d of the table, have no value of the target (%s): they neither train "
            "nor are evaluated",
            f"{counts[PREDICT]:,}",
            first_row(unlabelled.get_column(unlabelled.columns[0])),
            ", ".join(columns.targets),
        )
    return encoded.to_native()


def find_learning_rate(
    encoded: Frame, encoder: dict[str, Any], network: NetworkOptions, training: TableTraining, finder: FinderOptions
) -> pl.DataFrame:
    """Range test on the training rows: columns ``rate``, ``loss`` (smoothed) and ``suggestion`` (constant)."""
    from embedline.pipelines.tabular.learner import range_test

    test = range_test(
        nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder), network, training, finder
    )
    return test.frame()


def train(
    encoded: Frame, encoder: dict[str, Any], network: NetworkOptions, training: TableTraining
) -> tuple[Bundle, pl.DataFrame]:
    """Train a network for each seed; the bundle, and the history of the training."""
    from embedline.pipelines.tabular.learner import train_network
    from embedline.training.ensemble import describe, history_frame

    bundle, history = train_network(
        nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder), network, training
    )
    logger.info(describe(bundle.metrics))
    return bundle, history_frame(history)


def calibrate_intervals(
    table: Frame,
    columns: Columns,
    split: Split,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
) -> dict[str, Any]:
    """What makes an interval of a prediction (:func:`.calibration.calibrate_intervals`), by target and level."""
    from embedline.pipelines.tabular.calibration import calibrate_intervals

    if training.intervals is None:
        return {}
    with about_frame("table"):
        rows, inferred = read_labelled(table, columns, split, encoding)
        columns = inferred.columns if inferred else columns
        return calibrate_intervals(rows, columns, split, encoding, network, training)


def fit_baselines(
    table: Frame, encoded: Frame, encoder: dict[str, Any], columns: Columns, split: Split, baselines: BaselineOptions
) -> tuple[Frame, dict[str, Any]]:
    """Predictions of the test rows by each baseline (columns as in :mod:`.predictions`), and the costs of the fits."""
    from embedline.pipelines.tabular.baselines import all_predictions
    from embedline.pipelines.tabular.predictions import baseline_columns, to_series

    fitted, columns = Encoder.model_validate(encoder), fitted_columns(columns, encoder)
    with about_frame("table"):
        rows = read_table(table, columns, split, others=(("baselines.group_by", baselines.group_by),))
        rows = assign_splits(rows, columns, split)
        if split.kind == "folds":
            return pl.DataFrame(schema={"row": pl.Int64}), {}
        predicted, costs = all_predictions(rows, nw.from_native(encoded, eager_only=True), fitted, baselines)
    found = {
        column: values
        for target in fitted.targets
        for name, by_target in predicted.items()
        for column, values in baseline_columns(
            target, by_target[target.column], name, prefix_of(target, fitted.targets)
        ).items()
    }
    series = to_series(found, rows.implementation)
    return nw.from_dict({one.name: one for one in series}).to_native(), costs


def cross_validate(
    table: Frame,
    columns: Columns,
    split: Split,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Predictions of all labelled rows by folds, and the costs of the baselines, where ``split.kind`` is ``folds``."""
    from embedline.pipelines.tabular import cross_validation

    if split.kind != "folds":
        return pl.DataFrame(schema={cross_validation.ROW: pl.Int64}), {}
    with about_frame("table"):
        group_by = ("baselines.group_by", baselines.group_by)
        rows, inferred = read_labelled(table, columns, split, encoding, group_by)
        columns = inferred.columns if inferred else columns
        found, costs = cross_validation.cross_validate(rows, columns, split, encoding, network, training, baselines)
    return pl.DataFrame(found), costs


def predict(
    table: Frame,
    encoded: Frame,
    model: Bundle,
    baseline_predictions: Frame,
    fold_predictions: pl.DataFrame,
    columns: Columns,
    split: Split,
    report: ReportOptions,
    intervals: dict[str, Any] | None = None,
) -> Frame:
    """Test rows: keys, the columns of the report, and the columns of :mod:`.predictions` for each target.

    With folds, every labelled row once for each repeat, predicted by networks that did not learn from it.
    """
    from embedline.pipelines.tabular.arrays import subset, to_arrays
    from embedline.pipelines.tabular.intervals import fold_intervals, interval_columns
    from embedline.pipelines.tabular.model import MODEL, load_model
    from embedline.pipelines.tabular.predictions import (
        actual_columns,
        baseline_columns,
        predicted_columns,
        to_series,
    )

    with about_frame("table"):
        series = (report.series_by,) if report.series_by else ()
        others = (("report.series_by", series), ("report.error_by", report.error_by))
        rows = assign_splits(read_table(table, columns, split, others=others), columns, split)
        columns = fitted_columns(columns, model.encoder)
        if split.kind == "folds":
            rows = rows.filter(nw.col("split") == TRAIN)[fold_predictions["row"].to_list()]
            found: dict[str, Any] = {name: fold_predictions[name].to_numpy() for name in fold_predictions.columns}
            for target in read_targets(model.encoder):
                found |= fold_intervals(target, found, intervals or {}, prefix_of(target, read_targets(model.encoder)))
            names = _kept_columns(rows, columns, report, taken=found)
            return rows.select(*names, *to_series(found, rows.implementation)).to_native()
        rows = rows.filter(nw.col("split") == TEST)
    coded = subset(nw.from_native(encoded, eager_only=True), TEST)
    loaded = load_model(model)
    targets, members = loaded.encoder.targets, loaded.predict_members(to_arrays(coded, loaded.encoder))
    predicted = members.pop(MODEL)
    # Through NumPy: the table may have another dataframe backend than the stored predictions.
    baselines = nw.from_native(baseline_predictions, eager_only=True)
    found = {}
    for target in targets:
        prefix = prefix_of(target, targets)
        found |= actual_columns(target, actual_values(coded, target), prefix)
        found |= predicted_columns(target, predicted[target.column], prefix, loaded.decisions)
        found |= interval_columns(target, predicted[target.column], intervals or {}, prefix)
        for name, by_target in members.items():
            found |= baseline_columns(target, by_target[target.column], name, prefix)
    found |= {name: baselines[name].to_numpy() for name in baselines.columns}
    with about_frame("table"):
        names = _kept_columns(rows, columns, report, taken=found)
    return rows.select(*names, *to_series(found, rows.implementation)).to_native()


def _kept_columns(
    rows: nw.DataFrame[Any], columns: Columns, report: ReportOptions, *, taken: Iterable[str]
) -> list[str]:
    """Columns of the table beside the predictions; raise a DataError if one is missing or has a ``taken`` name."""
    named = {
        "columns.id": columns.id,
        "columns.time": (columns.time,) if columns.time else (),
        "report.series_by": (report.series_by,) if report.series_by else (),
        "report.error_by": report.error_by,
    }
    for key, names in named.items():
        require_columns(rows, names, what="the table", key=key)
        if both := sorted(set(names) & set(taken)):
            raise DataError(f"{key} names {both[0]!r}, a column that the predictions have: rename it in the table")
    return list(dict.fromkeys(name for names in named.values() for name in names))


def evaluate(
    predictions: Frame,
    model: Bundle,
    baseline_costs: dict[str, Any],
    fold_costs: dict[str, Any],
    columns: Columns | None = None,
    report: ReportOptions | None = None,
    ceiling: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Metrics and costs of the model and of each baseline on the same rows; logs a warning if the model loses.

    With several targets, the metrics are under ``targets`` by their columns; where all have two classes, those of the
    labels of a row together are under ``labels``. Weights of rows (``columns.weight``) do not count in any metric.

    Args:
        columns, report: the coverage of intervals is broken down by the week of ``columns.time`` and by
            ``report.error_by``.
        ceiling: the best that a model can expect by target and metric, where the law of the rows is known
            (:func:`embedline.training.ceiling.beside`).
    """
    from embedline.pipelines.tabular.intervals import horizon_weeks
    from embedline.pipelines.tabular.predictions import NETWORKS, TREES, compare, compare_labels

    frame = nw.from_native(predictions, eager_only=True)
    targets = read_targets(model.encoder)  # with the quantiles, which only the model has
    members = (NETWORKS, TREES) if model.metrics.get("blend") else ()
    groups = {name: frame.get_column(name).to_list() for name in (report.error_by if report else ())}
    if columns and columns.time and not fold_costs:
        groups["week"] = horizon_weeks(frame, columns.time)
    by_target = {
        target.column: compare(
            frame,
            target,
            prefix_of(target, targets),
            fold_costs or {name: {} for name in members} | baseline_costs,
            repeated=bool(fold_costs),
            groups=groups,
            decision=model.metrics.get("decisions", {}).get(target.column),
        )
        for target in targets
    }
    for target in targets:
        found = by_target[target.column]
        found |= beside(found, (ceiling or {}).get(target.column), prefix_of(target, targets))
    costs = {"train_rows": model.metrics["rows"], "test_rows": len(frame)}
    if fold_costs:
        folds = {f"{name}s": frame[name].n_unique() for name in ("fold", "repeat")}
        costs |= {"test_rows": frame["row"].n_unique(), **folds}
    costs |= {name: value for name, value in model.metrics.items() if name != "rows"}
    if len(targets) == 1:
        return {**by_target[targets[0].column], **costs}
    labels = compare_labels(frame, targets)
    return {**costs, "targets": by_target, **({"labels": labels} if labels else {})}


def measure_importance(encoded: Frame, model: Bundle, report: ReportOptions) -> pl.DataFrame:
    """Permutation importance of each variable on the test rows (:func:`.importance.permutation_importance`)."""
    from embedline.pipelines.tabular.importance import permutation_importance

    importance = permutation_importance(nw.from_native(encoded, eager_only=True), model, report.importance)
    first = ", ".join(importance["variable"].head(3))
    logger.info("Most important: %s", first)
    return importance


def extract_embeddings(model: Bundle) -> pl.DataFrame:
    """Learned embeddings by variable and value (:func:`.model.embedding_frame`)."""
    from embedline.pipelines.tabular.model import embedding_frame

    return embedding_frame(model)


def forecast(encoded: Frame, model: Bundle, columns: Columns, intervals: dict[str, Any] | None = None) -> Frame:
    """Predict the rows without a target: the keys, ``predicted``, the probabilities of classes, and intervals."""
    from embedline.pipelines.tabular.arrays import subset
    from embedline.pipelines.tabular.intervals import interval_columns
    from embedline.pipelines.tabular.model import predict_all
    from embedline.pipelines.tabular.predictions import predicted_columns, to_series

    rows = subset(nw.from_native(encoded, eager_only=True), PREDICT)
    targets, predicted = read_targets(model.encoder), predict_all(rows, model)
    decisions = model.metrics.get("decisions", {})
    found: dict[str, Any] = {}
    for target in targets:
        prefix = prefix_of(target, targets)
        found |= predicted_columns(target, predicted[target.column], prefix, decisions)
        found |= interval_columns(target, predicted[target.column], intervals or {}, prefix)
    keys = fitted_columns(columns, model.encoder).keys
    return rows.select(*keys, *to_series(found, rows.implementation)).to_native()
