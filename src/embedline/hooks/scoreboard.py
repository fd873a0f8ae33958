"""Hook on the end of a run: its results as a table for the terminal, and where to look next."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedline.commands.display import printable
from embedline.pipelines.report.comparisons import Comparison, compare
from embedline.pipelines.report.metrics import format_number
from embedline.training.progress import format_duration
from kedro_incremental import RunReport

WIDTH = 80
PAGE = "report.page"
DEFAULT_ENV = "sample"
STYLES = {"better": "green", "worse": "red"}
MEASURED = (".language_model_metrics", ".metrics")  # the latter, of a classifier, hold those of its language model
# The columns and their widths: 79 in all, with a space between them.
COLUMNS = {"source": 17, "embedline": 22, "best baseline": 15, "difference (95 %)": 22}


class Scoreboard:
    """Print the metrics of the sources of a run: those that the report's tiles show, in their words.

    Also those of sources that were up to date count, unless nothing ran.
    """

    only_observes = True  # what a node makes does not depend on it

    def __init__(self) -> None:
        self._pipeline = Pipeline([])
        self._catalog: Any = None
        self._report: RunReport | None = None

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Remember what is run; a runner of Kedro's own, which has no report, shows no table."""
        self._pipeline, self._catalog, self._report = pipeline, catalog, None

    @hook_impl
    def after_incremental_run(self, report: RunReport) -> None:
        """Print the table, once all nodes have run."""
        self._report = report
        if report.verbosity == "quiet" or not report.succeeded or not report.nodes("ran"):
            return
        if table := scoreboard(stored_metrics(self._pipeline, self._catalog)):
            console().print(table)

    @hook_impl(trylast=True)
    def after_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Name the page of the report and what to call next."""
        if self._report is None or self._report.verbosity == "quiet":
            return
        is_new = bool(self._report.nodes("ran"))
        for line in next_steps(self._pipeline, self._catalog, run_params, is_new=is_new):
            console().print(Text(printable(line)), highlight=False, soft_wrap=True)


def console() -> Console:
    """Standard output, as wide as a terminal or :data:`WIDTH`."""
    made = Console()
    return made if made.is_terminal else Console(width=WIDTH)


def source_of(name: str) -> str:
    """Source of an artifact's name."""
    return name.rpartition(".")[0]


def stored_metrics(pipeline: Pipeline, catalog: Any) -> dict[str, Mapping[str, Any]]:
    """Metrics by source, of the version that the run made or found up to date."""
    outputs = pipeline.all_outputs()
    names = {source_of(name): name for suffix in MEASURED for name in outputs if name.endswith(suffix)}
    stored = {source: catalog.get(names[source]) for source in sorted(names)}
    # Not through the catalog, which would log it.
    return {source: one.load() for source, one in stored.items() if one is not None and one.exists()}


def scoreboard(metrics: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """A row of two lines for each comparison of a source, from its metrics file; None without any."""
    found = [(source, one) for source, values in metrics.items() for one in compare(values) if one.main]
    if not found:
        return None
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for header, width in COLUMNS.items():
        table.add_column(header, overflow="fold", max_width=width)
    for source, one in found:
        table.add_row(*(Text(printable(text), style) for text, style in _cells(source, one)))
    return table


def _cells(source: str, one: Comparison) -> Iterable[tuple[str, str]]:
    """Text and style of each cell: a second line has the best possible value, the training's time, the interval."""
    main, best, verdict = one.main, one.best_baseline, one.verdict
    assert main
    yield f"{source}\n{one.title.removeprefix('target ')}", ""
    ceiling = f"at best {format_number(one.ceiling[main.name])}" if main.name in one.ceiling else ""
    time = "" if one.seconds is None else format_duration(one.seconds)
    facts = ", ".join(filter(None, (ceiling, time)))
    yield f"{main.label} {format_number(one.model.values[main.name])}\n{facts}", ""
    if best is None or verdict is None:
        yield "", ""
        yield "no baseline", ""
        return
    yield f"{format_number(best.values[main.name])}\n{best.label.removeprefix('the ')}", ""
    found = best.differences.get(main.name)
    interval = f"\n{_signed(found['low'])} to {_signed(found['high'])}" if found else ""
    difference = one.model.values[main.name] - best.values[main.name]
    yield f"{verdict[0]} {_signed(difference)}{interval}", STYLES.get(verdict[0], "")


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{format_number(abs(value), 2)}"


def next_steps(pipeline: Pipeline, catalog: Any, run_params: Mapping[str, Any], *, is_new: bool) -> list[str]:
    """Lines that name the stored page of the report, and what to call next.

    ``is_new``: the run has made something, so that a page that is none of it is out of date.
    """
    program = _program()
    env = [f"--env {run_params['env']}"] if run_params.get("env") not in (None, DEFAULT_ENV) else []
    given = run_params.get("runtime_params") or {}
    roots = [f"{name}={given[name]}" for name in ("data_root", "tracking_root") if name in given]
    options = " ".join([*env, *([f"--params {shlex.quote(','.join(roots))}"] if roots else [])])
    lines = []
    page = catalog.get(PAGE)
    if page is not None and page.exists() and (PAGE in pipeline.all_outputs() or not is_new):
        lines.append(f"report    {_short(page._get_load_path())}")
    elif any(name.endswith(MEASURED) for name in pipeline.all_outputs()):
        lines.append(f"report    {program} run --pipelines report {options}".rstrip())
    if program == "kedro":
        lines.append(f"graph     kedro viz run {' '.join(env)}".rstrip())
    if metrics := [name for name in pipeline.all_outputs() if name.endswith(MEASURED)]:
        lines.append(f"origin    {program} why {sorted(metrics)[0]} {options}".rstrip())
    return lines


def _program() -> str:
    started = Path(sys.argv[0])
    return "embedline" if "embedline" in (started.stem, started.parent.name) else "kedro"


def _short(path: Any) -> str:
    """A path below the working directory without it."""
    with suppress(ValueError):
        return Path(path).relative_to(Path.cwd()).as_posix()
    return str(path)
