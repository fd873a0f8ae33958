"""A Kedro runner that runs only what changed."""

import difflib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner, Task

from .audit import AUDIT
from .change_detection import ChangeDetector, base_name, loaded_datasets
from .manifest import Manifest, NodeRecord, RunnerError, now
from .report import IncrementalSpecs, RunReport, Step, show, summarize
from .storage import save_version_of, set_save_version, storage_of
from .terminal import Output, Verbosity

logger = logging.getLogger(__name__)

ENTRY = "run_manifest"  # of the catalog


class RunInterrupted(Exception):
    """Ctrl-C or a termination signal; an ``Exception``, unlike ``KeyboardInterrupt``, so that Kedro calls its hooks."""


class IncrementalRunner(SequentialRunner):
    """Run the nodes one by one, except those whose code, parameters and inputs are those of their last success.

    The catalog must have an entry ``run_manifest`` of the type :class:`RunManifest`, unless ``manifest`` is given.

    Args:
        force: run every node.
        verify: read the content of every file, instead of trusting its size and times.
        wait: wait for another run that writes to the same folder; False to end with an error.
        dry_run: show what would run, and run nothing.
        touch: names of nodes, in one text with commas or several: record that what changed of them does not matter,
            and run nothing.
        verbosity: ``normal`` shows the node at work, a line for what is done and the warnings at the end; ``verbose``
            also every log record as it comes and a table of all nodes with the reasons; ``quiet`` shows warnings and
            what ran.
        manifest: folder of the records.
        is_async: load and save with threads, as Kedro's own runner.
    """

    def __init__(
        self,
        *,
        force: bool = False,
        verify: bool = False,
        wait: bool = True,
        dry_run: bool = False,
        touch: str | Iterable[str] = (),
        verbosity: Verbosity = "normal",
        manifest: str | Path | None = None,
        is_async: bool = False,
    ) -> None:
        super().__init__(is_async=is_async)
        self.force, self.verify, self.wait, self.dry_run = force, verify, wait, dry_run
        names = touch.split(",") if isinstance(touch, str) else touch
        self.touch = [name.strip() for name in names if name.strip()]
        self.verbosity: Verbosity = verbosity
        self.asked_by: str | None = None  # option of the command line that has every node run
        self.project = Path.cwd()
        self._folder = Path(manifest) if manifest else None
        self._manifest: Manifest
        self._report = RunReport("")
        self._output: Output

    def __repr__(self) -> str:
        # kedro-viz records a run only if the text of its runner names SequentialRunner, which this one is.
        return f"<{type(self).__name__}(force={self.force}), a kedro.runner.sequential_runner.SequentialRunner object>"

    def run(
        self,
        pipeline: Pipeline,
        catalog: Any,
        hook_manager: Any = None,
        run_id: str | None = None,
        only_missing_outputs: bool = False,
    ) -> dict[str, Any]:
        """Run what changed; arguments and result are those of Kedro's runners.

        Raises:
            RunnerError: if another run writes to the same folder and ``wait`` is False, if the catalog has no manifest,
                or if a node of ``touch`` is unknown or has to run.
            RunInterrupted: at Ctrl-C; what was finished is kept.
        """
        self._manifest = Manifest(self._folder) if self._folder else manifest_of(catalog)
        run_id = run_id or now()
        self._report = RunReport(run_id, verbosity=self.verbosity)
        if hasattr(hook_manager, "add_hookspecs"):  # Kedro's stand-in, and that of a dry run, have none
            if getattr(getattr(hook_manager.hook, "after_incremental_run", None), "spec", None) is None:
                hook_manager.add_hookspecs(IncrementalSpecs)
        if only_missing_outputs:
            self.asked_by = "--only-missing-outputs"
            pipeline = self._filter_pipeline_for_missing_outputs(pipeline, catalog)
        if self.touch:
            _check_names(self.touch, {node.name for node in pipeline.nodes})
            pipeline = pipeline.only_nodes(*self.touch)
        if self.dry_run:
            for name in pipeline.datasets():
                catalog.get(name, fallback_to_runtime_pattern=True)
            show(self._plan(pipeline, self._changes(pipeline, catalog, hook_manager)))
            return {}
        try:
            with self._manifest.locked(run_id, wait=self.wait), Output(self.verbosity, self._manifest.folder) as output:
                self._report.killed, self._output = self._manifest.killed, output
                return super().run(pipeline, catalog, hook_manager, run_id)
        except KeyboardInterrupt as error:
            raise RunInterrupted("interrupted: the same command goes on from what is finished") from error

    def _changes(self, pipeline: Pipeline, catalog: Any, hook_manager: Any) -> ChangeDetector:
        return ChangeDetector(pipeline, catalog, self._manifest, self.project, hook_manager, trust=not self.verify)

    def _plan(self, pipeline: Pipeline, changes: ChangeDetector) -> list[Step]:
        """What to do with each node, as far as it can be known before the first one runs."""
        needed: dict[str, str] = {}
        while True:
            steps, uncertain = [], set[str]()
            for node in pipeline.nodes:
                steps.append(step := self._plan_node(node, changes, uncertain, needed))
                if step.verdict == "skip":
                    changes.skip(node)
                else:
                    uncertain |= {base_name(name) for name in node.outputs}
            more = _unstored_and_needed(pipeline, changes, steps)
            if more.keys() <= needed.keys():
                return steps
            needed |= more

    def _plan_node(self, node: Node, changes: ChangeDetector, uncertain: Set[str], needed: dict[str, str]) -> Step:
        if changes.has_pinned_outputs(node):
            return Step(node.name, "skip", ["its outputs are those of --load-versions"])
        asked = "--force" if self.force else self.asked_by
        reasons = [f"asked for by {asked}"] if asked else changes.reasons(node, uncertain)
        if reasons or node.name in needed:
            return Step(node.name, "run", reasons or [needed[node.name]])
        if inputs := [name for name in loaded_datasets(node) if name in uncertain]:
            return Step(node.name, "depends", [f"input {inputs[0]} comes out changed"])
        return Step(node.name, "skip", [f"unchanged since {self._manifest.records[node.name].run_id}"])

    def _run(self, pipeline: Pipeline, catalog: Any, hook_manager: Any = None, run_id: str | None = None) -> None:
        began = time.perf_counter()
        # No other run can take this version now.
        storages = map(storage_of, map(catalog.get, sorted(pipeline.all_outputs())))
        stored = chain.from_iterable(storage.versions()[:1] for storage in storages if storage)
        own = save_version_of(map(catalog.get, sorted(pipeline.all_outputs()))) or self._report.run_id
        self._report.run_id = self._manifest.next_version(own, stored)
        set_save_version(catalog, map(catalog.get, pipeline.datasets()), self._report.run_id)
        self._output.checking(len(pipeline.nodes))
        changes = self._changes(pipeline, catalog, hook_manager)
        steps = self._report.steps = self._touch(pipeline, changes) if self.touch else self._plan(pipeline, changes)
        loads = Counter(chain.from_iterable(node.inputs for node in pipeline.nodes))
        pairs = list(zip(pipeline.nodes, steps, strict=True))
        self._output.begin([node for node, step in pairs if step.verdict != "skip"], len(steps))
        try:
            for node, step in pairs:
                if step.state == "touched":
                    continue
                has_new_inputs = step.verdict == "depends"
                if has_new_inputs or (step.verdict == "skip" and self._report.nodes("ran") and changes.may_run(node)):
                    reasons = changes.reasons(node)  # for a skipped one, because others may have changed files
                    step.verdict = "run" if reasons else "skip"
                    step.reasons = reasons or (["its inputs came out as they were"] if has_new_inputs else step.reasons)
                if step.verdict == "skip":
                    changes.skip(node)
                    step.state = "skipped"
                else:
                    with self._output.at_work(node):
                        self._run_node(node, step, changes, catalog, hook_manager, run_id)
                if step.state == "ran" or has_new_inputs:
                    self._output.finished(node, step.seconds if step.state == "ran" else None)
                self._release_datasets(node, catalog, loads, pipeline)
        finally:
            self._manifest.save_cache()
            self._report.bookkeeping = time.perf_counter() - began - sum(step.seconds for step in steps)
            self._show_end()
            if hook_manager is not None:
                hook_manager.hook.after_incremental_run(report=self._report)
            self._output.say(summarize(self._report))

    def _show_end(self) -> None:
        self._output.rest()
        records, skipped = self._manifest.records, self._report.nodes("skipped")
        self._report.since = max((records[name].finished for name in skipped if name in records), default="")
        if self.verbosity == "verbose" or self.touch:
            show(self._report.steps, self._report.bookkeeping)
        self._output.show_warnings()

    def _touch(self, pipeline: Pipeline, changes: ChangeDetector) -> list[Step]:
        """Record the nodes with their inputs of now and the outputs that they have."""
        records, steps = [], []
        for node in pipeline.nodes:
            inputs, differences = changes.touch(node)
            steps.append(Step(node.name, "skip", [f"touched: {differences[0]}", *differences[1:]], "touched"))
            old = self._manifest.records[node.name]  # its key stays: its outputs do
            records.append(replace(old, run_id=self._report.run_id, inputs=inputs, finished=now(), why=steps[-1].why))
            changes.skip(node)
        for record in records:
            self._manifest.finish(record)
        return steps

    def _run_node(
        self, node: Node, step: Step, changes: ChangeDetector, catalog: Any, hook_manager: Any, run_id: str | None
    ) -> None:
        manifest, report = self._manifest, self._report
        planned = changes.inputs(node)
        scratch = manifest.scratch(node.name, changes.key(node, planned))
        manifest.start(report.run_id, node.name, changes.prepare_outputs(node))
        step.state, began = "failed", time.perf_counter()
        try:
            hook_manager.hook.before_node_work(node=node, scratch=scratch)
            with AUDIT.node() as accesses:
                Task(node, catalog, self._is_async, hook_manager, run_id).execute()
            step.seconds = time.perf_counter() - began
            inputs = changes.finished_inputs(node, planned, accesses)
            key = changes.key(node, inputs)
            outputs = changes.finished_outputs(node, key)
            manifest.finish(NodeRecord(node.name, report.run_id, key, inputs, outputs, step.seconds, now(), step.why))
        except BaseException as error:
            step.seconds = time.perf_counter() - began
            step.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            manifest.abandon()
            raise
        step.state = "ran"
        report.written |= {name: artifact.version for name, artifact in outputs.items()}
        read = {name: artifact.version for name, artifact in inputs.artifacts.items()}
        report.read |= {name: version for name, version in read.items() if name not in report.written}
        logger.info("Completed node: %s", node.name)


def manifest_of(catalog: Any) -> Manifest:
    """The manifest that a catalog names. Raises RunnerError if it names none."""
    if ENTRY not in catalog:
        raise RunnerError(
            f"the catalog has no {ENTRY!r}, which remembers what ran: add it with the type "
            f"{__package__}.RunManifest and a filepath, or run with --runner SequentialRunner"
        )
    manifest = catalog.load(ENTRY)
    assert isinstance(manifest, Manifest)
    return manifest


def _check_names(names: Iterable[str], known: Set[str]) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known)[:5])}, ..."
            raise RunnerError(f"--touch: the pipeline has no node {name!r}{hint}")


def _unstored_and_needed(pipeline: Pipeline, changes: ChangeDetector, steps: list[Step]) -> dict[str, str]:
    """Skipped nodes that must run because one that runs, or may run, reads an output of theirs that no file keeps."""
    pairs = list(zip(pipeline.nodes, steps, strict=True))
    readers = {name: node.name for node, step in pairs if step.verdict != "skip" for name in loaded_datasets(node)}
    return {
        node.name: f"its output {name} is not stored, and {readers[base_name(name)]} reads it"
        for node, step in pairs
        if step.verdict == "skip"
        for name in node.outputs
        if not changes.is_stored(name) and base_name(name) in readers
    }
