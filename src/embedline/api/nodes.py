"""Run the nodes of a learner's pipeline in memory, and read and write model files: what all estimators share."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from kedro.pipeline import Pipeline
from kedro.validation.type_extractor import TypeExtractor
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted

from embedline.errors import DataError, refused_setting
from embedline.training.model_file import ModelBundle

Block = dict[str, Any] | None  # of parameters, as in YAML

SOURCE = "estimator"  # namespace of the nodes


def run_nodes(
    pipeline: Pipeline, frames: Mapping[str, Any], blocks: Mapping[str, Any], outputs: Sequence[str]
) -> list[Any]:
    """Run what ``outputs`` need of a pipeline of the namespace :data:`SOURCE`, without catalog and records.

    Args:
        frames: inputs by their names without the namespace, such as ``table``; so are ``outputs``.
        blocks: parameters as in YAML by block; None, or a block that is left out, stands for its defaults.

    Raises:
        DataError: of a node, or naming the block and the key that is refused.
    """
    wanted = pipeline.to_outputs(*(f"{SOURCE}.{name}" for name in outputs))
    types = TypeExtractor({SOURCE: wanted}).extract_types_from_pipelines()
    found = {f"{SOURCE}.{name}": value for name, value in frames.items()}
    for name in wanted.inputs():
        if name.startswith("params:"):
            block = name.removeprefix(f"params:{SOURCE}.")
            found[name] = _options(block, types[f"{SOURCE}.{block}"], blocks.get(block))
    logger = logging.getLogger("kedro.pipeline.node")
    enabled, logger.disabled = logger.disabled, True  # it logs an error that is raised, too
    try:
        for node in wanted.nodes:
            found |= node.run({name: found[name] for name in node.inputs})
    finally:
        logger.disabled = enabled
    return [found[f"{SOURCE}.{name}"] for name in outputs]


def _options(block: str, kind: Any, given: Any) -> Any:
    """A block of parameters as its pydantic model; None where the block may be null and is not given."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        if given is None:
            try:
                return adapter.validate_python(None)
            except ValidationError:
                return kind() if isinstance(kind, type) else adapter.validate_python({})
        return adapter.validate_python(given)
    except ValidationError as error:
        raise DataError(refused_setting(block, kind, error)) from error


class Estimator(BaseEstimator):
    """An estimator that keeps one model bundle, ``bundle_``; its parameters are the blocks of a source's YAML file."""

    bundle_: ModelBundle

    def save(self, path: str | Path) -> Path:
        """Write the model file, the one that a pipeline stores as ``<source>.model``; return its path."""
        check_is_fitted(self)
        Path(path).write_bytes(self._content())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file: of :meth:`save`, or of a pipeline, also by the folder of its versions: the newest.

        The parameters of the estimator are those of a new one: the file has the model, not how it was asked for. A
        DataError names the file if it is no model of this estimator.
        """
        file = newest_file(path)
        loaded, bundle = cls(), ModelBundle.from_bytes(file.read_bytes(), name=str(file))
        try:
            loaded._set_bundle(bundle)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        return loaded

    def _content(self) -> bytes:
        return self.bundle_.to_bytes()

    def _set_bundle(self, bundle: ModelBundle) -> None:
        """Keep a bundle, and what is made of it for predictions; every estimator has its own."""
        raise NotImplementedError


def newest_file(path: str | Path) -> Path:
    """The file at ``path``, or the newest version in a versioned folder of Kedro; a DataError if there is none."""
    path = Path(path)
    versions = sorted(path.glob(f"*/{path.name}")) if path.is_dir() else [path] if path.is_file() else []
    if not versions:
        raise DataError(f"there is no model file at {path}")
    return versions[-1]


def read_texts(texts: Any) -> list[str]:
    """Texts [N] of a list, an array or a Series; a DataError names the first one, from 1, that is no text."""
    if isinstance(texts, str):
        raise DataError("a list of texts is needed, and this is one text")
    values = np.asarray(texts, dtype=object)
    if not len(values) or values.size != len(values):
        raise DataError(f"a list of texts is needed, and this has the shape {values.shape}")
    for number, value in enumerate(values.ravel(), start=1):
        if not isinstance(value, str):
            raise DataError(f"text {number} is no text but {value!r}")
    return list(map(str, values.ravel()))


def read_y(estimator: Estimator, y: Any, n_rows: int, **options: Any) -> NDArray[Any]:
    """What to predict, [n_rows], without missing values; ``options`` are those of ``check_array``."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    options = {"dtype": None} | options
    values: NDArray[Any] = check_array(column_or_1d(y, warn=True), ensure_2d=False, input_name="y", **options)
    if len(values) != n_rows:
        raise DataError(f"Found input variables with inconsistent numbers of samples: {[n_rows, len(values)]}")
    return values


def blocks_of(estimator: Estimator, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an estimator, those that are None by ``defaults``."""
    given = estimator.get_params(deep=False)
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


def plain_labels(y: NDArray[Any]) -> NDArray[Any]:
    """Labels [N] as the learners take them: whole numbers as integers, which scikit-learn may hold as floats."""
    if y.dtype.kind == "f":
        return y.astype(np.int64)
    return y.astype(str) if y.dtype.kind in "OUS" and all(isinstance(one, str) for one in y) else y
