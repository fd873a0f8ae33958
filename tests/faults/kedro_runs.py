"""Real `kedro run`s for the fault tests: where they write, how they are started and killed."""

import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kedro_incremental import Manifest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.append(str(PROJECT / "tests"))  # where the script kill_runs.py is started, not pytest

import warm  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """Size of the runs; the defaults take about 20 seconds for 39 nodes, so that a training is long enough to be hit.

    Attributes:
        pipelines: names as of ``kedro run --pipelines``; all of them if empty.
        checkpoint_seconds: between two checkpoints of a training.
    """

    stores: int = 8
    epochs: int = 4
    trees: int = 60
    pipelines: str = ""
    checkpoint_seconds: float = 0.5

    def arguments(self, data: Path, tracking: Path) -> list[str]:
        """Of ``kedro run``, for artifacts under ``data`` and tracking under ``tracking``."""
        sources = ("rossmann", "rossmann_notebook", "rossmann_forecast")
        given = {"data_root": data, "tracking_root": tracking, "checkpoint_seconds": self.checkpoint_seconds}
        given |= {"rossmann.generator.n_stores": self.stores}
        given |= {f"{source}.training.epochs": self.epochs for source in sources}
        given |= {f"{source}.training.blend.lightgbm.n_estimators": self.trees for source in sources}
        params = ",".join(f"{name}={value}" for name, value in given.items())
        return [*(["--pipelines", self.pipelines] if self.pipelines else []), "--params", params]


@dataclass(frozen=True)
class Site:
    """A place that runs write to.

    Attributes:
        project: folder that runs start in.
        folder: tracking, and the log of every run.
        data: root of the artifacts.
    """

    project: Path
    settings: Settings
    folder: Path
    data: Path

    @classmethod
    def make(cls, project: Path, settings: Settings, folder: Path) -> "Site":
        """A site without anything."""
        folder.mkdir(parents=True)
        return cls(project, settings, folder, folder / "data")

    @property
    def runs(self) -> Path:
        """Where the runner remembers."""
        return self.data / ".runs"

    def note(self) -> dict[str, Any]:
        """The runner's note of the node at work, with that of its run; empty if there is none."""
        manifest = Manifest(self.runs)
        started = manifest.state("started")
        return {**(manifest.state("holder") or {}), **started} if started else {}

    def records(self) -> dict[str, Any]:
        """Records by node."""
        return {name: asdict(record) for name, record in Manifest(self.runs).records.items()}

    def history(self) -> dict[str, dict[str, Any]]:
        """Records by run and node."""
        runs = Manifest(self.runs).history().items()
        return {run_id: {name: asdict(record) for name, record in run.items()} for run_id, run in runs}

    def logs(self) -> list[Path]:
        """Output of every run so far, the oldest first."""
        return sorted(self.folder.glob("run-*.log"))

    def start(self) -> "Run":
        """Start ``kedro run``."""
        return Run(self, self.folder / f"run-{len(self.logs()):03}.log")

    def finish(self) -> tuple[int, str]:
        """Run to the end; exit status and what was printed."""
        run = self.start()
        return run.wait(), run.log.read_text()

    def leftovers(self) -> list[str]:
        """What should not be there between runs: partial files, versions without a record, notes of a run."""
        recorded = {
            made["path"] for run in self.history().values() for n in run.values() for made in n["outputs"].values()
        }
        files = [path for path in self.data.rglob("*") if path.is_file() and self.runs not in path.parents]
        left = [path for path in files if str(path) not in recorded]
        left += [path for path in self.data.glob("*/*/*/*") if path.is_dir() and not any(path.iterdir())]
        left += [path for path in self.runs.rglob("*") if path.name[0] == "." or path.name.startswith("manifest.db-")]
        left += [self.runs / name for name in ("started", "holder") if Manifest(self.runs).state(name)]
        left += list(self.runs.glob("scratch/*/*"))
        return [f"left over: {path.relative_to(self.data)}" for path in sorted(left)]


class Run:
    """One `kedro run` in a process group of its own."""

    def __init__(self, site: Site, log: Path) -> None:
        self.log = log
        arguments = site.settings.arguments(site.data, site.folder)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"COLUMNS": "300", "PYTHONUNBUFFERED": "1"}  # a killed run has logged what it said
        with log.open("wb") as file:
            self._process = warm.start("kedro", "run", *arguments, cwd=site.project, env=environment, output=file)
        self.began, self.pid = time.monotonic(), self._process.pid

    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Exit status, once it has ended."""
        return self._process.wait()

    def kill(self) -> bool:
        """Kill the whole group at once; False if the run was quicker."""
        if not self.ended():
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL
