"""Nodes of the tabular learner: frames, settings and bundles in, the same out.

Frames are Polars or pandas, as the catalog loads them, and leave as they came. PyTorch, LightGBM and Plotly are
imported inside the functions, since every Kedro command reads this module.
"""

import logging
from typing import Any

import narwhals as nw
import polars as pl

from embedline.tables.columns import EVALUATE, PREDICT, TRAIN, Columns, Split, assign_parts, require_columns
from embedline.tables.encoder import Encoder, EncodingOptions
from embedline.tables.encoder import encode as apply_encoder
from embedline.tables.encoder import fit_encoder as fit
from embedline.tables.options import BaselineOptions, NetworkOptions, ReportOptions
from embedline.training.options import FinderOptions, TrainingOptions

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Figure = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.bundle.ModelBundle


def fit_encoder(table: Frame, columns: Columns, split: Split, encoding: EncodingOptions) -> dict[str, Any]:
    """Fit the encoding on the training rows of the split; JSON values of :class:`Encoder`."""
    parts = assign_parts(nw.from_native(table, eager_only=True), columns, split)
    encoder = fit(parts.filter(nw.col("part") == TRAIN), columns, encoding)
    logger.info("Fitted %d categorical and %d continuous variables", len(encoder.code_columns), len(encoder.continuous))
    return encoder.model_dump(mode="json")


def encode(table: Frame, encoder: dict[str, Any], columns: Columns, split: Split) -> Frame:
    """Encode all rows of the split: codes and standardised values, with the part that each row belongs to."""
    parts = assign_parts(nw.from_native(table, eager_only=True), columns, split)
    encoded = apply_encoder(parts, Encoder.model_validate(encoder))
    counts = dict(sorted(encoded.group_by("part").agg(nw.len().alias("rows")).rows()))
    logger.info("Encoded rows: %s", ", ".join(f"{part} {rows:,}" for part, rows in counts.items()))
    return encoded.to_native()


def find_learning_rate(
    encoded: Frame, encoder: dict[str, Any], network: NetworkOptions, training: TrainingOptions, finder: FinderOptions
) -> pl.DataFrame:
    """Range test on the training rows: columns ``rate``, ``loss`` (smoothed) and ``suggestion`` (constant)."""
    from embedline.tables.learner import range_test

    test = range_test(
        nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder), network, training, finder
    )
    logger.info("Learning-rate range test suggests %.1e; the training uses %.1e", test.suggestion, training.lr)
    return pl.DataFrame({"rate": test.rates, "loss": test.losses}).with_columns(suggestion=pl.lit(test.suggestion))


def train(
    encoded: Frame, encoder: dict[str, Any], network: NetworkOptions, training: TrainingOptions
) -> tuple[Bundle, pl.DataFrame]:
    """Train the network, one for each seed; the bundle, and the history of the training."""
    from embedline.tables.learner import train_network
    from embedline.training.figures import history_frame

    bundle, history = train_network(
        nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder), network, training
    )
    logger.info(
        "Trained %d network(s) on %s rows for %d epochs in %.0f s: %s rows/s on %s in %s",
        bundle.metrics["members"],
        f"{bundle.metrics['rows']:,}",
        bundle.metrics["epochs"],
        bundle.metrics["seconds"],
        f"{bundle.metrics['rows_per_second']:,.0f}",
        bundle.metrics["device"],
        bundle.metrics["precision"],
    )
    return bundle, history_frame(history)


def fit_baselines(
    table: Frame, encoded: Frame, encoder: dict[str, Any], columns: Columns, split: Split, baselines: BaselineOptions
) -> tuple[Frame, dict[str, Any]]:
    """Baselines' predictions of the evaluated rows, a column each, and what they cost."""
    from embedline.tables.baselines import group_mean_predictions, tree_predictions

    parts = assign_parts(nw.from_native(table, eager_only=True), columns, split)
    predicted = {"group_mean": group_mean_predictions(parts, columns, baselines.group_by)}
    costs: dict[str, Any] = {"group_mean": {"group_by": list(baselines.group_by)}}
    if baselines.lightgbm is not None:
        predicted["lightgbm"], costs["lightgbm"] = tree_predictions(
            nw.from_native(encoded, eager_only=True), Encoder.model_validate(encoder), baselines.lightgbm
        )
    backend = nw.from_native(table).implementation
    return nw.from_dict(predicted, backend=backend).to_native(), costs


def predict(
    table: Frame,
    encoded: Frame,
    model: Bundle,
    baseline_predictions: Frame,
    columns: Columns,
    split: Split,
    report: ReportOptions,
) -> Frame:
    """Evaluated rows: keys, the report's columns, ``actual``, ``predicted`` and a column for each baseline."""
    from embedline.tables.arrays import part_of
    from embedline.tables.learner import predict as predict_rows

    rows = assign_parts(nw.from_native(table, eager_only=True), columns, split).filter(nw.col("part") == EVALUATE)
    shown = dict.fromkeys([*columns.keys, *([report.series_by] if report.series_by else []), *report.error_by])
    require_columns(rows, tuple(shown), what="the table (named in report or columns)")
    predicted = predict_rows(part_of(nw.from_native(encoded, eager_only=True), EVALUATE), model)
    backend = rows.implementation
    # Through NumPy: the table may come from another engine than the stored predictions.
    figures = nw.from_native(baseline_predictions, eager_only=True)
    return rows.select(
        *shown,
        nw.col(columns.target).cast(nw.Float64).alias("actual"),
        nw.new_series("predicted", predicted, nw.Float64, backend=backend),
        *(nw.new_series(name, figures[name].to_numpy(), nw.Float64, backend=backend) for name in figures.columns),
    ).to_native()


def evaluate(
    predictions: Frame, model: Bundle, encoder: dict[str, Any], baseline_costs: dict[str, Any]
) -> dict[str, Any]:
    """Figures of the network and of each baseline on the same rows, with what they cost; warns where it loses."""
    from embedline.training.metrics import regression_metrics

    frame = nw.from_native(predictions, eager_only=True)
    actual = frame.get_column("actual").to_numpy()
    logarithmic = encoder["target"]["transform"] == "log"
    main = "exp_rmspe" if logarithmic else "rmse"

    def figures(column: str) -> dict[str, Any]:
        return dict(regression_metrics(actual, frame.get_column(column).to_numpy(), logarithmic=logarithmic))

    ours = figures("predicted")
    baselines = {name: {**figures(name), **cost} for name, cost in baseline_costs.items()}
    winners = [name for name, baseline in baselines.items() if baseline[main] <= ours[main]]
    for name in winners:
        logger.warning("The network (%s %.4f) loses to %s (%.4f)", main, ours[main], name, baselines[name][main])
    logger.info("%s %.4f; %s", main, ours[main], ", ".join(f"{k} {v[main]:.4f}" for k, v in baselines.items()))
    costs = {"train_rows": model.metrics["rows"], "evaluate_rows": len(frame)}
    costs |= {name: value for name, value in model.metrics.items() if name != "rows"}
    return {**ours, **costs, "beaten_by": winners, "baselines": baselines}


def extract_embeddings(model: Bundle) -> pl.DataFrame:
    """Every learned embedding by variable and value; see :func:`embedline.tables.embeddings.embedding_frame`."""
    from embedline.tables.embeddings import embedding_frame

    return embedding_frame(model)


def forecast(encoded: Frame, model: Bundle, columns: Columns) -> Frame:
    """Predictions of the rows without a target: the key columns and ``predicted``."""
    from embedline.tables.arrays import part_of
    from embedline.tables.learner import predict as predict_rows

    rows = part_of(nw.from_native(encoded, eager_only=True), PREDICT)
    predicted = nw.new_series("predicted", predict_rows(rows, model), nw.Float64, backend=rows.implementation)
    return rows.select(*columns.keys, predicted).to_native()


def plot_training(history: pl.DataFrame) -> Figure:
    """Loss and learning rate over the epochs."""
    from embedline.tables.figures import training_figure

    return training_figure(history, "Training: loss and learning rate")


def plot_learning_rates(learning_rates: pl.DataFrame) -> Figure:
    """Loss against learning rate in the range test."""
    from embedline.tables.figures import range_test_figure

    return range_test_figure(learning_rates, "Learning-rate range test")


def plot_forecast(predictions: Frame, columns: Columns, report: ReportOptions) -> Figure:
    """Actual against predicted: over time for a few series, or row by row in a table without a time."""
    from embedline.tables.figures import agreement_figure, forecast_figure

    title = "Held-out rows: actual and predicted"
    if columns.time is None:
        return agreement_figure(_polars(predictions), title)
    return forecast_figure(_polars(predictions), columns.time, report, title)


def plot_errors(predictions: Frame, report: ReportOptions) -> Figure:
    """Relative error by the values of a few columns."""
    from embedline.tables.figures import error_figure

    return error_figure(_polars(predictions), report, "Held-out rows: where the error is")


def plot_embeddings(embeddings: pl.DataFrame, report: ReportOptions) -> Figure:
    """Embeddings of a few variables in two dimensions."""
    from embedline.tables.figures import embedding_figure

    return embedding_figure(embeddings, report, "Learned embeddings, first two principal components")


def _polars(frame: Frame) -> pl.DataFrame:
    return nw.from_native(frame, eager_only=True).to_polars()
