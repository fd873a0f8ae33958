"""Hooks on the messages of a run: errors and warnings name the dataset at fault, and nothing shows a password."""

import inspect
from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node
from pydantic import BaseModel

from embedline.errors import TrainingError, name_inputs
from embedline.redaction import filter_log_records, redacted


class DatasetNames:
    """Name the dataset in messages about a frame, ``houses.table`` for ``table``, and the block in a training's."""

    only_observes = True

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Let the warnings of the node name its inputs."""
        name_inputs(_inputs_by_argument(node))

    @hook_impl
    def after_node_run(self) -> None:
        """Forget the names: a function called after the node, in a notebook, has other inputs."""
        name_inputs({})

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        """Put the name into the error before the run ends with it."""
        name_inputs({})
        if isinstance(error, TrainingError):
            blocks = (name for name in node.inputs if name.startswith("params:") and name.endswith("training"))
            error.block = next(blocks, error.block).removeprefix("params:")


class Redaction:
    """Keep passwords and tokens of the parameters, and those in error messages, from trackers, logs and the screen."""

    only_observes = True  # a node gets what it was given: an edit here retrains nothing

    @hook_impl(tryfirst=True)
    def after_context_created(self) -> None:
        """Redact the log lines of handlers that were added since the package was imported."""
        filter_log_records()

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Redact ``--params`` for trackers: kedro-mlflow makes a tag of it."""
        run_params["runtime_params"] = redacted(run_params.get("runtime_params"))

    @hook_impl(tryfirst=True)
    def before_node_run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Show other hooks redacted parameters, kedro-mlflow stores them; the node gets those that it was given."""
        hidden = {}
        for name, value in inputs.items():
            if name == "parameters" or name.startswith("params:"):
                values = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
                if isinstance(values, str | Mapping | list) and (shown := redacted(values)) != values:
                    hidden[name], inputs[name] = value, shown
        return hidden

    @hook_impl(tryfirst=True)
    def on_node_error(self, error: Exception) -> None:
        """Redact the message before kedro-viz stores it and the screen shows it."""
        _redact_error(error)

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Redact the message, that of a dataset as well: Kedro writes ``load_args`` into it."""
        _redact_error(error)


def _inputs_by_argument(node: Node) -> dict[str, str]:
    names = node._inputs  # one name, a list in the order of the parameters, or a mapping by parameter
    positional = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    keywords = names if isinstance(names, dict) else {}
    return dict(inspect.signature(node.func).bind(*positional, **keywords).arguments)


def _redact_error(error: BaseException | None) -> None:
    """Redact an error and its causes, which tracebacks show."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(redacted(text) if isinstance(text, str) else text for text in error.args)
        error = error.__cause__ or error.__context__
