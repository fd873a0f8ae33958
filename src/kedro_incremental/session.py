"""What Kedro knows of the runner: a session whose runs are incremental, and the catalog entry of what it remembers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from kedro.framework.session import KedroSession
from kedro.io import AbstractDataset

from .manifest import Manifest, RunnerError
from .runner import ENTRY, IncrementalRunner

# Options that name nodes, or where to start, run what Kedro would run. The others (pipelines, namespaces, to-nodes,
# to-outputs) name a goal, and the runner does what is needed to reach it.
NAMING = {"node_names": "--nodes", "tags": "--tags", "from_nodes": "--from-nodes", "from_inputs": "--from-inputs"}
RUN_HOOKS = ("before_pipeline_run", "after_pipeline_run", "on_pipeline_error")


class IncrementalSession(KedroSession):
    """``SESSION_CLASS`` of a project whose default runner is :class:`IncrementalRunner`."""

    def run(self, *args: Any, **selection: Any) -> dict[str, Any]:
        """Run a pipeline; arguments and result are those of :meth:`KedroSession.run`."""
        runner = selection["runner"] = selection.get("runner") or IncrementalRunner()
        if isinstance(runner, IncrementalRunner):
            runner.asked_by = next((option for name, option in NAMING.items() if selection.get(name)), None)
            runner.project = self._project_path
            if runner.dry_run:  # nothing runs, so that no tracker must open a run
                hooks = vars(self._hook_manager.hook) | dict.fromkeys(RUN_HOOKS, lambda **_: None)
                plugins = self._hook_manager.get_plugins
                self._hook_manager: Any = SimpleNamespace(hook=SimpleNamespace(**hooks), get_plugins=plugins)
        return super().run(*args, **selection)


class RunManifest(AbstractDataset[None, Manifest]):
    """Catalog entry of the manifest: where runs are remembered, a folder on this machine, one for each root of
    artifacts.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        if "://" in filepath and not filepath.startswith("file://"):
            raise RunnerError(f"{ENTRY}.filepath must be a folder of this machine, not {filepath}")
        self._folder = Path(filepath.removeprefix("file://"))

    def load(self) -> Manifest:
        """Read the manifest; an empty one if nothing ran yet."""
        return Manifest(self._folder)

    def save(self, data: None) -> NoReturn:
        """Refused: only the runner writes it, record by record."""
        raise RunnerError(f"{ENTRY} is written by the runner alone")

    def _exists(self) -> bool:
        return (self._folder / "manifest.db").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
