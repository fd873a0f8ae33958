"""A trained model of a table: read from its bundle alone, it predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import TableArrays, to_arrays
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.network import EmbeddingNetwork, build_network
from embedline.pipelines.tabular.options import BlendOptions
from embedline.pipelines.tabular.predictions import NETWORKS, TREES
from embedline.pipelines.tabular.targets import UNKNOWN, ClassTarget, Target, invert_target, softmax
from embedline.pipelines.tabular.trees import Predictions, TreeMember
from embedline.training.ensemble import weighted_mean
from embedline.training.model_file import ModelBundle

KIND = "tabular"
MODEL = "model"  # name of the prediction among those of its members
PREDICT_ROWS = 16_384  # rows of one forward pass of a prediction: bounds the memory


def predict(encoded: nw.DataFrame[Any], bundle: ModelBundle, target: str | None = None) -> NDArray[np.float64]:
    """Prediction of one target (the only one unless named) for an encoded frame, from the bundle alone.

    Float64 [N] in the units of a number, its quantiles [N, Q], or the probabilities [N, C] of C classes.
    """
    predicted = predict_all(encoded, bundle)
    if target is None and len(predicted) > 1:
        raise ValueError(f"the bundle predicts {list(predicted)}: name one of them")
    return predicted[target] if target is not None else next(iter(predicted.values()))


def predict_all(encoded: nw.DataFrame[Any], bundle: ModelBundle) -> dict[str, NDArray[np.float64]]:
    """Predictions of every target by its column, for an encoded frame, from the bundle alone."""
    model = load_model(bundle)
    return model.predict(to_arrays(encoded, model.encoder))


@dataclass(frozen=True)
class LoadedModel:
    """A bundle ready to predict: its encoder, its networks, their weights in the mean, its decisions and its trees."""

    encoder: Encoder
    networks: list[EmbeddingNetwork]
    weights: list[float]
    decisions: dict[str, list[float]]
    trees: TreeMember | None = None

    def predict(self, arrays: TableArrays) -> Predictions:
        """Predictions of every target by its column."""
        return self.predict_members(arrays)[MODEL]

    def predict_members(self, arrays: TableArrays) -> dict[str, Predictions]:
        """Predictions of the ``model``, and, of a blend, of its two members: the ``networks`` and the ``trees``."""
        outputs = [network_outputs(network, arrays, torch.device("cpu")) for network in self.networks]
        networks = combine(outputs, self.weights, self.encoder.targets)
        if self.trees is None:
            return {MODEL: networks}
        trees = self.trees.predict(arrays)
        return {MODEL: self.trees.blend(networks, trees), NETWORKS: networks, TREES: trees}


def load_model(bundle: ModelBundle) -> LoadedModel:
    """Rebuild the members of a tabular bundle."""
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    networks = [build_network(bundle.config, seed=0) for _ in range(int(bundle.metrics["members"]))]
    for member, network in enumerate(networks):
        network.load_state_dict(bundle.member(member))
        network.eval()
    encoder, weights = Encoder.model_validate(bundle.encoder), list(bundle.metrics["member_weights"])
    trees = None
    if blend := bundle.metrics.get("blend"):
        trees = TreeMember.load(bundle.weights, BlendOptions.model_validate(blend["options"]), encoder)
    return LoadedModel(encoder, networks, weights, bundle.metrics.get("decisions", {}), trees)


def combine(
    outputs: Sequence[NDArray[np.floating]], weights: Sequence[float], targets: Sequence[Target]
) -> dict[str, NDArray[np.float64]]:
    """Average the outputs [N, K] of the members into predictions of every target by its column.

    Numbers are averaged in transformed units (a geometric mean for a target learned as a logarithm), classes as
    probabilities. Quantiles are averaged level by level, then sorted: those of a network may cross (Chernozhukov,
    Fernández-Val & Galichon 2010).
    """
    predicted: dict[str, NDArray[np.float64]] = {}
    begin = 0
    for target in targets:
        own = [each[:, begin : begin + target.width] for each in outputs]
        begin += target.width
        if isinstance(target, ClassTarget):
            predicted[target.column] = weighted_mean([softmax(logits) for logits in own], weights)
        else:
            mean = np.sort(weighted_mean(own, weights), axis=1)
            predicted[target.column] = invert_target(mean if target.quantiles else mean[:, 0], target)
    return predicted


def network_outputs(network: nn.Module, arrays: TableArrays, device: torch.device) -> NDArray[np.float32]:
    """Outputs float32 [N, K] of a network in evaluation mode, in full precision."""
    outputs = []
    with torch.inference_mode():
        for codes, values in zip(arrays.codes.split(PREDICT_ROWS), arrays.continuous.split(PREDICT_ROWS), strict=True):
            # Rows of a mapped file are not contiguous; kernels for strided rows round differently.
            output = network(codes.to(device).contiguous(), values.to(device).contiguous()).cpu()
            outputs.append(output if output.ndim == 2 else output.unsqueeze(-1))
    return torch.cat(outputs).numpy()


def embedding_frame(bundle: ModelBundle) -> pl.DataFrame:
    """Learned embeddings of the first member of a tabular bundle, one row a category value.

    Returns:
        Columns ``variable`` (str), ``value`` (str; row 0 is ``(missing or unseen)``), ``code`` (int32) and
        ``embedding`` (list of float32, as long as the embedding of the variable is wide). Members are not averaged:
        the axes of two networks have different meanings.
    """
    encoder = Encoder.model_validate(bundle.encoder)
    network = build_network(bundle.config, seed=0)
    network.load_state_dict(bundle.member(0))
    frames = []
    for index, variable in enumerate(encoder.code_columns if network.embeddings is not None else ()):
        assert network.embeddings is not None
        vectors = network.embeddings.table(index).detach().numpy()
        levels = encoder.categorical[variable].levels if variable in encoder.categorical else (False, True)
        frames.append(
            pl.DataFrame(
                {
                    "variable": [variable] * len(vectors),
                    "value": [UNKNOWN, *map(str, levels)],
                    "code": np.arange(len(vectors), dtype=np.int32),
                    "embedding": pl.Series(vectors.tolist(), dtype=pl.List(pl.Float32)),
                }
            )
        )
    schema: Any = {"variable": pl.String, "value": pl.String, "code": pl.Int32, "embedding": pl.List(pl.Float32)}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)
