"""Hooks that keep passwords and tokens from trackers, logs and the screen."""

import logging
from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from pydantic import BaseModel

from embedline.redaction import redacted


class Redaction:
    """Keep passwords and tokens of the parameters, and those in error messages, from trackers, logs and the screen."""

    only_observes = True  # a node gets what it was given: an edit here retrains nothing

    @hook_impl(tryfirst=True)
    def after_context_created(self) -> None:
        """Have log lines redacted from now on."""
        for handler in logging.getLogger().handlers:
            if not any(isinstance(one, _RedactingFilter) for one in handler.filters):
                handler.addFilter(_RedactingFilter())

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


class _RedactingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: the handler reports that itself
            return True
        if (shown := redacted(message)) != message:
            record.msg, record.args = shown, None
        return True


def _redact_error(error: BaseException | None) -> None:
    """Redact an error and its causes, which tracebacks show."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(redacted(text) if isinstance(text, str) else text for text in error.args)
        error = error.__cause__ or error.__context__
