"""The prediction of a stored model as one ONNX graph: all its networks and trees, their mean, the inverse transform.

What turns rows into codes and values is the encoder (:func:`.encoder.encode`), which is no part of the graph.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import TableArrays, to_arrays
from embedline.pipelines.tabular.encoder import Encoder, code_name, value_name
from embedline.pipelines.tabular.model import LoadedModel
from embedline.pipelines.tabular.targets import ClassTarget, NumericTarget, Target, prefix_of

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CODES, VALUES = "codes", "values"  # inputs of the graph
TOLERANCE = 1e-4  # relative: the graph computes in single precision, as the networks do
SMALL = 1e-3  # of the mean size of a target's predictions: smaller ones are compared with so much


class Trees(nn.Module):
    """A LightGBM booster by gathers: all trees of all rows go one node deeper at a time.

    A row is a float32 number less than or equal to a threshold if it is so for the largest float32 up to it: the
    leaves are those of LightGBM, which compares in double precision.

    **Shape**: float [N, K] -> float64 [N, C], the raw outputs of C classes, or of one number or the second of two.
    """

    def __init__(self, booster: Any) -> None:
        super().__init__()
        trees = [_tree_nodes(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
        self.n_outputs, self.depth = booster.num_model_per_iteration(), max(depth for _, depth in trees)
        most = max(len(nodes) for nodes, _ in trees)
        sets: list[frozenset[int]] = [frozenset()]
        numbers = np.zeros((6, len(trees), most))  # feature, threshold, left, right, value, place in sets
        for tree, (nodes, _) in enumerate(trees):
            for place, (feature, threshold, left, right, value) in enumerate(nodes):
                if isinstance(threshold, frozenset):
                    sets.append(threshold)
                known = isinstance(threshold, frozenset)
                numbers[:, tree, place] = (
                    feature,
                    0.0 if known else threshold,
                    left,
                    right,
                    value,
                    known * (len(sets) - 1),
                )
        flat = torch.from_numpy(numbers).flatten(1)
        thresholds = flat[1].float()
        too_large = thresholds.double() > flat[1]
        self.thresholds = torch.where(too_large, torch.nextafter(thresholds, torch.tensor(-torch.inf)), thresholds)
        self.features, self.left, self.right, self.set_of = (flat[row].long() for row in (0, 2, 3, 5))
        self.values, self.first = flat[4], torch.arange(len(trees)) * most
        self.members = torch.zeros(
            len(sets), 2 + max((max(each, default=0) for each in sets), default=0), dtype=torch.bool
        )
        for place, members in enumerate(sets):
            self.members[place, list(members)] = True

    def forward(self, inputs: Tensor) -> Tensor:
        """Sums of the leaves that the rows end in."""
        node = self.first.expand(inputs.shape[0], -1)  # of len() the exporter would take the rows as fixed
        for _ in range(self.depth):
            given = inputs.gather(1, self.features[node])
            goes_left = given <= self.thresholds[node]
            if len(self.members) > 1:
                codes = given.long().clamp(0, self.members.shape[1] - 1)
                is_member = self.members[self.set_of[node], codes]
                is_set = self.set_of[node] > 0
                goes_left = (is_set & is_member) | (~is_set & goes_left)  # onnxruntime has no `where` of booleans
            node = self.first + torch.where(goes_left, self.left[node], self.right[node])
        return self.values[node].unflatten(1, (-1, self.n_outputs)).sum(1)


def _tree_nodes(root: dict[str, Any]) -> tuple[list[tuple[int, Any, int, int, float]], int]:
    """Nodes of a tree as (feature, threshold or set of codes, left, right, value), and its depth.

    A leaf leads to itself.
    """
    nodes: list[tuple[int, Any, int, int, float]] = []

    def add(node: dict[str, Any]) -> tuple[int, int]:
        place = len(nodes)
        nodes.append((0, math.inf, place, place, node.get("leaf_value", 0.0)))
        if "split_feature" not in node:
            return place, 0
        is_set = node["decision_type"] == "=="
        threshold = frozenset(map(int, node["threshold"].split("||"))) if is_set else node["threshold"]
        (left, left_depth), (right, right_depth) = add(node["left_child"]), add(node["right_child"])
        nodes[place] = (node["split_feature"], threshold, left, right, 0.0)
        return place, 1 + max(left_depth, right_depth)

    depth = add(root)[1]
    return nodes, depth


class MeanPrediction(nn.Module):
    """:meth:`.model.LoadedModel.predict` in single precision, as a tuple with a prediction for each target.

    **Shape**: codes int64 [N, V], values float [N, C] -> float [N] of a number, [N, Q] of its quantiles, or the
    probabilities [N, C] of classes.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.networks, self.targets = nn.ModuleList(model.networks), model.encoder.targets
        self.shares = [weight / sum(model.weights) for weight in model.weights]
        self.trees = model.trees
        self.boosters = nn.ModuleList([Trees(booster) for booster in model.trees.boosters] if model.trees else [])

    def forward(self, codes: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Predict every target."""
        outputs = [network(codes, values) for network in self.networks]
        outputs = [each if each.ndim == 2 else each.unsqueeze(-1) for each in outputs]
        found, begin = [], 0
        trees = self._tree_outputs(codes, values)
        for number, target in enumerate(self.targets):
            own = [each[:, begin : begin + target.width] for each in outputs]
            begin += target.width
            if isinstance(target, ClassTarget):
                own = [logits.softmax(dim=1) for logits in own]
            mean = torch.stack([share * each for share, each in zip(self.shares, own, strict=True)]).sum(dim=0)
            if not isinstance(target, ClassTarget):
                mean = mean.sort(dim=1).values if target.quantiles else mean[:, 0]
            if self.trees is not None:
                mean = (1.0 - self.trees.share) * mean + self.trees.share * trees[number].float()
            if not isinstance(target, ClassTarget):
                mean = mean.exp() if target.transform == "log" else mean
            found.append(mean)
        return tuple(found)

    def _tree_outputs(self, codes: Tensor, values: Tensor) -> list[Tensor]:
        """Transformed numbers [N], or probabilities [N, C], of LightGBM for each target."""
        if self.trees is None:
            return []
        inputs = torch.cat([codes[:, list(self.trees.codes)].float(), values[:, list(self.trees.values)]], dim=1)
        found = []
        for booster, target in zip(self.boosters, self.targets, strict=True):
            raw = booster(inputs)
            if isinstance(target, ClassTarget):
                found.append(torch.cat([-raw, raw], 1).sigmoid() if target.width == 2 else raw.softmax(dim=1))
            else:
                found.append(raw[:, 0])
        return found


def export_onnx(model: LoadedModel, rows: TableArrays) -> tuple[bytes, float]:
    """The graph as the bytes of an ONNX file, and how far it is from the model on some ``rows``.

    It has the inputs ``codes`` int64 [N, V] and ``values`` float32 [N, C], of which one without columns is left out,
    and the outputs of :func:`output_names`: float32, as in :class:`MeanPrediction`.

    Returns:
        The file, and the largest relative difference between onnxruntime's predictions and the model's own.

    Raises:
        DataError: if a package is missing, there are no rows, or the difference exceeds :data:`TOLERANCE`.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise DataError(f"an export needs {', '.join(missing)}: pip install 'embedline[onnx]'")
    if not len(rows.codes):
        raise DataError("there are no encoded rows to compare the exported model with")
    inputs = rows.codes.long(), rows.continuous.contiguous()
    program = _export(model, inputs)
    assert program is not None  # it is with dynamo
    graph = program.model_proto.SerializeToString()
    expected, found = model.predict(rows), run_onnx(graph, *(each.numpy() for each in inputs))
    names = dict(zip(expected, output_names(model.encoder.targets), strict=True))
    difference = max(_largest_difference(expected[target], found[name]) for target, name in names.items())
    if not difference <= TOLERANCE:
        raise DataError(
            f"the exported model's predictions differ from the model's own by {difference:.2g} of their size, and may "
            f"differ by {TOLERANCE:g}: nothing was written"
        )
    return graph, difference


def _export(model: LoadedModel, inputs: tuple[Tensor, Tensor]) -> torch.onnx.ONNXProgram | None:
    size, disabled = torch.export.Dim("N", min=1), logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # of packages that a table does not need
        with warnings.catch_warnings(action="ignore"):  # of the exporter's own code
            return torch.onnx.export(
                MeanPrediction(model).eval(),
                tuple(torch.cat([each, each])[:2] for each in inputs),  # of one row it would take the one as fixed
                dynamo=True,
                input_names=[CODES, VALUES],
                output_names=output_names(model.encoder.targets),
                dynamic_shapes=({0: size}, {0: size}),
                verbose=False,
            )
    finally:
        logging.disable(disabled)


def run_onnx(graph: bytes, codes: NDArray[np.int64], values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The outputs of an exported graph by target, computed by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given = {CODES: codes, VALUES: values}
    outputs: list[Any] = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})
    return {each.name: output for each, output in zip(session.get_outputs(), outputs, strict=True)}


def output_names(targets: Sequence[Target]) -> list[str]:
    """``predicted`` of a number, ``quantiles`` of its quantiles, or ``probabilities``; of several ``<target>.…``."""
    kinds = {ClassTarget: "probabilities", NumericTarget: "predicted"}
    return [
        prefix_of(target, targets)
        + ("quantiles" if isinstance(target, NumericTarget) and target.quantiles else kinds[type(target)])
        for target in targets
    ]


def rows_to_compare(encoded: nw.DataFrame[Any], encoder: Encoder) -> TableArrays:
    """Rows of an encoded frame; raise a DataError if another encoder has made it."""
    names = [*map(code_name, encoder.code_columns), *map(value_name, encoder.value_columns)]
    fits = set(names) <= set(encoded.columns)
    rows = to_arrays(encoded, encoder) if fits else None
    if rows is None or (rows.codes >= torch.tensor(encoder.cardinalities)).any():
        raise DataError("the encoded rows were not made for this model: leave --version out, or run its pipeline again")
    return rows


def _largest_difference(expected: NDArray[np.float64], found: NDArray[np.float32]) -> float:
    size = np.maximum(np.abs(expected), SMALL * np.abs(expected).mean())
    differences = np.abs(found - expected) / np.where(size > 0, size, 1.0)
    return math.inf if np.isnan(differences).any() else float(differences.max())
