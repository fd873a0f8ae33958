"""Hook on trainings: they keep checkpoints, from which a run that was stopped goes on."""

from contextlib import ExitStack
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from embedline.errors import DataError


class Checkpoints:
    """Have trainings keep checkpoints in the scratch folder that the incremental runner gives their node.

    The parameter ``checkpoint_seconds`` is the least time between two checkpoints of a training.
    """

    only_observes = True  # what a node makes does not depend on it: an edit here retrains nothing

    def __init__(self) -> None:
        self._seconds = 0.0
        self._keeping = ExitStack()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read and check the interval before anything runs."""
        seconds = context.params["checkpoint_seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise DataError(f"checkpoint_seconds must be a number of seconds, 0 or more, got {seconds!r}")
        self._seconds = float(seconds)

    @hook_impl
    def before_node_work(self, node: Node, scratch: Path) -> None:
        """Open the folder to a node tagged ``train``; the others are spared the import of PyTorch."""
        self._keeping.close()
        if "train" in node.tags:
            from embedline.training import checkpoint

            self._keeping.enter_context(checkpoint.checkpointing(scratch, every=self._seconds))

    @hook_impl
    def after_incremental_run(self) -> None:
        """A later run in the same process has checkpoints of its own, or none."""
        self._keeping.close()
