"""Nodes of the tuning: frames and settings in, the trials, ``tuned.yml`` and the plot out.

Optuna, PyTorch and Plotly are imported inside the functions, since every Kedro command reads this module.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import narwhals as nw
import polars as pl
import polars.selectors as cs

from embedline.errors import DataError, about_frame, input_name
from embedline.pipelines.ratings import options as rating_options
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, to_polars
from embedline.pipelines.ratings.contract import assign_splits as assign_rating_splits
from embedline.pipelines.ratings.contract import subset as rating_subset
from embedline.pipelines.tabular.columns import SPLIT_COLUMN, TRAIN, Columns, Split
from embedline.pipelines.tabular.nodes import read_labelled
from embedline.pipelines.tabular.options import BaselineOptions, EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.text.documents import TEST, UNLABELLED
from embedline.pipelines.text.options import Classes, ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.vocabulary import load_vocabulary
from embedline.pipelines.tuning.options import TableTuning, TuneOptions
from embedline.pipelines.tuning.space import Settings, check_space

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.model_file.ModelBundle


def tune_table(
    table: Frame,
    columns: Columns,
    split: Split,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
    tune: TableTuning,
) -> tuple[pl.DataFrame, str]:
    """Search settings of a table's network or LightGBM on its training rows: the trials, and ``tuned.yml``.

    Raises:
        DataError: naming the setting of the space that does not exist, or a value that it cannot have.
    """
    from embedline.pipelines.tuning.tables import table_evaluation

    settings: Settings = {"encoding": encoding, "network": network, "training": training}
    if tune.learner == "lightgbm":
        settings = {"encoding": encoding, "baselines": baselines}
        if baselines.lightgbm is None:
            raise DataError(f"{input_name('tune')}.learner is lightgbm, and {input_name('baselines')}.lightgbm is null")
        named = [name for name in tune.dimensions if name.split(".")[0] == "baselines"]
        if unread := [name for name in named if not name.startswith("baselines.lightgbm.")]:
            raise DataError(f"{_space_key()} names {unread[0]!r}: of the baselines only baselines.lightgbm is tuned")
    check_space(settings, tune.dimensions, _space_key())
    with about_frame("table"):
        rows, inferred = read_labelled(table, columns, split, encoding)
        columns = inferred.columns if inferred else columns
        learned = rows.filter(nw.col(SPLIT_COLUMN) == TRAIN)
        groups = [name for group in encoding.target_means for name in group]
        weight = [columns.weight] if columns.weight else []
        days = [split.column] if split.kind == "window" and split.column else []
        used = dict.fromkeys([*columns.variables, *columns.targets, *columns.keys, *weight, *days, *groups])
        data = content_digest(learned.select(*used).to_polars())
    evaluation = _about_inner(lambda: table_evaluation(learned, columns, split, encoding, tune))
    fixed = {
        "columns": columns.model_dump(mode="json"),
        "split": split.model_dump(mode="json"),
        "learner": tune.learner,
    }
    return _search(settings, tune, evaluation, fixed, data)


def tune_ratings(
    ratings: Frame,
    columns: RatingColumns,
    split: RatingSplit,
    rating_range: rating_options.RatingRange,
    features: rating_options.FeatureOptions,
    network: rating_options.RatingNetwork,
    training: rating_options.RatingsTraining,
    baselines: rating_options.BaselineOptions,
    tune: TuneOptions,
    items: Frame = None,
    users: Frame = None,
) -> tuple[pl.DataFrame, str]:
    """Search settings of the ratings' network on the training ratings; returns and errors of :func:`tune_table`."""
    from embedline.pipelines.ratings.cross_validation import ModelSettings
    from embedline.pipelines.tuning.ratings import ratings_evaluation

    settings: Settings = {"features": features, "network": network, "training": training}
    check_space(settings, tune.dimensions, _space_key())
    with about_frame("ratings"):
        learned = rating_subset(assign_rating_splits(ratings, columns, split, warn=True), TRAIN).drop(SPLIT_COLUMN)
    times = [columns.timestamp] if columns.timestamp in learned.columns else []
    frames = [learned.select(columns.user, columns.item, columns.value, *times)]
    frames += [to_polars(frame) for frame in (items, users) if frame is not None]
    fixed = ModelSettings(columns, network, training, baselines, rating_range.root, features, items, users)
    evaluation = _about_inner(lambda: ratings_evaluation(learned, split, fixed, tune))
    given = {"columns": columns, "split": split, "rating_range": rating_range}
    dumped = {name: block.model_dump(mode="json") for name, block in given.items()}
    return _search(settings, tune, evaluation, dumped, content_digest(*frames))


def tune_text(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    classes: Classes,
    language_model: Bundle,
    classifier: ClassifierOptions,
    training: ClassifierTraining,
    tune: TuneOptions,
) -> tuple[pl.DataFrame, str]:
    """Search settings of the classifier on the training documents, on the stored language model; see
    :func:`tune_table`.
    """
    from embedline.pipelines.tuning.texts import text_evaluation

    settings: Settings = {"classifier": classifier, "classifier_training": training}
    check_space(settings, tune.dimensions, _space_key())
    learned = ids.filter(~pl.col("split").is_in([TEST, UNLABELLED]))
    words, model = load_vocabulary(vocabulary), hashlib.sha256(language_model.to_bytes()).hexdigest()
    evaluation = _about_inner(lambda: text_evaluation(learned, words, list(classes), language_model, tune))
    fixed = {"classes": list(classes), "language_model": model}
    return _search(settings, tune, evaluation, fixed, content_digest(learned))


def _space_key() -> str:
    return f"{input_name('tune')}.space"


def _about_inner(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except ValueError as error:  # a DataError is one, too
        raise DataError(f"{input_name('tune')}.inner: {error}") from error


def _search(
    settings: Settings, tune: TuneOptions, evaluation: Any, fixed: Mapping[str, Any], data: str
) -> tuple[pl.DataFrame, str]:
    from embedline.pipelines.tuning.results import trials_frame, tuned_yaml
    from embedline.pipelines.tuning.study import search

    key = input_name("tune")
    identity = {
        "space": {name: dimension.model_dump(mode="json") for name, dimension in tune.dimensions.items()},
        "inner rows": tune.inner.model_dump(mode="json"),
        "seeds": list(tune.seeds),
        "settings": {**{name: block.model_dump(mode="json") for name, block in settings.items()}, **fixed},
        "data": data,
    }
    records = search(settings, tune, evaluation, identity, key)
    source = key.rpartition(".")[0] or "source"
    return trials_frame(records, settings, tune.dimensions), tuned_yaml(records, settings, source, evaluation.loss)


def content_digest(*frames: pl.DataFrame) -> str:
    """Digest of the values of frames, in the order of their rows, with one version of Polars."""
    digest = hashlib.sha256()
    for frame in frames:
        plain = frame.with_columns(cs.categorical().cast(pl.String))  # its numbers depend on what was read before
        digest.update(str(plain.schema).encode())
        digest.update(plain.hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()


def plot_table_tuning(trials: pl.DataFrame, tune: TableTuning) -> Plot:
    """Losses of the trials of a table, and against each setting."""
    return _plot(trials, tune)


def plot_tuning(trials: pl.DataFrame, tune: TuneOptions) -> Plot:
    """Losses of the trials of ratings or texts, and against each setting."""
    return _plot(trials, tune)


def _plot(trials: pl.DataFrame, tune: TuneOptions) -> Plot:
    from embedline.pipelines.tuning.results import plot_trials

    return plot_trials(trials, tune.dimensions, "Tuning: losses on inner rows, by trial and by setting")
