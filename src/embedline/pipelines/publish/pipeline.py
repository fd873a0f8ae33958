"""Bring a model into service: pack it, measure the service on raw held-out rows, have it answer a file of rows.

The hook :mod:`embedline.hooks.runs` logs and registers what these nodes made, once the whole run has succeeded.
"""

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.publish import nodes

PUBLISH = "champion"  # tag of the node whose run asks for publishing


def create_publish_pipeline(
    source: str,
    *,
    pack: Callable[..., Any],
    pack_inputs: Sequence[str],
    hold_out: Callable[..., Any],
    hold_out_inputs: Sequence[str],
) -> Pipeline:
    """Pack ``<source>.service``, and measure it on ``<source>.evaluation``: ``<source>.service_metrics``.

    Args:
        pack: makes the :class:`embedline.serving.service.Service` from ``pack_inputs``.
        hold_out: makes a Polars frame of raw held-out rows from ``hold_out_inputs``: the columns of a request, and the
            column ``actual``.
        pack_inputs, hold_out_inputs: names of datasets. Those with a dot, such as ``rossmann.table``, are taken as they
            are; others, such as ``model`` and ``params:columns``, belong to ``source``.
    """
    inputs = [name for name in (*pack_inputs, *hold_out_inputs) if "." in name and not name.startswith("params:")]
    publish = Pipeline(
        [
            Node(pack, list(pack_inputs), "service", name="pack_service", tags="publish"),
            Node(hold_out, list(hold_out_inputs), "evaluation", name="hold_out", tags="evaluate"),
            Node(
                nodes.measure_service,
                ["service", "evaluation", "metrics"],
                "service_metrics",
                name="measure_service",
                tags=["evaluate", PUBLISH],
            ),
        ]
    )
    return Pipeline(publish, namespace=source, inputs=set(inputs))


def create_table_publish_pipeline(source: str, *, table: str | None = None) -> Pipeline:
    """Pack and measure the model of a table, the dataset ``table`` or ``<source>.table``."""
    rows = table or "table"
    return create_publish_pipeline(
        source,
        pack=nodes.pack_table,
        pack_inputs=["model", rows, "intervals"],
        hold_out=nodes.hold_out_table,
        hold_out_inputs=[rows, "params:columns", "params:split", "encoder"],
    )


def create_predict_pipeline(source: str, publishing: Pipeline) -> Pipeline:
    """Pack the stored model of ``source`` and have it answer ``<source>.rows``: ``<source>.predicted_rows``.

    It shares the node ``pack_service`` with ``publishing``, the publish pipeline: what one packed the other need not.
    """
    node = Node(nodes.predict_rows, ["rows", "service"], "predicted_rows", name="predict_rows", tags="predict")
    return publishing.only_nodes(f"{source}.pack_service") + Pipeline([node], namespace=source)
