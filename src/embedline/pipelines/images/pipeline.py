"""The image learner as modular pipelines; the namespace of a pipeline is the source."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.images import nodes


def create_pipeline(source: str, *, images: str | None = None, ceiling: str | None = None) -> Pipeline:
    """Prepare pictures, train networks, combine them, compare with baselines, explain and report.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        images: frame of images; None: ``<source>.images``. Their files are in ``<source>.raw``.
        ceiling: dataset of the best values that a classifier can expect, by metric; None where they are not known.
    """
    bound = {"ceiling": ceiling} if ceiling else {}
    inputs = {"images": images or f"{source}.images", "raw": f"{source}.raw", **bound}
    return Pipeline([*_training_nodes(), *_report_nodes([*bound])], namespace=source, inputs=inputs)


def create_prediction_pipeline(source: str) -> Pipeline:
    """Predict the pictures of the folder ``<source>.folder`` with the stored model: ``<source>.predicted_pictures``."""
    node = _node(nodes.predict_pictures, ["folder", "model"], "predicted_pictures", "predict")
    return Pipeline([node], namespace=source, inputs={"folder": f"{source}.folder", "model": f"{source}.model"})


def _node(function: Callable[..., Any], inputs: str | list[str], outputs: str | list[str], tag: str) -> Node:
    return Node(function, inputs, outputs, name=function.__name__, tags=tag)


PREPARED = ["pictures", "examples", "encoder"]


def _training_nodes() -> list[Node]:
    prepared = ["raw", "images", "params:targets", "params:network", "params:preparation", "params:split"]
    frozen = ["pictures", "examples", "params:network", "params:training"]
    trained = [*PREPARED, "activations", "params:network", "params:augmentation", "params:training"]
    combined = ["classifier", "params:tta", "params:augmentation"]
    compared = [*PREPARED, "activations", "params:network", "params:baseline"]
    predicted = ["pictures", "examples", "model"]
    return [
        _node(nodes.prepare, prepared, PREPARED, "prepare"),
        _node(nodes.compute_activations, frozen, "activations", "encode"),
        _node(nodes.train, trained, ["classifier", "history"], "train"),
        _node(nodes.combine, combined, "model", "train"),
        _node(nodes.predict, predicted, ["predictions", "member_predictions"], "evaluate"),
        _node(nodes.predict_baselines, compared, "baseline_predictions", "evaluate"),
    ]


def _report_nodes(bound: list[str]) -> list[Node]:
    measured = ["predictions", "member_predictions", "baseline_predictions", "model", "params:report", *bound]
    shown = ["pictures", "examples", "mistakes", "model", "params:report"]
    batch = [*PREPARED, "params:network", "params:augmentation", "params:report"]
    calibrated = ["predictions", "baseline_predictions", "model", "params:report"]
    near = ["pictures", "examples", "model", "params:report"]
    return [
        _node(nodes.evaluate, measured, "metrics", "evaluate"),
        _node(nodes.list_mistakes, ["predictions", "model", "params:report"], "mistakes", "evaluate"),
        _node(nodes.find_neighbours, near, ["neighbours", "features"], "evaluate"),
        _node(nodes.plot_training, "history", "training_plot", "plot"),
        _node(nodes.plot_confusion, ["predictions", "model"], "confusion_plot", "plot"),
        _node(nodes.plot_calibration, calibrated, "calibration_plot", "plot"),
        _node(nodes.plot_mistakes, shown, ["mistakes_plot", "activation_plot"], "plot"),
        _node(nodes.plot_batch, batch, "batch_plot", "plot"),
    ]
