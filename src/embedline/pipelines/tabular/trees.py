"""LightGBM: as a baseline of the networks, and as a member of the prediction beside them (``training.blend``)."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import TableArrays
from embedline.pipelines.tabular.encoder import FLAG, Encoder
from embedline.pipelines.tabular.linear import SMALL, inner_folds
from embedline.pipelines.tabular.options import BlendOptions, TreeOptions
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target, invert_target, transform_target

PREFIX = "lightgbm."  # of its weights in a bundle: a model of each target, as text in bytes
FEW_ROWS = 1_000  # that one thread predicts faster than several
Predictions = dict[str, NDArray[np.float64]]  # by target: numbers [N] in their own units, or probabilities [N, C]


def fit_booster(
    inputs: NDArray[np.float32],
    labels: NDArray[Any],
    target: Target,
    categories: list[int],
    options: TreeOptions,
    weights: NDArray[np.floating] | None = None,
) -> Any:
    """Fit LightGBM; with early stopping, inner rows choose the number of trees, and all rows are learned from.

    Args:
        inputs: [N, K], of which the columns ``categories`` are codes.
        labels: [N], transformed numbers or classes.

    Returns:
        The ``lightgbm.Booster``.
    """
    import lightgbm

    n_rows = len(labels)
    leaves = 31 if n_rows > SMALL else 15
    settings: dict[str, Any] = {
        "objective": "regression",
        "learning_rate": options.learning_rate,
        "num_leaves": leaves if options.num_leaves == "auto" else options.num_leaves,
        "min_child_samples": (20 if n_rows > SMALL else 5)
        if options.min_child_samples == "auto"
        else options.min_child_samples,
        "feature_fraction": options.feature_fraction,
        "bagging_fraction": options.bagging_fraction,
        "bagging_freq": int(options.bagging_fraction < 1.0),
        "seed": options.seed,
        "verbosity": -1,
        "deterministic": True,
    }
    if isinstance(target, ClassTarget):
        several = {"objective": "multiclass", "num_class": target.width}
        settings |= {"objective": "binary"} if target.width == 2 else several

    def dataset(chosen: NDArray[np.intp] | slice) -> Any:
        of_rows = weights if weights is None else weights[chosen]
        return lightgbm.Dataset(inputs[chosen], labels[chosen], weight=of_rows, categorical_feature=categories)

    n_trees = options.n_estimators
    if options.early_stopping is not None:
        found = []
        for learned, held_out in inner_folds(n_rows, target, options.seed).split(inputs, labels):
            stop: Any = [lightgbm.early_stopping(options.early_stopping, verbose=False)]
            booster = lightgbm.train(
                settings, dataset(learned), n_trees, valid_sets=[dataset(held_out)], callbacks=stop
            )
            found.append(booster.best_iteration)
        n_trees = max(1, round(float(np.mean(found))))
    return lightgbm.train(settings, dataset(slice(None)), n_trees)


def booster_outputs(booster: Any, inputs: NDArray[np.float32], target: Target) -> NDArray[np.float64]:
    """Transformed numbers [N], or probabilities [N, C], that a booster predicts for inputs [N, K]."""
    threads = 1 if len(inputs) < FEW_ROWS else 0  # a service answers several requests at a time; 0: all cores
    outputs = np.asarray(booster.predict(inputs, num_threads=threads), dtype=np.float64)
    binary = isinstance(target, ClassTarget) and target.width == 2
    return np.stack([1.0 - outputs, outputs], axis=1) if binary else outputs


@dataclass(frozen=True)
class TreeMember:
    """LightGBM beside the networks of a model.

    Attributes:
        boosters: one for each target.
        codes, values: places of the inputs that it reads among the columns of an encoder.
        share: of its prediction in the blend.
    """

    boosters: tuple[Any, ...]
    targets: tuple[Target, ...]
    codes: tuple[int, ...]
    values: tuple[int, ...]
    share: float

    @classmethod
    def fit(
        cls, arrays: TableArrays, encoder: Encoder, options: BlendOptions, iterations: tuple[int, ...] | None = None
    ) -> Self:
        """Fit a booster for each target to labelled rows; ``iterations`` for each instead of those of the options.

        Raises:
            DataError: if ``training.blend.without`` names no input, or leaves none.
        """
        codes, values = _places(encoder, options.without)
        inputs = _inputs(arrays, codes, values)
        labels = arrays.labelled(encoder)[-1].numpy().reshape(len(inputs), -1)
        weights = labels[:, -1] if encoder.weight is not None else None
        boosters = []
        for number, target in enumerate(encoder.targets):
            trees = options.lightgbm
            if iterations is not None:
                trees = trees.model_copy(update={"n_estimators": iterations[number], "early_stopping": None})
            boosters.append(fit_booster(inputs, labels[:, number], target, list(range(len(codes))), trees, weights))
        share = 0.5 if options.share == "auto" else options.share
        return cls(tuple(boosters), encoder.targets, codes, values, share)

    @classmethod
    def load(cls, weights: dict[str, Tensor], options: BlendOptions, encoder: Encoder) -> Self:
        """Rebuild it from the weights of a bundle, the tensors of :meth:`weights`."""
        import lightgbm

        assert options.share != "auto"  # of a stored model it was chosen
        texts = [weights[f"{PREFIX}{number}"].numpy().tobytes().decode() for number in range(len(encoder.targets))]
        boosters = tuple(lightgbm.Booster(model_str=text) for text in texts)
        return cls(boosters, encoder.targets, *_places(encoder, options.without), options.share)

    @property
    def iterations(self) -> tuple[int, ...]:
        """Rounds of boosting of each target; of several classes each has a tree for every class."""
        return tuple(booster.current_iteration() for booster in self.boosters)

    def weights(self) -> dict[str, Tensor]:
        """The boosters for a bundle: a uint8 tensor of each target's."""
        texts = [bytearray(booster.model_to_string().encode()) for booster in self.boosters]
        return {f"{PREFIX}{number}": torch.frombuffer(text, dtype=torch.uint8) for number, text in enumerate(texts)}

    def predict(self, arrays: TableArrays) -> Predictions:
        """Its own predictions of every target by its column."""
        inputs = _inputs(arrays, self.codes, self.values)
        found = {}
        for booster, target in zip(self.boosters, self.targets, strict=True):
            outputs = booster_outputs(booster, inputs, target)
            found[target.column] = invert_target(outputs, target) if isinstance(target, NumericTarget) else outputs
        return found

    def blend(self, networks: Predictions, trees: Predictions) -> Predictions:
        """The weighted mean of both: of transformed numbers, such as logarithms, or of probabilities."""
        found = {}
        for target in self.targets:
            both = [networks[target.column], trees[target.column]]
            found[target.column] = blended(target, both[0], both[1], self.share)
        return found


def blended(
    target: Target, networks: NDArray[np.float64], trees: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """The mean of two predictions of a target, in which the trees have the ``share``."""
    if not isinstance(target, NumericTarget):
        return (1.0 - share) * networks + share * trees
    mean = (1.0 - share) * transform_target(networks, target) + share * transform_target(trees, target)
    return invert_target(mean, target)


def _places(encoder: Encoder, without: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places of the inputs that LightGBM reads among the code columns and the value columns.

    The flag of a variable's missing values is left out with it.
    """
    names = (*encoder.code_columns, *encoder.value_columns)
    if unknown := [name for name in without if name not in names]:
        raise DataError(f"training.blend.without names {unknown[0]!r}, which is no input; there are {', '.join(names)}")
    codes, values = (
        tuple(
            place
            for place, name in enumerate(columns)
            if name not in without and name.removesuffix(FLAG) not in without
        )
        for columns in (encoder.code_columns, encoder.value_columns)
    )
    if not codes and not values:
        raise DataError("training.blend.without leaves LightGBM no input")
    return codes, values


def _inputs(arrays: TableArrays, codes: tuple[int, ...], values: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 [N, K]: the codes, then the values."""
    parts = [arrays.codes[:, list(codes)].numpy().astype(np.float32), arrays.continuous[:, list(values)].numpy()]
    return np.ascontiguousarray(np.hstack(parts))
