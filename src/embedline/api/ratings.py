"""Estimator of ratings: predicts what users would give to items, and recommends items to known and to new users."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from embedline.api.nodes import SOURCE, Block, Estimator, blocks_of, newest_file, read_y, run_nodes
from embedline.errors import DataError
from embedline.frames.checks import open_frame
from embedline.pipelines.ratings import pipeline
from embedline.pipelines.ratings.learner import RatingModel, load_model
from embedline.pipelines.ratings.options import FoldInOptions, Penalty, RecommendationOptions
from embedline.pipelines.ratings.recommend import recommend, recommend_for_ratings
from embedline.serving.ratings import RANKER, RATED, pack_ratings, recommender_of
from embedline.serving.service import Service
from embedline.training.model_file import ModelBundle

TRAINING = {"epochs": 10, "batch_size": 128, "lr": 0.003, "seeds": 4, "penalty": {"factors": 0.09, "biases": 0.01}}


class Recommender(RegressorMixin, Estimator):
    """Ratings of pairs by factors and biases, and recommendations by the ranker that an inner split chooses.

    The ranker is EASE, implicit ALS, nearest items, popularity or the predicted rating.

    Args:
        user, item: columns of ``X`` with the ids, strings or whole numbers.
        rating_range: lowest and highest rating; ``auto``: those of ``fit``.
        features: what describes items and users, ``{"items": ["genres"], "users": ["age"]}``: columns of the frames
            that ``fit`` takes; a new item or user is known by it alone.
        network, training, recommendation, rankers, ranking: blocks as in YAML.

    Attributes:
        bundle_: the model of the ratings, as a pipeline stores it under ``<source>.model``.
        service_: with the ranker and the ratings, as ``<source>_publish`` packs them; the file of ``save``.
    """

    def __init__(
        self,
        *,
        user: str = "user",
        item: str = "item",
        rating_range: Sequence[float] | str = "auto",
        features: Block = None,
        network: Block = None,
        training: Block = None,
        recommendation: Block = None,
        rankers: Block = None,
        ranking: Block = None,
    ) -> None:
        self.user, self.item, self.rating_range, self.features = user, item, rating_range, features
        self.network, self.training = network, training
        self.recommendation, self.rankers, self.ranking = recommendation, rankers, ranking

    def fit(self, X: Any, y: ArrayLike, *, items: Any = None, users: Any = None) -> Self:
        """Train on all ratings.

        Args:
            X: frame of pandas or Polars with a row a rating, and the columns ``user`` and ``item``.
            y: ratings, [N]. Of a pair that comes more than once the last one counts.
            items, users: frames with what describes them: the column of the id, and those of ``features``.
        """
        pairs = self._pairs(X)
        values, rating = read_y(self, y, len(pairs), dtype=np.float64), "rating"
        if rating in pairs.columns:
            raise DataError(f"{rating!r} is a column of ids: rename it")
        columns = {"user": self.user, "item": self.item, "rating": rating, "timestamp": None, "title": None}
        blocks = blocks_of(self, {"training": TRAINING}) | {"columns": columns, "split": {"kind": "none"}}
        frames = {"ratings": pairs.with_columns(pl.Series(rating, values))}
        frames |= {name: frame for name, frame in (("items", items), ("users", users)) if frame is not None}
        learner = pipeline.create_pipeline(SOURCE, items=items is not None, users=users is not None)
        model, ranker, encoded = run_nodes(learner, frames, blocks, ["model", "ranker", "encoded"])
        self._set_service(pack_ratings(model, ranker, encoded))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Ratings [N] of the pairs of a frame; an unknown user or item has the mean, and the bias of the other."""
        check_is_fitted(self)
        encoder = self._model.encoder
        pairs = self._pairs(X, encoder.columns.user, encoder.columns.item)
        rows = encoder.user_rows(pairs[encoder.columns.user]), encoder.item_rows(pairs[encoder.columns.item])
        return self._model.predict(*rows)

    def recommend(self, users: Sequence[int | str], k: int = 10) -> pl.DataFrame:
        """The k best items for each of some known users, without those that they have rated, in Polars.

        Columns ``user``, ``item``, ``rank`` (from 1), ``score`` (of the ranker) and ``predicted`` (the rating).
        """
        options = RecommendationOptions(k=k, users=tuple(users))
        return recommend(self._rated(), self._ranker(), options).drop("title")

    def recommend_for(self, ratings: Mapping[int | str, float], k: int = 10) -> pl.DataFrame:
        """The k best items for a new user by some ratings, ``{item: rating}``, without training; columns as above."""
        ranker = self._ranker()
        known = set(ranker.encoder.items)
        if unknown := [item for item in ratings if item not in known]:
            raise DataError(f"ratings name the item {unknown[0]!r}, which the model does not know")
        rows = ranker.encoder.item_rows(pl.Series(list(ratings)))
        penalty = Penalty.model_validate((self.training or TRAINING).get("penalty", {}))
        given = np.array(list(ratings.values()), dtype=np.float64)
        return recommend_for_ratings(ranker, rows, given, k, options=FoldInOptions(), penalty=penalty).drop("title")

    def _content(self) -> bytes:
        return self.service_.to_bytes()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of :meth:`save`, a pipeline's ``<source>.service``, or its ``<source>.model`` alone.

        A model alone predicts ratings and recommends nothing. A DataError names the file if it is none of these.
        """
        file, loaded = newest_file(path), cls()
        content, name = file.read_bytes(), str(file)
        is_service = content[:2] == b"PK"  # a zip
        bundle = None if is_service else ModelBundle.from_bytes(content, name=name)
        loaded._set_service(pack_ratings(bundle) if bundle else Service.from_bytes(content, name=name))
        return loaded

    def _set_service(self, service: Service) -> None:
        weights = service.bundle.weights
        own = {name: value for name, value in weights.items() if not name.startswith(RANKER)}
        self.bundle_ = replace(service.bundle, weights=own)
        self._model: RatingModel = load_model(self.bundle_)
        self.service_ = service

    def _rated(self) -> pl.DataFrame:
        check_is_fitted(self)
        if RATED not in self.service_.tables:
            raise DataError("the file has a model of ratings alone: recommendations need <source>.service")
        return self.service_.tables[RATED]

    def _ranker(self) -> Any:
        self._rated()
        return recommender_of(self.service_, self._model)

    def _pairs(self, X: Any, user: str | None = None, item: str | None = None) -> pl.DataFrame:
        """The frame in Polars; raise a DataError if a column of ids is missing."""
        frame = open_frame(X)
        names = [user or self.user, item or self.item]
        if missing := [name for name in names if name not in frame.columns]:
            raise DataError(f"X has no column {missing[0]!r}; it has {frame.columns}")
        return frame.to_polars().select(names)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
