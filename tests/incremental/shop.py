"""A small shop of a project: three nodes in a package of its own, run without a session."""

import importlib
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from kedro_incremental import IncrementalRunner, Manifest
from kedro_incremental.report import Step

HELPERS = '''
"""Helpers."""

FACTOR = 10


def scaled(value, by):
    return factor() * value * by


def factor():
    return FACTOR


def unused():
    return 1
'''

NODES = '''
"""Nodes."""

from {package}.helpers import scaled


def clean(raw, by):
    """Scale every value."""
    return [scaled(value, by) for value in raw]


def add(cleaned):
    return {{"total": sum(cleaned)}}, {{"count": len(cleaned)}}


def describe(total, count, title):
    return f"{{title}}: {{total['total']}} in {{count['count']}}"
'''


class Shop:
    """The project's files, its catalog, and runs of it; each run has a version of its own."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self.parameters: dict[str, Any] = {"by": 2, "title": "sum"}
        self.stored = ["cleaned", "total", "count", "text"]
        self.settings: dict[str, dict[str, Any]] = {}
        self.load_versions: dict[str, str] = {}
        self._runs = itertools.count(1)
        self.write("raw.json", "[1, 2, 3]")
        self.write(f"{package}/__init__.py", "")
        self.write(f"{package}/helpers.py", HELPERS)
        self.write(f"{package}/nodes.py", NODES.format(package=package))

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edit(self, module: str, old: str, new: str) -> None:
        """Replace text in a module, and load it again as a new process would."""
        path = self.root / self.package / f"{module}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            del sys.modules[name]

    @property
    def nodes(self) -> ModuleType:
        return importlib.import_module(f"{self.package}.nodes")

    def pipeline(self) -> Pipeline:
        """raw -> cleaned -> total, count -> text."""
        return Pipeline(
            [
                Node(self.nodes.clean, ["raw", "params:by"], "cleaned", name="clean"),
                Node(self.nodes.add, "cleaned", ["total", "count"], name="add"),
                Node(self.nodes.describe, ["total", "count", "params:title"], "text", name="describe"),
            ]
        )

    def catalog(self, version: str) -> DataCatalog:
        """Versioned JSON files for what is stored; the rest stays in memory."""
        json_file = "kedro_datasets.json.JSONDataset"
        config: dict[str, Any] = {"raw": {"type": json_file, "filepath": str(self.root / "raw.json")}}
        for name in self.stored:
            path = str(self.root / "data" / f"{name}.json")
            config[name] = {"type": json_file, "filepath": path, "versioned": True, **self.settings.get(name, {})}
        catalog = DataCatalog.from_config(config, load_versions=self.load_versions, save_version=version)
        for name, value in self.parameters.items():
            catalog[f"params:{name}"] = value
        return catalog

    def run(self, pipeline: Pipeline | None = None, **options: Any) -> dict[str, tuple[str, str]]:
        """Run it; state and reason of each node."""
        return {step.node: (step.state, step.why) for step in self.steps(pipeline, **options)}

    def steps(
        self, pipeline: Pipeline | None = None, *, asked_by: str | None = None, missing: bool = False, **options: Any
    ) -> list[Step]:
        """Run it; the steps, also of a run that fails (the error is in ``self.error``)."""
        self.version = f"v{next(self._runs):03d}"
        runner = IncrementalRunner(manifest=self.root / "data" / ".runs", **options)
        runner.asked_by, runner.project = asked_by, self.root
        self.error: BaseException | None = None
        try:
            catalog = self.catalog(self.version)
            self.outputs = runner.run(pipeline or self.pipeline(), catalog, None, self.version, missing)
        except Exception as error:
            self.error = error
        return runner._report.steps

    def ran(self, pipeline: Pipeline | None = None, **options: Any) -> list[str]:
        """Run it; the names of the nodes that ran."""
        states = self.run(pipeline, **options)
        if self.error:
            raise self.error
        return [name for name, (state, _) in states.items() if state == "ran"]

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.root / "data" / ".runs")

    def file(self, name: str, version: str | None = None) -> Path:
        if version is None:
            version = next(r.outputs[name].version for r in self.manifest.records.values() if name in r.outputs)
        return self.root / "data" / f"{name}.json" / str(version) / f"{name}.json"

    def value(self, name: str) -> Any:
        """Current content of an artifact."""
        return json.loads(self.file(name).read_text())
