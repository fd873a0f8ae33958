"""The Rossmann preparation of ever larger chains: Polars as it is, Polars streaming, and Spark on this machine.

    python tests/benchmarks/bench_scale.py --factors 1 10 30    prints a line for each way and size

A generated chain with as many stores and days as the real one is copied ``factor`` times, each copy with stores of its
own. Each way runs the project's nodes in a process of its own: on the catalog of conf/base (Polars, memory-mapped IPC
files), on scans and sinks of Parquet with Polars' streaming engine, and on the catalog of conf/spark (``local[*]``).
Score are the wall time of all nodes with their loads and saves, Spark's start among it, and of all processes of the
way, Java's among them, the processor time (the imports are in it) and the peak of anonymous memory (what the system
cannot give back). A way that needs more than ``--cap`` GB or ``--limit`` seconds is ended, and its line says so. All
ways have to agree on the sums of the table.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from contests import configuration, environment, say

TABLES = ("train", "test", "store", "store_states", "state_names", "googletrend", "weather")
VERSION = "2000-01-01T00.00.00.000Z"
WAYS = ("polars", "streaming", "spark")
STORES = 1115  # of the real chain
SUMMED = ("Sales", "Customers", "AfterPromo", "BeforeStateHoliday", "Promo_bw", "ClosureLength", "trend", "PromoDay")
SAMPLE_SECONDS = 0.2  # between two looks at the memory


# The chain


def stage(folder: Path, factor: int) -> int:
    """Write the raw files of ``factor`` chains where the catalogs read them; the number of rows of train and test."""
    from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables

    tables = generate_tables(GeneratorOptions(n_stores=STORES))
    n_rows = 0
    for name, content in tables.items():
        path = raw_file(folder, name)
        path.parent.mkdir(parents=True)
        frame = pl.read_csv(content, infer_schema=False)
        if "Store" not in frame.columns:
            path.write_bytes(content)
            continue
        with path.open("wb") as file:
            for copy in range(factor):
                copied = frame.with_columns(pl.col("Store").cast(pl.Int64) + copy * STORES)
                if "Id" in frame.columns:
                    copied = copied.with_columns(pl.col("Id").cast(pl.Int64) + copy * len(frame))
                copied.write_csv(file, include_header=copy == 0)
        n_rows += len(frame) * factor if name in ("train", "test") else 0
    return n_rows


# One way, in a process of its own


def load_conf(way: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration of the catalog and of the preparation."""
    from embedline.spark import configure

    loader = configuration(root, "spark" if way == "spark" else "base")
    if way == "spark":
        configure({**loader["spark"], "spark.local.dir": str(root / "shuffled")})
    entries = {name: entry for name, entry in loader["catalog"].items() if name.startswith("rossmann.")}
    return entries, loader["parameters"]["rossmann"]


def work(way: str, root: Path) -> float:
    """Run all nodes of the preparation; seconds."""
    from kedro.io import AbstractDataset, DataCatalog
    from kedro.runner import SequentialRunner

    from embedline.pipelines.rossmann.options import FeatureOptions
    from embedline.pipelines.rossmann.pipeline import create_pipeline
    from embedline.pipelines.tabular.columns import Split

    class Scan(AbstractDataset):
        """What is in a file, read and written by Polars' streaming engine."""

        def __init__(self, path: Path) -> None:
            self._path = path

        def load(self) -> pl.LazyFrame:
            if self._path.suffix == ".csv":
                return pl.scan_csv(self._path, infer_schema=False)
            return pl.scan_parquet(self._path)

        def save(self, data: pl.LazyFrame) -> None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data.sink_parquet(self._path, compression="snappy", engine="streaming")

        def _describe(self) -> dict[str, Any]:
            return {"path": self._path}

    entries, parameters = load_conf(way, root)
    pipeline = create_pipeline().only_nodes_with_tags("prepare")
    if way == "streaming":
        pl.Config.set_engine_affinity("streaming")
        files = {f"rossmann.raw_{name}@frame": raw_file(root, name) for name in TABLES}
        others = pipeline.datasets() - set(files) - {"params:rossmann.features", "params:rossmann.split"}
        files |= {name: root / f"{name}.parquet" for name in others}
        catalog = DataCatalog({name: Scan(path) for name, path in files.items()})
    else:
        catalog = DataCatalog.from_config(entries)
    catalog["params:rossmann.features"] = FeatureOptions(**parameters["features"])
    catalog["params:rossmann.split"] = Split(**parameters["split"])
    began = time.perf_counter()
    SequentialRunner().run(pipeline, catalog)
    return time.perf_counter() - began


def raw_file(root: Path, name: str) -> Path:
    """The one version of a raw file."""
    return root / "01_raw" / "rossmann" / f"{name}.csv" / VERSION / f"{name}.csv"


def sums(way: str, root: Path) -> list[float]:
    """Rows of the table, and the sums of some of its columns."""
    if way == "streaming":
        table = pl.scan_parquet(root / "rossmann.table.parquet")
    elif way == "spark":
        table = pl.scan_parquet(next((root / "05_model_input/rossmann/table.parquet").glob("*/table.parquet")))
    else:
        table = pl.scan_ipc(next((root / "05_model_input/rossmann/table.feather").glob("*/table.feather")))
    columns = [name for name in SUMMED if name in table.collect_schema().names()]
    found = table.select(pl.len(), *(pl.col(name).cast(pl.Float64).sum().round(1) for name in columns))
    return [float(value) for value in found.collect(engine="streaming").row(0)]


# The watch


def run_way(way: str, root: Path, *, cap: float, limit: float) -> dict[str, Any]:
    """Run one way and watch it: ``seconds`` or, where it was ended, ``ended``; ``gigabytes`` and ``cpu_seconds``."""
    command = [sys.executable, __file__, "--work", way, "--folder", str(root)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=errors, start_new_session=True)
        began, peak, cpu, ended = time.monotonic(), 0.0, dict[str, float](), None
        while process.poll() is None and ended is None:
            time.sleep(SAMPLE_SECONDS)
            peak = max(peak, look(process.pid, cpu))
            if peak > cap:
                ended = f"more than {cap:g} GB after {time.monotonic() - began:.0f} s"
            elif time.monotonic() - began > limit:
                ended = f"more than {limit:g} s"
        watched: dict[str, Any] = {"gigabytes": peak, "cpu_seconds": sum(cpu.values())}
        if ended:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {**watched, "ended": ended}
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{way}: exit status {process.returncode}\n{errors.read()[-3000:]}")
        return {**watched, "seconds": json.loads(output.read().splitlines()[-1])}


def look(leader: int, cpu: dict[str, float]) -> float:
    """Anonymous memory of all processes of a session, 10^9 bytes; ``cpu`` gets the processor time of each."""
    kilobytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                lines = (folder / "status").read_text().splitlines()
                kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
                cpu[folder.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return kilobytes * 1024 / 1e9


def compare(folder: Path, factor: int, ways: list[str], *, cap: float, limit: float) -> None:
    """Run all ways on one size, one after the other, and print a line for each."""
    n_rows = stage(folder, factor)
    known: list[float] | None = None
    for way in ways:
        root = folder / way
        root.mkdir()
        (root / "01_raw").symlink_to(folder / "01_raw")
        result = run_way(way, root, cap=cap, limit=limit)
        if "seconds" in result:
            found = sums(way, root)
            known = known or found
            if found != known:
                raise RuntimeError(f"{way} differs: {found}, not {known}")
        took = result.get("ended") or f"{result['seconds']:8.1f} s"
        used = f"{result['cpu_seconds']:8.1f} cpu s  {result['gigabytes']:6.2f} GB"
        say(f"{factor:4} x {n_rows:12,} rows  {way:10} {took}  {used}")
        shutil.rmtree(root, ignore_errors=True)  # Java, on its way out, may still tidy its own files


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of the Rossmann preparation on growing chains")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10], help="chains, each with 1,115 stores")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--cap", type=float, default=12.0, help="GB of memory at which a way is ended")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which a way is ended")
    parser.add_argument("--folder", type=Path, help="where files are staged: 0.5 GB a chain; default a temporary one")
    parser.add_argument("--work", choices=WAYS, help="run one way on staged files and print its seconds")
    options = parser.parse_args()
    if options.work:
        say(json.dumps(work(options.work, options.folder)))
        return
    for factor in options.factors:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(Path(folder), factor, options.ways, cap=options.cap, limit=options.limit)


if __name__ == "__main__":
    main()
