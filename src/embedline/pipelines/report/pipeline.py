"""The report of everything that the registry makes, one section a source."""

from collections.abc import Iterable, Mapping

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.report import nodes

TAG = "report"  # of nodes whose inputs may be missing: the hook MissingArtifacts has them be None
MEASURED = ("metrics", "language_model_metrics")  # the metrics of a classifier hold those of its language model
KINDS = (*MEASURED, "mistakes", "samples", "next_words", "recommendations", "neighbours", "folds", "forecast")
PLOT = "_plot"


def create_pipeline(pipelines: Mapping[str, Pipeline]) -> Pipeline:
    """A node a source collects what is stored of it, and one writes the page.

    Args:
        pipelines: of the registry, whose outputs say which sources there are and what is made of them:
            ``<source>.metrics``, ``<source>.…_plot`` and the other :data:`KINDS`. So a source of one's own is in the
            report as well.
    """
    sources = reported(pipelines.values())
    collecting = [_collecting_node(source, names, pipelines.values()) for source, names in sources.items()]
    page = Node(
        nodes.write_page,
        {"page_options": "params:report", **{source: _section(source) for source in sources}},
        "report.page",
        name="write_page",
        namespace="report",
        tags=TAG,
    )
    return Pipeline([*collecting, page])


def reported(pipelines: Iterable[Pipeline]) -> dict[str, list[str]]:
    """By source, what the pipelines make that a report shows."""
    found: dict[str, list[str]] = {}
    for output in dict.fromkeys(name for pipeline in pipelines for node in pipeline.nodes for name in node.outputs):
        source, _, name = output.partition("@")[0].rpartition(".")
        if source and (name in KINDS or name.endswith(PLOT)):
            found.setdefault(source, []).append(name)
    return found


def _section(source: str) -> str:
    return f"report.section_{source}"


def _collecting_node(source: str, names: list[str], pipelines: Iterable[Pipeline]) -> Node:
    inputs = {name: f"{source}.{name}" for name in sorted(names)}
    if measured := next((name for name in MEASURED if name in names), None):
        inputs["metrics_history"] = f"{source}.{measured}_history"
    if origin := _origin(list(inputs.values()), pipelines):
        inputs["origin"] = origin
    return Node(nodes.collect_section, inputs, _section(source), name=f"collect_{source}", namespace="report", tags=TAG)


def _origin(outputs: list[str], pipelines: Iterable[Pipeline]) -> str | None:
    """The parameter ``<name>.source`` that decides where the raw data of these outputs come from, if there is one."""
    for pipeline in pipelines:
        made = [name for name in outputs if name in pipeline.all_outputs()]
        inputs = pipeline.to_outputs(*made).inputs() if made else ()
        found = sorted(name for name in inputs if name.startswith("params:") and name.endswith(".source"))
        if found:
            return found[0]
    return None
