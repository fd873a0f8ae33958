"""Preparation, from the raw CSV files to the saved table, against the notebook's way, on the real tables.

    python tests/benchmarks/bench_preparation.py            prints both and their ratio
    python -m pytest tests/benchmarks/bench_preparation.py  holds the ratio

Each side runs in a process of its own, one after the other, on files that are in the page cache. Score are wall and
processor time and the peak of resident memory; the start of Python and of Kedro, and the imports, are outside the times
but inside the memory. The project's side runs its real nodes through Kedro's runner and the datasets of conf/base, with
all the saves and loads between the nodes that an ordinary run makes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contests import DATA, PROJECT, configuration, environment, say

TABLES = ("train", "test", "store", "store_states", "state_names", "googletrend", "weather")


def test_preparation_is_faster_in_less_memory(real_data: Path) -> None:
    ours, theirs = compare(str(real_data / "rossmann.tgz"), PROJECT / "conf")
    report(ours, theirs)
    assert ours["labelled_rows"] == theirs["labelled_rows"] == 844_338
    # The project's side makes more: the horizon of every row, and how its store has sold lately.
    assert ours["seconds"] * 8 <= theirs["seconds"]
    assert ours["peak_mb"] * 2 <= theirs["peak_mb"]


def compare(source: str, conf: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run both sides on the tables at ``source``; return what each measured."""
    with tempfile.TemporaryDirectory() as folder:
        stage(source, Path(folder), conf)
        return measure("project", Path(folder), conf), measure("notebook", Path(folder), conf)


def stage(source: str, folder: Path, conf: Path) -> None:
    """Put the raw files where the catalog reads them, and once more as plain files for the notebook's way."""
    from embedline.pipelines.rossmann.nodes import acquire
    from embedline.pipelines.rossmann.simulator import GeneratorOptions

    catalog = real_catalog(folder, conf)[0]
    (folder / "plain").mkdir()
    for name, content in acquire(source, verify=False, generator=GeneratorOptions()).items():
        catalog.save(f"rossmann.raw_{name}@bytes", content)
        (folder / "plain" / f"{name}.csv").write_bytes(content)


def real_catalog(folder: Path, conf: Path) -> tuple[Any, dict[str, Any]]:
    """The catalog of conf/base with every artifact under ``folder``, and the parameters."""
    from kedro.io import DataCatalog

    loader = configuration(folder / "data", conf=conf)
    return DataCatalog.from_config(loader["catalog"]), loader["parameters"]


def measure(side: str, folder: Path, conf: Path) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--conf", str(conf)]
    done = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def project_side(folder: Path, conf: Path) -> tuple[Callable[[], Any], Callable[[Any], int]]:
    """What to time, and how to count the labelled rows of its result."""
    from kedro.runner import SequentialRunner

    import embedline.datasets  # noqa: F401  (so that the first load does not pay for the import)
    from embedline.pipelines.rossmann.options import FeatureOptions
    from embedline.pipelines.rossmann.pipeline import create_pipeline
    from embedline.pipelines.tabular.columns import Split

    catalog, parameters = real_catalog(folder, conf)
    catalog["params:rossmann.features"] = FeatureOptions(**parameters["rossmann"].get("features", {}))
    catalog["params:rossmann.split"] = Split(**parameters["rossmann"]["split"])
    pipeline = create_pipeline().only_nodes_with_tags("prepare")
    return (
        lambda: SequentialRunner().run(pipeline, catalog),
        lambda _: int(catalog.load("rossmann.table")["Sales"].count()),
    )


def notebook_side(folder: Path, _conf: Path) -> tuple[Callable[[], Any], Callable[[Any], int]]:
    """What to time, and how to count the labelled rows of its result."""
    from notebook_preparation import prepare

    out = folder / "notebook"
    out.mkdir()
    return lambda: prepare(folder / "plain", out), len


def work(side: str, folder: Path, conf: Path) -> dict[str, Any]:
    """Run one side in this process and measure it."""
    run, count = {"project": project_side, "notebook": notebook_side}[side](folder, conf)
    start, used = time.perf_counter(), time.process_time()
    result = run()
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "cpu_seconds": processor, "peak_mb": peak, "labelled_rows": count(result)}


def report(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Write the comparison to standard output."""
    lines = [f"{'':10}{'wall s':>10}{'cpu s':>10}{'peak MB':>10}{'rows':>10}"]
    for name, side in (("embedline", ours), ("notebook", theirs)):
        cells = f"{side['seconds']:10.2f}{side['cpu_seconds']:10.2f}{side['peak_mb']:10.0f}{side['labelled_rows']:10,}"
        lines.append(f"{name:10}{cells}")
    ratios = [theirs[key] / ours[key] for key in ("seconds", "cpu_seconds", "peak_mb")]
    lines.append("ratio     " + "".join(f"{ratio:9.1f}x" for ratio in ratios))
    say(*lines)


def main() -> None:

    parser = argparse.ArgumentParser(description="time the Rossmann preparation against the notebook's way")
    parser.add_argument("--source", default=str(DATA / "rossmann.tgz"), help="archive with the real tables")
    parser.add_argument("--conf", type=Path, default=PROJECT / "conf", help="configuration of the project's side")
    parser.add_argument("--side", choices=["project", "notebook"], help="measure one side on staged files, print JSON")
    parser.add_argument("--folder", type=Path, help="where the files are staged")
    options = parser.parse_args()
    if options.side:
        say(json.dumps(work(options.side, options.folder, options.conf)))
    else:
        report(*compare(options.source, options.conf))


if __name__ == "__main__":
    main()
