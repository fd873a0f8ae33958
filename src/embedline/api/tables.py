"""Estimators of tables: the network that the tabular pipelines train, with columns of any role in pandas or Polars."""

from collections.abc import Callable
from typing import Any, Self

import narwhals as nw
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from embedline.api.nodes import SOURCE, Block, Estimator, blocks_of, plain_labels, read_y, run_nodes
from embedline.errors import DataError, about_frame
from embedline.frames.checks import open_frame, settle_objects
from embedline.pipelines.tabular import pipeline
from embedline.pipelines.tabular.arrays import to_arrays
from embedline.pipelines.tabular.decisions import decide
from embedline.pipelines.tabular.encoder import encode
from embedline.pipelines.tabular.intervals import interval_columns, level_name
from embedline.pipelines.tabular.model import LoadedModel, load_model
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target, point_prediction
from embedline.training.model_file import ModelBundle


class _TableEstimator(Estimator):
    _model: LoadedModel
    _labels: Callable[[NDArray[Any]], NDArray[Any]]
    _check_target: Callable[[Target], None]

    def __init__(
        self, *, columns: Block = None, encoding: Block = None, network: Block = None, training: Block = None
    ) -> None:
        self.columns, self.encoding, self.network, self.training = columns, encoding, network, training

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on all rows.

        Args:
            X: frame of pandas or Polars, or an array [N, D] of numbers; missing values may be there.
            y: what to predict, [N].
            sample_weight: weights of the rows from 0 on, [N].
        """
        rows = self._rows(X, reset=True)
        name, values = getattr(y, "name", None), read_y(self, y, len(rows))
        if len(rows) < 2:
            raise DataError(f"a training needs 2 rows or more; n_samples = {len(rows)}")
        target = _free_name(name if isinstance(name, str) and name else "y", rows)
        added = {target: self._labels(values)}
        columns: dict[str, Any] = {"inputs": "auto"} | (self.columns or {}) | {"target": target}
        if isinstance(self, ClassifierMixin):
            columns["classes"] = [target]
        if sample_weight is not None:
            columns["weight"] = _free_name("sample_weight", rows)
            added[columns["weight"]] = _check_sample_weight(sample_weight, values)
        series = [nw.new_series(key, value.tolist(), backend=rows.implementation) for key, value in added.items()]
        blocks = blocks_of(self, {}) | {"columns": columns, "split": {"kind": "none"}}
        outputs = ["model", "intervals"] if (self.training or {}).get("intervals") else ["model"]
        learner = pipeline.create_final_pipeline(SOURCE, table=f"{SOURCE}.table")
        bundle, *others = run_nodes(learner, {"table": rows.with_columns(*series).to_native()}, blocks, outputs)
        if others:
            bundle.metrics["intervals"] = others[0]
        self._set_bundle(bundle)
        return self

    def _set_bundle(self, bundle: ModelBundle) -> None:
        model = load_model(bundle)
        if len(model.encoder.targets) != 1:
            raise DataError(f"the model predicts {len(model.encoder.targets)} targets, an estimator one")
        self._check_target(model.encoder.targets[0])
        self.bundle_, self._model = bundle, model

    @property
    def _target(self) -> Target:
        return self._model.encoder.targets[0]

    def _predict(self, X: Any) -> NDArray[np.float64]:
        """Prediction of the target as :meth:`.model.LoadedModel.predict` has it."""
        check_is_fitted(self)
        encoder = self._model.encoder
        rows = self._rows(X, reset=False).drop(self._target.column, strict=False)
        with about_frame("table"):
            rows = settle_objects(rows, (name for name in encoder.inputs if name in rows.columns))
            encoded = encode(rows, encoder)
        return self._model.predict(to_arrays(encoded, encoder))[self._target.column]

    def _rows(self, X: Any, *, reset: bool) -> nw.DataFrame[Any]:
        """Rows as an eager frame, columns of an array as x0, x1, …; a loaded model takes any that has its columns."""
        frame = nw.from_native(X, pass_through=True)
        is_frame = isinstance(frame, nw.DataFrame | nw.LazyFrame)
        if is_frame and all(isinstance(name, str) for name in frame.collect_schema().names()):
            opened = open_frame(X)
            if reset or hasattr(self, "n_features_in_"):
                validate_data(self, opened.to_native(), reset=reset, skip_check_array=True)
            return opened
        options: dict[str, Any] = {"dtype": None, "ensure_all_finite": False, "ensure_min_samples": 2 if reset else 1}
        is_checked = reset or hasattr(self, "n_features_in_")
        array = validate_data(self, X, reset=reset, **options) if is_checked else check_array(X, **options)
        named = pd.DataFrame(array, columns=[f"x{number}" for number in range(array.shape[1])])
        return open_frame(named.infer_objects())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


class TabularClassifier(ClassifierMixin, _TableEstimator):
    """Classes from a table of numbers, categories, booleans, dates and texts, whose roles are found by themselves.

    Without parameters the shape of the network, its training and the number of networks follow the table.

    Args:
        columns: roles of columns, as in YAML: ``{"categorical": ["zip"], "text": ["note"], "id": ["row"]}``; columns
            that are not listed get a role by their values. ``{"inputs": None}``: they are left out.
        encoding, network, training: blocks as in YAML, such as ``{"epochs": 10, "batch_size": 256, "lr": 0.003}``.

    Attributes:
        classes_: the classes [C], in the order of the probabilities.
        bundle_: the model, as a pipeline stores it.
    """

    classes_: NDArray[Any]

    def _labels(self, y: NDArray[Any]) -> NDArray[Any]:
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise DataError(f"a classifier needs two classes or more, and y has one class, {self.classes_[0]!r}")
        return plain_labels(y)

    def _check_target(self, target: Target) -> None:
        if not isinstance(target, ClassTarget):
            raise DataError(f"the model predicts the number {target.column!r}: TabularRegressor loads it")
        if len(getattr(self, "classes_", ())) != target.width:
            self.classes_ = np.array(target.levels.levels)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities [N, C] of the classes."""
        return self._predict(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The predicted classes [N]: the likeliest, or by ``training: {"decision": …}`` or ``class_weights``."""
        probabilities = self._predict(X)
        chosen: NDArray[Any] = self.classes_[decide(probabilities, self._model.decisions.get(self._target.column))]
        return chosen


class TabularRegressor(RegressorMixin, _TableEstimator):
    """Numbers from a table of numbers, categories, booleans, dates and texts, whose roles are found by themselves.

    Args:
        columns, encoding, network, training: as of :class:`TabularClassifier`; ``encoding={"target_transform":
            "log"}`` for positive numbers whose relative error matters. ``training={"intervals": {"levels": [0.8]}}``
            calibrates the intervals of :meth:`predict_interval`, by one more training.

    Attributes:
        bundle_: the model, as a pipeline stores it.
    """

    def _labels(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.astype(np.float64)

    def _check_target(self, target: Target) -> None:
        if not isinstance(target, NumericTarget):
            raise DataError(f"the model predicts the classes of {target.column!r}: TabularClassifier loads it")

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The predicted numbers [N]; with ``training={"loss": "quantile"}`` the medians."""
        prediction = self._predict(X)
        return point_prediction(self._target, prediction)

    def predict_interval(self, X: Any, level: float = 0.8) -> NDArray[np.float64]:
        """Lower and upper ends [N, 2] of the intervals that hold a share ``level`` of the values.

        A level of which the model has no intervals is a DataError.
        """
        prediction = self._predict(X)
        found = interval_columns(self._target, prediction, self.bundle_.metrics.get("intervals", {}), "")
        names = [f"{end}_{level_name(level)}" for end in ("lower", "upper")]
        if not set(names) <= set(found):
            hint = f'training={{"intervals": {{"levels": [{level:g}]}}}}'
            raise DataError(f"the model has no intervals of the level {level:g}: fit it with {hint}")
        return np.stack([found[name] for name in names], axis=1)


def _free_name(name: str, rows: nw.DataFrame[Any]) -> str:
    while name in rows.columns:
        name += "_"
    return name
