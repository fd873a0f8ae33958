"""A Kedro session whose runs are incremental unless a runner is named."""

from types import SimpleNamespace
from typing import Any

from kedro.framework.session import KedroSession

from .runner import IncrementalRunner

# Options that name nodes, or where to start, run what Kedro would run. The others (pipelines, namespaces, to-nodes,
# to-outputs) name a goal, and the runner does what is needed to reach it.
NAMING = {
    "node_names": "--nodes",
    "tags": "--tags",
    "from_nodes": "--from-nodes",
    "from_inputs": "--from-inputs",
}
RUN_HOOKS = ("before_pipeline_run", "after_pipeline_run", "on_pipeline_error")


class IncrementalSession(KedroSession):
    """``SESSION_CLASS`` of a project whose default runner is :class:`IncrementalRunner`."""

    def run(self, *args: Any, **selection: Any) -> dict[str, Any]:
        """Run a pipeline; arguments and result are those of :meth:`KedroSession.run`."""
        runner = selection["runner"] = selection.get("runner") or IncrementalRunner()
        if isinstance(runner, IncrementalRunner):
            runner.asked_by = next((option for name, option in NAMING.items() if selection.get(name)), None)
            runner.project = self._project_path
            if runner.dry_run:
                self._hook_manager: Any = SimpleNamespace(hook=_WithoutRunHooks(self._hook_manager.hook))
        return super().run(*args, **selection)


class _WithoutRunHooks:
    """Hooks of a session that plans: nothing runs, so that no tracker must open a run."""

    def __init__(self, hooks: Any) -> None:
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return (lambda **_: None) if name in RUN_HOOKS else getattr(self._hooks, name)
