"""What runs left: every artifact loads, and what a run made is compared with what another one made."""

import hashlib
import io
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from kedro.config import OmegaConfigLoader
from kedro.io import AbstractVersionedDataset, DataCatalog
from kedro.io.core import Version
from kedro_runs import Site

VERSIONS = "[!.]*/*/*/*/[!.]*"  # the files that Kedro lists

# All that may differ between two runs: figures of time, by file (of a bundle, in its header's metrics), with the source
# before it where those of one source are others.
TIMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "metrics.json": (
        ("seconds",),
        ("rows_per_second",),
        ("blend", "seconds"),
        *(("baselines", name, "seconds") for name in ("linear", "lightgbm")),
    ),
    "baseline_costs.json": (("linear", "seconds"), ("lightgbm", "seconds")),
    "model.safetensors": (("seconds",), ("rows_per_second",), ("blend", "seconds")),
    **{
        f"pets/{name}": (("seconds",), ("rows_per_second",))
        for name in ("metrics.json", "classifier.safetensors", "model.safetensors")
    },
}


class Artifacts:
    """Every artifact of the catalog, built once and loaded as often as wanted."""

    def __init__(self, project: Path, data: Path) -> None:
        from embedline.pipeline_registry import register_pipelines
        from embedline.settings import CONFIG_LOADER_ARGS

        roots = {"data_root": str(data), "tracking_root": str(data)}
        settings: dict[str, Any] = CONFIG_LOADER_ARGS
        config = OmegaConfigLoader(str(project / "conf"), runtime_params=roots, **settings)
        catalog = DataCatalog.from_config(config["catalog"])
        names = {name for pipeline in register_pipelines().values() for name in pipeline.datasets()}
        self._data = data
        artifacts = (name for name in sorted(names) if not name.startswith("params:"))
        datasets = {name: catalog.get(name) for name in artifacts}
        # The others, such as a champion in MLflow's registry, are read and never saved.
        self._datasets: dict[str, Any] = {k: v for k, v in datasets.items() if isinstance(v, AbstractVersionedDataset)}

    def load(self) -> tuple[int, list[str]]:
        """Load every version that Kedro lists: how many, and what went wrong."""
        loaded, wrong = set(), []
        for name, dataset in self._datasets.items():
            dataset.release()
            for path in map(Path, dataset._get_versions()):
                loaded.add(path)
                dataset._version = Version(path.parent.name, None)
                try:
                    _read_whole(dataset.load())
                except Exception as error:  # whatever a truncated file makes a reader raise
                    wrong.append(f"{name} of {path.parent.name} does not load: {type(error).__name__}: {error}")
        there = {path for path in self._data.glob(VERSIONS) if path.is_file()}
        wrong += [f"no entry of the catalog reads {path.relative_to(self._data)}" for path in sorted(there - loaded)]
        return len(loaded), wrong


def _read_whole(value: Any) -> None:
    """Touch every byte of a frame, which may be mapped into memory and not read yet."""
    if isinstance(value, pl.DataFrame):
        value.write_ipc(io.BytesIO())


def broken_tracking(folder: Path) -> str:
    """What is wrong with MLflow's database, read from a copy: opening it would roll an unfinished write back."""
    with tempfile.TemporaryDirectory() as copies:
        for path in folder.glob("mlflow.db*"):
            shutil.copy(path, copies)
        if not Path(copies, "mlflow.db").exists():
            return ""
        try:
            connection = sqlite3.connect(Path(copies, "mlflow.db"))
            says = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
            connection.close()
        except sqlite3.DatabaseError as error:
            says = str(error)
    return "" if says == "ok" else f"mlflow.db is damaged: {says}"


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it made, and how long everything took.

    Attributes:
        outputs: hash of each artifact's content without figures of time, by its folder.
        seconds: by node, in the order of the run.
        sizes: bytes of the files of each node's outputs, whole pages.
        start_up: seconds to the first node.
        whole: seconds of the run.
    """

    outputs: dict[str, str]
    seconds: dict[str, float]
    sizes: dict[str, int]
    start_up: float
    whole: float

    @classmethod
    def make(cls, site: Site) -> "Reference":
        """Run once, undisturbed.

        Raises:
            RuntimeError: if the run fails.
        """
        run = site.start()
        while not site.note() and not run.ended():
            time.sleep(0.01)
        start_up = time.monotonic() - run.began
        if run.wait():
            raise RuntimeError(f"the undisturbed run failed:\n{run.log.read_text()[-3000:]}")
        whole, records = time.monotonic() - run.began, site.records()
        seconds = {node: record["seconds"] for node, record in records.items()}
        outputs = {node: record["outputs"].values() for node, record in records.items()}
        sizes = {node: sum(_pages(Path(made["path"])) for made in each) for node, each in outputs.items()}
        return cls(dict(current_outputs(site)), seconds, sizes, start_up, whole)

    @cached_property
    def order(self) -> list[str]:
        """Nodes as the run came to them."""
        return list(self.seconds)

    def differences(self, site: Site) -> list[str]:
        """How a site's current outputs differ from those of the reference."""
        found = dict(current_outputs(site))
        names = sorted({*found, *self.outputs})
        return [f"{name} differs from the reference" for name in names if found.get(name) != self.outputs.get(name)]

    def torn(self, site: Site) -> list[str]:
        """Versions at a site, recorded or not, that are no whole file: all of an artifact should be equal."""
        wrong = []
        for path in sorted(site.data.glob(VERSIONS)):
            artifact = path.parents[1].relative_to(site.data).as_posix()
            try:
                whole = _hash(path) == self.outputs[artifact]
            except (KeyError, ValueError):  # no such artifact, or half a JSON file
                whole = False
            wrong += [] if whole else [f"{path.relative_to(site.data)} is not as in the reference"]
        return wrong


def _pages(path: Path) -> int:
    return -(-path.stat().st_size // 4096) * 4096


def current_outputs(site: Site) -> Iterator[tuple[str, str]]:
    """Folders of artifacts, and the hash of what the manifest says is the current version, without figures of time."""
    for record in site.records().values():
        for made in record["outputs"].values():
            path = Path(made["path"])
            yield path.parents[1].relative_to(site.data).as_posix(), _hash(path)


def _hash(path: Path) -> str:
    return hashlib.sha256(timeless(path)).hexdigest()


def timeless(path: Path) -> bytes:
    """Content of a file without exactly its figures of time; every one of them must be there."""
    content, source = path.read_bytes(), path.parents[2].name
    times = TIMES.get(f"{source}/{path.name}", TIMES.get(path.name, ()))
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        if "__metadata__" in header:  # of a model, not of arrays
            header["__metadata__"]["metrics"] = _without(json.loads(header["__metadata__"]["metrics"]), times)
        return json.dumps(header, sort_keys=True).encode() + content[end:]  # safetensors orders it anew in each process
    return json.dumps(_without(json.loads(content), times)).encode() if times else content


def _without(values: dict[str, Any], times: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    for *outer, last in times:
        inner = values
        for key in outer:
            inner = inner[key]
        del inner[last]
    return values
