"""Nodes of the ratings learner: frames, settings and bundles in, frames and bundles out.

The frames of ratings, items and users are Polars or pandas, as the catalog loads them; what the nodes make is Polars.
PyTorch and Plotly are imported inside the functions, since every Kedro command reads this module.
"""

import logging
from typing import Any

import polars as pl

from embedline.errors import DataError, about_frame, input_name
from embedline.pipelines.ratings.contract import TRAIN, RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import RatingsEncoder
from embedline.pipelines.ratings.encoder import encode as apply_encoder
from embedline.pipelines.ratings.encoder import fit_encoder as fit
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    ColdStartOptions,
    CrossValidationOptions,
    FeatureOptions,
    FoldInOptions,
    RankerOptions,
    RankingOptions,
    RatingNetwork,
    RatingRange,
    RatingReport,
    RatingsTraining,
    RecommendationOptions,
)
from embedline.training.ceiling import beside
from embedline.training.options import FinderOptions

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Figure = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.model_file.ModelBundle


def fit_encoder(
    ratings: Frame,
    columns: RatingColumns,
    split: RatingSplit,
    rating_range: RatingRange,
    features: FeatureOptions,
    items: Frame = None,
    users: Frame = None,
) -> dict[str, Any]:
    """Give users and items of the training ratings their rows; JSON values of :class:`RatingsEncoder`."""
    with about_frame("ratings"):
        rows = subset(assign_splits(ratings, columns, split, warn=True), TRAIN)
        encoder = fit(rows, columns, rating_range.root, features, items, users)
    logger.info(
        "%s users with %d features and %s items with %d features in %s training ratings",
        f"{len(encoder.users):,}",
        encoder.user_features.size,
        f"{len(encoder.items):,}",
        encoder.item_features.size,
        f"{len(rows):,}",
    )
    return encoder.model_dump(mode="json")


def encode(ratings: Frame, encoder: dict[str, Any], columns: RatingColumns, split: RatingSplit) -> pl.DataFrame:
    """Ratings as rows of the user and of the item, with the split of each."""
    with about_frame("ratings"):
        encoded = apply_encoder(ratings, RatingsEncoder.model_validate(encoder), columns, split)
    counts = encoded.group_by("split").len().sort("split").rows()
    logger.info("Encoded ratings: %s", ", ".join(f"{name} {rows:,}" for name, rows in counts))
    return encoded


def find_learning_rate(
    encoded: pl.DataFrame,
    encoder: dict[str, Any],
    network: RatingNetwork,
    training: RatingsTraining,
    finder: FinderOptions,
) -> pl.DataFrame:
    """Range test on the training ratings: columns ``rate``, ``loss`` (smoothed) and ``suggestion`` (constant)."""
    from embedline.pipelines.ratings.learner import range_test

    test = range_test(encoded, RatingsEncoder.model_validate(encoder), network, training, finder)
    test.log(training.lr)
    return test.frame()


def train(
    encoded: pl.DataFrame, encoder: dict[str, Any], network: RatingNetwork, training: RatingsTraining
) -> tuple[Bundle, pl.DataFrame]:
    """Train the network, one for each seed; the bundle, and the history of the training."""
    if encoder["columns"]["rating"] is None:
        raise DataError(
            f"{input_name('encoder').removesuffix('.encoder')}.columns.rating is null: events have no rating to learn; "
            "make the pipeline with create_pipeline(…, events=True)"
        )
    from embedline.pipelines.ratings.learner import train_ratings
    from embedline.training.ensemble import describe, history_frame

    bundle, history = train_ratings(encoded, RatingsEncoder.model_validate(encoder), network, training)
    logger.info(describe(bundle.metrics))
    return bundle, history_frame(history)


def predict(
    ratings: Frame,
    encoded: pl.DataFrame,
    model: Bundle,
    columns: RatingColumns,
    split: RatingSplit,
    baselines: BaselineOptions,
) -> pl.DataFrame:
    """Held-out ratings with the predictions of the model and of the baselines."""
    from embedline.pipelines.ratings.evaluation import predict_held_out
    from embedline.pipelines.ratings.learner import load_model

    return predict_held_out(ratings, encoded, load_model(model), columns, split, baselines)


def evaluate(
    predictions: pl.DataFrame,
    encoded: pl.DataFrame,
    model: Bundle,
    ranker: Bundle,
    ranking: RankingOptions,
    ceiling: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Metrics of the model, of the recommendations (``ranking``) and of baselines on the held-out ratings, and costs.

    ``ceiling`` is the best that a model can expect by metric, where the law of the ratings is known.
    """
    from embedline.pipelines.ratings.evaluation import evaluate as compare

    metrics = compare(predictions)
    metrics |= beside(metrics, ceiling)
    costs = {name: value for name, value in model.metrics.items() if name != "rows"}
    lists = _evaluate_ranking(encoded, ranker, ranking, model)
    return {**metrics, "ranking": lists, "train_rows": model.metrics["rows"], "test_rows": len(predictions), **costs}


def evaluate_events(encoded: pl.DataFrame, ranker: Bundle, ranking: RankingOptions) -> dict[str, Any]:
    """Metrics of the recommendations (``ranking``) and of baselines on the held-out events."""
    counts = dict(encoded.group_by("split").len().iter_rows())
    rows = {"train_rows": counts.get("train", 0), "test_rows": counts.get("test", 0)}
    return {"ranking": _evaluate_ranking(encoded, ranker, ranking), **rows}


def _evaluate_ranking(
    encoded: pl.DataFrame, ranker: Bundle, ranking: RankingOptions, model: Bundle = None
) -> dict[str, Any]:
    from embedline.pipelines.ratings.evaluation import evaluate_ranking
    from embedline.pipelines.ratings.ranking import load_ranker

    recommender = load_ranker(ranker, encoded, _load(model))
    found = evaluate_ranking(encoded, recommender, ranker.config["candidates"], ranking)
    return {**found, "settings": ranker.config["settings"], "seconds": ranker.metrics["seconds"]}


def _load(model: Bundle) -> Any:
    """The rating model of a bundle; None without one."""
    from embedline.pipelines.ratings.learner import load_model

    return None if model is None else load_model(model)


def fit_ranker(
    ratings: Frame,
    encoder: dict[str, Any],
    split: RatingSplit,
    ranking: RankingOptions,
    recommendation: RecommendationOptions,
    rankers: RankerOptions,
    network: RatingNetwork | None = None,
    training: RatingsTraining | None = None,
) -> Bundle:
    """Choose the ranker of the recommendations on an inner split of the training ratings, and fit it on all of them."""
    from embedline.pipelines.ratings.ranking import fit_ranker as choose

    model = None if network is None or training is None else (network, training)
    return choose(ratings, RatingsEncoder.model_validate(encoder), split, ranking, recommendation, rankers, model)


def measure_cold_start(
    ratings: Frame,
    columns: RatingColumns,
    split: RatingSplit,
    rating_range: RatingRange,
    features: FeatureOptions,
    network: RatingNetwork,
    training: RatingsTraining,
    baselines: BaselineOptions,
    cold_start: ColdStartOptions,
    fold_in: FoldInOptions,
    ranking: RankingOptions,
    recommendation: RecommendationOptions,
    rankers: RankerOptions,
    items: Frame = None,
    users: Frame = None,
) -> dict[str, Any]:
    """Fit a model and a ranker without some users and items, and measure what they predict and recommend of them."""
    from embedline.pipelines.ratings.cold_start import RankingSettings
    from embedline.pipelines.ratings.cold_start import measure_cold_start as measure
    from embedline.pipelines.ratings.cross_validation import ModelSettings

    settings = ModelSettings(columns, network, training, baselines, rating_range.root, features, items, users)
    lists = RankingSettings(ranking, recommendation, rankers)
    return measure(ratings, split, cold_start, fold_in, settings, lists)


def cross_validate(
    ratings: Frame,
    columns: RatingColumns,
    rating_range: RatingRange,
    features: FeatureOptions,
    network: RatingNetwork,
    training: RatingsTraining,
    baselines: BaselineOptions,
    cross_validation: CrossValidationOptions,
    items: Frame = None,
    users: Frame = None,
) -> dict[str, Any]:
    """Metrics of a model of its own for each fold, and their means."""
    from embedline.pipelines.ratings.cross_validation import ModelSettings
    from embedline.pipelines.ratings.cross_validation import cross_validate as validate

    settings = ModelSettings(columns, network, training, baselines, rating_range.root, features, items, users)
    return validate(ratings, cross_validation, settings)


def describe_items(
    encoded: pl.DataFrame,
    model: Bundle,
    recommendation: RecommendationOptions,
    report: RatingReport,
    items: Frame = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The bias of every item, and its nearest items by their factors."""
    from embedline.pipelines.ratings.item_analysis import item_biases, nearest_items
    from embedline.pipelines.ratings.learner import load_model

    ready = load_model(model)
    k, least = recommendation.neighbours, report.min_ratings
    return item_biases(encoded, ready, items), nearest_items(encoded, ready, k=k, min_ratings=least, items=items)


def recommend(
    encoded: pl.DataFrame,
    ranker: Bundle,
    recommendation: RecommendationOptions,
    model: Bundle = None,
    items: Frame = None,
) -> pl.DataFrame:
    """The best items for each user by the ranker, without those of training; the predicted ratings stand beside."""
    from embedline.pipelines.ratings.ranking import load_ranker
    from embedline.pipelines.ratings.recommend import recommend as best_items

    return best_items(encoded, load_ranker(ranker, encoded, _load(model)), recommendation, items)


def plot_training(history: pl.DataFrame) -> Figure:
    """Errors and learning rate over the epochs."""
    from embedline.pipelines.ratings.plots import plot_training

    return plot_training(history, "Training: squared error and learning rate")


def plot_learning_rates(learning_rates: pl.DataFrame) -> Figure:
    """Loss against learning rate in the range test."""
    from embedline.training.plots import plot_range_test

    return plot_range_test(learning_rates, "Learning-rate range test", "smoothed loss (squared rating units)")


def plot_errors(predictions: pl.DataFrame) -> Figure:
    """Error by the number of training ratings of the user and of the item, and by the actual rating."""
    from embedline.pipelines.ratings.plots import plot_error

    return plot_error(predictions, "Held-out ratings: where the error is")


def plot_cold_start(cold_start: dict[str, Any]) -> Figure:
    """Errors on new items and new users."""
    from embedline.pipelines.ratings.plots import plot_cold_start

    return plot_cold_start(cold_start, "Cold start: users and items that the model never saw")


def plot_biases(biases: pl.DataFrame, report: RatingReport) -> Figure:
    """The items with the highest and the lowest biases."""
    from embedline.pipelines.ratings.plots import plot_bias

    return plot_bias(biases, report, "Items of highest and lowest bias")


def plot_map(encoded: pl.DataFrame, model: Bundle, report: RatingReport, items: Frame = None) -> Figure:
    """The most rated items in the plane of the two main components of their factors."""
    from embedline.pipelines.ratings.item_analysis import item_map
    from embedline.pipelines.ratings.learner import load_model
    from embedline.pipelines.ratings.plots import plot_map

    points = item_map(encoded, load_model(model), report.map_items, items)
    return plot_map(points, f"The {len(points)} most rated items by the two main components of their factors")


def plot_crosstab(encoded: pl.DataFrame, model: Bundle, report: RatingReport, items: Frame = None) -> Figure:
    """The most active users by the most rated items."""
    from embedline.pipelines.ratings.item_analysis import crosstab
    from embedline.pipelines.ratings.learner import load_model
    from embedline.pipelines.ratings.plots import plot_crosstab

    cells = crosstab(encoded, load_model(model), report.crosstab, items)
    return plot_crosstab(cells, "The most active users and the most rated items")
