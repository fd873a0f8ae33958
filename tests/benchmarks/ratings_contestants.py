"""The contestants of bench_ratings.py: one training or fit each, in a process of its own, measured from inside.

    python tests/benchmarks/ratings_contestants.py '{"contestant": "fastai", "ratings": "ratings.feather", ...}'

The last line of standard output is a JSON object; see :func:`work`.
"""

import time
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
import torch
from contests import contest, peak_megabytes

from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.options import RankingOptions, RatingNetwork, RatingsTraining, RecommendationOptions
from embedline.pipelines.ratings.rankers import Als, Popularity
from embedline.pipelines.ratings.ranking import RANKERS, Recommender, interaction_matrix
from embedline.pipelines.ratings.ranking_metrics import Scores, measure_lists
from embedline.pipelines.ratings.recommend import recommend
from embedline.training.batches import UNTIMED_STEPS

COLUMNS = RatingColumns()
SPLIT = RatingSplit(kind="random", fraction=0.2, seed=42)
FACTORS, Y_RANGE = 50, (0.0, 5.5)


def load_parts(job: dict[str, Any]) -> pl.DataFrame:
    """The job's ratings with their column ``split``, the same for every contestant."""
    return assign_splits(pl.read_ipc(job["ratings"]), COLUMNS, SPLIT)


def train_embedline(job: dict[str, Any]) -> dict[str, Any]:
    """Train with the job's ``network`` and ``training`` through the functions that the nodes call."""
    from embedline.pipelines.ratings.learner import load_model, train_ratings

    ratings = pl.read_ipc(job["ratings"])
    split = SPLIT if job["evaluate"] else RatingSplit(kind="none")
    rows = load_parts(job).filter(pl.col("split") == "train") if job["evaluate"] else ratings
    encoder = fit_encoder(rows, COLUMNS)
    del rows
    encoded = encode(ratings, encoder, COLUMNS, split)
    del ratings
    training = RatingsTraining(**{"device": "cpu", "threads": job["threads"], **job["training"]})
    used = time.process_time()
    # Evaluating while it trains is no part of the race.
    bundle, _ = train_ratings(encoded, encoder, RatingNetwork(**job["network"]), training, evaluated=False)
    result = {name: bundle.metrics[name] for name in ("rows", "rows_per_second", "seconds")}
    result["cpu_seconds"] = time.process_time() - used
    result["users"], result["items"] = len(encoder.users), len(encoder.items)
    if job["evaluate"]:
        held_out = encoded.filter(pl.col("split") == "test")
        predicted = load_model(bundle).predict(held_out["user_row"].to_numpy(), held_out["item_row"].to_numpy())
        result["mse"] = float(np.mean((held_out["rating"].to_numpy() - predicted) ** 2))
    return result


def train_fastai(job: dict[str, Any]) -> dict[str, Any]:
    """Train fastai's ``collab_learner`` as its lesson does, without its progress bar."""
    from fastai.callback.core import Callback
    from fastai.collab import TabularCollab, collab_learner
    from fastai.tabular.core import Categorify

    class Throughput(Callback):
        """The times that embedline's loop takes of itself: the training, and its steps without the first ones."""

        steps = 0

        def before_fit(self) -> None:
            self.began, self.used = time.perf_counter(), time.process_time()
            self.evaluation = 0.0

        def after_batch(self) -> None:
            if self.training:
                self.steps += 1
                if self.steps == UNTIMED_STEPS:
                    self.warm, self.evaluation = time.perf_counter(), 0.0

        def before_validate(self) -> None:
            self.since = time.perf_counter()

        def after_validate(self) -> None:
            self.evaluation += time.perf_counter() - self.since

        def after_fit(self) -> None:
            now = time.perf_counter()
            self.seconds = now - self.began
            self.timed = now - self.warm - self.evaluation
            self.used_by_fit = time.process_time() - self.used

    parts = load_parts(job)
    training = np.flatnonzero(parts["split"] == "train")
    held_out = np.flatnonzero(parts["split"] == "test")
    frame = parts.select("user", "item", pl.col("rating").cast(pl.Float32)).to_pandas()
    splits = (training.tolist(), held_out.tolist())
    tables = TabularCollab(frame, [Categorify], ["user", "item"], y_names=["rating"], splits=splits)
    settings = job["training"]
    torch.manual_seed(job["seed"])
    loaders = tables.dataloaders(bs=settings["batch_size"], val_bs=4096, device=torch.device("cpu"))
    loaders.classes = tables.classes
    learner = collab_learner(loaders, n_factors=FACTORS, y_range=Y_RANGE)
    stopwatch = Throughput()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(settings["epochs"], settings["lr"], wd=settings["weight_decay"], cbs=stopwatch)
    with learner.no_bar():
        predicted, actual = learner.get_preds(reorder=False)
    return {
        "rows": len(training),
        "rows_per_second": (stopwatch.steps - UNTIMED_STEPS) * settings["batch_size"] / stopwatch.timed,
        "seconds": stopwatch.seconds,
        "cpu_seconds": stopwatch.used_by_fit,
        "users": len(tables.classes["user"]) - 1,
        "items": len(tables.classes["item"]) - 1,
        "mse": float(((predicted.squeeze(-1) - actual.squeeze(-1)) ** 2).mean()),
    }


def read_choices(job: dict[str, Any]) -> tuple[pl.DataFrame, RatingsEncoder, sp.csr_array]:
    """The job's ratings encoded, and the training rows as a matrix of ones: every rating is a choice."""
    ratings = load_parts(job)
    encoder = fit_encoder(ratings.filter(pl.col("split") == "train"), COLUMNS)
    encoded = encode(ratings.drop("split"), encoder, COLUMNS, SPLIT)
    matrix = interaction_matrix(encoded, encoder)
    matrix.data[:] = 1.0
    return encoded, encoder, matrix


def rank(job: dict[str, Any]) -> dict[str, Any]:
    """Fit the job's ``ranker`` (ease or als) of embedline or lenskit on one matrix; NDCG by the same measure.

    ``seconds`` are those of the processor: with one thread they are what passes on a machine without other work.
    """
    encoded, encoder, matrix = read_choices(job)
    fit_scores = {"embedline": _embedline_scores, "lenskit": _lenskit_scores}[job["side"]]
    seconds, scores = fit_scores(job, matrix, encoder)
    found = measure_lists(scores, encoded, encoder, RankingOptions())
    return {
        "seconds": seconds,
        "ndcg": found.ndcg,
        "rows": matrix.nnz,
        "users": len(encoder.users),
        "items": matrix.shape[1],
    }


def _embedline_scores(job: dict[str, Any], matrix: sp.csr_array, encoder: RatingsEncoder) -> tuple[float, Scores]:
    settings = {"ease": ("penalty",), "als": ("penalty", "alpha", "factors", "iterations")}[job["ranker"]]
    began = time.process_time()
    ranker = RANKERS[job["ranker"]].fit(matrix, **{name: job[name] for name in settings})
    return time.process_time() - began, lambda rows: ranker.scores(matrix[rows])


def _lenskit_scores(job: dict[str, Any], matrix: sp.csr_array, encoder: RatingsEncoder) -> tuple[float, Scores]:
    """DIFF: lenskit builds its data set before the clock starts, as embedline its matrix."""
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.knn.ease import EASEScorer

    user, item = matrix.nonzero()
    data = from_interactions_df(pd.DataFrame({"user_id": user, "item_id": item}))
    if job["ranker"] == "ease":
        scorer: Any = EASEScorer(regularization=job["penalty"])
    else:
        shape = {"embedding_size": job["factors"], "epochs": job["iterations"]}
        scorer = ImplicitMFScorer(**shape, weight=job["alpha"], regularization=job["penalty"])
    began = time.process_time()
    scorer.train(data)
    seconds = time.process_time() - began
    places = np.argsort(scorer.items.ids() if job["ranker"] == "ease" else data.items.ids())
    if job["ranker"] == "ease":
        weights = np.asarray(scorer.weights)[np.ix_(places, places)]
        return seconds, lambda rows: np.asarray(matrix[rows] @ weights, dtype=np.float32)
    items = np.asarray(scorer.item_embeddings)[places]
    users = np.zeros((matrix.shape[0], items.shape[1]), dtype=np.float32)
    users[data.users.ids()] = scorer.user_embeddings
    return seconds, lambda rows: users[rows] @ items.T


def recommend_all(job: dict[str, Any]) -> dict[str, Any]:
    """ALS on all of the job's ratings, and the lists of all users."""
    ratings = pl.read_ipc(job["ratings"])
    encoder = fit_encoder(ratings, COLUMNS)
    encoded = encode(ratings, encoder, COLUMNS)
    del ratings
    matrix = interaction_matrix(encoded, encoder)
    began = time.perf_counter()
    ranker = Als.fit(matrix, factors=job["factors"], penalty=10.0, alpha=1.0, iterations=job["iterations"])
    fitted = time.perf_counter()
    recommender = Recommender(encoder, Als.kind, ranker, Popularity.fit(matrix), matrix)
    lists = recommend(encoded, recommender, RecommendationOptions(k=10))
    return {
        "rows": matrix.nnz,
        "users": len(encoder.users),
        "items": matrix.shape[1],
        "seconds": (fitted - began) / job["iterations"],
        "list_seconds": time.perf_counter() - fitted,
        "lists": lists["user"].n_unique(),
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Run one training and say what it took.

    Args:
        job: ``contestant`` (embedline, fastai, rank or recommend), ``ratings`` (Feather file: user, item, rating),
            ``threads``, ``seed``, ``training`` (epochs, batch_size, lr, …), for embedline ``network`` and ``evaluate``:
            whether a fifth is held out and measured; of rankers their settings.

    Returns:
        ``rows`` trained on, ``users``, ``items``, ``rows_per_second`` of the steps after the first ones, without the
        evaluations, ``seconds`` and ``cpu_seconds`` of the whole training, ``peak_mb`` of the process, ``mse``.
    """
    torch.set_num_threads(job["threads"])
    contestants = {"embedline": train_embedline, "fastai": train_fastai, "rank": rank, "recommend": recommend_all}
    train = contestants[job["contestant"]]
    return {**train(job), "peak_mb": peak_megabytes()}


if __name__ == "__main__":
    contest(work)
